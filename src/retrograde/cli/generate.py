"""``retrograde generate``: let a language model write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .terminal import note, write


def generate(
    run: Annotated[Path, typer.Argument(help="The run folder of a trained language model.", show_default=False)],
    prompt: Annotated[str, typer.Option(help="Text to go on from; printed first.")] = "",
    length: Annotated[int, typer.Option(help="Characters to write after it.")] = 300,
    temperature: Annotated[
        float, typer.Option(help="Below 1 bolder choices are rarer; 0: always the most probable token.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest tokens whose probability adds up to p.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the same text again.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write control characters as they are, if the output is not a terminal.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
) -> None:
    """Let a trained model write, character by character as it goes.

    [bold]Examples[/bold]

    retrograde generate runs/first --length 500

    retrograde generate runs/first --prompt "def train(" --temperature 0.7 --top-p 0.95 --seed 1
    """
    import torch

    from ..tasks.generation import generate as generated
    from ..training import load

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    loaded.expect("language")
    pieces = generated(loaded.model, loaded.vocabulary, prompt, length, temperature, top_k, top_p, seed)
    if unknown := loaded.vocabulary.unknown_pieces(prompt):
        shown = ", ".join(ascii(piece) if not piece.isprintable() else repr(piece) for piece in unknown[:5])
        note(f"not in the run's vocabulary, read as unknown: {shown}{' …' * (len(unknown) > 5)}")
    write(prompt, raw=raw)
    for piece in pieces:
        write(piece, raw=raw)
    if sys.stdout.isatty():
        write("\n")
