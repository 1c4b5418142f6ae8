"""The exceptions a user meets: each carries one line that names the thing, the value and the fix.

The command line prints that line and ends with exit code 2; a library user catches the type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "DataError",
    "DivergedError",
    "ExportError",
    "FlowError",
    "MissingExtraError",
    "OptionError",
    "RetrogradeError",
    "RunError",
]


class RetrogradeError(Exception):
    """Root of every exception that retrograde raises on purpose."""


class OptionError(RetrogradeError, ValueError):
    """An option has an impossible value, or two options contradict one another."""


class DataError(RetrogradeError, ValueError):
    """The data handed in is missing, empty, unreadable or too short."""


class RunError(RetrogradeError):
    """A run folder is missing, incomplete, in use, or of a version that this one cannot read."""


class DivergedError(RetrogradeError, ArithmeticError):
    """Training met a loss or gradient that is no number; the last good checkpoint is kept."""


class FlowError(RetrogradeError, ValueError):
    """The gradient flow of this model, input or loss cannot be measured as asked."""


class ExportError(RetrogradeError, ValueError):
    """An exported program computes something else than the model."""


class MissingExtraError(RetrogradeError, ImportError):
    """An optional library is not installed; the message names the extra that installs it."""


def first_line(error: BaseException) -> str:
    r"""The first line of an exception's message without its full stop, or the exception's type.

    >>> first_line(ValueError("no such size.\nIt is 3.")), first_line(KeyError())
    ('no such size', 'KeyError')
    """
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


@contextmanager
def located(source: str, arrays: bool = False) -> Iterator[None]:
    """Put the name of the data before a `DataError` that begins with a row or column of it.

    arrays: the data is sequences in memory, X: row 1 is X[0].
    """
    try:
        yield
    except DataError as error:
        if arrays and (found := re.match(r"row (\d+)", str(error))):
            error.args = (f"X[{int(found[1]) - 1}]{str(error)[found.end() :]}",)
        elif re.match(r"(row|column) \S", str(error)):
            error.args = (f"{source}, {error}",)
        raise
