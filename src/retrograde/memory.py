"""Running out of memory, which each library reports in its own way: one exception for all of them.

torch raises a RuntimeError, Arrow a MemoryError, and what is written in Rust (tokenizers, safetensors) panics: it
prints a report and raises a BaseException that no ``except Exception`` catches.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import OptionError

_SAID = re.compile(
    r"allocate memory|bad[ _]alloc|out of memory|memory allocation of|not enough memory|Unable to allocate|"
    r"PyObject pointer is null|failed to map segment|MemoryError|capacity overflow",
    re.IGNORECASE,
)


def installed_memory() -> int | None:
    """Bytes of memory of this machine; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust gave up; each such library has a PanicException of its own."""
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


def shortage(error: BaseException) -> str | None:
    """How much memory was asked for, as far as an error says that too little was left; None if it is another error.

    Examples
    --------
    >>> shortage(RuntimeError("can't allocate memory: you tried to allocate 62914560 bytes.")), shortage(MemoryError())
    (' (62914560 bytes at once)', '')
    >>> shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    True
    """
    words = str(error)
    short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    short |= isinstance(error, OSError) and error.errno == errno.ENOMEM
    short |= (isinstance(error, RuntimeError | ImportError) or is_panic(error)) and bool(_SAID.search(words))
    if not short:
        return None
    asked = re.search(r"allocate ([\d.]+ ?\w+)", words.replace("memory: you tried to allocate", ""))
    asked = asked or re.search(r"tried to allocate ([\d.]+ ?\w+)", words)
    return f" ({asked[1]} at once)" if asked else ""


@contextmanager
def enough_memory(what: str, instead: str) -> Iterator[None]:
    """One line instead of the reports of libraries where no memory is left, or where one gives up.

    Raises OptionError.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        much = shortage(error)
        if much is not None:
            raise OptionError(f"there is not enough memory for {what}{much}: {instead}.") from None
        if is_panic(error):
            words = " ".join(str(error).split())
            raise OptionError(f"a library gave up ({words:.200}): memory may be short; {instead}.") from None
        raise


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep the report of a library's panic from standard error; anything else that is written there passes.

    The exception says the same in one line; the report is for the library's programmers.
    """
    try:
        real, kept = os.dup(2), os.fdopen(os.memfd_create("reports"), "w+b")
    except (OSError, AttributeError):  # standard error is closed, or this is not Linux
        yield
        return
    panicked, stream = False, sys.stderr
    try:
        _flush(stream)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error) or isinstance(error, MemoryError)
            raise
        finally:
            _flush(stream)
            os.dup2(real, 2)
            if not panicked:
                kept.seek(0)
                with suppress(OSError):
                    os.write(2, kept.read(1 << 16))
    finally:
        kept.close()
        os.close(real)


def _flush(stream: object) -> None:
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()  # type: ignore[attr-defined]
