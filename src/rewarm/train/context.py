"""What the engine lends to methods against forgetting: the `Context` of `model/hooks.py` on one device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from rewarm.errors import UserError
from rewarm.model.batch import RowBatch
from rewarm.model.hooks import Param
from rewarm.train.rows import join, take

Gradients = Callable[[RowBatch], dict[str, Tensor]]


class RunContext:
    """See `rewarm.model.hooks.Context`. The engine moves `step`, `lr` and `h` on before it calls the hooks of a step."""

    def __init__(
        self,
        params: Sequence[Param],
        model_dir: Path,
        steps: int,
        h_end: float,
        seed: int,
        names: Sequence[str],
        batch_of: Callable[[int], RowBatch],
        gradients: Gradients,
    ) -> None:
        self.step, self.lr, self.h = 0, 0.0, 0.0
        self.steps, self.h_end = steps, h_end
        self.domain = "new"
        self.domains: Sequence[str] = ("new",)
        self._params = tuple(params)
        self._model_dir, self._seed, self._names = model_dir, seed, list(names)
        self._batch_of, self._gradients = batch_of, gradients
        self._files: dict[str, Path] | None = None

    @property
    def params(self) -> Sequence[Param]:
        return self._params

    def reference(self, name: str) -> Tensor:
        """The start weights of a parameter, fp32 on its device, read from the start model's files."""
        if self._files is None:
            self._files = {}
            for path in sorted(self._model_dir.glob("*.safetensors")):
                with safe_open(path, framework="pt") as file:
                    self._files.update(dict.fromkeys(file.keys(), path))
        device = next(param.local.device for param in self._params if param.name == name)
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name).to(device, torch.float32)

    def grads_of(self, source: str, rows: int) -> dict[str, Tensor]:
        """Gradients of the mean loss over the first `rows` rows of a source in the order of the run, by parameter name."""
        if source not in self._names:
            raise UserError(f"no source `{source}`; the run has {', '.join(self._names)}", where="keep.methods")
        wanted, found, count = self._names.index(source), [], 0
        for step in range(self.steps):
            batch = self._batch_of(step)
            found.append(take(batch, np.flatnonzero(batch.source == wanted)[: rows - count]))
            count += len(found[-1].ids)
            if count == rows:
                return self._gradients(join(found))
        raise UserError(f"source `{source}` has {count} rows in this run, {rows} are asked for", where="keep.methods")

    def sum(self, x: Tensor) -> Tensor:
        """One rank: the value itself."""
        return x

    def rng(self, name: str) -> torch.Generator:
        """On the CPU; depends on seed, step and name only."""
        digest = hashlib.sha256(f"{self._seed}\0{self.step}\0{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
