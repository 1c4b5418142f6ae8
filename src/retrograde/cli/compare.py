"""``retrograde compare``: several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import OptionError
from .terminal import console, printable, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..report import Section, TextTable


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.", show_default=False)],
    page: Annotated[
        Path | None, typer.Option(help="Write the comparison as a page too: one .html file.", show_default=False)
    ] = None,
) -> None:
    """Compare runs: metrics, curves, options that differ, gradient flow, and signal by lag.

    Runs may be of different tasks, diverged or not finished: what cannot be compared is said.

    [bold]Examples[/bold]

    retrograde compare runs/first runs/second

    retrograde compare runs/* --page compare.html
    """
    folders = list(dict.fromkeys(path.resolve() for path in runs))
    if len(folders) < 2:
        raise OptionError("give two or more different run folders to compare.")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--page {page}: the name must end in .html.")
    from ..report import compared, write_comparison

    first = dict(zip((path.resolve() for path in reversed(runs)), reversed(runs), strict=True))
    found = compared([first[folder] for folder in folders])
    for section in found:
        _print(section)
    if page is not None:
        say(f"Written: {write_comparison(found, len(folders), page)}")


def _print(section: Section) -> None:
    from rich.text import Text

    screen = console(soft_wrap=False)
    screen.print(Text(section.title, style="bold"))
    for line in (*section.warnings, *section.words):
        screen.print(printable(line), markup=False, highlight=False)
    tables = [*section.tables, *(figure.numbers for figure in section.figures if figure.numbers is not None)]
    for table in tables:
        screen.print(_drawn(table))
    say()


def _drawn(table: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, title=None)
    for i, column in enumerate(table.columns):
        drawn.add_column(Text(column), justify="left" if i == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn
