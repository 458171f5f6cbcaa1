"""Unigram tokenizers: XLM-R, T5, ALBERT, DeBERTa-v3. New pieces compete with the old ones by their scores.

A text is cut into the pieces whose scores have the largest sum. So a new piece changes old text wherever its text stands and its score is
good enough; only text that holds no new piece's text keeps its tokens for certain, since all old scores stay as they are. The new ones
stay between the lowest and the highest old score: what a tokenizer makes of unknown characters, and of pieces that the user defined, hangs
on these two.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from rewarm.errors import UserError
from rewarm.vocab.base import bare_model, check_ids, encode_ids, load_tokenizer, model_rows, spec_file
from rewarm.vocab.choose import Choice
from rewarm.vocab.count import Counts
from rewarm.vocab.coverage import COVERED, missing_characters
from rewarm.vocab.extension import Extension, NewToken, json_bytes
from rewarm.vocab.gate import Finding
from rewarm.vocab.gate_unigram import files_agree, findings_of, old_scores, old_text, reachable
from rewarm.vocab.ladder import Task, choose_pruned, insisted, task_of
from rewarm.vocab.prune import Coder, Encode, Kept, Pool
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.sp_model import UNUSED, Piece, id_offset, parse_sp_model
from rewarm.vocab.sp_pieces import PieceBase

CANDIDATES = 2.5
"""Candidates for each new token that is asked for."""
LOWEST = -30.0
"""Score of a piece that is never used, where no old score says what is low: one in 10^13 tokens."""
THREADS = 4
"""Of SentencePiece's training. Its sums of floats depend on their number, so it is the same on every machine."""


