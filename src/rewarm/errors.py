"""What can go wrong, and the exit code of each: the same for every command.

0 done, 1 failed (our fault or the machine's), 2 the user can fix it, 130 stopped by a signal with a checkpoint. 3 and 4 are kept for a
forgetting budget.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_STOPPED = 130


class UserError(Exception):
    """Something the user can put right: exit 2, no traceback.

    `where` names the file, row or recipe field; `what` says what was found and expected; `fix` says what to do.
    """

    exit_code = EXIT_USER

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(self.render())

    def render(self) -> str:
        """The message as it is printed: where on the first line, then what and what to do, indented."""
        head = f"{self.where}\n{_indented(self.what)}" if self.where else self.what
        return f"{head}\n{_indented(self.fix)}" if self.fix else head


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


class MachineError(UserError):
    """The machine's fault: full disk, dead worker, non-finite numbers. Exit 1, no traceback; says what was kept."""

    exit_code = EXIT_FAILED


class Stopped(Exception):
    """A signal asked us to stop; what was done is on disk. Exit 130."""

    exit_code = EXIT_STOPPED


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """`did you mean `x`?` for the nearest known name, or None if nothing is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None
