"""What is missing or wrong on a command line, in one line: what to give there, and an example.

Both come from the command itself: the help of the option or argument, and the examples of the docstring.

Tests: `tests/cli/test_main.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

LONGEST = 140  # characters of a help text that a line repeats


def explained(error: Any, words: Sequence[str], commands: Any) -> str:
    """The message of an error on the command line, with what to give instead.

    Parameters
    ----------
    error : click.UsageError
        As typer raises it.
    words : sequence of str
        The command line, without the program's name.
    commands : click.Group
        All commands of the program.
    """
    command = commands.commands.get(next(iter(words), ""))
    option = getattr(error, "option_name", None)
    known = command.params if command is not None and type(error).__name__ == "BadOptionUsage" else ()
    found = next((one for one in known if option in one.opts), getattr(error, "param", None))
    if command is None or found is None:
        return str(error.format_message())
    # The longest name of an option, --out of --out and -o.
    is_option = found.param_type_name == "option"
    name = max(found.opts, key=len) if is_option else found.metavar or found.name.upper()
    wanted = f"{_first_sentence(found.help)}{_example(command, words[0], name)}"
    if type(error).__name__ == "MissingParameter":
        return f"{name} is missing: {wanted}."
    if type(error).__name__ == "BadOptionUsage":
        return f"{name} needs a value: {wanted}."
    given = [word for before, word in pairwise(words) if before in found.opts]
    given += [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    why = str(error.message).removeprefix("Value error, ").partition(", unable")[0].rstrip(".")
    return f"{name} {given[-1] if given else ''!r:.60}: {why.replace('Input should', 'it must')}."


def _first_sentence(help: str | None) -> str:
    """The first sentence of a help text, without markup, to go on in a line."""
    text = re.sub(r"\[/?[a-z]+\]", "", (help or "give one").partition(" [dim]")[0])
    text = re.split(r"\. |\.$|; ", text)[0]
    text = text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0] + " …"
    return text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _example(command: Any, called: str, name: str) -> str:
    """The first example in the docstring of a command; of an option, only the part with it."""
    lines = [line.strip() for line in (command.help or "").splitlines()]
    lines = [line for line in lines if line.startswith(f"retrograde {called}")]
    if not name.startswith("-"):
        return f", e.g. {lines[0]}" if lines else ""
    found = (re.search(rf"(?:^| )({name} [^\s-]\S*)", line) for line in lines)
    return next((f", e.g. {one[1]}" for one in found if one), "")
