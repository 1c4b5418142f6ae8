"""``retrograde evaluate``: score a trained model on other data.

Tests: `tests/cli/test_tasks.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runs import not_better_than
from .paths import data_there, run_there
from .terminal import backtest_lines, note, say, say_json, scores


def evaluate(
    run: Annotated[
        Path, typer.Argument(callback=run_there, help="The run folder of a trained model.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Argument(
            callback=data_there,
            help="Text or a table with labels, of the kind it was trained on; or [bold]builtin:NAME[/bold].",
            show_default=False,
        ),
    ],
    backtest: Annotated[
        int | None,
        typer.Option(
            help="Score forecasts from this many origins at the end of each series, a horizon apart, by origin and by "
            "step.",
            min=1,
            show_default=False,
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Text encoding. [dim]\\[default: the run's][/dim]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a trained model on text, on a table with labels, or on series.

    In text, each token but the first is predicted from all before it. For series,
    forecasts are made from everywhere in them and compared with naive ones.

    [bold]Example[/bold]

    retrograde evaluate runs/first other.txt --json
    """
    import torch

    from ..tasks.registry import fingerprint_of
    from ..training import load

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    encoding = encoding or loaded.config.options.encoding
    if backtest is None:
        found = loaded.predictor.evaluate(data, encoding)
    else:
        found = loaded.predictor.backtest(data, encoding, backtest)
        if fingerprint_of(data, loaded.config.options) == loaded.config.data.fingerprint:
            note("the model was trained on this data: only forecasts of steps that it held out say how good it is.")
    for remark in loaded.predictor.notes:
        note(remark)
    verdict = not_better_than(found.metrics, found.baselines)
    if json:
        say_json({"run": str(run), "data": data, **found.as_dict(), "verdict": verdict})
        return
    counts = [f"{count:,} {name.replace('_', ' ')}" for name, count in found.counts.items()]
    say(f"{data}: {', '.join(counts)}")
    say(", ".join(scores(found.metrics)))
    for name, values in found.baselines.items():
        say(f"{name}: {', '.join(scores(values))}")
    if verdict:
        say(f"It is {verdict}.")
    if found.backtest is not None:
        for line in backtest_lines(found.backtest):
            say(line)
