from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.data import storage
from retrograde.data import text as texts
from retrograde.data.storage import Rows
from retrograde.data.text import Text
from retrograde.data.vocabulary import Vocabulary
from retrograde.errors import DataError, DivergedError, OptionError
from retrograde.tasks import ngrams
from retrograde.tasks.language import LanguageTask, generate, score, windows
from retrograde.tasks.models import LanguageModel
from retrograde.tasks.ngrams import baselines
from retrograde.tasks.registry import new_task
from retrograde.training import Options


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def rows(*parts) -> Rows:
    found = Rows(np.uint8)
    for part in parts:
        found.append(part)
    return found


def task(content: str, **options: object) -> LanguageTask:
    given = Options.of({"hidden_size": 8, "embedding_size": 5, "bptt": 7, "batch_size": 3, **options})
    return LanguageTask(Text(content, "here", "utf-8"), given)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("embedding_size", [6, 8])
def test_the_model_gives_logits_for_every_step_and_a_state_to_go_on_from(cell, tie, embedding_size):
    model = LanguageModel(11, embedding_size, 8, 2, cell, tie=tie)
    tokens = torch.randint(11, (9, 4))
    whole, _ = model(tokens)
    first, state = model(tokens[:4])
    second, _ = model(tokens[4:], state)
    assert whole.shape == (9, 4, 11)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert (model.output.weight is model.embedding.weight) == tie
    if tie:
        model(tokens)[0].sum().backward()
        assert model.embedding.weight.grad is model.output.weight.grad


@pytest.mark.parametrize("recurrent_dropout", [0.0, 0.3])
def test_dropout_beside_that_of_the_state_has_one_mask_a_sequence(recurrent_dropout):
    model = LanguageModel(5, 40, 40, dropout=0.5, recurrent_dropout=recurrent_dropout)
    seen = []
    for module in (model.recurrent, model.output):
        module.register_forward_pre_hook(lambda module, given: seen.append(given[0] == 0))
    model(torch.randint(5, (6, 3)))
    for dropped in seen:  # (T, B, F), at the input and at the output
        assert 0.3 < float(dropped.float().mean()) < 0.7
        assert bool((dropped == dropped[0]).all()) == bool(recurrent_dropout)
        assert not torch.equal(dropped[0, 0], dropped[0, 1])


def test_chunks_are_the_text_in_order_side_by_side():
    content = "".join(chr(0x4E00 + i) for i in range(200))  # every character different: places can be told apart
    subject = task(content, validation_fraction=0.2)
    numbers = subject.tokens[: subject.train_tokens]
    length = (len(numbers) - 1) // 3
    chunks = [subject.batch(step) for step in range(subject.steps_per_epoch)]
    assert torch.cat([chunk.inputs for chunk in chunks]).T.flatten().tolist() == numbers[: 3 * length].tolist()
    assert torch.cat([chunk.targets for chunk in chunks]).T.flatten().tolist() == numbers[1 : 3 * length + 1].tolist()
    assert [chunk.fresh for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    sizes = {len(chunk.inputs) for chunk in chunks}
    assert max(sizes) <= 7 and max(sizes) - min(sizes) <= 1
    again = subject.batch(2 + 5 * subject.steps_per_epoch)
    assert torch.equal(again.inputs, chunks[2].inputs)


def test_the_vocabulary_knows_the_training_part_only():
    subject = task("ab" * 90 + "z" * 20, validation_fraction=0.1)
    assert subject.vocabulary.id_of("z") is None
    assert any("validation tokens" in note and "unknown" in note for note in subject.notes)


def test_the_state_is_carried_but_its_gradient_is_not():
    subject = task("abcdefg" * 40)
    model = subject.model()
    chunk = subject.batch(0)
    _, state = subject.loss(model, chunk, None)
    carried = tuple(part.detach() for part in state)
    loss, _ = subject.loss(model, subject.batch(1), carried)
    cold, _ = subject.loss(model, subject.batch(1), None)
    assert loss.item() != cold.item()
    loss.backward()  # reaches no further than the chunk: the graph of the one before is gone


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 3000), past=st.integers(0, 300))
def test_every_token_is_scored_once_whatever_the_length(count, past):
    """A model without memory has the same loss wherever a stream begins: the sum is then exact."""
    model = LanguageModel(7, 4, 6, cell="rnn")
    torch.nn.init.zeros_(model.recurrent.weight_hh_l0)
    tokens = np.random.default_rng(count).integers(0, 7, count + past + 1).astype(np.int32)
    result = score(model, rows(tokens), count, past + 1)
    logits = model(torch.from_numpy(tokens[-count - 1 : -1]).long()[:, None])[0][:, 0].double()
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[-count:]).long(), reduction="sum")
    assert result.tokens == count
    assert result.nats == pytest.approx(expected.item(), rel=1e-4)


