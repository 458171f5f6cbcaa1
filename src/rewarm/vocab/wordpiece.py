"""WordPiece tokenizers: BERT and its kin. A word is cut from its beginning, always into the longest piece there is; `##` continues a word.

There are no merges and no scores, so a new piece changes every word that holds its text at a place where the old pieces ended. And a word
with one character that the vocabulary lacks is [UNK] as a whole: missing characters come first, as beginnings and as continuations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rewarm.vocab.base import Base, bare_model, check_ids, encode_ids, load_tokenizer, model_rows, spec_file
from rewarm.vocab.bpe import listed_vocab
from rewarm.vocab.choose import Choice
from rewarm.vocab.count import Counts, split_words, words_to_merge
from rewarm.vocab.coverage import missing_characters
from rewarm.vocab.extension import Extension, NewToken, json_bytes
from rewarm.vocab.gate import Finding
from rewarm.vocab.gate_wordpiece import findings_of, old_pieces, old_text, reachable, vocab_txt_agrees
from rewarm.vocab.ladder import Task, choose_pruned, insisted, task_of
from rewarm.vocab.merge import Grammar, continue_merges
from rewarm.vocab.prune import Coder, Encode, Kept, Pool
from rewarm.vocab.recipe import Rules, VocabRecipe
from rewarm.vocab.rules import Refusal, refusal_of

CANDIDATES = 1.25
"""Candidates for each new token that is asked for."""
VOCAB_TXT = "vocab.txt"


@dataclass(frozen=True)
class WordPieceBase(Base):
    """A WordPiece tokenizer and where it came from.

    `surfaces` are the pieces' own text. The surface of a new token is the piece as the vocabulary writes it, `##` included: what stands at
    a word's beginning and what continues it are two tokens.
    """

    kind: ClassVar[str] = "wordpiece"

    @property
    def vocab(self) -> dict[str, int]:
        return self.spec["model"]["vocab"]

    @property
    def prefix(self) -> str:
        """Marks a piece that continues a word: `##`."""
        return self.spec["model"].get("continuing_subword_prefix") or "##"

    @cached_property
    def unknown(self) -> int | None:
        return self.vocab.get(self.spec["model"].get("unk_token") or "[UNK]")

    @property
    def vocab_txt(self) -> Path | None:
        """The vocab.txt beside the tokenizer.json, if there is one."""
        file = self.folder / VOCAB_TXT
        return file if file.is_file() else None

    def surface_of(self, piece: str) -> bytes:
        return piece.removeprefix(self.prefix).encode()

    def written(self, surface: bytes) -> str:
        return surface.decode(errors="surrogateescape")

    def marked(self, piece: str) -> bytes:
        """The piece with a blank in place of a word's beginning, so that two pieces that follow each other just add up."""
        return (piece.removeprefix(self.prefix) if piece.startswith(self.prefix) else f" {piece}").encode()

    def piece_of(self, marked: bytes) -> str:
        text = marked.decode()
        return text[1:] if text.startswith(" ") else self.prefix + text

    def decompose(self, surfaces: Iterable[bytes]) -> list[list[int]]:
        return [self._cut(self.written(s)) for s in surfaces]

    def _cut(self, piece: str) -> list[int]:
        """Old pieces of a piece, from its beginning, the longest each; characters that no piece writes are left out."""
        start = piece.removeprefix(self.prefix)
        lead, out, at = self.prefix if start != piece else "", [], 0
        while at < len(start):
            end = next((e for e in range(len(start), at, -1) if lead + start[at:e] in self.vocab), None)
            if end is not None:
                out.append(self.vocab[lead + start[at:end]])
            at, lead = end or at + 1, self.prefix
        return out

    def refusal(self, rules: Rules) -> Refusal:
        """The rules of all kinds, but that a piece may stand inside an added token's text, which is never cut into pieces here, and that a
        single digit may be added: where it lacks, the whole number is [UNK]."""
        plain, added = refusal_of(rules, []), {t["content"].encode() for t in self.added}

        def refusal(surface: bytes) -> str | None:
            text = surface.decode().removeprefix(" ")
            reason = "added token" if text.encode() in added else plain(surface)
            return None if reason == "digits" and len(text) == 1 else reason

        return refusal

    def grammar(self) -> Grammar:
        apart = self.special_ids | {self.unknown}
        surfaces: list[bytes | None] = [None] * self.next_id
        for piece, i in self.vocab.items():
            surfaces[i] = None if i in apart else self.marked(piece)
        return Grammar(surfaces, self.next_id, {})

    def spec_with(self, pieces: Sequence[str]) -> dict[str, Any]:
        """tokenizer.json with these pieces behind the old ones."""
        more = {piece: self.next_id + i for i, piece in enumerate(pieces)}
        return {**self.spec, "model": {**self.spec["model"], "vocab": listed_vocab(self, more)}}

    @cached_property
    def unclosed(self) -> list[str]:
        """`##` pieces of characters that stand inside an old piece, but cannot continue a word on their own.

        A new, longer piece may end before such a character: the word, cut through the old piece so far, would become [UNK].
        """
        words = [p.removeprefix(self.prefix) for p, i in self.vocab.items() if i not in self.special_ids]
        inside = {c for word in words if len(word) > 1 and self.pretokens(word) == [word] for c in word[1:]}
        return sorted(piece for c in inside if (piece := self.prefix + c) not in self.vocab)


