"""``retrograde evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import note, say, say_json, scores

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder of a trained model.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            help="Text or a table with labels, of the kind it was trained on; or [bold]builtin:NAME[/bold].",
            show_default=False,
        ),
    ],
    encoding: Annotated[str | None, typer.Option(help="Of the text. [dim]\\[the run's][/dim]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a trained model: on text, on a table with labels, on series.

    Of text each token but the first is predicted from all before it. Of series
    forecasts are made all along them, and judged beside the naive ones.

    [bold]Example[/bold]

    retrograde evaluate runs/first other.txt --json
    """
    import torch

    from ..data.text import read_text
    from ..tasks import language
    from ..training import load

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    encoding = encoding or loaded.config.options.encoding
    if loaded.config.task != "language":
        synthetic = loaded.config.task == "synthetic"
        found = loaded.reader.evaluate_on(data) if synthetic else loaded.reader.evaluate(data, encoding)
        for remark in getattr(loaded.reader, "notes", ()):
            note(remark)
        if json:
            say_json({"run": str(run), "data": data, **found})
            return
        what = f"{found['series']:,} series" if "series" in found else f"{found['sequences']:,} sequences"
        say(f"{data}: {what}")
        say(", ".join(scores(found)))
        for name, value in found.get("baselines", {}).items():
            say(f"beside it, {name}: {', '.join(scores(value))}")
        return
    text = read_text(data, encoding)
    result = language.evaluate(loaded.model, loaded.vocabulary, text)
    for remark in text.notes:
        note(remark)
    if json:
        say_json({"run": str(run), "data": data, **result})
        return
    say(f"{data}: {result['characters']:,} characters, {result['tokens']:,} tokens predicted")
    if result["unknown_tokens"]:
        share = result["unknown_tokens"] / result["tokens"]
        say(f"{result['unknown_tokens']:,} of them ({share:.2%}) are not in the run's vocabulary")
    say(f"loss                {result['loss']:.4f} nats per token")
    say(f"perplexity          {result['perplexity']:.4g}")
    say(f"bits per character  {result['bits_per_character']:.4f}")
