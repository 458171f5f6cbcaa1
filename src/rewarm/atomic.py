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
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rewarm.errors import MachineError

_MARK = ".tmp-"


def temporary(path: Path) -> Path:
    """The temporary name beside `path` that this process writes to."""
    return path.with_name(f"{path.name}{_MARK}{os.getpid()}")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk or quota: an OSError, or what safetensors, which writes outside of Python, makes of one."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    codes = (f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})")
    return type(error).__name__ == "SafetensorError" and any(code in str(error) for code in codes)


def disk_full(path: Path, needed: int | None = None) -> MachineError:
    """The error of a full disk: what was to be written, how much of the disk is free and, where known, how many bytes are needed."""
    need = f"; {path.name} needs about {size(needed)}" if needed is not None else ""
    return MachineError(
        f"no space left on this disk: {size(free_bytes(path))} free{need}; what was finished before is kept",
        where=str(path),
        fix="free some space and run the same command again: it goes on from here",
    )


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turns a full disk into an error that names the path and tells the space; every other error passes through.

    needed: bytes that the block writes, where they are known before.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path, needed) from error
        raise


def free_bytes(path: Path) -> int:
    """Free bytes, for this user, of the disk that holds `path`, which need not be there yet."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def size(count: int) -> str:
    """`12 B`, `340 kB`, `1.2 MB`, `3.4 GB`: for people."""
    for unit, letters in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {letters}" if value < 100 and unit > 10**3 else f"{value:,.0f} {letters}"
    return f"{count} B"


@contextlib.contextmanager
def open_atomic(path: Path, needed: int | None = None) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` only if the block ends without an error. needed: its bytes, where known, for the error."""
    part = temporary(path)
    with disk_errors(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
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
    raw = content.encode() if isinstance(content, str) else content
    with open_atomic(path, len(raw)) as file:
        file.write(raw)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: UTF-8, two blanks of indent, keys in the given order, a newline at the end; NaN is refused."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder survive a power loss."""
    _sync(folder)


def sync_files(folder: Path) -> None:
    """Every file of this folder, and the folder, on disk: before it is renamed to what others believe is whole."""
    for path in folder.iterdir():
        if path.is_file():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
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
