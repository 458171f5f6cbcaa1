"""What a long step tells the person who waits: lines, warnings and bars.

Library code gets a `Reporter` and never prints. `Silent` is the default everywhere and keeps the lines for tests; the command line hands
in `rewarm.console.Console`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Bar(Protocol):
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Moves the bar on by `amount` units; `note` is shown beside the rate (a loss, a file's name)."""


class Reporter(Protocol):
    def say(self, text: str) -> None:
        """One line for people."""

    def warn(self, text: str) -> None:
        """One line that should not be missed; the run repeats all of them at its end."""

    def bar(self, label: str, total: float | None, unit: str) -> AbstractContextManager[Bar]:
        """A progress bar with rate and time left; where there is no terminal, a line a minute."""


class _NoBar:
    def advance(self, amount: float = 1, note: str = "") -> None:
        return


class Silent:
    """Says nothing, keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextlib.contextmanager
    def bar(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        yield _NoBar()
