from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import TINY

import retrograde as rg
from retrograde.cli.terminal import printable


@pytest.fixture
def run(book, trained):
    return trained(book, *TINY, "--lr", "0.02", "--max-steps", 60)


def test_the_same_seed_writes_the_same_and_exactly_so_much(retrograde, run):
    def write(*more: object) -> str:
        return retrograde("generate", run, "--prompt", "line ", "--length", 57, *more).out

    assert write("--seed", 1) == write("--seed", 1) != write("--seed", 2)
    assert len(write("--seed", 1)) == len("line ") + 57
    assert write("--temperature", 0) == write("--temperature", 0, "--seed", 5)  # greedy: nothing is drawn
    assert write("--top-k", 1, "--seed", 3) == write("--temperature", 0) == write("--top-p", 1e-9, "--seed", 4)
    assert write("--length", 0) == "line "


def test_impossible_sampling_options(retrograde, run):
    for options in (["--temperature", -1], ["--top-k", 0], ["--top-p", 0], ["--top-p", 1.5], ["--length", -1]):
        outcome = retrograde("generate", run, *options)
        assert outcome.code == 2 and outcome.err.count("\n") == 1 and options[0] in outcome.err and outcome.out == ""


def test_threads_of_commands_that_use_a_run(retrograde, run, text, tmp_path):
    for words in (["generate", run], ["evaluate", run, text], ["predict", run, text, "--out", tmp_path / "out.jsonl"]):
        torch.set_num_threads(1)
        assert retrograde(*words, "--threads", 2).code == 0 and torch.get_num_threads() == 2


def test_unknown_characters_of_the_prompt_are_said(retrograde, run):
    outcome = retrograde("generate", run, "--prompt", "line ж\x1b", "--length", 5)
    assert outcome.code == 0 and "'ж'" in outcome.err and "\x1b" not in outcome.err


def test_control_characters_do_not_reach_a_terminal():
    assert printable("a\x1b]0;title\x07b\r\x9bc\n\té") == "a␛]0;title␇b␍\ufffdc\n\té"


def test_evaluate_is_the_mean_of_minus_log_p_given_all_before(retrograde, run, text):
    scored = json.loads(retrograde("evaluate", run, text, "--json").out)
    loaded = rg.training.load(run)
    tokens = torch.from_numpy(loaded.vocabulary.encode(text.read_text())).long()[:, None]
    with torch.no_grad():
        logits, _ = loaded.model(tokens[:-1])
    expected = torch.nn.functional.cross_entropy(logits[:, 0].double(), tokens[1:, 0]).item()
    assert scored["tokens"] == scored["characters"] == len(tokens) - 1
    # Read as several streams, each with a warm-up, it is the same but for what lies further back than that.
    assert scored["loss"] == pytest.approx(expected, rel=1e-3)
    assert scored["perplexity"] == pytest.approx(math.exp(scored["loss"]))


def test_evaluate_needs_two_tokens(retrograde, run, tmp_path):
    file = tmp_path / "one.txt"
    file.write_text("a")
    outcome = retrograde("evaluate", run, file)
    assert outcome.code == 2 and "too short" in outcome.err


def test_info_says_what_the_run_is(retrograde, run):
    shown = retrograde("info", run).out
    for word in ("lstm", "12 units", "finished", "bigram", "validation loss"):
        assert word in shown
    assert json.loads(retrograde("info", run, "--json").out)["config"]["task"] == "language"


@pytest.mark.parametrize("damage", ["config.json", "vocabulary.json", "model.safetensors", "summary.json"])
def test_a_damaged_run_is_named(retrograde, run, damage, text):
    (run / damage).write_bytes((run / damage).read_bytes()[: -(20 if damage != "summary.json" else 5)])
    outcome = retrograde("evaluate", run, text)
    assert outcome.code == 2 and damage in outcome.err and outcome.err.count("\n") == 1
