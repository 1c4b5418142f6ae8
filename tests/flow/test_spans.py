"""Need and what is left to learn where the head reads the states of many steps, or a layer runs in both directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.tasks.models import SequenceModel


def model(pooling="max", cell="gru", inputs=2, **options):
    torch.manual_seed(0)
    return SequenceModel(inputs, 2, 8, pooling=pooling, bidirectional=True, cell=cell, **options)


def crossed(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


def order(gap, steps=60, size=64, count=6):
    """Two events so many steps apart, at a random place: which one comes first?"""
    torch.manual_seed(1)
    for _ in range(count):
        b, x, y = torch.arange(size), 0.1 * torch.randn(steps, size, 2), torch.randint(2, (size,))
        t = torch.randint(steps - gap, (size,))
        x[t, b, y] += 1
        x[t + gap, b, 1 - y] += 1
        yield x, y


def paired(gap, steps=40, size=64, count=6):
    """Whether steps so far apart are alike on the whole."""
    torch.manual_seed(1)
    for _ in range(count):
        x = torch.randn(steps, size, 2)
        yield x, ((x[gap:] * x[:-gap]).sum((0, 2)) > 0).long()


def waves(size=64, count=3):
    """Two frequencies, from a random place of the period on: every span says which."""
    torch.manual_seed(1)
    for _ in range(count):
        y = torch.randint(2, (size,))
        phase = 0.3 * torch.arange(50).unsqueeze(1) * (1 + y) + 6.28 * torch.rand(size)
        yield torch.stack([phase.sin(), phase.cos()], -1) + 0.3 * torch.randn(50, size, 2), y


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_the_gap_between_events_is_the_need_under_a_head_that_pools(pooling):
    found = rg.flow.need_of(model(pooling), order(12), crossed)
    assert 12 <= found.need <= 14 and found.peak == 12
    assert found.decided and "many steps" in found.notes[0]
    assert [signal.layer for signal in found.layers] == ["inputs"]


def test_steps_that_are_alike_and_tokens_in_sequences_of_several_lengths():
    assert 12 <= rg.flow.need_of(model(), paired(12), crossed).need <= 14
    torch.manual_seed(2)
    x, y, lengths = torch.randint(5, 12, (30, 256)), torch.randint(2, (256,)), torch.randint(15, 31, (256,))
    for b, n in enumerate(lengths):  # which of two words is the first of a pair?
        t = int(torch.randint(int(n) - 5, ()))
        x[t, b], x[t + 5, b] = 3 + y[b], 4 - y[b]
    words = model(inputs=12, embedding_size=16)
    found = rg.flow.need_of(lambda x: words(x, lengths), [(x, y)], crossed)
    assert found.need == 5


def test_what_a_short_span_tells_is_not_needed_from_a_long_one():
    assert rg.flow.need_of(model(), waves(), crossed).need <= 4
    everywhere = [(torch.randn(30, 128, 2) + (y := torch.randint(2, (128,))).view(1, -1, 1), y) for _ in range(2)]
    assert rg.flow.need_of(model(), everywhere, crossed).need == 0


def test_noise_has_no_need_and_a_place_the_steps_to_the_nearer_end():
    def drawn(which, count=4):
        torch.manual_seed(3)
        for _ in range(count):
            x = torch.randn(24, 64, 2)
            yield x, torch.randint(2, (64,)) if which is None else (x[which, :, 0] > 0).long()

    noise = rg.flow.need_of(model(), drawn(None), crossed)
    assert noise.need is None and noise.sequences == 256 and not noise.constant
    assert rg.flow.need_of(model(), drawn(19), crossed).need == 4
    assert rg.flow.need_of(model("last"), drawn(19), crossed).need == 4  # of the reverse direction, 19
    forward, head = nn.GRU(2, 8), nn.Linear(8, 2)
    assert rg.flow.need_of(lambda x: head(forward(x)[0].mean(0)), drawn(19), crossed).need == 19


def test_a_reverse_direction_that_is_read_after_its_first_step_knows_nothing_else():
    torch.manual_seed(4)
    layer, head = nn.GRU(2, 8, bidirectional=True), nn.Linear(16, 1)
    data = [(x := torch.randn(20, 64, 2), x[3, :, 0]) for _ in range(3)]
    found = rg.flow.need_of(lambda x: head(layer(x)[0][-1])[:, 0], data, lambda a, b: (a - b).square())
    assert found.need == 16


def test_what_is_left_to_learn_is_of_the_networks_own_errors():
    found = rg.flow.signal_left(model(), order(5, steps=30), crossed)
    assert found.need == 5 and found.error_share == pytest.approx(1, abs=0.3)


def test_half_of_what_the_targets_depend_on_may_be_told_by_the_last_steps():
    """By windows of the last steps, where later steps say the same; and whatever torch's default device is."""
    torch.manual_seed(5)
    layer, head = nn.GRU(2, 8), nn.Linear(8, 1)

    def last(x):
        return head(layer(x)[0][-1])[:, 0]

    def square(output, target):
        return (output - target).square()

    y = torch.randn(200)
    everywhere, early = y.view(1, -1, 1) + torch.randn(25, 200, 2), torch.randn(25, 200, 2)

    def half(model, batches, loss):
        return rg.flow.learning_signal.stream.fewest_of(model, batches, loss, 24, [0.5])

    assert half(last, [(everywhere, y)], square)[0] <= 3
    assert half(last, [(early, early[2, :, 0])], square) == (22,)
    assert half(last, [(early, y)], square) is None  # nothing is explained
    pooled = (lambda x: head(layer(x)[0].mean(0))[:, 0], [(early, early[2, :, 0])], square)
    assert half(*pooled) is None
    need = rg.flow.need_of(*pooled).need
    torch.set_default_device("meta")
    try:
        assert half(last, [(early, early[2, :, 0])], square) == (22,)
        assert rg.flow.need_of(*pooled).need == need == 2
    finally:
        torch.set_default_device("cpu")


