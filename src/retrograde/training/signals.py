"""Signals that end training: what the terminal, the system and schedulers send, collected instead of obeyed at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .loop import Listener

__all__ = ["ENDING", "REQUEUE", "collected_signals"]

# SIGHUP: the terminal or the connection is gone. SIGUSR1: a scheduler will end the job soon, and starts it again.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
REQUEUE: int | None = getattr(signal, "SIGUSR1", None)


@contextmanager
def collected_signals(listener: Listener) -> Iterator[list[int]]:
    """Collect the signals that end training instead of dying of them; Ctrl-C after another one leaves at once.

    SIGHUP stays ignored where it is (``nohup``). In another thread than the main one nothing is collected: Python hands
    signals to that one alone.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # schedulers send several, one after the other
        received.append(number)
        what = "writing a checkpoint" if number == REQUEUE else "finishing the run folder"
        listener.note(f"Stopping after this step, then {what} (Ctrl-C leaves at once).")

    taken = [number for number in ENDING if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


_HANGUP = getattr(signal, "SIGHUP", None)
