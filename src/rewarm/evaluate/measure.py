"""Texts and one protocol, ready to score model after model: one in memory at a time, each part of a text once."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rewarm.atomic import read_json, write_json
from rewarm.errors import MachineError, UserError
from rewarm.evaluate import store
from rewarm.evaluate.bits import DocScores, Rows, bits_per_byte, check_lossless, rows_of, score_documents, score_rows
from rewarm.evaluate.documents import Documents, TextRef, prepare
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.protocol import Protocol, choose_dtype, choose_prefix, fit_windows, max_bytes
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.model.files import find_folder
from rewarm.model.load import read_config
from rewarm.model.score import Scorer, open_model, position_limit
from rewarm.progress import Reporter

Lazy = Callable[[], PreTrainedModel]
"""Gives the model, loaded at the first call."""


class Measurement:
    """What models are scored on, and how.

    base: the model on which a prefix is chosen. others: all that will be compared with it, for the window. out: where scores are kept;
    cache: where those of the base are kept for other runs, by default the user's cache folder. limit: bytes of each text, by default by the
    recipe.
    """

    def __init__(
        self,
        cfg: EvaluateRecipe,
        base: Path,
        others: Sequence[Path],
        texts: Sequence[TextRef],
        out: Path,
        reporter: Reporter,
        *,
        limit: int | None = None,
        device: str | torch.device | None = None,
        cache: Path | None = None,
    ) -> None:
        if not texts:
            raise UserError("there is no text to measure on", where="evaluate", fix="give at least one text")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.base, self.out, self.reporter, self.texts = find_folder(base), out, reporter, list(texts)
        cache = store.user_cache() if cache is None else cache
        self.cache = cache if store.usable(cache) else out / "scores"
        self.limit = max_bytes(cfg, self.device) if limit is None else limit
        self.documents = {text.name: prepare(text, self.limit) for text in texts}
        self.warnings = list(_doubts(self.texts, self.documents))
        self.encoders: dict[Path, Encoder] = {}
        folders = list(dict.fromkeys([self.base, *map(find_folder, others)]))
        limits = [position_limit(read_config(folder)) for folder in folders]
        window, stride = fit_windows(cfg, [self.encoder(folder) for folder in folders], limits, self.documents)
        if window != cfg.window:
            self.warnings.append(
                f"windows of {window:,} characters, not {cfg.window:,}: the models have {min(n for n in limits if n):,} positions"
            )
        self.protocol = Protocol(window, stride, None, choose_dtype(cfg.dtype, self.device))
        self.check_lossless(self.limit)
        prefix, self.tried = self._prefix(cfg)
        self.protocol = replace(self.protocol, prefix=prefix)

    def encoder(self, folder: Path) -> Encoder:
        if folder not in self.encoders:
            self.encoders[folder] = Encoder(folder)
        return self.encoders[folder]

    def check_lossless(self, limit: int) -> None:
        """UserError where a tokenizer loses too much of `limit` bytes of a text: before anything is scored, and by the probe on as much as
        a whole evaluation reads, so before hours of training and not after them."""
        for text in self.texts:
            documents = prepare(text, limit)
            sizes = np.asarray([len(one.encode()) for one in documents.texts])
            for folder, encoder in self.encoders.items():
                lossy = np.asarray([not one.lossless for one in encoder.encode(documents.texts)], dtype=bool)
                check_lossless(text.name, str(folder), documents.ids, sizes, lossy)

    def _prefix(self, cfg: EvaluateRecipe) -> tuple[str | None, dict[str, float]]:
        """The recipe's prefix, or the base's best on the first old text: on the whole of it, so that either half has the same prefix."""
        encoder = self.encoder(self.base)
        first = next((text for text in self.texts if text.role == "old"), self.texts[0])
        openings = prepare(replace(first, half=None), self.limit)
        with self.model(self.base) as lazy:

            def trial(prefix: str | None, texts: Sequence[str]) -> float:
                self.reporter.say(f"trying the prefix {prefix or 'none'} on {first.name}")
                documents = Documents(tuple(map(str, range(len(texts)))), tuple(texts))
                scores = score_documents(self.scorer(lazy()), encoder, documents, replace(self.protocol, prefix=prefix))
                return bits_per_byte(scores)

            known = store.key_of(self.identity(self.base), self.protocol, openings, f"prefix {cfg.prefix} {store.device_kind(self.device)}")
            files = [self.out / "scores" / f"prefix-{known}.json", self.cache / f"prefix-{known}.json"]
            found: dict[str, Any] | None = next((read_json(file) for file in files if file.is_file()), None)
            if found is None:
                prefix, tried = choose_prefix(cfg.prefix, encoder, openings, trial)
                found = {"prefix": prefix, "tried": tried}
                if tried:
                    self._keep(files, partial(write_json, value=found))
            return found["prefix"], found["tried"]

    @contextmanager
    def model(self, folder: Path) -> Iterator[Lazy]:
        """The model of a folder, loaded when it is first asked for and gone after the block."""
        with ExitStack() as stack:
            loaded: list[PreTrainedModel] = []

            def lazy() -> PreTrainedModel:
                if not loaded:
                    loaded.append(stack.enter_context(open_model(folder, self.device)))
                return loaded[0]

            yield lazy
            loaded.clear()

    def scorer(self, model: PreTrainedModel) -> Scorer:
        return Scorer(model, dtype=self.protocol.torch_dtype)

    def identity(self, folder: Path) -> tuple[str, str]:
        """sha256 of a model's weights and of its tokenizer."""
        return store.weights_sha256(folder), self.encoder(folder).sha256

    def score(self, name: str, folder: Path, lazy: Lazy, texts: Sequence[str] | None = None) -> dict[str, DocScores]:
        """Scores of a model by text (all, or these), out of files where they are there. name: for the bar."""
        folder = find_folder(folder)
        identity, encoder, kind = self.identity(folder), self.encoder(folder), store.device_kind(self.device)
        part_bytes = store.PART_BYTES.get(self.device.type, store.PART_BYTES["cuda"])
        found: dict[str, list[DocScores | None]] = {}
        todo: list[_Part] = []
        for text in self.documents if texts is None else texts:
            documents = self.documents[text]
            parts = [Documents(documents.ids[cut], documents.texts[cut]) for cut in store.cut_parts(documents, part_bytes)]
            found[text] = []
            for place, part in enumerate(parts):
                key = store.key_of(identity, self.protocol, part, kind)
                files = [self.out / "scores" / f"{key}.parquet"]
                if folder == self.base:
                    files.append(self.cache / f"{key}.parquet")
                found[text].append(store.read_scores(files, part))
                if found[text][place] is None:
                    todo.append(_Part(text, place, part, rows_of(encoder, part, self.protocol), files))
        if todo:
            with self.reporter.bar(f"score {name}", sum(part.rows.computed for part in todo), "tokens") as bar:
                scorer = self.scorer(lazy())
                for left in todo:
                    scores = score_rows(scorer, left.documents, left.rows, partial(bar.advance, note=left.text))
                    self._keep(left.files, partial(store.write_scores, scores=scores))
                    found[left.text][left.place] = scores
        return {text: store.joined([part for part in parts if part is not None]) for text, parts in found.items()}

    def _keep(self, files: Sequence[Path], write: Callable[[Path], None]) -> None:
        """Writes each of these files; one in the user's cache only if it can be: a full home stops no measurement."""
        for file in files:
            try:
                write(file)
            except (OSError, MachineError):
                if self.cache == self.out / "scores" or file.parent != self.cache:
                    raise


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a text that is still to be scored: where its scores belong and the files that shall hold them."""

    text: str
    place: int
    documents: Documents
    rows: Rows
    files: list[Path]


def _doubts(texts: Sequence[TextRef], documents: dict[str, Documents]) -> Iterator[str]:
    """What a reader of the result should know about the texts. UserError where one text is given as old and as new, or a name twice."""
    if len(documents) < len(texts):
        twice = next(text.name for i, text in enumerate(texts) if text.name in [other.name for other in texts[:i]])
        raise UserError(f"two texts have the name `{twice}`", where="--text", fix="give each text a name of its own")
    for i, one in enumerate(texts):
        for other in texts[:i]:
            if one.role != other.role and documents[one.name].sha256 == documents[other.name].sha256:
                raise UserError(
                    f"`{other.name}` and `{one.name}` are the same text, once as {other.role} and once as {one.role}",
                    where=f"{other.path}, {one.path}",
                    fix="text to keep and text to learn must differ",
                )
        found = documents[one.name]
        if found.cut:
            yield f"{one.name}: long documents are cut at line ends, so a document of the result may be a piece of one"
        loose = sum(not unicodedata.is_normalized("NFC", text) for text in found.texts)
        if loose and one.role == "new":
            yield f"{one.name}: {loose} of {len(found.ids)} documents are not in Unicode NFC; they are measured as they are"
