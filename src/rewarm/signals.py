"""Stopping cleanly: Ctrl-C and SIGTERM set a flag that long loops read between two steps.

A second Ctrl-C stops at once. Without `install` (a library user, a test) the flag is never set by a signal.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

from rewarm.errors import Stopped

_asked: list[str] = []


def install() -> None:
    """Lets SIGINT, SIGTERM and SIGUSR1 ask for a stop. Called once by the command line."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _ask)


def ignore() -> None:
    """Lets no signal disturb the end of a process that has said its last word: torch takes a moment to go."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _ask(number: int, frame: FrameType | None) -> None:
    if _asked and number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked.append(signal.Signals(number).name)
    os.write(2, b"\nstopping at the next safe point; Ctrl-C again stops at once\n")  # a handler may not use buffered output


def request_stop(reason: str) -> None:
    """Asks for a stop from inside the process, as a signal would."""
    _asked.append(reason)


def clear_stop() -> None:
    _asked.clear()


def stop_requested() -> str | None:
    """The name of the signal that asked for a stop, or None. Training reads it after each step, saves, and raises."""
    return _asked[0] if _asked else None


def check_stop() -> None:
    """Raises `Stopped` if a stop was asked for: for loops whose finished parts are already on disk."""
    if _asked:
        raise Stopped(f"stopped by {_asked[0]}; what was finished is kept, the same command goes on from here")
