"""Everything that commands print goes through here, so that control characters in data cannot steer the terminal.

Names, paths, labels and texts come from files that anyone may have written. `printable` makes their control characters
visible; `say`, `complain`, `note`, `say_json` and `console` print, and nothing else in the command line does.
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

from ..runs.folder import without_nan
from ..runs.records import Backtest, Scores, interval
from ..runs.scores import METRICS
from ..words import counted

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 4000  # characters of a line that is printed

# Control characters become their pictures (U+2400 …), those of the C1 block a replacement character. What would change
# the order in which text is shown, hide in it or break its lines, and halves of characters, become escapes.
_PICTURES: dict[int, int | str] = {code: 0x2400 + code for code in range(0x20)}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_HIDDEN = (
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF, 0x00AD, 0x180E, 0x200B),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFFF9, 0xFFFC),
    *range(0xD800, 0xE000),
    *range(0xE0000, 0xE0080),
)
_PICTURES |= {code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in _HIDDEN}
_IN_LINES = {code: picture for code, picture in _PICTURES.items() if chr(code) not in "\n\t"}
_UNSAFE = re.compile(f"[{''.join(map(re.escape, map(chr, _PICTURES)))}]")


def printable(text: str, *, lines: bool = True) -> str:
    r"""The text with its control characters made visible.

    Parameters
    ----------
    text : str
    lines : bool
        Whether line ends and tabs stay as they are; without, the result is one line.

    Examples
    --------
    >>> printable("a\tb\x1b[31m"), printable("a\nb", lines=False)
    ('a\tb␛[31m', 'a␊b')
    """
    return text.translate(_IN_LINES if lines else _PICTURES)


def say(text: object = "", *, err: bool = False) -> None:
    """Print one line."""
    write(_one_line(str(text)) + "\n", err=err)


def note(text: str) -> None:
    """Print a line that a user should read, on stderr."""
    say(f"note: {text}", err=True)


def complain(text: str) -> None:
    """Print the line with which a command ends, on stderr."""
    say(f"retrograde: {text}", err=True)


def say_json(value: object) -> None:
    r"""Print a value as one line of JSON, control characters as ``\u`` escapes, numbers that JSON lacks as null."""
    text = json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False)
    write(_UNSAFE.sub(_escape, text) + "\n")


def write(text: str, *, err: bool = False, raw: bool = False) -> None:
    """Print a text of any number of lines, at once; ``raw``, to something that is not a terminal, as it is."""
    stream = sys.stderr if err else sys.stdout
    if isinstance(stream, _Door):
        stream = stream.stream
    stream.write(text if raw and not stream.isatty() else printable(text))
    stream.flush()


def console(*, stderr: bool = False, quiet: bool = False, soft_wrap: bool = True) -> Console:
    """A rich console whose texts are made printable; escapes of its own, for colours, still reach a terminal."""
    from rich.console import Console
    from rich.segment import Segment

    class Printable(Console):
        """Makes what is printed visible just before it becomes escapes for the terminal."""

        def _render_buffer(self, buffer: Any) -> str:
            safe = [
                segment if segment.control else Segment(printable(segment.text), segment.style) for segment in buffer
            ]
            return super()._render_buffer(safe)

    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, _Door):
        stream = stream.stream
    return Printable(file=stream, quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


class InterruptedCommand(BaseException):
    """Ctrl-C while a command ran."""


P = ParamSpec("P")
R = TypeVar("R")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """A command during which whatever libraries print or warn of goes through the door as well."""

    @functools.wraps(command)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        with _guard():
            try:
                return command(*arguments, **named)
            except KeyboardInterrupt:  # which typer would end by itself, without a word
                raise InterruptedCommand from None

    return call


@contextmanager
def _guard() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Door(sys.stdout), _Door(sys.stderr)
    with warnings.catch_warnings():  # also what is set within holds for the command only
        warnings.showwarning = _show_warning
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    note(str(message))


class _Door(io.TextIOBase):
    """A stream that makes printable whatever is written to it; in all else it is the stream behind it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        """The stream behind it stays open."""

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    def __getattribute__(self, name: str) -> Any:
        if name in ("encoding", "errors", "buffer", "newlines", "reconfigure"):  # TextIOBase has some of its own
            return getattr(self.stream, name)
        return super().__getattribute__(name)


STEPS = 24  # lines about steps of the horizon, at most


def _one_line(text: str) -> str:
    text = printable(text, lines=False)
    if len(text) > LONGEST:  # it names something from data that is as long as a book
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


# --- Words for what a run holds ---------------------------------------------------------------------------------------


def described(data: Mapping[str, Any]) -> str:
    """The ``data`` of a ``config.json`` in words."""
    if "characters" in data:
        return (
            f"{data['characters']:,} characters, {data['train_tokens']:,} + {data['validation_tokens']:,} tokens, "
            f"vocabulary {data['vocabulary_size']:,}"
        )
    if "plan" in data:
        plan = data["plan"]
        many = f"{data['series']:,} series" if data["series"] > 1 else "one series"
        return (
            f"{many}, {counted(plan['channels'], 'channel')}; {counted(plan['horizon'], 'step')} from "
            f"{plan['context']}, {plan['strategy']}; {counted(data['train_sequences'], 'window')} to train with"
        )
    if "lags" in data:
        return f"chance {data['chance']['loss']:.4g}, optimum {data['optimum']['loss']:.4g}, lags {data['lags']}"
    parts = [f"{data[part + '_sequences']:,} to {word}" for part, word in _PARTS if data.get(part + "_sequences")]
    reads = (
        f"vocabulary {data['vocabulary_size']:,}"
        if data.get("vocabulary_size")
        else counted(data["channels"], "channel")
    )
    labels = f"{counted(data['labels'], 'label')}, " if "labels" in data else ""
    return f"sequences: {', '.join(parts)}; {labels}{reads}, the longest {counted(data['longest'], 'step')}"


_PARTS = (("train", "train"), ("validation", "validate"), ("test", "test"))


def scores(values: Mapping[str, Any]) -> list[str]:
    """The metrics in words, the loss first.

    Examples
    --------
    >>> scores({"accuracy": 0.8412, "loss": 0.4, "within_80": 0.78})
    ['loss 0.4000', 'accuracy 84.12%', '78.0% in the 80 % interval']
    """
    found = [m.printed.format(values[key]) for key, m in METRICS.items() if m.printed and values.get(key) is not None]
    shares = {words: values[key] for key in values if (words := interval(key))}
    return found + [f"{share:.1%} {words}" for words, share in shares.items() if share is not None]


def backtest_lines(found: Backtest) -> Iterator[str]:
    """Errors by origin and by step of the horizon, next to those of the naive forecasts; of many steps only some."""
    apart = f", {counted(found.stride, 'step')} apart" if len(found.origins) > 1 else ""
    yield f"Backtest from {counted(len(found.origins), 'origin')}{apart}, MASE:"
    every = max(1, math.ceil(len(found.steps) / STEPS))
    for row in [*found.origins, *found.steps[::every]]:
        others = ", ".join(f"{name} {_mase(scores)}" for name, scores in row.baselines.items())
        yield f"  {row.name}: {_mase(row.scores)}{f' ({others})' if others else ''}"


def _mase(scores: Scores) -> str:
    value = scores.get("mase")
    return "nothing to compare with" if value is None else f"{value:.3f}"
