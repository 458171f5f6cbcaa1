"""A short measurement for `rewarm plan`: a few real training steps and a little scoring, in a process of their own.

The text's first megabytes go the way of the whole run (tokens, rows, mixture), so rows are filled and documents cut as they will be; the
base gets as many vocabulary rows as the extended model will have. A process of its own, because only so is its peak memory its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rewarm import signals
from rewarm.errors import MachineError
from rewarm.planning import Lengths
from rewarm.progress import Silent
from rewarm.recipe import Recipe

SCORED_BYTES = {"cpu": 6_000, "cuda": 200_000}
"""Text of each role that is scored for its time: a CPU scores one to two kilobytes a second of a model of 135M parameters."""


@dataclass(frozen=True)
class SampleText:
    """The first documents of a source."""

    name: str
    role: str
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds until training can begin, of a step, and of encoding a byte; tokens computed and seconds for scoring a byte, by role;
    memory_gib as `train.metrics.peak_memory_gib` of the training alone."""

    start: float
    step: float
    encode: float
    score_tokens: dict[str, float]
    score_token: float
    memory_gib: float
    micro_rows: int
    precision: str


def measure(recipe: Recipe, base: Path, new: int, samples: Sequence[SampleText], size: Lengths, replay: float) -> Measured:
    """Measures in a new process. new: vocabulary rows to add to the base's. Raises what training would raise at once."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        work = pool.submit(_measure, recipe, base, new, list(samples), size, replay)
        try:
            return _wait(work)
        except BrokenProcessPool:
            signals.check_stop()
            raise MachineError(
                "the measurement's process was killed, most likely for want of memory", fix="free memory, or lower train.micro_rows"
            ) from None
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _wait(work: Future[Measured]) -> Measured:
    while True:
        try:
            return work.result(timeout=0.2)
        except TimeoutError:
            if work.done():
                raise
            signals.check_stop()


def _measure(recipe: Recipe, base: Path, new: int, samples: list[SampleText], size: Lengths, replay: float) -> Measured:
    from rewarm.tokens import stage
    from rewarm.tokens.loader import batch
    from rewarm.tokens.mixture import open_mixture
    from rewarm.train.rehearsal import rehearse

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        sources = [stage.TokenSource(s.name, s.role, (_write(s, root),)) for s in samples if s.texts]
        begin = time.perf_counter()
        tokens = stage.tokenize_stage(recipe.tokens, base, sources, root / "tokens", Silent())
        encode = (time.perf_counter() - begin) / max(1, tokens["bytes"])
        stage.rows_stage(recipe.tokens, root / "tokens", root / "rows", Silent())
        mixture = open_mixture(root / "tokens", root / "rows", recipe.mixture, size.batch_rows, recipe.train.seed, replay)
        (root / "train").mkdir()
        trained = rehearse(
            recipe.train, base, new, mixture, partial(batch, mixture), _methods(recipe, base, mixture.roles, replay), size.steps or 1,
            root / "train", Silent(),
        )  # fmt: skip
        per_byte, per_token = _scoring(recipe, base, samples)
    return Measured(trained.start, trained.step, encode, per_byte, per_token, trained.memory_gib, trained.micro_rows, trained.precision)


def _write(sample: SampleText, root: Path) -> Path:
    """The sample as the corpus stage would hand it on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = root / f"{len(list(root.glob('*.parquet')))}.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(len(sample.texts))], "text": sample.texts}), file)
    return file


def _methods(recipe: Recipe, base: Path, roles: Sequence[str], replay: float) -> list[Any]:
    from rewarm.keep.methods import METHODS

    old = [i for i, role in enumerate(roles) if role == "replay" and replay > 0]
    return [METHODS.get(name)(getattr(recipe.keep, name), base, old) for name in recipe.keep.methods]


def _scoring(recipe: Recipe, base: Path, samples: list[SampleText]) -> tuple[dict[str, float], float]:
    """(tokens that scoring a byte computes, by role; seconds for each)."""
    from rewarm.evaluate.bits import rows_of, score_rows
    from rewarm.evaluate.documents import Documents
    from rewarm.evaluate.encode import Encoder
    from rewarm.evaluate.protocol import Protocol, choose_dtype
    from rewarm.model.score import Scorer, open_model
    from rewarm.train.setup import choose_device

    device, cfg, encoder = choose_device(recipe.train.device), recipe.evaluate, Encoder(base)
    protocol = Protocol(cfg.window, cfg.stride, None, choose_dtype(cfg.dtype, device))
    computed: dict[str, float] = {}
    parts = []
    for role in ("new", "replay"):
        texts: list[str] = []
        for text in (t for s in samples if s.role == role for t in s.texts):
            if sum(len(t.encode()) for t in texts) >= SCORED_BYTES[device.type]:
                break
            texts.append(text[: SCORED_BYTES[device.type]])
        if texts:
            documents = Documents(tuple(map(str, range(len(texts)))), tuple(texts))
            parts.append((documents, rows_of(encoder, documents, protocol)))
            computed[role] = parts[-1][1].computed / documents.bytes
    with open_model(base, device) as model:
        scorer = Scorer(model, dtype=protocol.torch_dtype)
        if parts:
            score_rows(scorer, *parts[-1])  # the first pass fills caches
        begin = time.perf_counter()
        for documents, rows in parts:
            score_rows(scorer, documents, rows)
        seconds = time.perf_counter() - begin
    return computed, seconds / max(1, sum(rows.computed for _, rows in parts))
