"""What the gradient of a trained run is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.errors import DataError, OptionError
from retrograde.experiment import load, train
from retrograde.training.held_out import held_out

FAST: dict[str, Any] = {"hidden_size": 6, "max_steps": 2, "batch_size": 4, "threads": 1, "seed": 3, "report": False}


def test_of_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    train(text, tmp_path / "run", bptt=8, **FAST)
    run = load(tmp_path / "run")
    found = held_out(run, steps=12, sequences=3)
    assert found.inputs[0].shape == (12, 3) and found.notes == ()
    assert held_out(run).inputs[0].shape == (8, 8)
    losses = found.loss(run.model(*found.inputs))
    expected = torch.nn.functional.cross_entropy(
        run.model(*found.inputs)[0][:-1].transpose(1, 2), found.inputs[0][1:], reduction="none"
    )
    torch.testing.assert_close(losses[:-1], expected)  # what is to be predicted is what comes next
    assert rg.gradient_flow(run.model, *found.inputs, loss=found.loss).norms.shape == (1, 12, 12)
    text.write_text("something else " * 60)
    changed, asked = held_out(run, steps=2000).notes
    assert "text.txt has changed since training" in changed and "has no 2000 steps" in asked
    text.unlink()
    with pytest.raises(DataError, match="give DATA to measure it on something else"):
        held_out(run)


def test_of_a_synthetic_task(tmp_path: Path) -> None:
    train("builtin:adding?length=20", tmp_path / "run", **FAST)
    run = load(tmp_path / "run")
    found = held_out(run, "builtin:adding?length=30", sequences=5)
    assert found.inputs[0].shape[0] >= 30 and found.loss(run.model(*found.inputs)).shape == (5,)
    with pytest.raises(OptionError, match="--steps 5 has no effect here"):
        held_out(run, steps=5)
    with pytest.raises(DataError, match="the network was trained on builtin:adding"):
        held_out(run, "builtin:copy-memory")
    with pytest.raises(DataError, match="is not a synthetic task"):
        held_out(run, str(tmp_path / "text.txt"))
