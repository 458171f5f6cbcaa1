"""Stage folders: named by a fingerprint, finished by `done.json`, never run twice, never half believed.

A stage's folder is `<name>-<12 hex>`; the fingerprint hashes the stage's settings, its inputs' fingerprints and the format version, so a
changed threshold makes another folder and nothing stale is ever reused. `done.json` is written last and atomically.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from rewarm.atomic import disk_errors, read_json, sweep, write_json
from rewarm.errors import UserError
from rewarm.progress import Reporter

FORMAT = 1
"""Raised when a stage's files change their meaning: old folders are then left alone and made anew."""


WRITTEN = ("recipe.json", "hashes.json", "summary.json", "memory.json")
"""Files of a run folder that are written anew by each call."""


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder, its fingerprint, what it returned, and how long it took when it ran."""

    name: str
    folder: Path
    fingerprint: str
    facts: dict[str, Any]
    seconds: float
    reused: bool


def fingerprint(name: str, settings: Any, inputs: dict[str, str]) -> str:
    """12 hex digits of SHA-256 over name, settings, input fingerprints and the format version."""
    body = json.dumps([FORMAT, name, settings, dict(sorted(inputs.items()))], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def content_hash(paths: list[Path], cache: Path | None = None) -> str:
    """Hash of names and contents of these files (xxh3-128, read whole).

    `cache` remembers a file's hash by size and modification time, so a second start does not read gigabytes again.
    """
    known: dict[str, Any] = {}
    if cache is not None and cache.is_file():
        try:
            known = read_json(cache)
        except (ValueError, OSError):
            known = {}
    total = hashlib.sha256()
    changed = False
    for path in sorted(paths):
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(str(path))
        if entry is None or entry[:2] != stamp:
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
            entry = [*stamp, digest.hexdigest()]
            known[str(path)] = entry
            changed = True
        total.update(f"{path.name}\0{entry[2]}\n".encode())
    if cache is not None and changed:
        write_json(cache, known)
    return total.hexdigest()[:32]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    out = {"python": platform.python_version()}
    for package in ("rewarm", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "safetensors"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


class RunFolder:
    """The folder of one run: holds the lock while in use, and runs or reuses stages."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder = folder
        self.reporter = reporter
        self.done: list[Done] = []

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Holds the folder for this process; the kernel frees the lock if we die. UserError if another run has it, if it cannot be
        written, or if it holds files of somebody else that a run would replace."""
        lock = self.folder / ".lock"
        try:
            foreign = [] if lock.exists() else [name for name in WRITTEN if (self.folder / name).exists()]
            if foreign:
                raise UserError(
                    f"this folder holds a {foreign[0]} that is not a run's",
                    where=str(self.folder),
                    fix="choose another folder with --out: nothing is overwritten",
                )
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            problem = "a file, not a folder" if self.folder.is_file() else f"cannot be written: {error.strerror or error}"
            raise UserError(problem, where=str(self.folder), fix="choose another folder with --out") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
                raise UserError(
                    f"this run folder is in use by {holder}",
                    where=str(self.folder),
                    fix="wait for it, stop it, or choose another folder with --out",
                ) from None
            with disk_errors(self.folder):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            sweep(self.folder)
            yield self
        finally:
            os.close(handle)

    def stage(self, name: str, settings: Any, inputs: dict[str, str], work: Callable[[Path], dict[str, Any]], label: str = "") -> Done:
        """Runs `work(folder)` unless its `done.json` is there; returns what it returned either way."""
        mark = fingerprint(name, settings, inputs)
        folder = self.folder / f"{name}-{mark}"
        if (folder / "done.json").is_file():
            record = read_json(folder / "done.json")
            self.reporter.say(f"{label or name}: done before ({folder.name})")
            done = Done(name, folder, mark, record["facts"], record["seconds"], True)
        else:
            self.reporter.say(f"{label or name} ...")
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            before = _spent(folder)
            try:
                with disk_errors(folder):  # whatever a stage writes, also through a library
                    facts = work(folder)
            except BaseException:
                _spend(folder, before + time.monotonic() - start)
                raise
            seconds = round(before + time.monotonic() - start, 3)
            record = {
                "stage": name, "fingerprint": mark, "format": FORMAT, "settings": settings, "inputs": inputs,
                "seconds": seconds, "facts": facts, "versions": versions(),
            }  # fmt: skip
            write_json(folder / "done.json", json.loads(json.dumps(record, default=str)))
            (folder / "spent.json").unlink(missing_ok=True)
            self.reporter.say(f"{label or name}: {seconds:,.1f} s")
            done = Done(name, folder, mark, read_json(folder / "done.json")["facts"], seconds, False)
        self.done.append(done)
        return done


def _spent(folder: Path) -> float:
    """Seconds that interrupted tries at this stage took."""
    try:
        return float(read_json(folder / "spent.json")["seconds"])
    except (OSError, ValueError, KeyError):
        return 0.0


def _spend(folder: Path, seconds: float) -> None:
    try:
        write_json(folder / "spent.json", {"seconds": round(seconds, 3)})
    except Exception:  # the disk may be what failed; the time of a try is not worth hiding the error
        return
