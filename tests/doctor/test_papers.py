"""The scripts of ``examples/papers``: what they share, on a paper that takes seconds."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
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
    script = importlib.import_module("le2015_digits")
    learned, tested = script.digits(None)
    model = script.Reader("IRNN")
    assert len(script.train(model, learned, 1, 0.001)["norms"]) == 1
    x, y = tested.some(slice(0, 400))
    assert script.right(model, tested) == float((model(x).argmax(-1) == y).double().mean())
    script = importlib.import_module("mikhaeil2022")
    assert len(script.train(script.Generator(script.STEPS), torch.randn(300, 3), 1)) == 1
    script = importlib.import_module("engelken2023")
    size = script.Size(hidden=8, steps=20, delays=(3,), updates=2)
    assert len(script.train(script.Copier(8), "orthogonal", 3, size)["norms"]) == 2


def test_digits_are_read_from_a_file_like_that_of_mnist(paper, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    y = np.arange(30, dtype=np.uint8) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    learned, tested = importlib.import_module("le2015_digits").digits(tmp_path / "mnist.npz")
    assert learned.pixels.shape == (20, 784) and tested.shown.tolist() == list(range(10))
    pixels, shown = learned.some(torch.tensor([3, 5]))
    assert pixels.shape == (784, 2, 1) and shown.tolist() == [3, 5]
    np.testing.assert_allclose(pixels[:, 1, 0].numpy(), x[5].ravel() / 255, rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_one_network_is_trained_on_lengths_from_50_to_200_with_the_weight_of_each(paper, monkeypatch, weight):
    script = importlib.import_module("pascanu2013")
    seen, drawn, add = [], script.drawn, script.VanishingGradientRegularizer.add_gradients
    monkeypatch.setattr(script, "drawn", lambda n, b, g: seen.append(n) or drawn(n, b, g))
    weights = []
    monkeypatch.setattr(
        script.VanishingGradientRegularizer, "add_gradients", lambda own: weights.append(own.alpha) or add(own)
    )
    model = script.Reader()
    before = model.layer.weight_hh_l0.detach().clone()
    assert len(script.train(model, script.THEIRS, 4, weight, 0)["norms"]) == 4
    assert len(set(seen)) == 4 and all(50 <= length <= 200 for length in seen)
    assert weights == ([16 / length for length in seen] if weight else [])  # alpha = 4 of the authors
    assert not torch.equal(before, model.layer.weight_hh_l0)
    share = script.wrong(model, 60, 200)
    assert 0.3 < share < 1  # chance is 0.75


def test_networks_that_are_no_runs_are_trained_once(paper, tmp_path):
    def train():
        with torch.no_grad():
            model.weight += 1
        return {"norms": torch.ones(3)}

    model = torch.nn.Linear(2, 2)
    first = paper.kept(model, tmp_path / "out" / "model.safetensors", train)
    wanted, model = model.weight.detach().clone(), torch.nn.Linear(2, 2)
    second = paper.kept(model, tmp_path / "out" / "model.safetensors", train)
    assert torch.equal(model.weight, wanted) and second["norms"].tolist() == [1, 1, 1]
    assert first["seconds"] == second["seconds"] >= 0


def test_options_that_are_taken_away_are_not_given(paper):
    assert paper.options_words({"chrono": 165, "forget_bias": None}) == "`--chrono 165`"


def test_a_page_says_that_the_machine_was_shared_only_if_it_was(paper):
    assert paper.made(90, shared=True).endswith("1.5 minutes of training on a machine that other programs shared.")
    assert paper.made(90, shared=False).endswith("1.5 minutes of training.")


def test_the_text_is_long_enough_to_train_on(paper, tmp_path):
    found = importlib.import_module("tallec2018").text(tmp_path / "text.txt")
    assert (tmp_path / "text.txt").stat().st_size > 100_000 and found.data.endswith("text.txt")
