"""From a step to rows, as a pure function: nothing to save, nothing to skip, the same on any number of GPUs.

    row weights      token weight w_i of source i and its fill f_i: rows in proportion to w_i / f_i which source     a binary tree over the
    sources (`tree.py`), its root {replay, new}: every step has its replay share within one row which row        the k-th row of source i
    is row `permute(k mod R_i)` of epoch k div R_i, keyed by (seed, source, epoch) changing shares  a segment (g0, weights, rows read
    before) from global row g0 on. The list of segments is all the state that a checkpoint
                     holds of the data, and what was read before a change stays what it was

A global row g is row g mod B of step g div B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rewarm.atomic import read_json
from rewarm.errors import UserError
from rewarm.tokens.pack import RowTable
from rewarm.tokens.recipe import MaxEpochs, MixtureRecipe
from rewarm.tokens.scramble import key_of, permute
from rewarm.tokens.shards import Shard, open_tokens
from rewarm.tokens.shares import shares_within_roles, token_weights
from rewarm.tokens.tree import Node, count, descend, plant

I64 = npt.NDArray[np.int64]

_MOST_ROWS = 1 << 31
"""Of a run: so that the tree's products fit into 64 bits. 8 million million tokens at 4,096 a row."""


@dataclass(frozen=True)
class MixedSource:
    """A source's shards with their row tables. bytes and tokens: of the documents, once."""

    name: str
    role: str
    shards: tuple[Shard, ...]
    tables: tuple[RowTable, ...]
    tokens: int
    bytes: int

    @cached_property
    def first_rows(self) -> I64:
        """[shards + 1]: rows of the source before each shard."""
        return np.concatenate([[0], np.cumsum([table.rows for table in self.tables], dtype=np.int64)]).astype(np.int64)

    @property
    def rows(self) -> int:
        return int(self.first_rows[-1])

    @cached_property
    def row_tokens(self) -> I64:
        """[rows]: tokens in each row, padding not counted."""
        return np.concatenate([np.zeros(0, np.int64), *(table.tokens_of_rows() for table in self.tables)])

    @cached_property
    def mean_row_tokens(self) -> float:
        """Tokens of a row, which is its length times the fill."""
        return float(self.row_tokens.sum()) / max(1, self.rows)


