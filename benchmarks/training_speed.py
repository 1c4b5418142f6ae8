"""``retrograde train`` on the demo's models with torch.nn's layers and with ours: tokens per second, taking turns.

Short trainings from the same seed over the same text, by ``rg.experiment.train``; the one difference is the class
of the recurrent layer. Evaluation, and the first steps, are not counted.

    python benchmarks/training_speed.py [--data builtin:stdlib --rounds 5 --steps 30 --threads 2 --json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

import retrograde as rg
from retrograde.bench.machine import limit_threads
from retrograde.bench.timing import spread
from retrograde.experiment import train
from retrograde.runs import Metrics
from retrograde.training import Callback, Trainer

TORCHS = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
WARMING = 3  # steps


class Watch(Callback):
    """Reads tokens and seconds as training goes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.loss = float("nan")

    def on_step_end(self, trainer: Trainer) -> None:
        self.seen.append((trainer.progress.tokens, trainer.progress.seconds))

    def on_evaluate(self, trainer: Trainer, metrics: Metrics) -> None:
        self.loss = metrics.loss

    @property
    def tokens_per_second(self) -> float:
        (tokens, seconds), (last_tokens, last_seconds) = self.seen[WARMING - 1], self.seen[-1]
        return (last_tokens - tokens) / (last_seconds - seconds)


def short_training(data: str, cell: str, steps: int, layers: dict[str, type]) -> Watch:
    """Train for `steps` steps with the layer classes given."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder, patch.dict(vars(rg.nn.layers), layers):
        train(data, Path(folder) / "run", cell=cell, max_steps=steps, eval_every=steps, report=False, callbacks=[watch])
    return watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="builtin:stdlib")
    parser.add_argument("--cell", choices=list(TORCHS), nargs="*", default=list(TORCHS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help=f"of each training, over {WARMING}")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    threads, _ = limit_threads(arguments.threads)
    figures = {}
    for cell in arguments.cell:
        runs: dict[str, list[Watch]] = {"retrograde": [], "torch": []}
        for turn in range(arguments.rounds):
            for name in sorted(runs, reverse=turn % 2 == 1):
                layers = {kind.__name__: kind for kind in TORCHS.values()} if name == "torch" else {}
                runs[name].append(short_training(arguments.data, cell, WARMING + arguments.steps, layers))
        speeds = {name: [watch.tokens_per_second for watch in watches] for name, watches in runs.items()}
        ratio = spread([o / t for o, t in zip(speeds["retrograde"], speeds["torch"], strict=True)])
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        apart = abs(runs["retrograde"][0].loss - runs["torch"][0].loss)
        figures[cell] = {
            "tokens_per_second": medians,
            "ratio": [ratio.low, ratio.median, ratio.high],
            "difference_of_validation_loss": apart,
            "threads": threads,
        }
        print(
            f"{cell:<5}{threads} threads: {medians['retrograde']:9,.0f} tokens/s, torch.nn {medians['torch']:9,.0f}: "
            f"{ratio.median:.2f}x [{ratio.low:.2f} {ratio.high:.2f}]; validation losses {apart:.1e} apart",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