def test_scoring_leaves_the_model_as_it_was():
    model = LanguageModel(7, 4, 6, dropout=0.5).train()
    tokens = rows(np.arange(50) % 7)
    state = torch.get_rng_state()
    assert score(model, tokens, 49).nats == score(model, tokens, 49).nats  # no dropout
    assert model.training and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_bits_per_character_count_characters_whatever_the_tokens(kind):
    content = "the cat sat on the mat and the dog sat on the log.\n" * 30
    subject = task(content, tokens=kind, validation_fraction=0.2)
    result = subject.validate(subject.model())
    assert result.tokens == subject.validation_tokens
    assert result.characters == subject.validation_characters == int(len(content) * 0.2)
    assert result.bits_per_character == pytest.approx(result.loss * result.tokens / math.log(2) / result.characters)
    assert set(subject.baselines()) == {"unigram", "bigram"}
    assert subject.baselines()["bigram"]["loss"] < subject.baselines()["unigram"]["loss"] < result.loss
    uniform = math.log(len(subject.vocabulary))
    assert result.loss == pytest.approx(uniform, rel=0.25)  # untrained


def test_baselines_are_distributions_learnt_from_the_training_part():
    rng = np.random.default_rng(0)
    size = 6
    chain = rng.dirichlet(np.ones(size) * 0.3, size)
    tokens = [0]
    for _ in range(20_000):
        tokens.append(rng.choice(size, p=chain[tokens[-1]]))
    data = np.array(tokens, np.int32)
    training, validation = data[:18_000], data[18_000:]
    found = baselines(rows(data), len(training), len(validation), size)
    optimum = -np.log(chain[data[17_999:-1], data[18_000:]]).mean()
    frequencies = np.bincount(data) / len(data)
    assert found.bigram.loss == pytest.approx(optimum, rel=0.01)
    assert found.unigram.loss == pytest.approx(-(frequencies * np.log(frequencies)).sum(), rel=0.03)
    for history in range(size):  # p(·|v) adds up to one, so that no baseline is better than it may be
        total = sum(math.exp(-counted(training, [history, token], size).bigram(1.0, 8.0)) for token in range(size))
        assert total == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_baselines_are_finite_even_for_tokens_never_seen(training, validation):
    found = baselines(rows(training, validation), len(training), len(validation), 10)
    assert 0 <= found.unigram.loss < 50 and 0 <= found.bigram.loss < 50


def counted(seen, target, size):
    pairs = [ngrams._pairs(rows(part), 0, len(part), size) for part in (seen, target)]
    return ngrams._Counts(pairs[0], int(seen[0]), pairs[1], size)


