"""What the page gets of a reader's own network: the norms measured, and weights only where they explain them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.laboratory.measured import measure

T, B = 9, 3


def by_step(output: Any) -> torch.Tensor:
    return (output[0] if isinstance(output, tuple) else output).square().sum(-1)


class Tagger(torch.nn.Module):
    """Two layers under a head; the head may mix steps."""

    def __init__(self, mixing: bool = False) -> None:
        super().__init__()
        self.rnn, self.head = torch.nn.LSTM(3, 4, num_layers=2), torch.nn.Linear(4, 2)
        self.mixing = mixing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.rnn(x)[0]
        return self.head(h.cumsum(0) if self.mixing else h)


@pytest.mark.parametrize("layer", [torch.nn.RNN(3, 5), torch.nn.RNN(3, 5, nonlinearity="relu"), torch.nn.GRU(3, 5)])
def test_norms_and_weights_of_one_layer(layer: torch.nn.Module) -> None:
    x = torch.randn(T, B, 3)
    got = measure(layer, x, loss=by_step, sequence=1)
    flow = rg.gradient_flow(layer, x, loss=by_step, reduce="none")
    np.testing.assert_allclose(np.reshape(got.norms, (T, T)), flow.norms[0, :, :, 1], rtol=1e-6)
    np.testing.assert_allclose(got.jacobians, flow.jacobian_norms()[:, 1], rtol=1e-6)
    assert got.share is not None and sum(got.share) == pytest.approx(1)
    assert got.layer is not None
    assert got.cell == {"RNN": getattr(layer, "nonlinearity", None)}.get(type(layer).__name__, "gru")


def test_only_the_top_layer_of_a_stack_is_explained_by_its_own_weights() -> None:
    model, x = Tagger(), torch.randn(T, B, 3)
    assert measure(model, x, loss=by_step, layer="l1").layer is not None
    lower = measure(model, x, loss=by_step, layer="l0")
    assert lower.layer is None and lower.cell == "lstm" and max(lower.norms) > 0


def test_a_head_that_mixes_steps_leaves_the_norms_alone() -> None:
    got = measure(Tagger(mixing=True), torch.randn(T, B, 3), loss=by_step, layer="l1")
    assert got.layer is None and max(got.norms) > 0


def test_one_loss_per_sequence_is_at_its_last_step() -> None:
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(T, B, 3), [9, 7, 4])
    got = measure(torch.nn.GRU(3, 5), packed, loss=lambda output: output[1][0].square().sum(-1), sequence=1)
    norms = np.reshape(got.norms, (got.T, got.T))
    assert got.T == 7
    assert (norms[:-1] == 0).all() and (norms[-1] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": 3}, "sequence is 3; this batch has sequences 0 to 2."),
        ({"layer": "l1"}, "There is no layer 'l1'"),
        ({"layer": "l0_reverse"}, "runs backwards"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises((rg.errors.FlowError, rg.errors.OptionError), match=message) as caught:
        measure(torch.nn.GRU(3, 5, bidirectional=True), torch.randn(T, B, 3), loss=by_step, **options)
    assert "\n" not in str(caught.value)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(rg.errors.FlowError, match="up to 300 steps, and l0 has 301"):
        measure(torch.nn.RNN(1, 2), torch.randn(301, 1, 1), loss=lambda output: output[1][0].sum(-1))
