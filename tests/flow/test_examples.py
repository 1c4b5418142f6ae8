"""The examples run unchanged; their models do not import retrograde."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("torch_lstm_classifier", ["l0"]),
        ("bidirectional_tagger", ["l0", "l0_reverse"]),
        ("seq2seq_encoder", ["encoder.l0", "decoder.l0"]),
    ],
)
def test_example_prints_its_finding(name: str, layers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / f"{name}.py"
    assert "retrograde.nn" not in path.read_text(encoding="utf-8")
    runpy.run_path(str(path))["main"](training_steps=2)
    printed = capsys.readouterr().out
    assert "Finding: " in printed
    for label in layers:
        assert f"{label}: the gradient" in printed
