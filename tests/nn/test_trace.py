"""Looking inside a layer, and taking one step at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import retrograde as rg
from retrograde.errors import OptionError

LAYERS = [
    (rg.nn.RNN, {}),
    (rg.nn.RNN, {"nonlinearity": "relu"}),
    (rg.nn.GRU, {}),
    (rg.nn.LSTM, {}),
    (rg.nn.LSTM, {"proj_size": 3}),
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize(("kind", "options"), LAYERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_trace_holds_the_forward_pass(kind, options, batch_first):
    layer = kind(4, 5, num_layers=2, bidirectional=True, batch_first=batch_first, **options)
    x = torch.randn(6, 3, 4)
    output, state = layer(x)
    trace = layer.trace(x)
    torch.testing.assert_close(trace.output, output)
    torch.testing.assert_close(trace.state, state)
    assert list(trace) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    torch.testing.assert_close(torch.cat([trace["l1"]["h"], trace["l1_reverse"]["h"]], -1), output)
    names = {
        "RNN": {"h", "a"},
        "GRU": {*"hrzn", "a_r", "a_z", "a_n", "hn"},
        "LSTM": {*"hcifgo", "a_i", "a_f", "a_g", "a_o"},
    }
    assert all(set(trace[name]) == names[kind.__name__] for name in trace)


def test_the_gates_of_a_trace_make_its_states():
    x = torch.randn(6, 3, 4)
    steps = rg.nn.LSTM(4, 5).trace(x)["l0"]
    before = torch.cat([torch.zeros(1, 3, 5), steps["c"][:-1]])
    torch.testing.assert_close(steps["c"], steps["f"] * before + steps["i"] * steps["g"])
    torch.testing.assert_close(steps["h"], steps["o"] * steps["c"].tanh())
    torch.testing.assert_close(steps["f"], steps["a_f"].sigmoid())
    steps = rg.nn.GRU(4, 5).trace(x)["l0"]
    before = torch.cat([torch.zeros(1, 3, 5), steps["h"][:-1]])
    torch.testing.assert_close(steps["h"], (1 - steps["z"]) * steps["n"] + steps["z"] * before)
    torch.testing.assert_close(steps["n"], steps["a_n"].tanh())


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_trace_of_packed_and_of_unbatched_sequences(kind, options):
    layer = kind(4, 5, bidirectional=True, **options)
    x = torch.randn(6, 3, 4)
    packed = pack_padded_sequence(x, torch.tensor([2, 6, 3]), enforce_sorted=False)
    trace = layer.trace(packed)
    torch.testing.assert_close(trace.output.data, layer(packed)[0].data)
    torch.testing.assert_close(trace.state, layer(packed)[1])
    assert trace["l0_reverse"]["h"].batch_sizes.equal(packed.batch_sizes)
    assert layer.trace(x[:, 0])["l0"]["h"].shape[0] == 6
    with pytest.raises((RuntimeError, ValueError)):
        layer.trace(torch.zeros(6, 3, 9))


@pytest.mark.parametrize(("kind", "options"), LAYERS)
@pytest.mark.parametrize("size", [5, 70])
@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("layers", [1, 2])
def test_steps_equal_the_sequence(kind, options, size, batch, layers):
    layer = kind(4, size, num_layers=layers, **options)
    x = torch.randn(6, batch, 4)
    with torch.no_grad():
        output, state = layer(x)
        stepwise, now = [], None
        for x_t in x:
            h_t, now = layer.step(x_t, now)
            stepwise.append(h_t)
    torch.testing.assert_close(torch.stack(stepwise), output)
    torch.testing.assert_close(now, state)
    now = None
    for x_t in x:
        h_t, now = layer.step(x_t, now)
    h_t.sum().backward()  # through all steps
    ours = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    layer(x)[0][-1].sum().backward()
    torch.testing.assert_close(ours, [p.grad for p in layer.parameters()])


@pytest.mark.parametrize("kind", [rg.nn.RNN, rg.nn.GRU, rg.nn.LSTM])
def test_a_step_under_autocast_is_of_the_type_of_the_sequence(kind):
    layer, x = kind(4, 6), torch.randn(1, 3, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output, state = layer(x)
        stepwise, now = layer.step(x[0])
    torch.testing.assert_close((stepwise, now), (output[0], state))


def test_what_a_step_cannot_be():
    with pytest.raises(OptionError, match="bidirectional"):
        rg.nn.GRU(3, 4, bidirectional=True).step(torch.zeros(2, 3))
    with pytest.raises(OptionError, match=r"\(2, 5\).*\(B, 3\)"):
        rg.nn.GRU(3, 4).step(torch.zeros(2, 5))
    layer = rg.nn.GRU(3, 4)
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
        layer.step(torch.zeros(2, 3), torch.zeros(1, 3, 4))


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_recomputing_changes_no_bit(kind, options):
    layer = kind(4, 5, num_layers=2, bidirectional=True, **options)
    again = kind(4, 5, num_layers=2, bidirectional=True, recompute=True, **options)
    again.load_state_dict(layer.state_dict())
    assert "recompute=True" in repr(again) and "recompute" not in repr(layer)
    x = torch.randn(700, 2, 4)
    for module in (layer, again):
        module(x)[0].square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(layer.parameters(), again.parameters(), strict=True))


def test_a_trace_is_a_mapping_of_its_layers():
    layer = rg.nn.GRU(2, 3, num_layers=2)
    trace = layer.trace(torch.randn(4, 2, 2))
    assert list(trace) == ["l0", "l1"] and len(trace) == 2


@pytest.mark.parametrize("kind", [rg.nn.RNN, rg.nn.GRU, rg.nn.LSTM])
def test_a_trace_of_no_sequences_is_refused(kind):
    """A forward pass of them is not: torch has none either."""
    layer, x = kind(3, 4), torch.zeros(5, 0, 3)
    assert layer(x)[0].shape == (5, 0, 4)
    with pytest.raises(OptionError, match=r"trace takes one sequence or more, .* not torch.Size\(\[5, 0, 3\]\)"):
        layer.trace(x)
