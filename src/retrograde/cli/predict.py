"""``retrograde predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import note, say

__all__ = ["predict"]


def predict(
    run: Annotated[Path, typer.Argument(help="The run folder of a trained model.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            help="Text or a table of the kind it was trained on, no labels needed; or [bold]builtin:NAME[/bold] for "
            "new sequences of a synthetic task.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: .jsonl, .csv or .parquet.", show_default=False)
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add the probability of every label (of text: of the token).")
    ] = False,
    encoding: Annotated[str | None, typer.Option(help="Of the text. [dim]\\[the run's][/dim]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1, max=1024)] = None,
) -> None:
    """Apply a trained model to data and write what it says, a row for a row, in the same order.

    To classify: the label of each sequence. To tag: of each step. To forecast:
    the steps that come after each series. Of text: the most likely token at
    each place. Of a synthetic task: what is right and what the network says,
    for 1,000 new sequences.

    [bold]Example[/bold]

    retrograde predict runs/stars new-reviews.csv --out stars.csv --probabilities
    """
    import torch

    from ..errors import OptionError
    from ..tasks import prediction
    from ..training import load

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load(run)
    encoding = encoding or loaded.config.options.encoding
    if loaded.config.task == "language":
        from ..data.text import read_text

        rows = prediction.tokens(loaded.model, loaded.vocabulary, read_text(data, encoding), probabilities)
    elif loaded.config.task == "forecast":
        if probabilities:
            raise OptionError("--probabilities: a forecast has none; leave it out.")
        rows = prediction.forecasts(loaded.reader, data, encoding)
    elif loaded.config.task == "synthetic":
        rows = prediction.sequences_of(loaded.reader, data, probabilities)
    else:
        rows = prediction.labels(loaded.reader, data, encoding, probabilities)
    count = prediction.write_rows(out, rows)
    for remark in getattr(loaded.reader, "notes", ()):
        note(remark)
    say(f"{count:,} rows written to {out}")
