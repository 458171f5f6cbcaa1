"""Results of the vocabulary stage that other settings can use too: counts, splits and merges, kept beside the stage folders.

A file's name says what it was made of: a hash of the very text, the base's tokenizer, the settings and the code of this package's
`vocab` folder. So nothing in it can be stale, and a run with another size or guard, whose stage folder is another one, finds the rest of
the work done. Files appear by a rename, so a kill leaves none or a whole one, and two runs may use the folder at once: both would write the
same bytes. It may be deleted at any time. The longest unused files go when it grows beyond LIMIT_BYTES.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm.atomic import open_atomic, sweep

FOLDER = "vocab-cache"
LIMIT_BYTES = 2_000_000_000
_NAME = re.compile(r"[a-z]+-[0-9a-f]{24}\.npz")
Arrays = dict[str, NDArray[Any]]


@functools.cache
def _code() -> bytes:
    """A hash of this package's code and of the libraries that decide what comes out of it."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    digest.update(f"{version('tokenizers')} {version('numpy')}".encode())
    return digest.digest()


def key_of(parts: Iterable[str | bytes]) -> str:
    """24 hex digits that stand for these parts, in this order, and for the code."""
    digest = hashlib.sha256(_code())
    for part in parts:
        raw = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class Cache:
    """Where results are kept, and what they were made of so far."""

    folder: Path
    key: str
    """Stands for all that the result so far depends on."""

    def with_more(self, *parts: str | bytes) -> Cache:
        """For a result that depends on these parts too."""
        return Cache(self.folder, key_of([self.key, *parts]))

    def _file(self, what: str) -> Path:
        return self.folder / f"{what}-{self.key}.npz"

    def read(self, what: str) -> Arrays | None:
        """The arrays kept under this name; None if there are none, or the file is broken (it is then removed)."""
        file = self._file(what)
        try:
            with np.load(file) as table:
                arrays = {name: table[name] for name in table.files}
            os.utime(file)
        except (FileNotFoundError, PermissionError):
            return None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            file.unlink(missing_ok=True)
            return None
        return arrays

    def write(self, what: str, arrays: Arrays) -> None:
        """Keeps them, and makes room. Nothing is kept where the folder cannot be written or is deleted; a full disk is an error."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            with open_atomic(self._file(what)) as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        except (FileNotFoundError, PermissionError):
            return
        self._make_room(self._file(what))

    def _make_room(self, newest: Path) -> None:
        """Removes the files that nobody has used for longest until the rest fits; never the one that was just written."""
        found = []
        for file in self.folder.iterdir():
            if _NAME.fullmatch(file.name) and file != newest:
                try:
                    state = file.stat()
                except FileNotFoundError:
                    continue
                found.append((state.st_mtime_ns, file.name, state.st_size))
        left = LIMIT_BYTES - (newest.stat().st_size if newest.exists() else 0)
        for _, name, size in sorted(found, reverse=True):
            left -= size
            if left < 0:
                (self.folder / name).unlink(missing_ok=True)


def texts_to_array(texts: Iterable[str]) -> NDArray[np.uint8]:
    """Texts as one array of bytes, for a file."""
    return np.frombuffer("\ud800".join(["", *texts]).encode(errors="surrogatepass"), dtype=np.uint8)


def array_to_texts(array: NDArray[np.uint8]) -> list[str]:
    """What `texts_to_array` was given."""
    return array.tobytes().decode(errors="surrogatepass").split("\ud800")[1:]