@pytest.mark.parametrize("count", [8, 64])
def test_inputs_that_are_the_same_in_all_sequences_explain_nothing(count):
    """Neither alone nor as the last step; they give a kernel of zeros, whatever rounding makes of it."""
    torch.manual_seed(5)
    layer, head = nn.GRU(2, 8), nn.Linear(8, 1)
    y = torch.randn(count, dtype=torch.float64)

    def fewest(x):
        model = lambda x: head(layer(x)[0][-1])[:, 0]  # noqa: E731
        return rg.flow.learning_signal.stream.fewest_of(model, [(x, y)], lambda a, b: (a - b).square(), 5, [0.5])

    same = torch.ones(6, count, 2)
    assert fewest(same) is None
    told = torch.stack((y.float(), torch.zeros(count)), -1).unsqueeze(0)
    assert fewest(torch.cat((told, same))) == fewest(torch.cat((told, 7 * same))) == (6,)


def test_a_short_window_is_enough_where_the_sequences_are_too_few_for_a_long_one():
    """Products of all pairs of 20 steps are more than 256 sequences can be told by; the last two steps say all."""
    torch.manual_seed(6)
    layer, head, vectors = nn.GRU(16, 8), nn.Linear(8, 1), torch.randn(6, 16)
    words, both, one = torch.randint(6, (20, 256)), torch.randn(6, 6), torch.randn(2, 6)

    def fewest(target):
        batch = (vectors[words], target)
        return rg.flow.learning_signal.stream.fewest_of(
            lambda x: head(layer(x)[0][-1])[:, 0], [batch], lambda a, b: (a - b).square(), 19, [0.9]
        )

    assert fewest(both[words[-1], words[-2]]) == (1,)
    # Where a step before the window adds something, it is not enough.
    assert fewest(1.2 * one[0, words[-1]] + one[1, words[3]]) in (None, (16,))
