"""``retrograde report``: write the page of a run again.

Tests: `tests/cli/test_flow.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import say


def report(
    run: Annotated[
        Path, typer.Argument(help="A run folder, or the folder of a GradientFlowRecorder.", show_default=False)
    ],
) -> None:
    """Write the page of a run again from what its folder contains, and print where it is.

    RUN/report.html says what happened, in words and figures. It is one file that needs no network: mail it, print it.

    [bold]Example[/bold]

    retrograde report runs/first
    """
    from ..report import write

    say(write(run))
