"""``retrograde info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RunError
from .terminal import described, say, say_json, scores

__all__ = ["info"]


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
    config = folder.config()
    summary, metrics = folder.summary(), folder.metrics()
    if json:
        found = {"run": str(run), "config": config, "summary": summary, "last": metrics[-1] if metrics else None}
        say_json(found)
        return
    try:
        rows = _rows(config, summary, metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run} holds a run whose config.json, summary.json or metrics.jsonl is damaged: {error}."
        ) from None
    for name, value in rows:
        say(f"{name:<12} {value}")


def _rows(
    config: dict[str, Any], summary: dict[str, Any] | None, metrics: list[dict[str, Any]]
) -> list[tuple[str, object]]:
    data, options, where = (config.get(name) or {} for name in ("data", "options", "environment"))
    rows: list[tuple[str, object]] = [
        ("task", config.get("task")),
        ("created", f"{config.get('created')} by retrograde {config['retrograde']}"),
        ("data", f"{data.get('source')} ({data.get('encoding')})"),
        ("holding", described(data)),
        ("model", _model(options, config.get("parameters", 0))),
        ("options", ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)),
        ("made on", ", ".join(f"{name} {value}" for name, value in where.items())),
    ]
    if summary is None:
        reached = f"step {metrics[-1]['step']:,}" if metrics else "no evaluation yet"
        rows.append(("status", f"in training, or killed ({reached}); if killed, --resume goes on"))
    else:
        rows.append(("status", f"{summary['status']}: {summary['message']}"))
    scored = [line for line in metrics if line.get("validation_loss") is not None]
    if scored:
        best = min(scored, key=lambda line: line["validation_loss"])
        found = ", ".join(scores(best, "validation_"))
        rows.append(("best", f"step {best['step']:,}: validation {found}"))
    beside = ((summary or {}).get("baselines") or {}) | ((summary or {}).get("results") or {})
    for name, value in beside.items():
        if "loss" in value:
            rows.append((name, ", ".join(scores(value))))
    return rows


def _model(options: dict[str, Any], parameters: int) -> str:
    cell = options.get("cell")
    kind = f"{options.get('nonlinearity')} rnn" if cell == "rnn" else cell
    return (
        f"{kind}, {options.get('num_layers')} x {options.get('hidden_size')} units, "
        f"embedding {options.get('embedding_size')}{', tied' if options.get('tie') else ''}, {parameters:,} parameters"
    )
