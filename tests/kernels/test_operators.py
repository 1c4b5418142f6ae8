"""The layer as an operator of torch: checked, compiled, exported, differentiated twice."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_native import CELLS, Problem, layer

from retrograde import kernels
from retrograde.kernels import equations, operators
from retrograde.kernels.shapes import Inputs, LayerSpec

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the engine was not built here")


def arguments(cell, *, D=1, packed=False, states=True, proj=0, requires_grad=True, recompute=False):
    problem = Problem(cell, 4, 3, 5, 6, D=D, packed=packed, states=states, proj=proj)

    def leaf(t):
        return t.clone().requires_grad_(requires_grad) if t is not None else None

    spec = operators.spec_of(cell, problem.weights, True, D == 2, recompute)
    weights = [leaf(w) for w in problem.weights]
    return (leaf(problem.x), leaf(problem.h_0), leaf(problem.c_0), weights, problem.sizes, *spec, requires_grad)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"D": 2, "states": False}, {"packed": True}, {"requires_grad": False}])
def test_opcheck(cell, options):
    torch.library.opcheck(torch.ops.retrograde.layer, arguments(cell, **options))


def test_opcheck_with_projection():
    torch.library.opcheck(torch.ops.retrograde.layer, arguments("LSTM", proj=4, D=2))


@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_of_the_backward_operator(cell):
    x, h_0, c_0, weights, sizes, *spec, _ = arguments(cell, requires_grad=False)
    out, h_n, c_n, gates, cells = torch.ops.retrograde.layer(x, h_0, c_0, weights, sizes, *spec, True)
    grads = (torch.randn_like(out), torch.randn_like(h_n), torch.randn_like(c_n) if cell == "LSTM" else None)
    needs = [True, True, cell == "LSTM", *[True] * len(weights)]
    inputs = (*grads, x, h_0, c_0, weights, sizes, out, gates, cells, *spec, needs)
    torch.library.opcheck(torch.ops.retrograde.layer_backward, inputs)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("packed", [False, True])
def test_first_and_second_derivatives(cell, packed):
    x, h_0, c_0, weights, sizes, *_ = arguments(cell, D=2, packed=packed)
    states = [s for s in (h_0, c_0) if s is not None]

    def run(x, *rest):
        h, c = rest[0], rest[1] if cell == "LSTM" else None
        out = layer(cell, x, h, c, rest[len(states) :], bidirectional=True, batch_sizes=sizes)
        return tuple(o for o in out if o is not None)

    inputs = (x, *states, *weights)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    if cell != "RNN_RELU":
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_of_the_operator(cell):
    x, h_0, c_0, weights, sizes, *spec, _ = arguments(cell)

    def penalty(run):
        out = run()[0]
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, *weights])

    through = penalty(lambda: torch.ops.retrograde.layer(x, h_0, c_0, weights, sizes, *spec, True))
    plain = penalty(lambda: equations.layer(LayerSpec(*spec), Inputs(x, h_0, c_0, weights, sizes)))
    torch.testing.assert_close(through, plain)


@pytest.mark.parametrize("cell", ["RNN_TANH", "GRU", "LSTM"])
def test_third_derivatives_of_the_operator(cell):
    x, h_0, c_0, weights, sizes, *spec, _ = arguments(cell)

    def third(run):
        (grad,) = torch.autograd.grad(run()[0].square().sum(), x, create_graph=True)
        found = torch.autograd.grad(grad.square().sum(), [x, *weights], create_graph=True)
        return torch.autograd.grad(sum(f.square().sum() for f in found), [x, *weights])

    through = third(lambda: torch.ops.retrograde.layer(x, h_0, c_0, weights, sizes, *spec, True))
    plain = third(lambda: equations.layer(LayerSpec(*spec), Inputs(x, h_0, c_0, weights, sizes)))
    torch.testing.assert_close(through, plain)


@pytest.mark.parametrize("cell", CELLS)
def test_the_equations_equal_the_engine(cell):
    for packed in (False, True):
        x, h_0, c_0, weights, sizes, *spec, _ = arguments(cell, D=2, packed=packed)
        ours = layer(cell, x, h_0, c_0, weights, bidirectional=True, batch_sizes=sizes)
        theirs, seen = operators.traced_layer(LayerSpec(*spec), Inputs(x, h_0, c_0, weights, sizes))
        torch.testing.assert_close([o for o in ours if o is not None], [o for o in theirs if o is not None])
        assert len(seen) == 2
        torch.testing.assert_close(torch.cat([s["h"] for s in seen], -1), ours[0])


def test_only_what_is_asked_for_is_differentiated():
    x, h_0, c_0, weights, *_ = arguments("LSTM", requires_grad=False)
    for i in range(4):
        inputs = [w.clone().requires_grad_(i == j) for j, w in enumerate(weights)]
        out = layer("LSTM", x, h_0, c_0, inputs)[0]
        out.sum().backward()
        assert [w.grad is not None for w in inputs] == [i == j for j in range(4)]
    assert layer("LSTM", x, h_0, c_0, weights)[0].grad_fn is None


def test_a_saved_output_changed_in_place_is_noticed():
    x, h_0, c_0, weights, *_ = arguments("GRU")
    out = layer("GRU", x, h_0, c_0, weights)[0]
    out.data_ptr()
    with torch.no_grad():
        out += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


class Model(torch.nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell
        self.weights = torch.nn.ParameterList([w.float() for w in Problem(cell, 1, 1, 5, 6).weights])

    def forward(self, x):
        return layer(self.cell, x.tanh(), None, None, list(self.weights))[0].square()


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_compiled_in_one_graph(cell):
    model, x = Model(cell), torch.randn(4, 3, 5)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    ours, theirs = model(x), compiled(x)
    torch.testing.assert_close(theirs, ours)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close([w.grad for w in compiled.parameters()], [w.grad for w in model.parameters()])


def test_exported_with_any_length_and_batch():
    model = Model("LSTM")
    shapes = {"x": {0: torch.export.Dim("T", min=2), 1: torch.export.Dim("B", min=2)}}
    program = torch.export.export(model, (torch.randn(4, 3, 5),), dynamic_shapes=shapes)
    assert any("retrograde" in str(node.target) for node in program.graph.nodes)
    x = torch.randn(9, 2, 5)
    torch.testing.assert_close(program.module()(x), model(x))


DISTRIBUTED = """
import copy, sys
sys.path.insert(0, {folder!r})
import torch
from test_operators import Model
torch.distributed.init_process_group("gloo", init_method="file://{store}", rank=0, world_size=1)
model, x = Model("GRU"), torch.randn(4, 3, 5)
spread = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))
for m in (model, spread):
    m(x).sum().backward()
grads = [[p.grad for p in m.parameters()] for m in (spread, model)]
# first of all, so that gloo's threads have ended when the reducer is freed: it may wait for them with the GIL
torch.distributed.destroy_process_group()
torch.testing.assert_close(*grads)
print("done")
"""


def test_distributed_data_parallel(tmp_path):
    code = DISTRIBUTED.format(folder=str(Path(__file__).parent), store=tmp_path / "store")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "done" in result.stdout, result.stderr


def test_functional_call():
    import retrograde as rg

    layer, x = rg.nn.GRU(5, 6), torch.randn(4, 3, 5)
    doubled = {name: 2 * p for name, p in layer.named_parameters()}
    swapped = torch.func.functional_call(layer, doubled, (x,))[0]
    twin = torch.nn.GRU(5, 6)
    twin.load_state_dict(doubled)
    torch.testing.assert_close(swapped, twin(x)[0])
