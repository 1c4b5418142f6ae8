"""Run a command in a child process where memory is limited (``ulimit -v``), and turn its crash into one line.

Some libraries (what is written in Rust) end the process by SIGABRT when an allocation fails, which nothing in it can
catch. Without such a limit allocations do not fail, and the command runs by itself.

Tests: `tests/test_memory.py`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from .terminal import complain, write

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_CRASHES = tuple(getattr(signal, name) for name in ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL") if hasattr(signal, name))
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT")


def needed() -> bool:
    """Whether allocations can fail here. A process of a job of several is watched by its launcher."""
    if resource is None or not hasattr(signal, "sigwaitinfo") or not hasattr(os, "memfd_create"):
        return False
    return "RANK" not in os.environ and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def watched(action: Callable[[], int]) -> int:
    """Do something in a child process; its exit code, or 2 with one line if it crashes.

    Signals that are sent to this process are passed on. What native libraries write to standard error is shown at the
    end, unless the process crashed: then the line says it.
    """
    awaited = {getattr(signal, name) for name in _PASSED_ON} | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    native = os.memfd_create("native")
    child = os.fork()
    if child == 0:
        _become_child(native)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = 1
        try:
            code = action()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    status = _wait(child, awaited)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in _CRASHES:
        name = signal.Signals(os.WTERMSIG(status)).name
        complain(
            f"a library ended the process ({name}); there is probably not enough memory: give it less at once, or more."
        )
        return 2
    os.lseek(native, 0, os.SEEK_SET)
    if said := os.read(native, 1 << 16).decode("utf-8", "replace"):
        write(said, err=True)
    if os.WIFSIGNALED(status):
        complain(f"ended by {signal.Signals(os.WTERMSIG(status)).name}.")
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _become_child(native: int) -> None:
    """Leave standard error to Python alone, and end with the parent, however that ends."""
    real = os.dup(2)
    sys.stderr.flush()
    sys.stderr = os.fdopen(real, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    os.dup2(native, 2)
    import ctypes

    with_parent = getattr(ctypes.CDLL(None), "prctl", None)
    if with_parent is not None:
        with_parent(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait(child: int, awaited: set[int]) -> int:
    """Wait for the end of the child, passing signals on; those of the terminal reach it by themselves."""
    while True:
        found = signal.sigwaitinfo(awaited)
        if found.si_signo == signal.SIGCHLD:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status
        elif found.si_code <= 0:  # sent by a process
            os.kill(child, found.si_signo)
