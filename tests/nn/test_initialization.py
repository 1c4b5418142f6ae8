import copy
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import OptionError

LAYERS = [
    torch.nn.RNN(3, 6),
    torch.nn.GRU(3, 6, num_layers=2, bidirectional=True),
    torch.nn.LSTM(3, 6, num_layers=2),
    rg.nn.LSTM(3, 6, bidirectional=True),
    rg.nn.StepwiseGRU(3, 6, layer_norm=True),
    torch.nn.LSTMCell(3, 6),
]
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)


def blocks(layer, start):
    for name, parameter in layer.named_parameters():
        if name.startswith(start):
            yield from torch.split(parameter.detach().double(), layer.hidden_size)


@every_layer
def test_orthogonal_makes_every_gate_orthogonal(layer):
    layer = rg.nn.initialize(copy.deepcopy(layer), recurrent="orthogonal")
    for block in blocks(layer, "weight_hh"):
        torch.testing.assert_close(block @ block.T, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)


@every_layer
def test_only_what_is_asked_for_changes(layer):
    before = {name: p.clone() for name, p in layer.named_parameters()}
    after = dict(rg.nn.initialize(copy.deepcopy(layer), recurrent="xavier").named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("weight_hh")}


@every_layer
def test_spectral_radius_of_every_gate(layer):
    for recurrent in (None, "orthogonal", "xavier"):
        scaled = rg.nn.initialize(copy.deepcopy(layer), recurrent=recurrent, spectral_radius=0.9)
        for block in blocks(scaled, "weight_hh"):
            assert float(torch.linalg.eigvals(block).abs().max()) == pytest.approx(0.9, rel=1e-5)


def test_xavier_has_the_published_variance_per_gate():
    layer = rg.nn.initialize(torch.nn.LSTM(100, 300), recurrent="xavier", input="xavier")
    for block in blocks(layer, "weight_ih"):
        assert float(block.var()) == pytest.approx(2 / 400, rel=0.05)
    for block in blocks(layer, "weight_hh"):
        assert float(block.var()) == pytest.approx(2 / 600, rel=0.05)


def test_identity_is_the_irnn():
    layer = rg.nn.initialize(torch.nn.RNN(50, 60, nonlinearity="relu"), recurrent="identity", input=0.001)
    assert torch.equal(layer.weight_hh_l0, torch.eye(60))
    assert not layer.bias_ih_l0.any()
    assert not layer.bias_hh_l0.any()
    assert float(layer.weight_ih_l0.detach().std()) == pytest.approx(0.001, rel=0.05)
    # It holds a state as it is: with no input, nothing changes.
    h_0 = torch.rand(1, 2, 60)
    torch.testing.assert_close(layer(torch.zeros(9, 2, 50), h_0)[1], h_0)


@pytest.mark.parametrize(
    ("layer", "gate"), [(torch.nn.LSTM(3, 6, 2), 1), (torch.nn.GRU(3, 6), 1), (torch.nn.LSTMCell(3, 6), 1)]
)
def test_forget_bias_is_the_sum_of_both(layer, gate):
    before = copy.deepcopy(layer)
    rg.nn.initialize(layer, forget_bias=1.5)
    for ih, hh in zip(*(list(blocks(layer, f"bias_{side}")) for side in ("ih", "hh")), strict=True):
        assert ih.shape == hh.shape == (6,)
    keeping = slice(gate * 6, gate * 6 + 6)
    biases = dict(layer.named_parameters())
    for name in biases:
        if name.startswith("bias_ih"):
            twin = name.replace("ih", "hh")
            assert (biases[name] + biases[twin])[keeping].tolist() == [1.5] * 6
            others = [i for i in range(len(biases[name])) if not keeping.start <= i < keeping.stop]
            assert torch.equal(biases[name][others], dict(before.named_parameters())[name][others])


