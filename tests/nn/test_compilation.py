"""``torch.compile`` and ``torch.export`` take the layers, and torch.nn's own are treated as before."""

import pytest
import torch

import retrograde as rg


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.reset()
    yield
    torch.set_num_threads(threads)
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_compiled_and_plain_give_the_same_numbers_and_gradients(kind):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), getattr(rg.nn, kind)(3, 5, 2, bidirectional=True))
    compiled = torch.compile(lambda x: model(x)[0].sin(), backend="aot_eager")
    for T in (4, 6):
        x = torch.randn(T, 2, 3)
        outputs, gradients = [], []
        for run in (compiled, lambda x: model(x)[0].sin()):
            output = run(x)
            outputs.append(output)
            gradients.append(torch.autograd.grad(output.square().sum(), list(model.parameters())))
        torch.testing.assert_close(*outputs)
        torch.testing.assert_close(*gradients)


def test_a_layer_of_ours_is_traced_and_torchs_own_is_not():
    seen = []

    def count(graph, _):
        seen.append(graph)
        return graph.forward

    layer = rg.nn.GRU(3, 5)
    torch.compile(lambda x: layer(x.sin())[0].cos(), backend=count)(torch.randn(4, 2, 3))
    assert seen
    theirs = torch.nn.GRU(3, 5)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU"):
        torch.compile(lambda x: theirs(x)[0], backend=count, fullgraph=True)(torch.randn(4, 2, 3))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_exported_it_computes_the_same(kind):
    layer = getattr(rg.nn, kind)(3, 5, batch_first=True).eval()
    program = torch.export.export(layer, (torch.randn(2, 4, 3),))
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.skipif(not rg.kernels.available(), reason="the native engine was not built")
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_the_engine_leaves_the_graph_whole(kind):
    layer = getattr(rg.nn, kind)(3, 5, 2, batch_first=True)
    run = torch.compile(lambda x: layer(x)[0].sin(), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 3, requires_grad=True)
    torch.testing.assert_close(run(x), layer(x)[0].sin())
    gradients = [torch.autograd.grad(f(x).sum(), [x, *layer.parameters()]) for f in (run, lambda x: layer(x)[0].sin())]
    torch.testing.assert_close(*gradients)
