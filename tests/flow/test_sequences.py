"""``sequence_gradients`` of a model that vmap refuses: the same numbers, and a note."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.flow import sequences


class Scaled(torch.autograd.Function):
    """Its backward pass reads a number, which vmap does not support."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g if g.sum().item() else g


def test_sequences_far_above_the_median_or_not_finite_explode():
    names = ["s0", "s1", "s2", "s3", "s4"]

    def exploding(*norms):
        found = sequences.SequenceGradients({"w": np.array(norms)}, np.ones(len(norms)), [*names[: len(norms)]], [])
        return found.exploding()

    assert exploding(1.0, 2.0, 3.0, 19.9) == []
    assert exploding(1.0, 2.0, 2.0, 50.0, math.inf) == [("s4", math.inf), ("s3", 50.0)]
    assert [name for name, _ in exploding(math.nan, math.inf)] == ["s0", "s1"]


def test_what_vmap_refuses_is_measured_one_sequence_at_a_time_and_said_once(monkeypatch):
    torch.manual_seed(0)
    layer, x = nn.GRU(2, 3), torch.randn(5, 4, 2)
    expected = rg.sequence_gradients(layer, x, loss=lambda o: 2 * o[0].sum(-1))
    monkeypatch.setattr(sequences, "_BLOCK_BYTES", 1)  # a block for each sequence
    found = rg.sequence_gradients(layer, x, loss=lambda o: Scaled.apply(o[0]).sum(-1))
    (note,) = [note for note in found.notes if note.startswith("one sequence")]
    assert "vmap refused this model" in note and not expected.notes
    for name, norms in expected.norms.items():
        assert found.norms[name] == pytest.approx(norms, rel=1e-5)
