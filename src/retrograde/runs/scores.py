"""What the scores of a run are called, how they are written, and which simple methods they are compared with.

Training, prediction, the page and the doctor read names of metrics and baselines from files of runs; this is the one
place that knows what they mean.

Tests: `tests/runs/test_records.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """A metric in words."""

    name: str  # as a heading
    printed: str = ""  # its value in a line of the terminal, a form of ``str.format``; empty: not printed
    share: bool = False  # whether it is a share of 1, which the page writes in percent
    on_page: bool = True  # whether the page has a column for it


METRICS = {  # in the order in which they are printed
    "loss": Metric("loss", "loss {:.4f}"),
    "perplexity": Metric("perplexity", "perplexity {:.4g}"),
    "bits_per_character": Metric("bits per character", "{:.3f} bits/character", on_page=False),
    "accuracy": Metric("accuracy", "accuracy {:.2%}", share=True),
    "macro_f1": Metric("macro F1", "macro F1 {:.3f}"),
    "entity_precision": Metric("entity precision"),
    "entity_recall": Metric("entity recall"),
    "entity_f1": Metric("entity F1", "entity F1 {:.3f}"),
    "r2": Metric("R²", "R² {:.3f}"),
    "mse": Metric("MSE", "MSE {:.4g}"),
    "mae": Metric("MAE", "MAE {:.4g}"),
    "rmse": Metric("RMSE", "RMSE {:.4g}"),
    "mase": Metric("MASE", "MASE {:.3f}"),
    "coverage": Metric("coverage", "over {:.0%} of the numbers", share=True, on_page=False),
    "correct": Metric("sequences solved", "solved {:.1%} of the sequences", share=True),
}
DRAWN = ("entity_f1", "accuracy", "mase", "r2", "correct")  # the page draws the first of these that a run has
CONSTANT_ANSWERS = ("chance", "most frequent", "mean", "median", "unigram")  # baselines that do not look at the input
RIDGE = "ridge regression"  # a baseline that is trained on the input too
# Names that may stand in a figure.
BASELINES = {*CONSTANT_ANSWERS, "naive", "seasonal naive", RIDGE, "optimum"}
