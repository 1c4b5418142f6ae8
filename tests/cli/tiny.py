"""Options that make a training run of a second."""

from __future__ import annotations

TINY = [
    *("--hidden-size", "12", "--embedding-size", "6", "--bptt", "20", "--batch-size", "4"),
    *("--threads", "1", "--quiet", "--no-report"),
]
