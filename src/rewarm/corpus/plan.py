"""Which files a source has, and the tasks that read them: a pure function of the recipe and the folder listing.

A task is a few files of one source, at most about 64 MB on disk, or one bigger file. Tasks do not depend on each other and never on how
many workers there are, so the folders they write do not either.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rewarm.corpus.recipe import CorpusRecipe, Source
from rewarm.errors import UserError, did_you_mean

TASK_BYTES = 64_000_000
_FORMATS = {".txt": "txt", ".text": "txt", ".md": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
PACKED = (".gz", ".zst", ".zstd")
_WILD = "*?["


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file: where it is, its name inside its source (part of document ids), how it is read, and its size on disk."""

    path: Path
    name: str
    format: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Task:
    """Files of one source that are read together into one part."""

    index: int
    source: int
    files: tuple[InputFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def format_of(path: Path) -> str | None:
    """`txt`, `jsonl` or `parquet` by the file's ending, below a .gz or .zst; None if the ending says nothing."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def plan(cfg: CorpusRecipe, root: Path) -> list[Task]:
    """Tasks of all sources in the recipe's order, files sorted by name. UserError for a pattern without a file or an unknown ending."""
    tasks: list[Task] = []
    for number, source in enumerate(cfg.sources):
        group: list[InputFile] = []
        for file in source_files(source, root, f"corpus.sources[{number}]"):
            if group and sum(f.bytes for f in group) + file.bytes > TASK_BYTES:
                tasks.append(Task(len(tasks), number, tuple(group)))
                group = []
            group.append(file)
        tasks.append(Task(len(tasks), number, tuple(group)))
    return tasks


def source_files(source: Source, root: Path, field: str) -> list[InputFile]:
    """The files of one source, each once, sorted by their path below the source's own folder.

    That folder is what the fixed beginnings of all patterns share, so ids stay when the whole folder moves. `field` names the source in
    errors.
    """
    found: dict[Path, None] = {}
    fixed: list[Path] = []
    for i, pattern in enumerate(source.paths):
        paths, base = _match(pattern, root)
        if not paths:
            if (root / pattern).is_dir():
                problem = f"no text file in the folder `{pattern}`"
                fix = f"files there must end in {', '.join(_FORMATS)}, also with .gz or .zst; hidden ones are left out"
            else:
                problem = f"no file at `{pattern}` (looked in {root})"
                fix = _nearest(pattern, root) or "mend the path or pattern; relative paths start from the recipe's folder"
            raise UserError(f"source `{source.name}`: {problem}", where=f"{field}.paths[{i}]", fix=fix)
        fixed.append(base)
        found.update(dict.fromkeys(paths))
    home = Path(os.path.commonpath(fixed))
    files = []
    for path in found:
        kind = source.format if source.format != "auto" else format_of(path)
        if kind is None:
            raise UserError(
                f"the ending of {path.name} does not say how to read it",
                where=str(path),
                fix=f"set {field}.format to txt, jsonl or parquet, or leave this file out of {field}.paths",
            )
        files.append(InputFile(path, path.relative_to(home).as_posix(), kind, path.stat().st_size))
    return sorted(files, key=lambda file: file.name)


def _match(pattern: str, root: Path) -> tuple[list[Path], Path]:
    """(files, the folder that the pattern's fixed beginning names)."""
    parts = Path(pattern).parts
    wild = next((i for i, part in enumerate(parts) if any(c in part for c in _WILD)), None)
    exact = root.joinpath(*parts)
    if exact.is_file():
        return [exact], exact.parent
    if exact.is_dir():
        return [p for p in sorted(exact.rglob("*")) if p.is_file() and format_of(p) and not _hidden(p, exact)], exact
    if wild is None:
        return [], exact.parent
    base = root.joinpath(*parts[:wild])
    return [p for p in sorted(base.glob("/".join(parts[wild:]))) if p.is_file() and not _hidden(p, base)], base


def _hidden(path: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(base).parts)


def _nearest(pattern: str, root: Path) -> str | None:
    path = root / pattern
    if any(c in pattern for c in _WILD) or not path.parent.is_dir():
        return None
    return did_you_mean(path.name, [p.name for p in sorted(path.parent.iterdir())])
