"""Byte-level BPE: GPT-2, Llama-3, Qwen, SmolLM, Mistral-Nemo. New tokens are continued merges of old ones.

New tokens and merges go behind the old ones, in the notation the base uses; every other key of tokenizer.json stays as it was, in its
place. Where the base also ships vocab.json and merges.txt, these are written from the same lists, so all files agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rewarm.vocab.base import check_ids, encode_ids, holds, load_tokenizer, model_rows, spec_file
from rewarm.vocab.bpe import BpeBase, extended_model
from rewarm.vocab.byte_files import VERSION_LINE, contradictions, has_old_files, spec_of_old_files
from rewarm.vocab.choose import Choice, choose
from rewarm.vocab.count import Counts
from rewarm.vocab.extension import Extension, NewToken, json_bytes, list_special
from rewarm.vocab.gate import Finding
from rewarm.vocab.gate_bpe import coarsening, old_formats, old_merges, reachable
from rewarm.vocab.letters import LETTER_OF_BYTE, to_bytes, to_letters
from rewarm.vocab.merge import Grammar, Merges
from rewarm.vocab.pairs import pair_key
from rewarm.vocab.problem import pose
from rewarm.vocab.recipe import VocabRecipe


@dataclass(frozen=True)
class ByteBase(BpeBase):
    """A byte-level BPE tokenizer and where it came from."""

    kind: ClassVar[str] = "byte_bpe"

    def surface_of(self, piece: str) -> bytes:
        raw = to_bytes(piece)
        return piece.encode() if raw is None else raw

    def written(self, surface: bytes) -> str:
        return to_letters(surface)

    @cached_property
    def missing_bytes(self) -> list[int]:
        """Bytes that have no token of their own: text that holds them does not survive (SmolLM2 lacks 21)."""
        return [byte for byte in range(256) if LETTER_OF_BYTE[byte] not in self.vocab]

    @cached_property
    def _lacking(self) -> frozenset[str]:
        return frozenset(LETTER_OF_BYTE[b] for b in self.missing_bytes)

    def cut_word(self, word: str, longest: int) -> list[str]:
        """Parts of at most `longest` characters (not letters), without the letters of missing bytes."""
        if len(word) <= longest and (not self._lacking or self._lacking.isdisjoint(word)):
            return [word]
        text = (to_bytes(word) or b"").decode(errors="surrogateescape")
        parts = [to_letters(text[i : i + longest].encode(errors="surrogateescape")) for i in range(0, len(text), longest)]
        table = str.maketrans(dict.fromkeys(self._lacking, " "))
        return [piece for part in parts for piece in part.translate(table).split()]

    def decompose(self, surfaces: Iterable[bytes]) -> list[list[int]]:
        words = ["".join(c for c in to_letters(s) if c not in self._lacking) for s in surfaces]
        return encode_ids(self.bare, words)

    def grammar(self) -> Grammar:
        surfaces = [None if i in self.special_ids else s for i, s in enumerate(self.surfaces)]
        known = {pair_key(self.vocab[a], self.vocab[b]): rank for rank, (a, b) in enumerate(self.merges)}
        return Grammar(surfaces, self.next_id, known)


def extension_of(base: ByteBase, merges: Merges, repair_bytes: bool) -> Extension:
    """Surfaces, parts and merges of the new tokens; with `repair_bytes` also the single bytes the base lacks, under the last ids."""
    surface: dict[int, bytes] = {i: s for i, s in enumerate(base.surfaces) if s is not None}
    new: list[bytes] = []
    for left, right, result in zip(merges.left.tolist(), merges.right.tolist(), merges.id.tolist()):
        if result not in surface:
            surface[result] = surface[left] + surface[right]
            new.append(surface[result])
    tokens = [NewToken(base.next_id + i, s, tuple(p)) for i, (s, p) in enumerate(zip(new, base.decompose(new)))]
    if repair_bytes:
        tokens += [NewToken(base.next_id + len(new) + i, bytes([byte]), ()) for i, byte in enumerate(base.missing_bytes)]
    return Extension(base.next_id, tuple(tokens), tuple(zip(merges.left.tolist(), merges.right.tolist())))


class ByteBpe:
    """The kind, as the stage sees it."""

    title = "byte-level BPE (the type of GPT-2, Llama-3, Qwen, SmolLM and Mistral-Nemo)"
    changed_lines = 0.002

    def opens(self, spec: dict[str, Any]) -> bool:
        model = spec.get("model") or {}
        if model.get("type", "BPE") != "BPE" or "merges" not in model or model.get("dropout") or model.get("byte_fallback"):
            return False
        marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        return not marked and holds(spec.get("pre_tokenizer"), "ByteLevel")

    def read_old(self, folder: Path) -> dict[str, Any] | None:
        return spec_of_old_files(folder) if has_old_files(folder) else None

    def open(self, folder: Path, spec: dict[str, Any], indent: int | None) -> ByteBase:
        where = str(spec_file(folder))
        found = tuple(contradictions(folder, spec))
        base = ByteBase(folder, spec, load_tokenizer(spec, where), model_rows(folder), indent, found)
        check_ids(base, where)
        return base

    def extend(
        self, base: ByteBase, counts: Counts, languages: list[str], cfg: VocabRecipe, planned_tokens: int | None, tuning: list[str]
    ) -> Choice:
        problem = pose(counts, base, base.grammar(), languages, cfg)

        def build(merges: Merges) -> Extension:
            return extension_of(base, merges, cfg.repair_bytes)

        return choose(problem, base, cfg, planned_tokens, tuning, self, build)

    def spec(self, base: ByteBase, extension: Extension) -> dict[str, Any]:
        more = {to_letters(token.surface): token.id for token in extension.pieces}
        name = {i: text for text, i in base.vocab.items()} | {i: text for text, i in more.items()}
        return list_special(extended_model(base, more, [(name[left], name[right]) for left, right in extension.merges]), extension)

    def files(self, base: ByteBase, extension: Extension) -> dict[str, bytes]:
        """tokenizer.json, and vocab.json with merges.txt where the base has them.

        merges.txt always begins with a version line: some readers drop the first line unseen, and the first merge would go with it.
        """
        spec = self.spec(base, extension)
        files = {"tokenizer.json": json_bytes(spec, base.indent)}
        if has_old_files(base.folder):
            merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
            first = (base.folder / "merges.txt").read_text(encoding="utf-8").split("\n", 1)[0]
            head = first if first.startswith(VERSION_LINE) else f"{VERSION_LINE}: 0.2"
            files["merges.txt"] = "\n".join([head, *merges, ""]).encode()
            files["vocab.json"] = json_bytes(spec["model"]["vocab"], None)
        return files

    def checks(self, base: ByteBase, new: ByteBase, lines: Sequence[str], cfg: VocabRecipe) -> list[Finding]:
        return [old_merges(base, new), coarsening(base, new, lines), reachable(base, new), old_formats(new, lines)]


KIND = ByteBpe()