def test_chrono_is_the_published_distribution():
    generator = torch.Generator().manual_seed(0)
    layer = rg.nn.initialize(torch.nn.LSTM(1, 20_000 // 4), chrono=100, generator=generator)
    i, f, g, o = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().chunk(4)
    assert torch.equal(i, -f)
    assert not g.any()
    assert not o.any()
    u = f.exp()
    assert float(u.min()) >= 1
    assert float(u.max()) <= 99
    assert float(u.mean()) == pytest.approx(50, rel=0.02)
    assert float(u.std()) == pytest.approx(98 / math.sqrt(12), rel=0.03)

    gru = rg.nn.initialize(torch.nn.GRU(1, 500), chrono=100)
    z = (gru.bias_ih_l0 + gru.bias_hh_l0).detach()[500:1000]
    assert 0 <= float(z.min()) < float(z.max()) <= math.log(99)


def test_same_generator_same_weights():
    drawn = [
        rg.nn.initialize(
            torch.nn.GRU(3, 4),
            recurrent="orthogonal",
            input="xavier",
            chrono=9,
            generator=torch.Generator().manual_seed(7),
        )
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(layer.parameters() for layer in drawn), strict=True))


def test_a_whole_model_and_a_parametrized_weight():
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 3), "rnn": torch.nn.LSTM(3, 4), "head": torch.nn.Linear(4, 2)}
    )
    head = model["head"].weight.clone()
    rg.nn.weight_drop_(model, 0.5)
    rg.nn.initialize(model, recurrent="orthogonal", forget_bias=1.0)
    original = model["rnn"].parametrizations.weight_hh_l0.original
    for block in torch.split(original, 4):
        torch.testing.assert_close(block @ block.T, torch.eye(4), atol=1e-6, rtol=0)
    assert torch.equal(model["head"].weight, head)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (torch.nn.Linear(2, 3), {"recurrent": "orthogonal"}, "Linear has no recurrent layer"),
        (torch.nn.LSTM(2, 3), {"recurrent": "identity"}, "LSTM's weight_hh_l0 has gates"),
        (torch.nn.RNN(2, 3), {"forget_bias": 1.0}, "has no gates"),
        (torch.nn.LSTM(2, 3, bias=False), {"chrono": 10}, "bias=False"),
        (torch.nn.LSTM(2, 3), {"chrono": 10, "forget_bias": 1.0}, "give one of them"),
        (torch.nn.LSTM(2, 3), {"chrono": 2}, "chrono is 2"),
        (torch.nn.LSTM(2, 3, proj_size=2), {"spectral_radius": 0.9}, "projected"),
        (torch.nn.RNN(2, 3), {"spectral_radius": 0.0}, "spectral_radius is 0.0"),
        (torch.nn.RNN(2, 3), {"recurrent": "unitary"}, "choose one of orthogonal, identity, xavier"),
        (torch.nn.RNN(2, 3), {"input": -1.0}, "input is -1.0"),
        (torch.nn.RNN(2, 3), {"bias": float("nan")}, "bias is nan"),
    ],
)
def test_impossible_options(module, options, message):
    with pytest.raises(OptionError, match=message):
        rg.nn.initialize(module, **options)


@pytest.mark.parametrize("make", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTMCell])
def test_all_biases_then_that_of_a_gate(make):
    module = make(2, 3)
    rg.nn.initialize(module, bias=0.5)
    first, second = [p for name, p in module.named_parameters() if "bias" in name]
    assert (first + second == 0.5).all()
    if make is torch.nn.LSTMCell:
        rg.nn.initialize(module, bias=0.0, forget_bias=2.0)
        assert (first + second).tolist() == [0.0] * 3 + [2.0] * 3 + [0.0] * 6
    rg.nn.initialize(make(2, 3, bias=False), bias=0.5)


def test_a_model_of_sizes_only_can_be_built():
    """On the device ``meta``, where no tensor has values, so that a model can be built to find out its size."""
    with torch.device("meta"):
        layer = rg.nn.recurrent_layer(3, 5, cell="gru", init="orthogonal", spectral_radius=1.2, chrono=9)
    assert layer.weight_hh_l0.is_meta and layer.weight_hh_l0.shape == (15, 5)
