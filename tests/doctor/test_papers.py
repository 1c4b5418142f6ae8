"""The scripts of ``examples/papers``: what they share, on a paper that takes seconds."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import retrograde as rg

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


def test_a_run_that_was_interrupted_is_not_kept(paper, tmp_path):
    rg.train(
        "builtin:adding?length=20", tmp_path / "run", cell="rnn", hidden_size=4, batch_size=4, max_steps=2, report=False
    )
    assert paper.is_kept(tmp_path / "run", {"hidden_size": 4})
    summary = tmp_path / "run" / "summary.json"
    summary.write_text(summary.read_text().replace('"finished"', '"interrupted"'))
    assert not paper.is_kept(tmp_path / "run", {"hidden_size": 4})


@pytest.mark.parametrize("tau", [1, 4, 20])
def test_what_is_read_from_a_state_is_set_to_the_truth_every_tau_steps(paper, tau):
    torch.manual_seed(0)
    model, x = importlib.import_module("mikhaeil2022").Generator(tau), torch.randn(20, 3, 3)
    layer, h, found = model.layer, torch.zeros(3, 64), []
    for t in range(20):
        if t % tau == 0:
            h = h + (x[t] - model.head(h)) @ torch.linalg.pinv(model.head.weight).t()
            torch.testing.assert_close(model.head(h), x[t])
        h = torch.tanh(h @ layer.weight_hh_l0.t() + layer.bias_ih_l0 + layer.bias_hh_l0)
        found.append(model.head(h))
    torch.testing.assert_close(model(x), torch.stack(found))


def test_scripts_with_a_training_of_their_own_train(paper):
    share, _ = importlib.import_module("le2015_digits").train("IRNN", 1, 0)
    assert 0 <= share <= 1
    script = importlib.import_module("mikhaeil2022")
    assert len(script.train(script.Generator(script.STEPS), torch.randn(300, 3), 1)) == 1


def test_the_text_is_long_enough_to_train_on(paper, tmp_path):
    found = importlib.import_module("tallec2018").text(tmp_path / "text.txt")
    assert (tmp_path / "text.txt").stat().st_size > 100_000 and found.data.endswith("text.txt")