def pool_of(base: WordPieceBase, task: Task, cfg: VocabRecipe, tau: float | str) -> Pool:
    """Missing characters and `vocab.words`, then what merging of old pieces gives in the target text, in that order."""

    def letters(word: str) -> list[str]:
        return [word[0], *(base.prefix + c for c in word[1:])]

    def refusal(piece: bytes) -> str | None:
        return task.refusal(base.surface_of(piece.decode()))

    characters = missing_characters(task.counts, base.vocab, task.weights, task.protect, refusal, task.guard(tau), letters)
    characters += [piece for piece in base.unclosed if piece not in characters]
    fixed = [*characters, *(w for w in insisted(task, base, cfg) if w not in base.vocab and w not in characters)]
    covered = replace(base, spec=base.spec_with(fixed))
    size = int(CANDIDATES * (cfg.max_size if cfg.size == "auto" else cfg.size))
    words = words_to_merge(task.counts, split_words(task.counts, covered), task.weights, task.protect, [])
    merges = continue_merges(words, covered.grammar(), size, task.refusal, task.guard(tau), min_count=2 * task.unit)
    marked = {i: s for i, s in enumerate(covered.grammar().surfaces) if s is not None}
    learnt = []
    for left, right, result in zip(merges.left.tolist(), merges.right.tolist(), merges.id.tolist()):
        if result not in marked:
            marked[result] = marked[left] + marked[right]
            learnt.append(base.piece_of(marked[result]))
    return Pool((*fixed, *learnt), np.arange(len(fixed) + len(learnt)) < len(fixed), None)


def coder_of(base: WordPieceBase) -> Coder:
    """Cuts words with the base's pieces and new ones."""

    def make(pieces: Sequence[str], scores: NDArray[np.float64] | None) -> Encode:
        tokenizer = bare_model(base.spec_with(pieces))
        return lambda words: encode_ids(tokenizer, words)

    return Coder(make, base.next_id, base.unknown)


class WordPiece:
    """The kind, as the stage sees it."""

    title = "WordPiece (the type of BERT)"
    changed_lines = 0.01

    def opens(self, spec: dict[str, Any]) -> bool:
        model = spec.get("model") or {}
        return model.get("type") == "WordPiece" or ("continuing_subword_prefix" in model and "merges" not in model)

    def read_old(self, folder: Path) -> dict[str, Any] | None:
        return spec_of_vocab_txt(folder)

    def open(self, folder: Path, spec: dict[str, Any], indent: int | None) -> WordPieceBase:
        where = str(spec_file(folder))
        base = WordPieceBase(folder, spec, load_tokenizer(spec, where), model_rows(folder), indent)
        check_ids(base, where)
        return replace(base, findings=tuple(findings_of(base)))

    def extend(
        self, base: WordPieceBase, counts: Counts, languages: list[str], cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str]
    ) -> Choice:
        task = task_of(counts, base, languages, cfg, lambda word: f" {word}")

        def build(kept: Kept) -> Extension:
            use, single = (dict(zip(kept.pool.pieces, values.tolist())) for values in (kept.uses, kept.pool.fixed))
            new = sorted(kept.pool.pieces, key=lambda p: (not single[p], -use[p], p))
            surfaces = [piece.encode() for piece in new]
            tokens = [NewToken(base.next_id + i, s, tuple(p)) for i, (s, p) in enumerate(zip(surfaces, base.decompose(surfaces)))]
            return Extension(base.next_id, tuple(tokens), ())

        def pool(tau: float | str) -> Pool:
            return pool_of(base, task, cfg, tau)

        return choose_pruned(task, base, cfg, planned_tokens, tuning, self, coder_of(base), pool, build)

    def spec(self, base: WordPieceBase, extension: Extension) -> dict[str, Any]:
        return base.spec_with([base.written(t.surface) for t in extension.tokens])

    def files(self, base: WordPieceBase, extension: Extension) -> dict[str, bytes]:
        """tokenizer.json, and vocab.txt where the base has one: a line a token, whose number is its id."""
        files = {"tokenizer.json": json_bytes(self.spec(base, extension), base.indent)}
        if base.vocab_txt:
            old = base.vocab_txt.read_bytes()
            lines = old.decode().splitlines()
            names = {t["id"]: t["content"] for t in base.added}
            gaps = [names.get(i, f"[gap-{i}]") for i in range(len(lines), extension.first_new_id)] if extension.tokens else []
            more = [*gaps, *(base.written(t.surface) for t in extension.tokens)]
            head = old if old.endswith(b"\n") or not more else old + b"\n"
            files[VOCAB_TXT] = head + "".join(f"{piece}\n" for piece in more).encode()
        return files

    def checks(self, base: WordPieceBase, new: WordPieceBase, lines: Sequence[str], cfg: VocabRecipe) -> list[Finding]:
        return [old_pieces(base, new), old_text(base, new, lines), reachable(base, new), vocab_txt_agrees(new)]


def spec_of_vocab_txt(folder: Path) -> dict[str, Any] | None:
    """A tokenizer.json for a folder that has only vocab.txt and BERT's settings in tokenizer_config.json; None if it has none."""
    file, settings_file = folder / VOCAB_TXT, folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    vocab = {piece: i for i, piece in enumerate(file.read_text(encoding="utf-8").splitlines())}
    names = [settings.get(f"{name}_token", f"[{name.upper()}]") for name in ("pad", "unk", "cls", "sep", "mask")]
    special = [n["content"] if isinstance(n, dict) else n for n in names]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = ({"id": name, "type_id": 0} for name in (special[2], special[3]))
    single = [{"SpecialToken": cls}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": sep}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {**sep, "type_id": 1}}]
    ids = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in special[2:4] if name in vocab}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for i, name in sorted((vocab[n], n) for n in special if n in vocab)],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"), "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids} if len(ids) == 2 else None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": special[1], "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }  # fmt: skip


KIND = WordPiece()