@dataclass(frozen=True)
class UnigramBase(PieceBase):
    """A Unigram tokenizer and where it came from."""

    kind: ClassVar[str] = "unigram"

    @property
    def listed(self) -> list[list[Any]]:
        """[piece, score] in the order of ids."""
        return self.spec["model"]["vocab"]

    @cached_property
    def vocab(self) -> dict[str, int]:
        return {piece: i for i, (piece, _) in enumerate(self.listed)}

    @cached_property
    def ordinary(self) -> NDArray[np.float64]:
        """Scores of the pieces that text is cut into: no control tokens, bytes or unknown."""
        apart = self.special_ids | {self.vocab[p] for p in self.byte_pieces} | {self.spec["model"].get("unk_id")}
        return np.array([score for i, (_, score) in enumerate(self.listed) if i not in apart], dtype=np.float64)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The lowest and highest of these scores, as far as a float32 holds them within their range; wide ones if there are no pieces."""
        if not len(self.ordinary):
            return LOWEST, 0.0
        low, high = np.float32(self.ordinary.min()), np.float32(self.ordinary.max())
        low = np.nextafter(low, np.float32(np.inf)) if float(low) < self.ordinary.min() else low
        high = np.nextafter(high, np.float32(-np.inf)) if float(high) > self.ordinary.max() else high
        return float(low), float(high)

    def spec_with(self, pieces: Iterable[tuple[str, float]]) -> dict[str, Any]:
        """tokenizer.json with these pieces behind the old ones.

        An id is a place in the list, so added tokens that stand above it are listed too, with the lowest score.
        """
        pieces = list(pieces)
        vocab = [*self.listed]
        names = {t["id"]: t["content"] for t in self.added}
        if pieces:
            vocab += [[names.get(i, f"<gap-{i}>"), self.bounds[0]] for i in range(len(vocab), self.next_id)]
        return {**self.spec, "model": {**self.spec["model"], "vocab": [*vocab, *([p, s] for p, s in pieces)]}}


def trained_pieces(words: Sequence[str], counts: Sequence[int], size: int, longest: int) -> list[tuple[str, float]]:
    """About `size` pieces with their scores, by SentencePiece's Unigram training on these words with their counts; fewer if it finds fewer.

    longest: characters of a piece. Words bear their `▁`. Each line is given as word and count, so no word is read twice.
    """
    kept = [(w, n) for w, n in zip(words, counts) if n > 0 and not any(c in w for c in "\t\r\n\0") and "▅" not in w]
    if not kept:
        return []
    characters = len({c for w, _ in kept for c in w})
    out = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="rewarm-") as folder:
        file = Path(folder) / "words.tsv"
        file.write_text("".join(f"{w}\t{n}\n" for w, n in kept), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(file), input_format="tsv", model_writer=out, model_type="unigram", vocab_size=max(size, characters) + 16,
            hard_vocab_limit=False, character_coverage=COVERED, max_sentencepiece_length=longest, split_digits=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, max_sentence_length=1_000_000,
            num_threads=THREADS, minloglevel=2,
        )  # fmt: skip
    return [(p.text, p.score) for p in parse_sp_model(out.getvalue()).pieces[3:]]


def pool_of(base: UnigramBase, task: Task, cfg: VocabRecipe) -> Pool:
    """Missing characters, `vocab.words`, then the pieces that SentencePiece's training finds in the target text and the base lacks."""
    low, high = base.bounds
    characters = missing_characters(task.counts, base.vocab, task.weights, task.protect, task.refusal, task.guard(cfg.tau))
    words = [w for w in insisted(task, base, cfg) if w not in base.vocab and w not in characters]
    fixed = [*characters, *words]
    size = int(CANDIDATES * (cfg.max_size if cfg.size == "auto" else cfg.size))
    target = np.where(task.texts.target > 0, np.maximum(1, task.texts.target // task.unit), 0)
    found = trained_pieces(task.texts.words, target.tolist(), size, cfg.rules.max_chars)
    have = base.vocab.keys() | set(fixed) | {t["content"] for t in base.added}
    known = base.vocab.keys() | set(characters)
    learnt = [
        (p, s) for p, s in found if p not in have and all(c in known for c in p) and len(p) > 1 and task.refusal(base.surface_of(p)) is None
    ]
    scores = [float(np.float32(min(max(s, low), high))) for s in [*([low] * len(fixed)), *(s for _, s in learnt)]]
    stays = np.arange(len(scores)) < len(fixed)
    return Pool((*fixed, *(p for p, _ in learnt)), stays, np.array(scores, dtype=np.float64), low, high)


def coder_of(base: UnigramBase) -> Coder:
    """Cuts words with the base's pieces and new ones."""

    def make(pieces: Sequence[str], scores: NDArray[np.float64] | None) -> Encode:
        assert scores is not None
        tokenizer = bare_model(base.spec_with(zip(pieces, scores.tolist())))
        return lambda words: encode_ids(tokenizer, words)

    return Coder(make, base.next_id, base.spec["model"].get("unk_id"))


def reachable_scores(base: UnigramBase, pool: Pool) -> dict[str, float]:
    """The pieces with scores with which each one's own text is cut into it alone; a piece that cannot have such a score is left out.

    Pieces that are used have one already. Shorter pieces first, as a piece's score decides only over itself and longer ones.
    """
    assert pool.scores is not None
    old = {piece: score for i, (piece, score) in enumerate(base.listed) if i not in base.special_ids}
    scores: dict[str, float] = {}
    for i in sorted(range(len(pool.pieces)), key=lambda i: (len(pool.pieces[i]), i)):
        piece, score = pool.pieces[i], float(pool.scores[i])
        other = best_cut(piece, old, scores)
        while score <= other:
            score = float(np.nextafter(np.float32(max(other, score)), np.float32(np.inf)))
        if score <= pool.highest:
            scores[piece] = score
    return {piece: scores[piece] for piece in pool.pieces if piece in scores}


def best_cut(text: str, old: dict[str, float], new: dict[str, float]) -> float:
    """Largest sum of scores of pieces, other than the text itself, that make this text; minus infinity if none do."""
    best = [0.0] + [-np.inf] * len(text)
    for end in range(1, len(text) + 1):
        for start in range(end):
            part = text[start:end]
            if len(part) < len(text) and (score := old.get(part, new.get(part))) is not None:
                best[end] = max(best[end], best[start] + score)
    return float(best[-1])


class Unigram:
    """The kind, as the stage sees it."""

    title = "Unigram (the type of XLM-R, T5, ALBERT and DeBERTa-v3)"
    changed_lines = 0.01

    def opens(self, spec: dict[str, Any]) -> bool:
        return (spec.get("model") or {}).get("type") == "Unigram"

    def read_old(self, folder: Path) -> dict[str, Any] | None:
        """None: a `.model` of this type does not say which ids its model gives to the pieces."""
        return None

    def open(self, folder: Path, spec: dict[str, Any], indent: int | None) -> UnigramBase:
        where = str(spec_file(folder))
        base = UnigramBase(folder, spec, load_tokenizer(spec, where), model_rows(folder), indent)
        if len(base.vocab) < len(base.listed):
            twice = next(p for i, (p, _) in enumerate(base.listed) if base.vocab[p] != i)
            raise UserError(f"the piece `{twice}` stands twice", where=where, fix="mend the base's tokenizer first")
        check_ids(base, where)
        return replace(base, findings=tuple(findings_of(base)))

    def extend(
        self, base: UnigramBase, counts: Counts, languages: list[str], cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str]
    ) -> Choice:
        task = task_of(counts, base, languages, cfg, lambda word: word.replace("▁", " "))
        pool = pool_of(base, task, cfg)

        def build(kept: Kept) -> Extension:
            uses = dict(zip(kept.pool.pieces, kept.uses.tolist()))
            single = dict(zip(kept.pool.pieces, kept.pool.fixed.tolist()))
            scores = reachable_scores(base, kept.pool)
            new = sorted(scores, key=lambda p: (not single[p], -uses[p], p))
            surfaces = [base.surface_of(p) for p in new]
            parts = base.decompose(surfaces)
            tokens = [NewToken(base.next_id + i, s, tuple(q), scores[p]) for i, (p, s, q) in enumerate(zip(new, surfaces, parts))]
            return Extension(base.next_id, tuple(tokens), ())

        return choose_pruned(task, base, cfg, planned_tokens, tuning, self, coder_of(base), lambda tau: pool, build)

    def spec(self, base: UnigramBase, extension: Extension) -> dict[str, Any]:
        return base.spec_with((base.written(t.surface), float(t.score or 0.0)) for t in extension.tokens)

    def files(self, base: UnigramBase, extension: Extension) -> dict[str, bytes]:
        """tokenizer.json, and the `.model` where the base has one."""
        files = {"tokenizer.json": json_bytes(self.spec(base, extension), base.indent)}
        if base.model_file and base.sp_model and extension.tokens:
            files[base.model_file.name] = extended_model_file(base, extension)
        return files

    def checks(self, base: UnigramBase, new: UnigramBase, lines: Sequence[str], cfg: VocabRecipe) -> list[Finding]:
        return [old_scores(base, new), old_text(base, new, lines), reachable(base, new), files_agree(base, new, lines)]


def extended_model_file(base: UnigramBase, extension: Extension) -> bytes:
    """The base's `.model` with these pieces; places up to the first new id (T5's sentinels, XLM-R's mask) are filled with UNUSED ones."""
    model = base.sp_model
    assert model is not None
    offset = id_offset(model.pieces, base.vocab)
    names = {i: text for text, i in base.vocab.items()} | {t["id"]: t["content"] for t in base.added}
    taken = {piece.text for piece in model.pieces}
    gaps = []
    for i in range(len(model.pieces), extension.first_new_id - offset):
        text = names.get(i + offset, "")
        text = text if text and text not in taken else f"<gap-{i}>"
        taken.add(text)
        gaps.append(Piece(text, 0.0, UNUSED))
    return model.extended([*gaps, *(Piece(base.written(t.surface), float(t.score or 0.0)) for t in extension.tokens)])


KIND = Unigram()
