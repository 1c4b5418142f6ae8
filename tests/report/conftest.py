"""Run folders exactly as the contract has them, with a gradient flow really measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import retrograde as rg

NATS = math.log(2)


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], rg.GradientFlow]:
    """By number of layers and name: the flow of a real two-layer (or one-layer) tanh RNN, 30 steps."""
    found = {}
    for layers in (1, 2):
        for seed, name in enumerate(("trained", "untrained")):
            torch.manual_seed(seed)
            rnn = torch.nn.RNN(3, 8, num_layers=layers).double()
            with torch.no_grad():
                for parameter in rnn.parameters():
                    parameter.mul_(1.6 if name == "trained" else 0.8)
            x = torch.randn(30, 4, 3, dtype=torch.float64)
            found[layers, name] = rg.gradient_flow(rnn, x, loss=lambda output: output[0].square().sum(-1))
    return found


class Runs:
    """Writes run folders: ``make_run(name, layers=2, summary=None)`` replaces parts, or leaves them out (None)."""

    def __init__(self, parent: Path, flows: dict[tuple[int, str], rg.GradientFlow]) -> None:
        self.parent, self.flows = parent, flows

    def __call__(self, name: str = "run", *, layers: int = 1, evaluations: int = 12, **changes: Any) -> Path:
        run = self.parent / name
        run.mkdir()
        parts: dict[str, Any] = {
            "config": self.config(layers),
            "metrics": self.metrics(evaluations),
            "summary": self.summary(evaluations),
            "sample": "def run(self):\n\treturn self.path\n",
            "flow": ("trained", "untrained"),
        } | changes
        (run / "config.json").write_text(json.dumps(parts["config"]))
        if parts["metrics"] is not None:
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parts["metrics"]))
        if parts["summary"] is not None:
            (run / "summary.json").write_text(json.dumps(parts["summary"]))
        if parts["sample"] is not None:
            (run / "sample.txt").write_bytes(parts["sample"].encode("utf-8", "surrogatepass"))
        for which in parts["flow"] or ():
            self.flows[layers, which].save(run / "flow" / which)
        return run

    @staticmethod
    def config(layers: int = 1) -> dict[str, Any]:
        return {
            "format": 1,
            "retrograde": "0.1.0",
            "task": "language",
            "created": "2026-01-02T03:04:05+00:00",
            "options": {
                "task": "language",
                "cell": "rnn",
                "nonlinearity": "tanh",
                "tokens": "char",
                "hidden_size": 128,
                "num_layers": layers,
                "lr": 0.002,
                "clip_norm": 1.0,
                "clip_value": None,
                "bptt": 64,
            },
            "data": {
                "source": "builtin:stdlib",
                "encoding": "utf-8",
                "characters": 1000000,
                "train_tokens": 900000,
                "validation_tokens": 100000,
                "vocabulary_size": 97,
                "fingerprint": "0123456789abcdef",
            },
            "parameters": 54321,
            "environment": {"python": "3.11.2", "torch": "2.13.0", "platform": "Linux", "threads": 2, "engine": "avx2"},
        }

    @staticmethod
    def metrics(evaluations: int) -> list[dict[str, Any]]:
        """Losses that fall and flatten; the clip acts in half of the steps of the first line, in none later."""
        rows = []
        for i in range(1, evaluations + 1):
            loss, norm = 1.5 + 2 * math.exp(-i), 0.5 + math.exp(-i)
            rows.append(
                {
                    "step": 100 * i,
                    "epoch": 0.25 * i,
                    "tokens": 204800 * i,
                    "seconds": 5.0 * i,
                    "train_loss": loss - 0.05,
                    "validation_loss": loss,
                    "validation_perplexity": math.exp(loss),
                    "validation_bits_per_character": loss / NATS,
                    "learning_rate": 0.002,
                    "tokens_per_second": 40960.0,
                    "gradient_norm_min": norm / 2,
                    "gradient_norm_median": norm,
                    "gradient_norm_max": norm * 3,
                    "clipped_share": 0.5 if i == 1 else 0.0,
                    "clip_norm": 1.0,
                }
            )
        return rows

    @staticmethod
    def summary(evaluations: int) -> dict[str, Any]:
        loss = 1.5 + 2 * math.exp(-evaluations)
        return {
            "status": "finished",
            "step": 100 * evaluations,
            "best_step": 100 * evaluations,
            "best_validation_loss": loss,
            "best_validation_bits_per_character": loss / NATS,
            "seconds": 5.0 * evaluations,
            "message": "",
            "baselines": {
                "unigram": {"loss": 3.0, "bits_per_character": 3.0 / NATS},
                "bigram": {"loss": 2.4, "bits_per_character": 2.4 / NATS},
            },
        }


@pytest.fixture
def make_run(tmp_path: Path, flows: dict[tuple[int, str], rg.GradientFlow]) -> Runs:
    return Runs(tmp_path, flows)
