"""The exponent of trajectories in data: known for maps and the Lorenz system, and none for noise, walks and waves."""

from __future__ import annotations

import math

import pytest
import torch

from retrograde.flow.divergence import divergence_of


def iterated(step, start, steps):
    found = [start]
    for _ in range(steps - 1):
        found.append(step(found[-1]))
    return torch.stack(found)


def lorenz(steps=200, count=48, dt=0.05):
    """Runge-Kutta; the largest exponent is 0.9056 per unit of time (Sprott 2003)."""

    def speed(s):
        x, y, z = s.unbind(-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    def step(s):
        for _ in range(5):
            h = dt / 5
            a = speed(s)
            b = speed(s + h / 2 * a)
            c = speed(s + h / 2 * b)
            s = s + h / 6 * (a + 2 * b + 2 * c + speed(s + h * c))
        return s

    torch.manual_seed(0)
    return iterated(step, 10 * torch.randn(count, 3).double(), steps + 400)[400:]


def test_the_exponent_of_chaotic_data():
    found = divergence_of(lorenz())
    assert found.exponent == pytest.approx(0.9056 * 0.05, rel=0.2) and found.exponent > 10 * found.error
    torch.manual_seed(0)
    logistic = iterated(lambda z: (4 * z * (1 - z)).clamp(1e-9, 1 - 1e-9), torch.rand(64).double(), 200)
    assert divergence_of(logistic.unsqueeze(-1)).exponent == pytest.approx(math.log(2), rel=0.2)


def test_noise_walks_waves_and_symbols_have_none():
    torch.manual_seed(0)
    noise, phase = torch.randn(200, 48, 2), 6.28 * torch.rand(48, 2)
    wave = (0.3 * torch.arange(200.0)[:, None, None] + phase).sin()
    slow = iterated(lambda x: 0.95 * x + 0.3 * torch.randn(48, 2), torch.randn(48, 2), 200)
    for x in (noise, noise.cumsum(0), wave, wave + 0.05 * noise, slow, noise.sign(), noise[:, :2], noise[:5]):
        assert divergence_of(x) is None
