"""Padding that counts, and padding that does not."""

from __future__ import annotations

import pytest
import torch
from small import delayed, found, squared, sums
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from retrograde.doctor.rules.padding import RULES

LENGTHS = torch.tensor([12, 5, 7, 3, 12, 9, 4, 11])
MASK = torch.arange(12).unsqueeze(1) < LENGTHS


class Packed(nn.Module):
    """Takes packed input, returns padded output."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(1, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.head(pad_packed_sequence(self.layer(x)[0])[0]).squeeze(-1)


def packed(seed):
    x, y = delayed(12, 8, seed=seed)
    return pack_padded_sequence(x, LENGTHS, enforce_sorted=False), y


def by_step(mask):
    return lambda output, target: squared(output, target) * mask


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        (by_step(MASK), False),
        (by_step(1), True),
        (by_step(~MASK), True),
        (lambda output, target: (squared(output, target) * MASK).sum(0) / MASK.sum(0), False),
        (lambda output, target: squared(output, target).mean(0), True),
    ],
)
def test_losses_beyond_the_end(loss, wrong):
    own = found(RULES, Packed(), packed, loss)
    assert bool(own) is wrong
    assert not wrong or own["mask_error"][0].numbers["padding_share"] > 0.1


class Reader(nn.Module):
    """Takes padded input and its lengths, or a mask, and reads one state of each sequence."""

    def __init__(self, right, packs, both_ways=False):
        super().__init__()
        self.layer, self.head = nn.LSTM(1, 8, bidirectional=both_ways), nn.Linear(16 if both_ways else 8, 1)
        self.right, self.packs = right, packs

    def forward(self, x, lengths):
        if lengths.ndim == 2:
            lengths = lengths.sum(0 if len(lengths) == 12 else 1).long()
        given = pack_padded_sequence(x, lengths, enforce_sorted=False) if self.packs else x
        h = self.layer(given)[0]
        h = pad_packed_sequence(h)[0] if self.packs else h
        return self.head(h[lengths - 1, torch.arange(len(lengths))] if self.right else h[-1]).squeeze(-1)


@pytest.mark.parametrize("lengths", [LENGTHS, MASK, MASK.long(), MASK.float(), MASK.T.long()])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((True, False), ""),
        ((True, True), ""),
        ((True, True, True), ""),
        ((False, False), "other values in the padding"),
        ((False, True), "get no gradient"),
        ((True, False, True), "other values in the padding"),
    ],
)
def test_states_beyond_the_end(options, words, lengths):
    def padded(seed):
        x, y = delayed(12, 8, seed=seed)
        return x * MASK.unsqueeze(-1), lengths, y[-1]

    own = found(RULES, Reader(*options), padded)
    assert bool(own) is bool(words)
    assert words in (own["mask_error"][0].message if own else "")


def test_sequences_that_are_padded_at_their_start_and_packed():
    def padded(seed):
        x, y = delayed(12, 8, seed=seed)
        return x * MASK.flip(0).unsqueeze(-1), LENGTHS, y[-1]

    (own,) = found(RULES, Reader(True, True), padded)["mask_error"]
    real = int(LENGTHS.sum())
    cut = sum(min(12 - n, n) for n in LENGTHS.tolist())
    assert own.numbers["lost"] == pytest.approx(cut / real) and "padded at their start" in own.message
    assert not found(RULES, Reader(False, False), padded)  # the last state is that of the last real step


def test_a_model_that_moves_the_padding_to_the_start_before_it_packs():
    class Turned(Reader):
        def forward(self, x, lengths):
            late = torch.arange(12).unsqueeze(1) - (12 - lengths)
            x = x.gather(0, late.clamp(min=0).unsqueeze(-1)) * late.ge(0).unsqueeze(-1)
            return super().forward(x, lengths)

    def padded(seed):
        x, y = delayed(12, 8, seed=seed)
        return x * MASK.unsqueeze(-1), LENGTHS, y[-1]

    (own,) = found(RULES, Turned(True, True), padded)["mask_error"]
    real = int(LENGTHS.sum())
    assert own.numbers["lost"] == pytest.approx(sum(min(12 - n, n) for n in LENGTHS.tolist()) / real)
    assert not found(RULES, Turned(False, False), padded)


def test_sequences_that_begin_alike_by_chance_are_not_padded():
    def ones(seed):
        x, y = delayed(12, 2, seed=seed)
        x = x.sign()
        x[0, 1] = 1.0
        return x, torch.tensor([12, 11]), y[-1]

    assert "mask_error" not in found(RULES, Reader(True, True), ones)


def test_numbers_that_are_no_lengths():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.embedding, self.head = nn.LSTM(1, 8), nn.Embedding(13, 8), nn.Linear(8, 1)

        def forward(self, x, speaker):
            return self.head(self.layer(x)[0][-1] + self.embedding(speaker)).squeeze(-1)

    def speakers(seed):
        x, y = sums(12, 8, seed=seed)
        return x, LENGTHS, y

    assert not found(RULES, Conditioned(), speakers)


class Review(nn.Module):
    """Names the class of a text, whose first word tells it, from the state after the padding."""

    def __init__(self, padding=0):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 8, padding_idx=padding), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.head(self.layer(self.embedding(tokens))[0][:, -1])


def reviews(seed, end=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (8,), generator=generator)
    tokens = torch.randint(3, 9, (8, 12), generator=generator)
    tokens[:, 0] = label + 1
    tokens[~MASK.T] = end
    return tokens, label


def of_classes(output, target):
    return nn.functional.cross_entropy(output, target, reduction="none")


def test_an_embedding_that_has_a_number_for_padding_says_where_texts_end():
    (own,) = found(RULES, Review(), reviews, of_classes)["mask_error"]
    assert "other values in the padding" in own.message and own.numbers["changed"] == int((LENGTHS < 12).sum())
    assert "mask_error" not in found(RULES, Review(None), reviews, of_classes)
    assert "mask_error" not in found(RULES, Review(), lambda seed: reviews(seed, end=7), of_classes)


def test_a_network_that_learned_to_read_past_the_padding_of_its_texts_is_not_wrong():
    torch.manual_seed(0)
    network = Review()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for update in range(150):
        tokens, label = reviews(update % 20)
        optimizer.zero_grad()
        of_classes(network(tokens), label).mean().backward()
        optimizer.step()
    assert "mask_error" not in found(RULES, network, reviews, of_classes)


class Words(nn.Module):
    """Names a class at every step of padded texts."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 8, padding_idx=0), nn.GRU(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens, lengths=None):
        return self.head(self.layer(self.embedding(tokens))[0])


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("more", [0, 3])
def test_losses_beyond_the_end_where_every_text_of_the_batch_is_padded(stated, more):
    def texts(seed):
        tokens, _ = reviews(seed)
        tokens = nn.functional.pad(tokens.T, (0, 0, 0, more))
        given = (tokens, LENGTHS) if stated else (tokens,)
        return *given, (tokens % 2).roll(1, 0)

    def losses(output, target):
        return nn.functional.cross_entropy(output.transpose(1, 2), target, reduction="none")

    (own,) = found(RULES, Words(), texts, losses)["mask_error"]
    assert "beyond the end of their sequence" in own.message
    assert own.numbers["padding_share"] == pytest.approx(1 - float(LENGTHS.sum()) / (8 * (12 + more)), abs=0.1)
