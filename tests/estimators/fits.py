"""Data and options that make a fit of a tenth of a second."""

from __future__ import annotations

import numpy as np

FAST = {"hidden_size": 8, "lr": 0.03, "max_steps": 40, "threads": 1}
TINY = {"hidden_size": 4, "max_steps": 2, "threads": 1}


def ragged(count=60, channels=2, seed=0):
    """Sequences of 4 to 9 steps, and whether their last step is above 0 in the first channel."""
    random = np.random.default_rng(seed)
    X = [random.normal(size=(length, channels)) for length in random.integers(4, 10, count)]
    return X, np.array([x[-1, 0] > 0 for x in X])
