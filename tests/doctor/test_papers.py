"""The scripts of ``examples/papers``: what they share, on a paper that takes seconds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "papers"


@pytest.fixture
def paper(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import paper as module

    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["paper", "--out", str(tmp_path / "runs"), "--seeds", "1"])
    yield module
    del sys.modules["paper"]


def test_arms_are_trained_diagnosed_and_trained_again_with_other_options(paper, tmp_path):
    tried = paper.Paper(
        key="tiny",
        citation="Nobody 2026",
        claim="Nothing is learned in two steps.",
        data="builtin:temporal-order?length=20&variant=pascanu",
        options={"cell": "rnn", "hidden_size": 4, "batch_size": 4, "eval_every": 2, "max_steps": 2},
        arms=[paper.Arm("small", {"lr": 0.001}, learns=True)],
        cure=frozenset({"cell"}),
    )
    paper.main(tried)
    text = (tmp_path / "results" / "tiny.md").read_text(encoding="utf-8")
    assert "| small | `--lr 0.001` | learns |" in text and (tmp_path / "results" / "tiny.png").exists()
    weights = tmp_path / "runs" / "tiny" / "small-0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    paper.main(tried)
    assert weights.stat().st_mtime_ns == before  # complete runs are kept
    paper.main(replace(tried, arms=[paper.Arm("small", {"lr": 0.1}, learns=True)]))
    assert weights.stat().st_mtime_ns > before  # unless their options are others