@dataclass(frozen=True, slots=True)
class Segment:
    """From global row g0 on: each source's share of the tokens, and how many of its rows were read before."""

    g0: int
    weights: tuple[float, ...]
    base: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return {"g0": self.g0, "weights": list(self.weights), "base": list(self.base)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Segment:
        return cls(int(value["g0"]), tuple(map(float, value["weights"])), tuple(map(int, value["base"])))


class Located(NamedTuple):
    """Where global rows lie, arrays of the same length: source int32, shard int32, row in the shard int64, epoch int64."""

    source: npt.NDArray[np.int32]
    shard: npt.NDArray[np.int32]
    row: I64
    epoch: I64


@dataclass(frozen=True)
class Mixture:
    """What every step reads. `batch_rows` rows a step; `within`: each source's share among those of its role.

    `byte_lengths` int32 [V] and `pad_id` are what `loader` fills a batch with. `open_mixture` makes one from folders.
    """

    sources: tuple[MixedSource, ...]
    batch_rows: int
    row_tokens: int
    within: tuple[float, ...]
    segments: tuple[Segment, ...]
    seed: int
    byte_lengths: npt.NDArray[np.int32]
    pad_id: int
    max_epochs: MaxEpochs

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources: `Batch.source` counts into them."""
        return tuple(source.name for source in self.sources)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(source.role for source in self.sources)

    @cached_property
    def row_pieces(self) -> int:
        """The most pieces that any row has, its padding counted as one: a bound for the shapes of a step."""
        most = 1
        for table in (table for source in self.sources for table in source.tables if table.rows):
            padded = table.tokens_of_rows() < self.row_tokens
            most = max(most, int((np.diff(table.row_ptr) + padded).max()))
        return most

    def replay_share(self, step: int) -> float:
        """Share of the tokens that step `step` is asked to read from replay sources."""
        weights = self.segments[int(self._segments_of(np.array([step * self.batch_rows]))[0])].weights
        return sum(w for w, role in zip(weights, self.roles) if role == "replay")

    def with_replay(self, step: int, share: float) -> Mixture:
        """The mixture in which steps from `step` on read `share` of their tokens from replay; steps before it are left alone.

        Raises UserError if there is no replay text. A change before the last recorded one would rewrite what was read: an error of ours.
        """
        g0 = step * self.batch_rows
        assert g0 >= self.segments[-1].g0, f"step {step} lies before the last change"
        weights = token_weights(self.roles, self.within, share)
        segment = Segment(g0, weights, tuple(self.counts(g0).tolist()))
        kept = tuple(s for s in self.segments if s.g0 < g0)
        return replace(self, segments=(*kept, segment))

    def state(self) -> list[dict[str, Any]]:
        """The segments, for a checkpoint."""
        return [segment.as_json() for segment in self.segments]

    def with_state(self, state: Sequence[Mapping[str, Any]]) -> Mixture:
        """The mixture of a checkpoint, over the same sources."""
        return replace(self, segments=tuple(Segment.from_json(value) for value in state))

    def locate(self, g: I64) -> Located:
        """Source, shard, row in the shard and epoch of each global row. g: int64 [n] in any order, below 2^31."""
        g = np.asarray(g, dtype=np.int64)
        assert not len(g) or (g.min() >= 0 and g.max() < _MOST_ROWS), "global rows are 0 to 2^31 - 1"
        source = np.zeros(len(g), dtype=np.int32)
        k = np.zeros(len(g), dtype=np.int64)
        which = self._segments_of(g)
        for number in np.unique(which):
            segment = self.segments[number]
            here = np.flatnonzero(which == number)
            descend(self._tree(segment), g[here] - segment.g0, here, source, k)
            k[here] += np.array(segment.base, dtype=np.int64)[source[here]]
        shard, row = np.zeros(len(g), dtype=np.int32), np.zeros(len(g), dtype=np.int64)
        epoch = np.zeros(len(g), dtype=np.int64)
        for i in np.unique(source):
            here = np.flatnonzero(source == i)
            epoch[here], row_of_source = self._draw(int(i), k[here])
            first = self.sources[i].first_rows
            shard[here] = np.searchsorted(first, row_of_source, side="right") - 1
            row[here] = row_of_source - first[shard[here]]
        return Located(source, shard, row, epoch)

    def counts(self, g: int) -> I64:
        """[sources]: rows of each source among the first `g` global rows."""
        segment = self.segments[int(self._segments_of(np.array([g]))[0])]
        return np.array(segment.base, dtype=np.int64) + count(self._tree(segment), g - segment.g0, len(self.sources))

    def describe(self, steps: int) -> list[dict[str, Any]]:
        """What `steps` steps read of each source: one dict a source, for the plan and the report.

        name, role; rows and tokens, exact, padding not counted; bytes, the tokens at the source's bytes a token; weight_asked, the share
        of tokens asked for, by segment lengths; weight_realised; epochs; warning, a sentence where epochs exceed `max_epochs`, else None.
        """
        total = steps * self.batch_rows
        counts = self.counts(total)
        tokens = np.array([self._tokens_of_first(i, int(n)) for i, n in enumerate(counts)], dtype=np.int64)
        bounds = [min(s.g0, total) for s in self.segments] + [total]
        asked = np.sum([np.array(s.weights) * (b - a) for s, a, b in zip(self.segments, bounds, bounds[1:])], axis=0) / max(1, total)
        out = []
        for i, source in enumerate(self.sources):
            epochs = int(counts[i]) / source.rows if source.rows else 0.0
            limit = self.max_epochs.replay if source.role == "replay" else self.max_epochs.new
            out.append(
                {
                    "name": source.name,
                    "role": source.role,
                    "rows": int(counts[i]),
                    "tokens": int(tokens[i]),
                    "bytes": round(int(tokens[i]) * source.bytes / source.tokens) if source.tokens else 0,
                    "weight_asked": float(asked[i]),
                    "weight_realised": float(tokens[i] / max(1, tokens.sum())),
                    "epochs": epochs,
                    "warning": _too_often(source, epochs, limit),
                }
            )
        return out

    def _draw(self, i: int, k: I64) -> tuple[I64, I64]:
        """(epoch, row of the source) of its k-th rows."""
        epoch, position = np.divmod(k, self.sources[i].rows)
        key = key_of("rows", self.seed, self.sources[i].name)
        keys = key ^ (epoch.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))
        return epoch, permute(position.astype(np.uint64), self.sources[i].rows, keys).astype(np.int64)

    def _tokens_of_first(self, i: int, n: int) -> int:
        source = self.sources[i]
        if not n:
            return 0
        epochs, rest = divmod(n, source.rows)
        last = self._draw(i, np.arange(n - rest, n, dtype=np.int64))[1]
        return int(epochs * source.row_tokens.sum() + source.row_tokens[last].sum())

    def _segments_of(self, g: I64) -> I64:
        return np.searchsorted(np.array([s.g0 for s in self.segments]), g, side="right") - 1

    def _tree(self, segment: Segment) -> Node:
        means = [s.mean_row_tokens for s in self.sources]
        return plant([w / mean if w else 0.0 for w, mean in zip(segment.weights, means)], self.roles)


def _too_often(source: MixedSource, epochs: float, limit: float) -> str | None:
    if epochs <= limit:
        return None
    return (
        f"{source.name} is read {epochs:,.1f} times (mixture.max_epochs.{source.role}: {limit:g}): "
        "repeated that often, text teaches less and less; train shorter, add text, or give it less weight"
    )


def open_mixture(tokens_dir: Path, rows_dir: Path, cfg: MixtureRecipe, batch_rows: int, seed: int, replay: float | None = None) -> Mixture:
    """The mixture over the shards of one folder and the row tables of another.

    batch_rows: rows of a step over all ranks; replay: the replay share, needed where `cfg.replay` is `auto`, which only languages can
    decide. Raises UserError where a share is asked for that no text can give, or weights name other sources.
    """
    share = cfg.replay if replay is None else replay
    assert share != "auto", "whoever opens the mixture decides what auto is"
    tokens, rows = open_tokens(tokens_dir), read_json(rows_dir / "rows.json")
    sources = []
    for source, entry in zip(tokens.sources, rows["sources"], strict=True):
        assert source.name == entry["name"], "rows and tokens belong together"
        tables = tuple(read_rows(rows_dir / file) for file in entry["files"])
        sources.append(MixedSource(source.name, source.role, source.shards, tables, source.tokens, source.bytes))
    names, roles = [s.name for s in sources], [s.role for s in sources]
    within = shares_within_roles(cfg, names, roles, [int(s.row_tokens.sum()) for s in sources])
    if not any(w > 0 for w, role in zip(within, roles) if role != "replay"):
        raise UserError(
            "no new text: every source with `role: new` is empty or has weight 0", where="corpus.sources", fix="add text to learn from"
        )
    weights = token_weights(roles, within, float(share))
    first = Segment(0, weights, (0,) * len(sources))
    return Mixture(tuple(sources), batch_rows, rows["row_tokens"], within, (first,), seed, tokens.byte_lengths, tokens.eos, cfg.max_epochs)


def read_rows(path: Path) -> RowTable:
    """A row table as the rows stage wrote it."""
    with np.load(path, allow_pickle=False) as arrays:
        return RowTable(arrays["starts"], arrays["lens"], arrays["row_ptr"])
