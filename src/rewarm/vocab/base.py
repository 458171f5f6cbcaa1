"""A base tokenizer as a folder holds it: read once, its pieces by id, and what kind it is.

`Base` is what all kinds share; each kind adds what it knows of its own pieces. The parsed tokenizer.json is kept as it was read, because an
extension must give back every key it does not change.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.blind import blind_spots
from rewarm.vocab.kinds import all_kinds, supported
from rewarm.vocab.recipe import Rules
from rewarm.vocab.rules import Refusal, refusal_of


@dataclass(frozen=True)
class Base(ABC):
    """A tokenizer of any kind and where it came from."""

    kind: ClassVar[str]

    folder: Path
    spec: dict[str, Any]
    """tokenizer.json as parsed; never changed."""
    tokenizer: Tokenizer
    rows: int | None
    """Rows of the model's embedding by its config, or None if the folder holds no model."""
    indent: int | None
    """Indent of tokenizer.json, to write it back alike."""
    findings: tuple[str, ...] = field(default=())
    """What is odd about the base itself, for the report."""

    @property
    @abstractmethod
    def vocab(self) -> dict[str, int]:
        """Piece, as the file writes it -> id; without added tokens that are listed apart."""

    @abstractmethod
    def surface_of(self, piece: str) -> bytes:
        """The bytes of text behind a piece of `vocab`."""

    @abstractmethod
    def written(self, surface: bytes) -> str:
        """The bytes of a token as `vocab` writes them."""

    @abstractmethod
    def decompose(self, surfaces: Iterable[bytes]) -> list[list[int]]:
        """Old tokens of each surface, cut by the model alone; what the base has no token for is left out."""

    def _words(self, text: str) -> list[str]:
        """The pieces that no token crosses, of text without added tokens: what normalizer and pre-tokenizer make of it."""
        if self.tokenizer.normalizer is not None:
            text = self.tokenizer.normalizer.normalize_str(text)
        if self.tokenizer.pre_tokenizer is None:
            return [text] if text else []
        return [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(text)]

    def cut_word(self, word: str, longest: int) -> list[str]:
        """The word in parts of at most `longest` characters, without what the base has no token for."""
        return [word] if len(word) <= longest else [word[i : i + longest] for i in range(0, len(word), longest)]

    def refusal(self, rules: Rules) -> Refusal:
        """The rules that a new token of this kind must keep."""
        return refusal_of(rules, [t["content"] for t in self.added])

    @property
    def added(self) -> list[dict[str, Any]]:
        return self.spec.get("added_tokens") or []

    @cached_property
    def next_id(self) -> int:
        """First id that no token has, added tokens included: 1 + the largest."""
        return 1 + max([*self.vocab.values(), *(t["id"] for t in self.added)])

    @cached_property
    def surfaces(self) -> list[bytes | None]:
        """Bytes of each id's text; None for ids no token has."""
        out: list[bytes | None] = [None] * self.next_id
        for piece, i in self.vocab.items():
            out[i] = self.surface_of(piece)
        for token in self.added:
            out[token["id"]] = token["content"].encode()
        return out

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of added tokens: cut out of the text before any merge."""
        return frozenset(t["id"] for t in self.added)

    @cached_property
    def missing_bytes(self) -> list[int]:
        """Bytes that have no token of their own though other bytes have: text that holds them does not survive."""
        return []

    @cached_property
    def bare(self) -> Tokenizer:
        """The model alone: no normalizer, no pre-tokenizer, no added tokens. Takes words as `pretokens` gives them."""
        return bare_model(self.spec)

    @cached_property
    def added_texts(self) -> re.Pattern[str] | None:
        """Matches the text of any added token; None if there is none."""
        texts = sorted({t["content"] for t in self.added if t["content"]}, key=lambda t: (-len(t), t))
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def pretokens(self, line: str) -> list[str]:
        """The pieces that no token crosses, as the vocabulary writes them; texts of added tokens are cut out."""
        if self.added_texts and self.added_texts.search(line):
            return [word for part in self.added_texts.split(line) if part for word in self._words(part)]
        return self._words(line)


def encode_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each text, special tokens not added; in slices, so that the encodings of millions of texts never stand in memory at once."""
    out: list[list[int]] = []
    for start in range(0, len(texts), 50_000):
        out += [e.ids for e in tokenizer.encode_batch_fast(texts[start : start + 50_000], add_special_tokens=False)]
    return out


