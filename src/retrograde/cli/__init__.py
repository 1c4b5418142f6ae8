"""The command ``retrograde``: one file per command, thin: parse, call, print."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    raise SystemExit("retrograde: no commands yet")
