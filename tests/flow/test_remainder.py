"""What inputs explain of the errors of a network, without a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retrograde.flow.learning_signal.remainder import ahead_of, remainder_of


class Last(nn.Module):
    """Says of each sequence what its last input was, through a layer that keeps nothing."""

    def __init__(self, *, every=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.every = nn.RNN(1, 1), nn.Linear(1, 1), every
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.fill_({"layer.weight_ih_l0": 0.1, "head.weight": 10.0}.get(name, 0.0))

    def forward(self, x):
        h = self.layer(x)[0]
        return self.head(h if self.every else h[-1]).squeeze(-1)


def squared(output, target):
    return (output - target).square()


def drawn(lag, noise, count=300, steps=20, seed=0, every=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, count, 1, generator=generator)
    y = x[..., 0] + (x.roll(lag, 0)[..., 0] if lag else 0.0)
    y = y if every else y[-1]
    return x, y + noise * torch.randn(y.shape, generator=generator)


@pytest.mark.parametrize("every", [False, True])
def test_what_is_left_is_explained_by_the_lag_that_is_not_known(every):
    found = remainder_of(Last(every=every), [drawn(7, 0.0, every=every)], squared)
    assert found.clearest() == 7 and found.explained() > 0.9
    assert found.explained(7) > 0.9 and found.explained(8) == 0.0


def test_noise_halves_what_is_explained_of_the_errors():
    found = remainder_of(Last(), [drawn(7, 1.0)], squared)
    assert found.explained() == pytest.approx(0.5, abs=0.1) and found.clearest(3) == 7


def test_noise_that_is_left_is_explained_by_nothing():
    chance = [remainder_of(Last(), [drawn(0, 1.0, seed=seed)], squared).explained() for seed in range(40)]
    assert sum(share > 0 for share in chance) <= 1


def test_batches_are_put_together():
    batches = [drawn(7, 0.0, count=64, seed=seed) for seed in range(4)]
    assert remainder_of(Last(), batches, squared).sequences == 256


class Pooled(nn.Module):
    """A network that pools, and has learned nothing."""

    def __init__(self, pool):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.pool = nn.GRU(1, 8), nn.Linear(8, 1), pool

    def forward(self, x):
        return 0.01 * self.head(self.pool(self.layer(x)[0])).squeeze(-1)


POOLS = {
    "mean": lambda h: h.mean(0),
    "maximum": lambda h: h.amax(0),
    "attention": lambda h: (h.sum(-1, keepdim=True).softmax(0) * h).sum(0),
}


@pytest.mark.parametrize("pool", POOLS)
def test_heads_that_pool_have_places_instead_of_lags(pool):
    x = torch.randn(20, 300, 1, generator=torch.Generator().manual_seed(0))
    found = remainder_of(Pooled(POOLS[pool]), [(x, x[3, :, 0] + 0.5 * x[9, :, 0])], squared)
    assert found.pooled and found.explained() > 0.9 and found.where(found.clearest()) == "step 3"
    assert found.explained(0, 1) == 0.0
    noise = torch.randn(300, generator=torch.Generator().manual_seed(1))
    assert remainder_of(Pooled(POOLS[pool]), [(x, noise)], squared).explained() == 0.0


def test_steps_that_count_wherever_they_are_are_seen_in_their_sum():
    """Of 200 steps and 250 sequences each place says too little."""
    x = torch.randn(200, 250, 1, generator=torch.Generator().manual_seed(0))
    found = remainder_of(Pooled(POOLS["mean"]), [(x, x.sum((0, 2)) / 14)], squared)
    assert found.explained() > 0.9 and found.where(found.clearest()) == "all steps, added up"


def test_places_count_from_the_end_where_ends_differ():
    class Packed(Pooled):
        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            h, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0])
            return 0.01 * self.head(h.sum(0) / lengths[:, None]).squeeze(-1)

    generator = torch.Generator().manual_seed(0)
    x, lengths = torch.randn(20, 300, 1, generator=generator), torch.randint(5, 21, (300,), generator=generator)
    lengths[0] = 20
    target = x[lengths - 3, torch.arange(300), 0]
    found = remainder_of(Packed(None), [(x, lengths, target)], squared)
    assert found.explained() > 0.9 and found.where(found.clearest()) == "2 steps before the end"


@pytest.mark.parametrize("later", [1, 3])
def test_targets_of_later_inputs_are_seen_ahead(later):
    x = torch.randn(20, 300, 1, generator=torch.Generator().manual_seed(0))
    found = ahead_of(Last(every=True), [(x, x.roll(-later, 0)[..., 0])], squared, 4)
    assert found.clearest() == 4 - later and found.explained(0, 3) > 0.9 and found.explained(4) == 0.0
    earlier = ahead_of(Last(every=True), [(x, x.roll(later, 0)[..., 0])], squared, 4)
    assert earlier.clearest() == 4 + later and earlier.explained(0, 3) == 0.0
    assert ahead_of(Last(), [(x, x[-1, :, 0])], squared, 4) is None  # one loss per sequence
