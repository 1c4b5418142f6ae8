"""Training of the demo's models with torch.nn's layers and with ours: tokens per second, taking turns.

Both twins start from the same weights and go through retrograde's own training loop over the same text;
the only difference is the class of the recurrent layer.

    python benchmarks/training_speed.py [--data builtin:stdlib --rounds 9 --steps 10 --threads 2 --json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

import retrograde as rg
from retrograde.bench.machine import hold_to
from retrograde.bench.timing import spread
from retrograde.nn import explain
from retrograde.tasks.language import LanguageTask
from retrograde.tasks.text import read_text
from retrograde.training.clipping import Clipping
from retrograde.training.loop import Listener, Progress, run
from retrograde.training.options import Options

CELLS = ("rnn", "gru", "lstm")
TORCHS = {rg.nn.RNN: torch.nn.RNN, rg.nn.GRU: torch.nn.GRU, rg.nn.LSTM: torch.nn.LSTM}


@dataclass
class Trainee:
    """A model in training, which goes on by a few steps at a time."""

    task: LanguageTask
    options: Options
    model: torch.nn.Module

    def __post_init__(self) -> None:
        # As retrograde train sets them up.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.options.lr, fused=True)
        self.clipping = Clipping(self.options.clip_norm, self.options.clip_value)
        self.accelerator = Accelerator(cpu=True)
        self.progress = Progress()

    def go_on(self, steps: int) -> float:
        """Take so many steps; tokens per second."""
        tokens, seconds = self.progress.tokens, self.progress.seconds
        run(
            self.task,
            self.model,
            self.optimizer,
            self.clipping,
            self.accelerator,
            self.options,
            self.progress,
            planned=self.progress.step + steps,
            evaluate=lambda lr: None,
            stop=lambda: False,
            listener=Listener(),
        )
        return (self.progress.tokens - tokens) / (self.progress.seconds - seconds)


def torchs_twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` with torch.nn's layers in place of ours."""
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if type(layer) in TORCHS:
            layer.__class__ = TORCHS[type(layer)]
            layer._init_flat_weights()
    return twin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="builtin:stdlib")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="of each twin in a round")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    threads, _ = hold_to(arguments.threads)
    text = read_text(arguments.data)
    figures = {}
    for cell in CELLS:
        options = Options.of({"cell": cell, "eval_every": 10**9})
        task = LanguageTask(text, options.as_dict())
        torch.manual_seed(0)
        ours = task.model()
        twins = {"retrograde": Trainee(task, options, ours), "torch": Trainee(task, options, torchs_twin(ours))}
        assert not any(type(layer) in TORCHS for layer in twins["torch"].model.modules())
        layer = next(layer for layer in ours.modules() if type(layer) in TORCHS)
        path = explain(layer, torch.zeros(2, 1, layer.input_size)).path
        speeds: dict[str, list[float]] = {name: [] for name in twins}
        for trainee in twins.values():
            trainee.go_on(3)
        for turn in range(arguments.rounds):
            for name in sorted(twins, reverse=turn % 2 == 1):
                speeds[name].append(twins[name].go_on(arguments.steps))
        ratio = spread([o / t for o, t in zip(speeds["retrograde"], speeds["torch"], strict=True)])
        losses = {name: trainee.progress.losses for name, trainee in twins.items()}
        apart = max(abs(a - b) for a, b in zip(losses["retrograde"], losses["torch"], strict=True))
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        figures[cell] = {
            "tokens_per_second": medians,
            "ratio": [ratio.low, ratio.median, ratio.high],
            "hidden_size": options.hidden_size,
            "largest_difference_of_loss": apart,
            "path": path,
            "threads": threads,
        }
        print(
            f"{cell:<5} H={options.hidden_size} {threads} threads: {medians['retrograde']:9,.0f} tokens/s, torch.nn "
            f"{medians['torch']:9,.0f}: {ratio.median:.2f}x [{ratio.low:.2f} {ratio.high:.2f}]; "
            f"losses at most {apart:.1e} apart; path: {path}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
