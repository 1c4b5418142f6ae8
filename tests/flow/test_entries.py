"""Where the gradient of one loss per sequence enters layers, against unrolled twins in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from twin import unrolled

import retrograde as rg
from retrograde.errors import FlowError

LENGTHS = [7, 3, 5, 2]


def pooled(h, pooling, lengths):
    live = (torch.arange(len(h)).unsqueeze(1) < torch.tensor(lengths)).unsqueeze(-1)
    if pooling == "max":
        return h.masked_fill(~live, -torch.inf).amax(0)
    return (h * live).sum(0) / live.sum(0)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize(("cell", "layers"), [(nn.RNN, 1), (nn.GRU, 1), (nn.LSTM, 2)])
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_left_by_entry_is_that_of_an_unrolled_twin(pooling, cell, layers, packed):
    torch.manual_seed(0)
    lengths = LENGTHS if packed else [7] * 4
    x, y = torch.randn(7, 4, 3).double(), torch.randint(3, (4,))
    layer, head = cell(3, 5, layers, bidirectional=True).double(), nn.Linear(10, 3).double()

    def loss(h):
        return nn.functional.cross_entropy(head(pooled(h, pooling, lengths)), y, reduction="none")

    def measured(output):
        return loss(nn.utils.rnn.pad_packed_sequence(output[0])[0] if packed else output[0])

    given = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False) if packed else x
    found = rg.gradient_flow(layer, given, loss=measured).by_entry()
    h, states = unrolled(layer, x, lengths=lengths if packed else None)
    assert list(found) == list(states)
    (entering,) = torch.autograd.grad(loss(h).sum(), h, retain_graph=True)
    top = layers - 1
    for label, local in ((f"l{top}", entering[..., :5]), (f"l{top}_reverse", entering[..., 5:])):
        own, reverse = h[..., :5] if "_" not in label else h[..., 5:], "_" in label
        norms: dict[int, list[float]] = {}
        for t in range(7):
            back = torch.autograd.grad((own[t] * local[t]).sum(), states[label], retain_graph=True, allow_unused=True)
            for k, g in enumerate(back):
                lag = k - t if reverse else t - k
                for b, n in enumerate(lengths):
                    if lag >= 0 and max(k, t) < n and bool(local[t, b].any()):
                        norms.setdefault(lag, []).append(0.0 if g is None else float(g[b].norm()))
        expected = [np.mean(norms[lag]) if lag in norms else np.nan for lag in range(7)]
        np.testing.assert_allclose(found[label], expected, rtol=1e-9)


def test_of_a_loss_at_the_end_lags_from_the_end_say_the_same():
    x, head = torch.randn(6, 8, 2), nn.Linear(4, 1)
    flow = rg.gradient_flow(nn.RNN(2, 4), x, loss=lambda output: head(output[0][-1])[:, 0])
    assert flow.by_entry() == {}
    assert rg.gradient_flow(nn.RNN(2, 4), x, loss=lambda output: head(output[0])[..., 0]).by_entry() == {}


def test_a_lower_layer_is_entered_through_the_one_above_and_a_saved_flow_refuses(tmp_path):
    torch.manual_seed(0)
    x, head = torch.randn(6, 8, 2), nn.Linear(4, 1)
    flow = rg.gradient_flow(nn.RNN(2, 4, 2), x, loss=lambda output: head(output[0].mean(0))[:, 0])
    assert flow.by_entry()["l0"][0] > 0
    some, all_of_them = flow.by_entry(effort=1)["l1"], flow.by_entry()["l1"]
    assert some[0] > 0 and some[:4] == pytest.approx(all_of_them[:4], rel=0.3)
    flow.save(tmp_path / "flow")
    with pytest.raises(FlowError, match="not saved"):
        rg.GradientFlow.load(tmp_path / "flow").by_entry()
