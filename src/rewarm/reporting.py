"""`rewarm report`: the page of a run made anew, from what the run left behind so far."""

from __future__ import annotations

from pathlib import Path

from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.report.figures import JOINED, megabytes
from rewarm.report.page import report_page


def report_command(run_folder: Path, out: Path | None, console: Console) -> None:
    """Writes the page, and says where it is and what it lacks. UserError where there is no run, or where the page cannot be written."""
    place = out or run_folder / "report.html"
    try:
        made = report_page(run_folder, place)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(place), fix="choose another place with --out") from None
    for sentence in made["missing"]:
        console.say(f"missing: {sentence}")
    console.say(f"Report: {place} ({megabytes(made['bytes']).replace(JOINED, ' ')})")
