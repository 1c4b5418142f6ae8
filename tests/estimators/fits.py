"""Data and options that make a fit of a tenth of a second."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import ShuffleSplit

FAST = {"hidden_size": 8, "lr": 0.03, "max_steps": 40, "threads": 1, "eval_every": 40}
TINY = {"hidden_size": 4, "max_steps": 2, "threads": 1}
HALF = ShuffleSplit(1, test_size=0.5, random_state=0)  # one split is enough to see that searches work


def ragged(count=60, channels=2, seed=0):
    """Sequences of 4 to 9 steps, and whether their last step is above 0 in the first channel."""
    random = np.random.default_rng(seed)
    X = [random.normal(size=(length, channels)) for length in random.integers(4, 10, count)]
    return X, np.array([x[-1, 0] > 0 for x in X])
