"""Checkpoints that are there whole or not at all, and are checked before they are believed.

`step-N.tmp/` is written, flushed to disk and renamed to `step-N/`; then `LATEST`, which is for people and scripts, is replaced. Tensors are
safetensors by parameter name, the rest is JSON, and a manifest holds the size and SHA-256 of every file. Schedule and rows are functions of
the step, so nothing else is needed to go on exactly."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewarm import atomic
from rewarm.errors import MachineError
from rewarm.progress import Reporter

FORMAT = 1
_STEP = re.compile(r"step-(\d+)")


class Damaged(Exception):
    """A checkpoint that cannot be believed; the text names the file and why."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that passed its checks. Tensors are read from disk one at a time."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, group: str) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor on the CPU) of one group, in the order of the names."""
        with safe_open(self.folder / f"{group}.safetensors", framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, file.get_tensor(name)


class Checkpointer:
    """The checkpoints of one run.

    A failed save (a full disk) warns and training goes on; the third in a row raises MachineError, with the last good checkpoint still
    there."""

    def __init__(self, folder: Path, keep_last: int = 3, reporter: Reporter | None = None) -> None:
        self.folder, self.keep_last, self.reporter = folder, keep_last, reporter
        self._failed = 0
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("step-*.tmp"):  # of a killed process: the run's lock says that no other writes here
            shutil.rmtree(left)

    def save(self, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path | None:
        """Writes `step-<step>`: a safetensors file for each group, `state` as JSON. Returns its folder, or None if the disk refused."""
        final = self.folder / f"step-{step}"
        part = self.folder / f"step-{step}.tmp"
        try:
            part.mkdir()
            for group, tensors in groups.items():
                save_file(dict(tensors), part / f"{group}.safetensors")
            (part / "state.json").write_text(json.dumps(state), encoding="utf-8")
            files = {path.name: _seal(path) for path in sorted(part.iterdir())}
            manifest = part / "manifest.json"
            manifest.write_text(json.dumps({"format": FORMAT, "step": step, "files": files}, indent=2), encoding="utf-8")
            _seal(manifest)
            atomic.sync_folder(part)
            if final.exists():
                shutil.rmtree(final)
            part.replace(final)
            atomic.sync_folder(self.folder)
            atomic.write_atomic(self.folder / "LATEST", final.name + "\n")
        except (OSError, MachineError, _safetensors_error()) as error:
            shutil.rmtree(part, ignore_errors=True)
            self._refused(step, error)
            return None
        self._failed = 0
        for old in self.steps()[: -self.keep_last]:
            shutil.rmtree(self.folder / f"step-{old}")
        return final

    def _refused(self, step: int, error: Exception) -> None:
        self._failed += 1
        last = f"the last good one is step {self.steps()[-1]}" if self.steps() else "there is none yet"
        told = f"checkpoint of step {step} was not written ({error}); {last}"
        if self._failed >= 3:
            raise MachineError(
                f"{told}; three saves in a row failed",
                where=str(self.folder),
                fix="free some space on this disk and run the same command again: it goes on from the last good checkpoint",
            ) from error
        if self.reporter:
            self.reporter.warn(f"{told}; training goes on")

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(int(m[1]) for path in self.folder.iterdir() if (m := _STEP.fullmatch(path.name)))

    def latest(self) -> Loaded | None:
        """The newest checkpoint whose files agree with their checksums, or None. A damaged one is warned about and passed over."""
        for step in reversed(self.steps()):
            try:
                loaded = _checked(self.folder / f"step-{step}", step)
            except Damaged as damage:
                if self.reporter:
                    self.reporter.warn(
                        f"checkpoint of step {step} is damaged: {damage}; the one before it is taken, and the steps since repeat"
                    )
                continue
            return loaded
        return None

    def remove_all(self) -> None:
        """After the final model is on disk: moments have no use any more."""
        (self.folder / "LATEST").unlink(missing_ok=True)
        for step in self.steps():
            shutil.rmtree(self.folder / f"step-{step}")


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError  # a full disk reaches us as this, not as OSError


def _seal(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file that is now flushed to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _checked(folder: Path, step: int) -> Loaded:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != FORMAT or manifest["step"] != step:
            raise Damaged(f"manifest.json is of format {manifest['format']}, step {manifest['step']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"manifest.json cannot be read ({error})") from error
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if path.stat().st_size != wanted["bytes"]:
            raise Damaged(f"{name} has {path.stat().st_size:,} bytes, not {wanted['bytes']:,}")
        if atomic.sha256_file(path) != wanted["sha256"]:
            raise Damaged(f"{name} does not have the checksum it was written with")
    return Loaded(folder, step, json.loads((folder / "state.json").read_text(encoding="utf-8")))


_TENSOR = "__tensor__"


def split_state(tree: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """A JSON-able copy of `tree`, its tensors moved to `tensors` under their path: for the states of methods."""
    if isinstance(tree, Tensor):
        tensors[at] = tree.detach().contiguous()
        return {_TENSOR: at}
    if isinstance(tree, dict):
        return {key: split_state(value, tensors, f"{at}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [split_state(value, tensors, f"{at}/{i}") for i, value in enumerate(tree)]
    return tree


def join_state(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_state`."""
    if isinstance(tree, dict):
        if set(tree) == {_TENSOR}:
            return tensors[tree[_TENSOR]]
        return {key: join_state(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [join_state(value, tensors) for value in tree]
    return tree


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Every tensor of the optimiser's state as `<parameter>/<key>`: moments and step counts. names: by `id` of the parameter."""
    return {f"{names[id(p)]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, loaded: Loaded, params: Mapping[str, Tensor]) -> None:
    """Moments straight into the optimiser's state, tensor by tensor: no second copy of all of them."""
    for name, tensor in loaded.tensors("moments"):
        parameter, _, key = name.rpartition("/")
        target = params[parameter]
        optimizer.state[target][key] = tensor.to(target.device, copy=True)
