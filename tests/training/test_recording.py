"""``--record-flow``: the gradient's reach, measured while training goes on as if it were not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retrograde import report
from retrograde.cli import main
from retrograde.experiment import train
from retrograde.training import Callback, callbacks


class Heard(Callback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return path


SMALL: dict[str, Any] = {"hidden_size": 6, "bptt": 8, "batch_size": 4, "eval_every": 10, "threads": 1, "seed": 3}


def test_records_and_changes_nothing(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "FLOW_BUDGET", None)
    heard = Heard()
    train(text, tmp_path / "plain", max_steps=20, report=False, **SMALL)
    train(text, tmp_path / "seen", max_steps=10, report=False, record_flow=True, callbacks=[heard], **SMALL)
    train(None, tmp_path / "seen", max_steps=20, resume=True, report=False, record_flow=True, callbacks=[heard])
    plain, seen = (load_file(tmp_path / run / "model.safetensors") for run in ("plain", "seen"))
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    records = [json.loads(line) for line in (tmp_path / "seen" / "flow" / "recorded.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert records[0]["layers"]["l0"]["by_lag"] != records[-1]["layers"]["l0"]["by_lag"]
    assert any("recorded 5 times while training" in note for note in heard.notes)
    html = report.write(tmp_path / "seen").read_text()
    assert "It was measured 10 times while training, on the same held-out sequences." in html


def test_a_training_too_short_for_it_says_so(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(text), "--out", str(out), "--max-steps=4", "--no-report", "--record-flow", *options])
    assert not ended.value.code
    said = " ".join(capsys.readouterr().err.split())
    assert "the gradient flow was not recorded: each of 2 measurements would have taken over 3% of the time" in said
