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
    there. A damaged checkpoint is put aside as `step-N.damaged`: it is neither loaded nor counted among those that are kept."""

    def __init__(self, folder: Path, keep_last: int = 3, reporter: Reporter | None = None) -> None:
        self.folder, self.keep_last, self.reporter = folder, keep_last, reporter
        self._failed = 0
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("step-*.tmp"):  # of a killed process: the run's lock says that no other writes here
            shutil.rmtree(left)

    def save(self, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path | None:
        """Writes `step-<step>`: a safetensors file for each group, `state` as JSON. Returns its folder, or None if the disk refused.

        One of this step that is there already is what this process began with, and stays: replacing it would leave a moment without."""
        final = self.folder / f"step-{step}"
        part = self.folder / f"step-{step}.tmp"
        if final.exists():
            return final
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
            part.replace(final)
            atomic.sync_folder(self.folder)
        except (OSError, _safetensors_error()) as error:
            shutil.rmtree(part, ignore_errors=True)
            self._refused(step, error, sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values()))
            return None
        self._failed = 0
        try:
            atomic.write_atomic(self.folder / "LATEST", final.name + "\n")
        except (OSError, MachineError) as error:  # the checkpoint itself is whole
            self._warn(f"checkpoint of step {step} is written, but not its name in {self.folder / 'LATEST'}: {error}")
        for old in self.steps()[: -self.keep_last]:
            shutil.rmtree(self.folder / f"step-{old}")
        return final

    def _refused(self, step: int, error: Exception, needed: int) -> None:
        self._failed += 1
        last = f"the last good one is step {self.steps()[-1]}" if self.steps() else "there is none yet"
        why = "no space left on this disk" if atomic.is_disk_full(error) else str(error)
        room = f"{atomic.size(atomic.free_bytes(self.folder))} free, a checkpoint takes about {atomic.size(needed)}"
        told = f"checkpoint of step {step} was not written ({why}; {room}); {last}"
        if self._failed >= 3:
            raise MachineError(
                f"{told}; three saves in a row failed",
                where=str(self.folder),
                fix="free some space on this disk and run the same command again: it goes on from the last good checkpoint",
            ) from error
        self._warn(f"{told}; training goes on")

    def _warn(self, text: str) -> None:
        if self.reporter:
            self.reporter.warn(text)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(int(m[1]) for path in self.folder.iterdir() if (m := _STEP.fullmatch(path.name)))

    def latest(self) -> Loaded | None:
        """The newest checkpoint whose files agree with their checksums, or None. Damaged ones are warned about and put aside."""
        named, damaged = self._named(), []
        loaded = None
        for step in reversed(self.steps()):
            try:
                loaded = _checked(self.folder / f"step-{step}", step)
                break
            except Damaged as damage:
                damaged.append(f"checkpoint of step {step} is damaged: {damage}")
                self._put_aside(step)
        if not damaged and named is not None and (loaded is None or named > loaded.step):
            damaged.append(f"LATEST names the checkpoint of step {named}, which is not there")
        taken = f"step {loaded.step} is taken, the steps since repeat" if loaded else "there is none before it, training begins at step 0"
        for text in damaged:
            self._warn(f"{text}; {taken}")
        return loaded

    def _named(self) -> int | None:
        """The step in LATEST, None where there is no such file or it holds something else."""
        try:
            found = _STEP.fullmatch((self.folder / "LATEST").read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            return None
        return int(found[1]) if found else None

    def _put_aside(self, step: int) -> None:
        aside = self.folder / f"step-{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / f"step-{step}").replace(aside)

    def remove_all(self) -> None:
        """After the final model is on disk: moments have no use any more."""
        (self.folder / "LATEST").unlink(missing_ok=True)
        for aside in self.folder.glob("step-*.damaged"):
            shutil.rmtree(aside)
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
        files = [(str(name), int(wanted["bytes"]), str(wanted["sha256"])) for name, wanted in manifest["files"].items()]
        if manifest["format"] != FORMAT or manifest["step"] != step:
            raise Damaged(f"manifest.json is of format {manifest['format']}, step {manifest['step']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"manifest.json cannot be read ({type(error).__name__}: {error})") from error
    for name, size, checksum in files:
        path = folder / name
        try:
            if path.stat().st_size != size:
                raise Damaged(f"{name} has {path.stat().st_size:,} bytes, not {size:,}")
            if atomic.sha256_file(path) != checksum:
                raise Damaged(f"{name} does not have the checksum it was written with")
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing") from error
        except (OSError, ValueError) as error:
            raise Damaged(f"{name} cannot be read ({error})") from error
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
