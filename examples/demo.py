"""The whole line on real text: train, score, sample, and see how far the gradient goes back through time.

A vanilla tanh RNN and an LSTM learn to write the source text of Python's own standard library, so
nothing is downloaded. Run it with ``make demo``, or ``python examples/demo.py --out runs/demo``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import retrograde as rg
from retrograde import experiment
from retrograde.cli.display import display
from retrograde.cli.terminal import printable
from retrograde.runs import Summary

SECONDS = {"rnn": 55, "lstm": 75}  # what two cores need to make the difference plain
NAMES = {"rnn": "tanh RNN", "lstm": "LSTM"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="builtin:stdlib", help="a text file, a folder of them, or builtin:stdlib")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where the two run folders go")
    parser.add_argument("--seconds", type=float, help="training time of each network")
    arguments = parser.parse_args()

    summaries, sentences = {}, []
    for cell, seconds in SECONDS.items():
        print(f"\n--- {NAMES[cell]} ---")
        out = arguments.out / cell
        with display(quiet=False, to_stderr=False) as shown:
            result = experiment.train(
                arguments.data,
                out,
                overwrite=(out / "config.json").exists(),
                callbacks=[shown],
                cell=cell,
                lr=0.005,
                max_time=arguments.seconds or seconds,
                eval_every=100,
            )
        summaries[cell] = result.summary
        sentences.append(f"{NAMES[cell]}: {reach(out)}")
        if result.signal is not None:
            raise SystemExit(128 + result.signal)

    print("\n--- What the LSTM writes ---")
    print(printable((arguments.out / "lstm" / "sample.txt").read_text(encoding="utf-8")))
    print("\n--- Held-out text, bits per character (lower is better) ---")
    for name, bits in scores(summaries):
        print(f"  {name:<22}{bits:6.3f}  {bar(bits)}")
    print("\n--- How far the gradient reaches ---")
    for sentence in sentences:
        print(f"  {sentence}")
    print("\n--- Pages ---")
    for cell in SECONDS:
        print(f"  {NAMES[cell]}: {(arguments.out / cell / 'report.html').resolve()}")


def scores(summaries: dict[str, Summary]) -> list[tuple[str, float]]:
    """The baselines (counting on the same training text) and the networks, worst first."""
    baselines = summaries["lstm"].baselines
    rows = [(f"{name} (counting)", baseline["bits_per_character"]) for name, baseline in baselines.items()]
    rows += [(NAMES[cell], summary.best["bits_per_character"]) for cell, summary in summaries.items()]
    return sorted(rows, key=lambda row: -row[1])


def reach(run: Path) -> str:
    """One sentence on the lag at which less than 1 % of ‖∂E_t/∂s_k‖ is left."""

    def of(which: str) -> str:
        flow = rg.GradientFlow.load(run / "flow" / which)
        lag, steps = flow.horizon(0.01)[0], flow.by_lag().shape[1]
        return f"more than all {steps - 1} steps measured" if math.isnan(lag) else f"{lag:.0f} steps"

    return f"the gradient goes back {of('trained')} before less than 1 % of it is left; untrained, {of('untrained')}."


def bar(bits: float) -> str:
    """A bar of a quarter bit a letter."""
    return "█" * round(4 * bits)


if __name__ == "__main__":
    main()
