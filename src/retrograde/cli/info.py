"""``retrograde info``: what a run folder contains, in a few lines.

Tests: `tests/cli/test_terminal.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..cells import find
from ..errors import RunError
from .terminal import described, say, say_json, scores

if TYPE_CHECKING:
    from ..runs import Config, Metrics, Summary


def info(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a run is: its data, model and options, how far it came, how well it does.

    [bold]Example[/bold]

    retrograde info runs/first
    """
    from ..runs import RunFolder

    folder = RunFolder(run)
    config, summary, metrics = folder.config(), folder.summary(), folder.metrics()
    if json:
        found = {
            "run": str(run),
            "config": config.as_dict(),
            "summary": summary.as_dict() if summary else None,
            "last": metrics[-1].as_dict() if metrics else None,
        }
        say_json(found)
        return
    try:
        rows = _rows(config, summary, metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # the task's description of the data
        raise RunError(f"{run} contains a run whose config.json is damaged: {error}.") from None
    for name, value in rows:
        say(f"{name:<12} {value}")


def _rows(config: Config, summary: Summary | None, metrics: list[Metrics]) -> list[tuple[str, object]]:
    options = {name: value for name, value in config.options.as_dict().items() if value is not None}
    rows: list[tuple[str, object]] = [
        ("task", config.task),
        ("created", f"{config.created} by retrograde {config.version}"),
        ("data", f"{config.data.source} ({config.data.details.get('encoding')})"),
        ("holding", described(config.data.details)),
        ("model", _model(config)),
        ("options", ", ".join(f"{name} {value}" for name, value in options.items())),
        ("made on", ", ".join(f"{name} {value}" for name, value in config.environment.items())),
    ]
    if summary is None:
        reached = f"step {metrics[-1].step:,}" if metrics else "no evaluation yet"
        rows.append(("status", f"in training, or killed ({reached}); if killed, --resume goes on"))
    else:
        rows.append(("status", f"{summary.status}: {summary.message}"))
    scored = [line for line in metrics if line.validation.get("loss") is not None]
    if scored:
        kept = None if summary is None else summary.best_step
        best = next((line for line in scored if line.step == kept), min(scored, key=lambda line: line.loss))
        kept_scores = best.validation if summary is None or kept != best.step else summary.scores
        rows.append(("best", f"step {best.step:,}: validation {', '.join(scores(kept_scores))}"))
    if summary is not None:
        compared = {**(summary.baselines or {}), **(summary.results or {})}
        rows += [(name, ", ".join(scores(values))) for name, values in compared.items() if "loss" in values]
    return rows


def _model(config: Config) -> str:
    options = config.options
    cell = find(options.cell, options.nonlinearity).words
    return (
        f"{cell}, {options.num_layers} x {options.hidden_size} units, "
        f"embedding {options.embedding_size}{', tied' if options.tie else ''}, {config.parameters:,} parameters"
    )
