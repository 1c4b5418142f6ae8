"""``retrograde evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["evaluate"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder of a trained model.", show_default=False)],
    data: Annotated[
        str, typer.Argument(help="Text as for train: a file, a folder, - or builtin:stdlib.", show_default=False)
    ],
    encoding: Annotated[str | None, typer.Option(help="Of the text. [dim]\\[the run's][/dim]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score a trained model on text: loss, perplexity, bits per character.

    All of the text is predicted, each token from all before it, except the first.

    [bold]Example[/bold]

    retrograde evaluate runs/first other.txt --json
    """
    import torch

    from ..tasks import language
    from ..tasks.text import read_text
    from ..training import load
    from .terminal import printable

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    text = read_text(data, encoding or loaded.config["options"]["encoding"])
    result = language.evaluate(loaded.model, loaded.vocabulary, text)
    for note in text.notes:
        typer.echo(f"note: {printable(note)}", err=True)
    if json:
        import json as encoder

        typer.echo(encoder.dumps({"run": str(run), "data": data, **result}, ensure_ascii=False))
        return
    typer.echo(f"{printable(data)}: {result['characters']:,} characters, {result['tokens']:,} tokens predicted")
    if result["unknown_tokens"]:
        share = result["unknown_tokens"] / result["tokens"]
        typer.echo(f"{result['unknown_tokens']:,} of them ({share:.2%}) are not in the run's vocabulary")
    typer.echo(f"loss                {result['loss']:.4f} nats per token")
    typer.echo(f"perplexity          {result['perplexity']:.4g}")
    typer.echo(f"bits per character  {result['bits_per_character']:.4f}")
