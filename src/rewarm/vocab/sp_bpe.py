"""SentencePiece BPE: missing characters, then continued merges; tokenizer.json and `.model` written from the same pieces.

New pieces get scores below all old ones, so text is first cut as before and new pieces only glue. A score above an old one (0 is common in
other tools) would beat the old pieces and cut old text anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewarm.vocab.balance import language_weights
from rewarm.vocab.base import bare_model, check_ids, load_tokenizer, model_rows, spec_file
from rewarm.vocab.choose import Choice, choose
from rewarm.vocab.count import Counts
from rewarm.vocab.coverage import NO_PAIR, missing_characters
from rewarm.vocab.extension import Extension, NewToken, json_bytes, list_special
from rewarm.vocab.gate import Finding
from rewarm.vocab.gate_bpe import coarsening, old_merges, reachable
from rewarm.vocab.gate_sp import findings_of, joins_as_the_model, model_file_agrees
from rewarm.vocab.merge import Merges
from rewarm.vocab.problem import PROTECTED, pose
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.rules import Guard
from rewarm.vocab.sp_base import SpBase, spec_of_model
from rewarm.vocab.sp_model import CONTROL, MODEL_FILES, UNUSED, Piece, falling_scores, id_offset
from rewarm.vocab.sp_pieces import MARK
from rewarm.vocab.sp_rebuild import rebuilt_model


def extension_of(base: SpBase, merges: Merges, characters: Sequence[str], with_model_file: bool = False) -> Extension:
    """Surfaces and parts of the new tokens. characters: those that come before all merges, in the order of their ids."""
    surface: dict[int, bytes] = {i: s for i, s in enumerate(base.surfaces) if s is not None}
    new: list[bytes] = []
    for left, right, result in zip(merges.left.tolist(), merges.right.tolist(), merges.id.tolist()):
        if result not in surface:
            surface[result] = characters[result - base.next_id].encode() if left == NO_PAIR else surface[left] + surface[right]
            new.append(surface[result])
    tokens = [NewToken(base.next_id + i, s, tuple(p)) for i, (s, p) in enumerate(zip(new, base.decompose(new)))]
    pairs = [(a, b) for a, b in zip(merges.left.tolist(), merges.right.tolist()) if a != NO_PAIR]
    return Extension(base.next_id, tuple(tokens), tuple(pairs), with_model_file)


def extended_model_file(base: SpBase, new: dict[str, int], special: Sequence[str] = ()) -> bytes:
    """The base's `.model`, or the one rebuilt for it, with these pieces, whose scores fall strictly.

    A SentencePiece id is a place in the file, so places that no piece has up to the first new id are filled with UNUSED ones. Such a place
    belongs to an added token and bears its text, where no piece has it. special: control tokens, behind the pieces.
    """
    model = base.sp_model or rebuilt_model(base)
    old = model.pieces
    offset = id_offset(old, base.vocab)
    scores = falling_scores(min(piece.score for piece in old), len(new))
    added = {t["id"]: t["content"] for t in base.added}
    taken = {piece.text for piece in old} | new.keys()
    gaps = []
    for i in range(len(old), min(new.values()) - offset):
        text = added.get(i + offset, "")
        text = text if text and text not in taken else f"<gap-{i}>"
        taken.add(text)
        gaps.append(Piece(text, 0.0, UNUSED))
    pieces = [Piece(text, score) for text, score in zip(new, scores)]
    return model.extended([*gaps, *pieces, *(Piece(text, 0.0, CONTROL) for text in special)])


class SentencePieceBpe:
    """The kind, as the stage sees it."""

    title = "SentencePiece BPE (the type of Llama-2, Mistral and Gemma)"
    changed_lines = 0.015

    def opens(self, spec: dict[str, Any]) -> bool:
        model = spec.get("model") or {}
        if model.get("type", "BPE") != "BPE" or "merges" not in model or model.get("dropout"):
            return False
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return False
        return MARK in str([spec.get("normalizer"), spec.get("pre_tokenizer")])

    def read_old(self, folder: Path) -> dict[str, Any] | None:
        return spec_of_model(folder)

    def open(self, folder: Path, spec: dict[str, Any], indent: int | None) -> SpBase:
        where = str(spec_file(folder))
        base = SpBase(folder, spec, load_tokenizer(spec, where), model_rows(folder), indent)
        check_ids(base, where)
        return replace(base, findings=tuple(findings_of(base)))

    def extend(
        self, base: SpBase, counts: Counts, languages: list[str], cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str]
    ) -> Choice:
        weights = language_weights(counts, [f"target:{name}" for name in languages], cfg.balance)
        protect = PROTECTED if PROTECTED in counts.groups else None
        guard = Guard.of(cfg.tau, sum(w * counts.bytes_of(g) for g, w in weights.items()), counts.bytes_of(PROTECTED) if protect else 0)
        characters = missing_characters(counts, base.vocab, weights, protect, base.refusal(cfg.rules), guard)
        covered = self._with_characters(base, characters)
        saves = {c: len(ids) - 1 for c, ids in zip(characters, base.decompose(c.encode() for c in characters))}
        problem = pose(counts, covered, covered.grammar(), languages, cfg, saves)

        def build(merges: Merges) -> Extension:
            return extension_of(base, merges, characters, cfg.model_file == "always")

        return choose(problem, base, cfg, planned_tokens, tuning, self, build)

    def _with_characters(self, base: SpBase, characters: Sequence[str]) -> SpBase:
        """The base with these characters as pieces: what new words are built of."""
        spec = base.spec_with({c: base.next_id + i for i, c in enumerate(characters)})
        return replace(base, spec=spec, tokenizer=bare_model(spec))

    def spec(self, base: SpBase, extension: Extension) -> dict[str, Any]:
        return list_special(base.spec_with(self._pieces(base, extension)), extension)

    def _pieces(self, base: SpBase, extension: Extension) -> dict[str, int]:
        return {base.written(token.surface): token.id for token in extension.pieces}

    def files(self, base: SpBase, extension: Extension) -> dict[str, bytes]:
        """tokenizer.json, and the `.model` where the base has one or it is asked for."""
        new = self._pieces(base, extension)
        files = {"tokenizer.json": json_bytes(self.spec(base, extension), base.indent)}
        if new and (base.model_file or extension.with_model_file):
            files[base.model_file.name if base.model_file else MODEL_FILES[0]] = extended_model_file(
                base, new, [token.surface.decode() for token in extension.special]
            )
        return files

    def checks(self, base: SpBase, new: SpBase, lines: Sequence[str], cfg: VocabRecipe) -> list[Finding]:
        return [
            old_merges(base, new),
            coarsening(base, new, lines),
            reachable(base, new),
            joins_as_the_model(base, new),
            model_file_agrees(base, new, lines),
        ]


KIND = SentencePieceBpe()
