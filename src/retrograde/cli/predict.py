"""``retrograde predict``: write the predictions of a trained model to a file.

Tests: `tests/cli/test_tasks.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .paths import data_there, run_there
from .terminal import note, say


def predict(
    run: Annotated[
        Path, typer.Argument(callback=run_there, help="The run folder of a trained model.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Argument(
            callback=data_there,
            help="Text or a table of the kind it was trained on, no labels needed; or [bold]builtin:NAME[/bold] for "
            "new sequences of a synthetic task.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: .jsonl, .csv or .parquet.", show_default=False)
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the probability of every label (text: of the token).")
    ] = False,
    encoding: Annotated[str | None, typer.Option(help="Text encoding. [dim]\\[default: the run's][/dim]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
) -> None:
    """Apply a trained model to data and write its predictions, row by row, in the order of the data.

    classify: the label of each sequence; tag: of each step; regress: the number
    of each sequence; forecast: the steps after each series; text: the most
    likely token at each place; a synthetic task: target and prediction for
    1,000 new sequences.

    [bold]Example[/bold]

    retrograde predict runs/stars new-reviews.csv --out stars.csv --probabilities
    """
    import torch

    from ..tasks.rows import write_rows
    from ..training import load
    from ..words import counted

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    encoding = encoding or loaded.config.options.encoding
    count = write_rows(out, loaded.predictor.predict(data, encoding, probabilities))
    for remark in loaded.predictor.notes:
        note(remark)
    say(f"{counted(count, 'row')} written to {out}")