def test_counts_are_counts(monkeypatch):
    monkeypatch.setattr(ngrams, "PAIRS", 2)  # however they are brought together
    seen, target = [0, 1, 0, 1, 2, 0], [0, 1, 2, 2, 0, 1]
    counts = counted(seen, target, 4)
    pairs, wanted = Counter(pairwise(seen)), sorted(set(pairwise(target)))
    assert counts.pairs.tolist() == [pairs[pair] for pair in wanted]
    assert counts.times.tolist() == [Counter(pairwise(target))[pair] for pair in wanted]
    assert counts.singles.tolist() == [seen.count(token) for _, token in wanted]
    assert counts.contexts.tolist() == [seen[:-1].count(token) for token, _ in wanted]
    assert counts.total == len(seen)


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_text_in_a_file_is_learnt_from_as_text_in_memory_is(kind, monkeypatch):
    content = "the cat sat on the mat,\n日本 and the dog sat on the log. " * 60
    given = {"tokens": kind, "vocab_size": 262 if kind == "bpe" else 9, "validation_fraction": 0.3, "update_every": 5}
    whole = task(content, **given)
    monkeypatch.setattr(storage, "SPILL", 100)
    monkeypatch.setattr(texts, "PIECE", 37)
    monkeypatch.setattr(Text, "content", property(lambda self: pytest.fail("all of the text at once")))
    filed = task(content, **given)
    assert filed.tokens.in_memory is None and whole.tokens.in_memory is not None
    assert filed.describe() == whole.describe() and filed.notes == whole.notes
    assert filed.files() == whole.files() and filed.baselines() == whole.baselines()
    for step in range(whole.steps_per_epoch):
        ours, theirs = filed.batch(step), whole.batch(step)
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.targets, theirs.targets)
    assert torch.equal(filed.held_out(3, 9).inputs[0], whole.held_out(3, 9).inputs[0])
    model = whole.model()
    assert filed.validate(model) == whole.validate(model)


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(storage, "SPILL", 1 << 16)
    monkeypatch.setattr(texts, "PIECE", 1 << 16)
    monkeypatch.setattr(ngrams, "PAIRS", 1 << 16)
    line = "the cat sat on the mat and the dog sat on the log.\n" * 1000
    tracemalloc.start()
    try:
        options = Options.of({"hidden_size": 8})
        subject = LanguageTask(Text((line for _ in range(400)), "here"), options)
        subject.baselines()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert subject.characters == 400 * len(line)
    assert peak < 15_000_000  # most of it the table of all code points


def test_too_short_for_the_options_is_said():
    with pytest.raises(DataError, match="too short"):
        task("abc")
    with pytest.raises(DataError, match="--bptt 500"):
        task("abcdefghij" * 20, bptt=500)
    with pytest.raises(OptionError, match="--batch-size 999"):
        task("abcdefghij" * 20, batch_size=999)
    assert task("abcdefghij" * 20, bptt=20, batch_size=None).batch_size == 8  # fewer streams than usual


def test_held_out_sequences_come_from_the_tail():
    subject = task("abcdefghij" * 100)
    inputs, targets = windows(subject.tokens, 12, 4, subject.train_tokens)
    assert inputs.shape == targets.shape == (12, 4)
    assert torch.equal(inputs[1:], targets[:-1])
    assert torch.equal(subject.held_out(4, 12).inputs[0], inputs)
    assert subject.held_out(4).inputs[0].shape == (7, 4)  # --bptt
    short = task("abcdefghij" * 3).held_out(4, 12)
    assert short.inputs[0].shape == (2, 1)
    assert short.notes == ("the text has no 12 steps; measured over 2.",)


def test_generation_is_cut_to_characters_and_never_the_unknown():
    vocabulary = Vocabulary.fit("日本語 text " * 20, "bpe", vocab_size=260)
    model = LanguageModel(len(vocabulary), 4, 6)  # untrained: most of what it draws is no valid UTF-8
    text = "".join(generate(model, vocabulary, "日", 50, seed=1))
    assert len(text) == 50
    words = Vocabulary.fit("one two three", "word")
    model = LanguageModel(len(words), 4, 6)
    model.output.bias.data[0] = 100.0
    assert "<unk>" not in "".join(generate(model, words, "", 40, seed=1))


