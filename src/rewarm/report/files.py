"""What a run left in its folder, read with care: a half-finished run, a torn line or a missing file is noted, never fatal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rewarm.errors import UserError

STAGES = ("base", "corpus", "vocab", "tokens", "rows", "train", "mixback", "evaluate", "export")
"""In the order of a run."""
_FOLDER = re.compile(r"([a-z]+)-[0-9a-f]{12}")


class RunFiles:
    """The files of one run.

    stages: name -> folder, as the summary lists them or, without a summary, the newest finished ones. begun: without a summary, the newest
    folders of stages that did not end; their files are read too, but they have no facts. later: with a summary, folders of stages that a
    later call began and did not end. unread: names of files that are there and could not be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unread: list[str] = []
        self.summary: dict[str, Any] = self._dict(folder / "summary.json")
        # recipe.json is the latest call's, which may have stopped early or changed a field: the summary's is the one that the result is of
        self.recipe: dict[str, Any] = self.summary.get("recipe") or self._dict(folder / "recipe.json")
        self.stages = self._listed()
        self.begun: dict[str, Path] = {}
        self.later: list[str] = []
        newest = self._newest("*/*")
        if self.stages:
            self.later = [path.name for path in newest.values() if path not in self.stages.values() and not (path / "done.json").exists()]
        else:
            self.stages = self._newest("*/done.json")
            self.begun = {name: path for name, path in newest.items() if name not in self.stages}
        if not self.stages and not self.begun and not self.summary:
            raise UserError("no run here: no summary.json and no stage", where=str(folder), fix="give a folder that `rewarm run` wrote to")
        self.done = {name: self.fields(name, "done.json") for name in self.stages}

    def _listed(self) -> dict[str, Path]:
        named = self.summary.get("stages") or {}
        return {name: self.folder / str(named[name]) for name in STAGES if name in named and (self.folder / str(named[name])).is_dir()}

    def _newest(self, marks: str) -> dict[str, Path]:
        """By stage the folder with the newest file that the pattern finds."""
        newest: dict[str, tuple[float, Path]] = {}
        for mark in sorted(self.folder.glob(marks)):
            match = _FOLDER.fullmatch(mark.parent.name)
            if match and match[1] in STAGES:
                newest[match[1]] = max(newest.get(match[1], (0.0, mark.parent)), (mark.stat().st_mtime, mark.parent))
        return {name: newest[name][1] for name in STAGES if name in newest}

    def facts(self, stage: str) -> dict[str, Any]:
        """What a stage returned when it ended; empty if it did not."""
        return self.done.get(stage, {}).get("facts") or {}

    def path(self, stage: str, name: str) -> Path | None:
        """The file of a stage, if it is there."""
        folder = self.stages.get(stage) or self.begun.get(stage)
        path = folder / name if folder else None
        return path if path is not None and path.exists() else None

    def fields(self, stage: str, name: str) -> dict[str, Any]:
        """A JSON object of a stage; empty if it is not there."""
        path = self.path(stage, name)
        return self._dict(path) if path else {}

    def entries(self, stage: str, name: str) -> list[Any]:
        """A JSON array of a stage; empty if it is not there."""
        path = self.path(stage, name)
        found = self._json(path) if path else None
        return found if isinstance(found, list) else []

    def text(self, stage: str, name: str) -> str | None:
        path = self.path(stage, name)
        return path.read_text(encoding="utf-8", errors="replace") if path else None

    def lines(self, stage: str, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a JSON lines file, one at a time; lines that are no object are passed over and noted once."""
        path = self.path(stage, name)
        if path is None:
            return
        bad = 0
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line, parse_constant=_nothing)
                except ValueError:
                    entry = None
                if isinstance(entry, dict):
                    yield entry
                elif line.strip():
                    bad += 1
        if bad:
            self._note(f"{self._name(path)}: {bad:,} line{'s' if bad > 1 else ''} could not be read")

    def _dict(self, path: Path) -> dict[str, Any]:
        found = self._json(path) if path.is_file() else None
        return found if isinstance(found, dict) else {}

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"), parse_constant=_nothing)
        except (ValueError, OSError) as error:
            self._note(f"{self._name(path)}: {error}")
            return None

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _note(self, what: str) -> None:
        if what not in self.unread:
            self.unread.append(what)


def _nothing(constant: str) -> None:
    """NaN and Infinity are no JSON and no measurement."""
