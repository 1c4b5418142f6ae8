"""The exceptions: one root, the built-in types that callers may catch, and the first line of a message."""

from __future__ import annotations

import pytest

from retrograde import errors

BUILT_IN = {
    "DataError": ValueError,
    "DivergedError": ArithmeticError,
    "ExportError": ValueError,
    "FlowError": ValueError,
    "MissingExtraError": ImportError,
    "OptionError": ValueError,
    "RetrogradeError": Exception,
    "RunError": Exception,
}


def test_every_exception_is_caught_by_the_root_and_by_its_built_in_type() -> None:
    assert set(errors.__all__) == set(BUILT_IN)
    for name, built_in in BUILT_IN.items():
        assert issubclass(getattr(errors, name), errors.RetrogradeError) and issubclass(getattr(errors, name), built_in)


@pytest.mark.parametrize(
    ("message", "line"),
    [("no such size.\nIt is 3.", "no such size"), ("\n  torn  \n", "torn"), ("", "OSError"), (" \n", "OSError")],
)
def test_the_first_line_of_a_message(message: str, line: str) -> None:
    assert errors.first_line(OSError(message)) == line
