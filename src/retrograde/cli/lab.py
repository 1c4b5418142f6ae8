"""``retrograde lab``: open the laboratory in a browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .terminal import say


def lab(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the page to this file instead of opening it.", show_default=False),
    ] = None,
    case: Annotated[
        int, typer.Option("--case", min=0, max=5, help="Open a prepared case to diagnose, 1 to 5; 0 opens the story.")
    ] = 0,
) -> None:
    """Open the laboratory: train a recurrent network in the browser and see its gradient between any two steps.

    A story in seven steps explains backpropagation through time, vanishing and exploding gradients, clipping and gated
    cells; every slider changes the pictures at once. One file, no network, no server; in English and Chinese.

    [bold]Examples[/bold]

    retrograde lab

    retrograde lab --case 2

    retrograde lab --out lab.html
    """
    from ..laboratory import PAGE, write  # late, as in all commands: `--help` reads no page

    page = PAGE if out is None else write(out)
    address = page.resolve().as_uri() + (f"#case={case}" if case else "")
    if out is None:
        webbrowser.open(address)
    say(address)
