"""``explain``: the path that a call takes, and the reason."""

import doctest

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_sequence

import retrograde as rg
from retrograde.errors import OptionError
from retrograde.nn import acceleration, layers

needs_engine = pytest.mark.skipif(not rg.kernels.available(), reason="the native engine was not built")


class Tagged(torch.Tensor):
    pass


@needs_engine
@pytest.mark.parametrize(
    ("layer", "x", "word"),
    [
        (rg.nn.GRU(3, 4, dtype=torch.bfloat16), torch.zeros(5, 2, 3, dtype=torch.bfloat16), "bfloat16"),
        (rg.nn.GRU(3, 4, device="meta"), torch.zeros(5, 2, 3, device="meta"), "meta"),
        (rg.nn.GRU(3, 4), torch.zeros(5, 2, 3).as_subclass(Tagged), "Tagged"),
        (rg.nn.GRU(3, 4), torch.zeros(5, 2, 9), "form"),
        (rg.nn.GRU(3, 4), torch.zeros(5, 2, 3, dtype=torch.float64), "form"),
        (torch.nn.GRU(3, 4), torch.zeros(5, 2, 3), "accelerate_"),
    ],
)
def test_what_the_engine_cannot_do_is_named(layer, x, word):
    explanation = rg.nn.explain(layer, x)
    assert explanation.path == "torch"
    assert word in explanation.reason
    assert explanation.reason in repr(explanation)
    assert "\n" not in repr(explanation)


@needs_engine
def test_the_surroundings_are_named():
    layer, x = rg.nn.LSTM(3, 4), torch.zeros(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in rg.nn.explain(layer, x).reason
    reasons = []
    torch.func.vmap(lambda x: reasons.append(rg.nn.explain(layer, x).reason) or x)(x.unsqueeze(0))
    assert "torch.func" in reasons[0] or "Tensor" in reasons[0]
    assert rg.nn.explain(layer, x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4, dtype=torch.float64))).path == "torch"


def test_without_an_engine_torch_computes(monkeypatch):
    monkeypatch.setattr(rg.kernels, "available", lambda: False)
    layer = rg.nn.RNN(3, 4)
    explanation = rg.nn.explain(layer, pack_sequence([torch.zeros(5, 3)]))
    assert explanation.path == "torch"
    assert "not built" in explanation.reason
    layer(torch.zeros(5, 2, 3))


def test_explaining_changes_nothing():
    layer = parametrizations.spectral_norm(rg.nn.RNN(3, 4), "weight_hh_l0")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    state = torch.get_rng_state()
    rg.nn.explain(layer, torch.zeros(5, 2, 3), torch.zeros(1, 2, 4))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in layer.modules())


def test_what_is_no_recurrent_layer_is_refused():
    with pytest.raises(OptionError, match="not Linear"):
        rg.nn.explain(torch.nn.Linear(3, 4), torch.zeros(5, 3))


@pytest.mark.parametrize("module", [rg.nn, layers, acceleration], ids=lambda m: m.__name__)
def test_examples_in_the_documentation(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_forward_mode_gives_the_derivative_along_a_direction(cell):
    torch.manual_seed(0)
    layer, x, v = getattr(rg.nn, cell)(2, 3).double(), *torch.randn(2, 5, 4, 2).double()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v))[0]).tangent
    expected = torch.autograd.functional.jvp(lambda x: layer(x)[0], x, v)[1]
    torch.testing.assert_close(tangent, expected)
