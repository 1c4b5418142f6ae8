"""The command ``retrograde``: one file per command, thin: parse, call, print.

Exit codes: 0 done; 2 bad input (one line on stderr says what to fix); 3 training diverged; 128 + N ended by signal N
with a usable run (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1: checkpoint written, to be started again).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import FrameType

import typer

from ..errors import DivergedError, RetrogradeError
from ..extras import missing_extra
from ..memory import is_panic, shortage
from . import watch
from .bench import bench
from .compare import compare
from .doctor import doctor
from .evaluate import evaluate
from .flow import flow
from .generate import generate
from .info import info
from .lab import lab
from .predict import predict
from .report import report
from .terminal import InterruptedCommand, complain, guarded, say, write
from .train import train
from .usage import explained

__all__ = ["app", "main"]

LONGEST = 1500  # characters of an error
# Where a program calls `main` often, typer reads the signatures once: that takes longer than a quick command.
_commands_of = cache(typer.main.get_command)

app = typer.Typer(
    name="retrograde",
    help="Train recurrent networks on sequences, and see how far their gradient goes back in time.",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (train, generate, evaluate, predict, info, report, compare, flow, doctor, bench, lab):
    app.command()(guarded(_command))


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        say(f"retrograde {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    arguments: instead of ``sys.argv[1:]``.
    Raises SystemExit: always, with the exit code.
    """
    os.environ["RUST_BACKTRACE"] = "0"  # where memory is short, writing one can take for ever
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets an escape, not a traceback
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if arguments is None and watch.needed():
        sys.exit(watch.watched(lambda: _run(words)))
    sys.exit(_run(words))


def _run(arguments: list[str]) -> int:
    if (option := _empty(arguments)) is not None:
        return _complain(f"{option} is empty: give a name (. is the current folder).", 2)
    try:
        with _ends_by_signals():
            code = _commands_of(app).main(arguments, prog_name="retrograde", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except DivergedError as error:
        return _complain(str(error), 3)
    except RetrogradeError as error:
        return _complain(str(error), 2)
    except (KeyboardInterrupt, InterruptedCommand):
        return _complain("interrupted.", 130)
    except _Ended as error:
        return _complain(f"ended by {signal.Signals(error.number).name}.", 128 + error.number)
    except BrokenPipeError:  # `retrograde generate … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit:
        raise
    except BaseException as error:
        return _unexpected(error, arguments)


def _unexpected(error: BaseException, arguments: list[str]) -> int:
    """One line for what is no error of our own."""
    if (much := shortage(error)) is not None:
        return _complain(f"there is not enough memory for this{much}: give it less at once, or more memory.", 2)
    if (missing := missing_extra(error)) is not None:
        return _complain(str(missing), 2)
    if isinstance(error, OSError):
        return _complain(f"{error.filename or 'input/output'}: {error.strerror or error}.", 2)
    if hasattr(error, "format_message"):  # typer's own: a misspelt option, a missing argument
        return _complain(explained(error, arguments, _commands_of(app)), 2)
    if is_panic(error):
        return _complain(f"a library gave up on this input or for want of memory: {error}", 2)
    write("".join(traceback.format_exception(error)), err=True)  # a bug of ours; through the door all the same
    return 1


class _Ended(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ends_by_signals() -> Iterator[None]:
    """End by an exception where a signal asks for it, so that nothing half written is left; training has its own way.

    SIGHUP stays ignored where it is (``nohup``).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended(number)

    names = [name for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    taken = [getattr(signal, name) for name in names]
    before = {number: signal.signal(number, end) for number in taken if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _empty(arguments: list[str]) -> str | None:
    """What an empty argument was given for; a prompt may be empty."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument == "" and before != "--prompt":
            return before if before.startswith("-") and before != "--" else "an argument"
        if argument.startswith("--") and argument.endswith("=") and argument != "--prompt=":
            return argument[:-1]
    return None


def _complain(message: str, code: int) -> int:
    message = " ".join(message.split())
    if len(message) > LONGEST:  # it names something from data that is as long as a book
        message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
    complain(message)
    return code