def test_generation_draws_by_the_softmax_at_the_temperature():
    vocabulary = Vocabulary.fit("abc", "char")
    model = LanguageModel(len(vocabulary), 2, 3)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    model.output.bias.data = torch.tensor([9.0, 0.0, 1.0, 2.0])
    text = "".join(generate(model, vocabulary, "", 2000, temperature=2.0, seed=0))
    weights = [math.exp(value / 2) for value in (0, 1, 2)]
    for character, weight in zip("abc", weights, strict=True):
        assert text.count(character) / 2000 == pytest.approx(weight / sum(weights), abs=0.04)
    assert set(generate(model, vocabulary, "", 200, top_k=2, seed=0)) == {"b", "c"}
    assert set(generate(model, vocabulary, "", 200, top_p=0.6, seed=0)) == {"c"}


def test_generation_with_weights_that_are_no_numbers():
    vocabulary = Vocabulary.fit("abc", "char")
    model = LanguageModel(len(vocabulary), 2, 3)
    model.output.bias.data[1] = math.nan
    with pytest.raises(DivergedError):
        list(generate(model, vocabulary))


@pytest.mark.parametrize(("every", "bptt"), [(3, 10), (5, 10), (4, 7), (1, 6), (10, 10), (8, 9)])
def test_an_update_every_k1_steps_goes_back_k2(every: int, bptt: int) -> None:
    """Every step is learnt from once, by a gradient that ends k2 before the chunk's last, at most."""
    text = Text("the cat sat on the mat and the dog sat on the log. " * 8, "here", "utf-8")
    options = Options.of({"bptt": bptt, "update_every": every, "batch_size": 2, "hidden_size": 5})
    torch.manual_seed(0)
    task = LanguageTask(text, options)
    model = task.model().double()
    length = (task.train_tokens - 1) // 2
    streams = torch.from_numpy(task.tokens[: 2 * length + 1]).long()
    whole, targets = streams[:-1].view(2, length).t(), streams[1:].view(2, length).t()
    states = [None]  # before each step
    for step in range(len(whole)):
        states.append(model(whole[step : step + 1], states[-1])[1])
    state, learnt = None, 0
    for step in range(task.steps_per_epoch):
        chunk = task.batch(step)
        assert len(chunk.inputs) - chunk.read <= every
        assert len(chunk.inputs) <= bptt
        begin = learnt - chunk.read
        assert begin == 0 or len(chunk.inputs) >= bptt - 1  # chunks are equal to within a step
        model.zero_grad()
        loss, state = task.loss(model, chunk, state)
        loss.backward()
        got = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        start = None if begin == 0 else tuple(part.detach() for part in states[begin])
        end = learnt + len(chunk.inputs) - chunk.read
        logits, _ = model(whole[begin:end], start)
        wanted = torch.nn.functional.cross_entropy(logits[chunk.read :].flatten(0, 1), targets[learnt:end].flatten())
        wanted.backward()
        torch.testing.assert_close(loss, wanted)
        for one, p in zip(got, model.parameters(), strict=True):
            torch.testing.assert_close(one, p.grad)
        state = None if state is None else tuple(part.detach() for part in state)
        learnt = end
    assert learnt == len(whole)


def test_a_text_may_be_as_long_as_bptt_and_its_first_target(tmp_path):
    (tmp_path / "a.txt").write_text("some words and more of them " * 8)
    given = {"task": "language", "hidden_size": 4, "embedding_size": 2}
    trained = new_task(str(tmp_path / "a.txt"), given | {"bptt": 5}).train_tokens
    assert new_task(str(tmp_path / "a.txt"), given | {"bptt": trained - 1}).steps_per_epoch == 1
    with pytest.raises(DataError, match=f"too short for --bptt {trained}: .* give more text or --bptt {trained - 1}"):
        new_task(str(tmp_path / "a.txt"), given | {"bptt": trained})
