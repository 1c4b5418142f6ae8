"""Names of columns that are steps of a series, ``v1, v2, …`` or ``2024-01, 2024-02, …``; and names in words.

Tests: `tests/data/test_series.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .dates import moments


def listed(names: Sequence[str]) -> str:
    """Names, quoted; of many the first ones and the last.

    Examples
    --------
    >>> listed(["a", "b"])
    "'a', 'b'"
    """
    quoted = [repr(name) for name in names]
    return ", ".join(quoted if len(quoted) <= 8 else [*quoted[:4], f"… ({len(quoted)} in all)", quoted[-1]])


_STEP = re.compile(
    r"(?P<stem>.*?)(?P<gap>[ _.:-]*)(?P<step>"
    r"\d{4} \[YR\d{4}\]"  # as the World Bank writes years
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[-_ .]?(?:\d{4}|\d{2})"
    r"|\d{4}[-_ ]?[qm]\d{1,2}"
    r"|\d{1,4}[-/.]\d{1,2}(?:[-/.]\d{1,4})?(?:[ T]\d{2}:\d{2}(?::\d{2})?)?"
    r"|\d+)",
    re.IGNORECASE,
)


def step_label(name: str) -> tuple[str, str] | None:
    """The channel and the step that a column's name tells, None if it tells none.

    Examples
    --------
    >>> step_label("sales_2024-01"), step_label("V12"), step_label("1/22/20"), step_label("Lat")
    (('sales', '2024-01'), ('V', '12'), ('', '1/22/20'), None)
    """
    match = _STEP.fullmatch(name.strip())
    return (match["stem"], match["step"]) if match else None


def step_columns(names: Sequence[str], channel: str) -> list[str]:
    """The columns of a channel of a wide table, in order of their steps."""
    if channel in names:
        return [channel]  # a column of lists
    labels = {name: label[1] for name in names if (label := step_label(name)) is not None and label[0] == channel}
    try:
        order = np.argsort(moments(list(labels.values())), kind="stable")
    except ValueError:
        return list(labels)
    return [list(labels)[place] for place in order]
