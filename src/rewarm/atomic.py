"""Files and folders that are there whole or not at all.

A file is written under a temporary name in the same folder, flushed to disk and renamed; so a kill or a full disk leaves the old file or
none. Temporary names hold the process id: `sweep` removes those of dead processes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rewarm.errors import MachineError

_MARK = ".tmp-"


def temporary(path: Path) -> Path:
    """The temporary name beside `path` that this process writes to."""
    return path.with_name(f"{path.name}{_MARK}{os.getpid()}")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk into an error that names the path; every other OSError passes through."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(
                "no space left on this disk; what was finished before is kept",
                where=str(path),
                fix="free some space and run the same command again: it goes on from here",
            ) from error
        raise


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path)
    with disk_errors(path):
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes the whole file at once, or leaves the old one."""
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: UTF-8, two blanks of indent, keys in the given order, a newline at the end; NaN is refused."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> int:
    """Removes temporary files and folders below `folder` whose process is dead; returns how many."""
    import shutil

    removed = 0
    for path in sorted(folder.rglob(f"*{_MARK}*")):
        pid = path.name.rpartition("-")[2]
        if not pid.isdigit() or _alive(int(pid)):
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        removed += 1
    return removed


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