def bare_model(spec: dict[str, Any], **changes: Any) -> Tokenizer:
    """A tokenizer of nothing but this tokenizer.json's model; `changes` replace keys of the model (`ignore_merges=False`)."""
    stripped = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **stripped, "model": {**spec["model"], **changes}}))


def open_base(folder: Path) -> Base:
    """Reads a model folder's tokenizer: tokenizer.json, or the older files of one of the kinds.

    Raises UserError naming the tokenizer's type and the supported ones if it is of no known kind; nothing is written by then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError("no such folder", where=str(folder), fix="give the folder of a model: config.json, safetensors, tokenizer.json")
    file = folder / "tokenizer.json"
    indent: int | None = 2
    if file.is_file():
        raw = file.read_text(encoding="utf-8")
        try:
            spec = json.loads(raw)
        except ValueError as error:
            raise UserError(f"not JSON: {error}", where=str(file)) from None
        match = re.match(r"\{\n( *)", raw)
        indent = len(match[1]) if match else None
    else:
        spec = next((s for kind in all_kinds() if (s := kind.read_old(folder)) is not None), None)
    if spec is None:
        slow = [n for n in ("tokenizer.model", "spiece.model", "vocab.txt", "tekken.json") if (folder / n).is_file()]
        raise UserError(
            f"no tokenizer.json here{f' (only {slow[0]})' if slow else ''}; supported: {supported()}",
            where=str(folder),
            fix="save the tokenizer in the fast format first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    for kind in all_kinds():
        if kind.opens(spec):
            base = kind.open(folder, spec, indent)
            return replace(base, findings=(*base.findings, *blind_spots(base)))
    raise UserError(
        f"the tokenizer is {_named(spec)}; supported: {supported()}",
        where=str(file if file.is_file() else folder),
        fix="choose a base with a tokenizer of a supported kind, or set vocab.extend: false",
    )


def load_tokenizer(spec: dict[str, Any], where: str) -> Tokenizer:
    """The tokenizer as the library loads it. UserError if it does not, or loads added tokens or two tokens under wrong ids."""
    try:
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception for whatever it cannot load
        raise UserError(f"the tokenizers library cannot load it: {error}", where=where) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _named(spec: dict[str, Any]) -> str:
    model = spec.get("model") or {}
    named = str(model.get("type") or ("BPE" if "merges" in model else "unknown"))
    if named == "BPE":
        if model.get("dropout"):
            return "BPE with dropout, which encodes by chance"
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return "BPE with marks inside words (CLIP type)"
        return "BPE over characters (SentencePiece type)"
    return named


def holds(part: Any, kind: str) -> bool:
    """Whether a (possibly nested) part of tokenizer.json has this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(holds(v, kind) for v in part.values())
    return isinstance(part, list) and any(holds(v, kind) for v in part)


def check_ids(base: Base, where: str) -> None:
    """UserError if two pieces share an id, or an added token loads under another id than it is listed with."""
    owner: dict[int, str] = {}
    for text, i in base.vocab.items():
        if i in owner:
            raise UserError(f"tokens `{owner[i]}` and `{text}` share the id {i}", where=where, fix="mend the base's tokenizer first")
        owner[i] = text
    for token in base.added:
        live = base.tokenizer.token_to_id(token["content"])
        if live != token["id"]:
            raise UserError(
                f"added token `{token['content']}` is listed with id {token['id']}, but loads as {live}",
                where=where,
                fix="mend the base's tokenizer first: list the token in model.vocab under its id",
            )


def model_rows(folder: Path) -> int | None:
    """Rows of the embedding by config.json; None without one."""
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return int(rows) if rows is not None else None


def spec_file(folder: Path) -> Path:
    """The file that decides what the tokenizer is, for messages and hashes."""
    names = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    return next((folder / name for name in names if (folder / name).is_file()), folder / "tokenizer.json")
