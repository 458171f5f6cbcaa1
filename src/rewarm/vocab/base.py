"""A base tokenizer as a folder holds it: read once, its pieces by id, and what kind it is.

Only byte-level BPE is supported so far (GPT-2, Llama-3, Qwen, SmolLM, Mistral-Nemo type); every other kind is refused by name before
anything is written. The parsed tokenizer.json is kept as it was read, because an extension must give back every key it does not change.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rewarm.errors import UserError

SUPPORTED = "byte-level BPE (the type of GPT-2, Llama-3, Qwen, SmolLM and Mistral-Nemo)"
VERSION_LINE = "#version"


def _byte_letters() -> dict[int, str]:
    """Byte -> the letter that stands for it in a byte-level vocabulary (the table that GPT-2 introduced)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in plain}
    for n, byte in enumerate(b for b in range(256) if b not in letters):
        letters[byte] = chr(256 + n)
    return letters


LETTER_OF_BYTE = _byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}


def to_letters(surface: bytes) -> str:
    """The bytes as a byte-level vocabulary writes them: `" xin"` is `Ġxin`."""
    return "".join(LETTER_OF_BYTE[byte] for byte in surface)


def to_bytes(letters: str) -> bytes | None:
    """The bytes behind a byte-level string; None if a character of it stands for no byte (control tokens of some bases)."""
    try:
        return bytes(BYTE_OF_LETTER[letter] for letter in letters)
    except KeyError:
        return None


@dataclass(frozen=True)
class Base:
    """A byte-level BPE tokenizer and where it came from."""

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

    kind = "byte_bpe"

    @property
    def vocab(self) -> dict[str, int]:
        return self.spec["model"]["vocab"]

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        return [tuple(m.split(" ", 1)) if isinstance(m, str) else (m[0], m[1]) for m in self.spec["model"]["merges"]]  # type: ignore[misc]

    @property
    def merges_are_lists(self) -> bool:
        merges = self.spec["model"]["merges"]
        return not merges or not isinstance(merges[-1], str)

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
        for text, i in self.vocab.items():
            raw = to_bytes(text)
            out[i] = text.encode() if raw is None else raw
        for token in self.added:
            out[token["id"]] = token["content"].encode()
        return out

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of added tokens: cut out of the text before any merge."""
        return frozenset(t["id"] for t in self.added)

    @cached_property
    def missing_bytes(self) -> list[int]:
        """Bytes that have no token of their own: text that holds them does not survive (SmolLM2 lacks 21)."""
        return [byte for byte in range(256) if LETTER_OF_BYTE[byte] not in self.vocab]

    @cached_property
    def bare(self) -> Tokenizer:
        """The BPE model alone: no normalizer, no pre-tokenizer, no added tokens. Takes byte-level strings."""
        return bare_model(self.spec)

    @cached_property
    def _added_texts(self) -> re.Pattern[str] | None:
        texts = sorted({t["content"] for t in self.added if t["content"]}, key=lambda t: (-len(t), t))
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def pretokens(self, line: str) -> list[str]:
        """The pieces that merges never cross, as byte-level strings; texts of added tokens are cut out."""
        if self._added_texts and self._added_texts.search(line):
            return [word for part in self._added_texts.split(line) if part for word in self._pretokens(part)]
        return self._pretokens(line)

    def _pretokens(self, text: str) -> list[str]:
        if self.tokenizer.normalizer is not None:
            text = self.tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(text)]

    def decompose(self, surfaces: Iterable[bytes]) -> list[list[int]]:
        """Old tokens of each surface, by the BPE model without pre-tokenizer; bytes the base lacks are left out."""
        lacking = {LETTER_OF_BYTE[b] for b in self.missing_bytes}
        words = ["".join(c for c in to_letters(s) if c not in lacking) for s in surfaces]
        return encode_ids(self.bare, words)


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
    """Reads a model folder's tokenizer: tokenizer.json, or the older vocab.json with merges.txt.

    Raises UserError naming the tokenizer's type and the supported ones if it is not byte-level BPE; nothing is written by then.
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
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        spec = _spec_of_old_files(folder)
    else:
        slow = [n for n in ("tokenizer.model", "spiece.model", "vocab.txt", "tekken.json") if (folder / n).is_file()]
        raise UserError(
            f"no tokenizer.json here{f' (only {slow[0]})' if slow else ''}; supported: {SUPPORTED}",
            where=str(folder),
            fix="save the tokenizer in the fast format first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    where = str(file if file.is_file() else folder / "vocab.json")
    _check_kind(spec, where)
    try:
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception for whatever it cannot load
        raise UserError(f"the tokenizers library cannot load it: {error}", where=where) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    base = Base(folder, spec, tokenizer, _rows(folder), indent, tuple(_findings(folder, spec)))
    _check_ids(base, where)
    return base


def _check_kind(spec: dict[str, Any], where: str) -> None:
    model = spec.get("model") or {}
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    named = kind
    if kind == "BPE":
        if model.get("byte_fallback") or not _holds(spec.get("pre_tokenizer"), "ByteLevel"):
            named = "BPE over characters (SentencePiece type)"
        elif model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            named = "BPE with marks inside words (CLIP type)"
        elif model.get("dropout"):
            named = "BPE with dropout, which encodes by chance"
    if named != "BPE":
        raise UserError(
            f"the tokenizer is {named}; supported: {SUPPORTED}",
            where=where,
            fix="choose a base with a byte-level BPE tokenizer, or set vocab.extend: false",
        )


def _holds(part: Any, kind: str) -> bool:
    """Whether a (possibly nested) part of tokenizer.json has this type."""
    if isinstance(part, dict):
        return part.get("type") == kind or any(_holds(v, kind) for v in part.values())
    return isinstance(part, list) and any(_holds(v, kind) for v in part)


def _check_ids(base: Base, where: str) -> None:
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


def _rows(folder: Path) -> int | None:
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return int(rows) if rows is not None else None


def read_merges_txt(file: Path) -> list[str]:
    """Lines of a merges.txt. Only a line that says `#version` is no merge: a first line of `# #` is one."""
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    return lines[1:] if lines and lines[0].startswith(VERSION_LINE) else lines


def _spec_of_old_files(folder: Path) -> dict[str, Any]:
    """A tokenizer.json for a folder that has only vocab.json and merges.txt, as GPT-2's class would read it."""
    settings = json.loads(p.read_text(encoding="utf-8")) if (p := folder / "tokenizer_config.json").is_file() else {}
    kind = settings.get("tokenizer_class", "GPT2Tokenizer")
    if kind.removesuffix("Fast") not in ("GPT2Tokenizer", "PreTrainedTokenizer"):
        raise UserError(
            f"{kind} with only vocab.json and merges.txt: its pre-tokenizer is not written in the folder",
            where=str(folder),
            fix="save it in the fast format first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    texts = {**{str(i): t for i, t in (settings.get("added_tokens_decoder") or {}).items()}}
    for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content in vocab and str(vocab[content]) not in texts:
            texts[str(vocab[content])] = {"content": content, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": int(i), **flags, **t} for i, t in sorted(texts.items(), key=lambda item: int(item[0]))]
    space = bool(settings.get("add_prefix_space", False))
    level = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
        "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": read_merges_txt(folder / "merges.txt"),
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": copy.deepcopy(level), "model": model,
    }  # fmt: skip


def _findings(folder: Path, spec: dict[str, Any]) -> list[str]:
    """Contradictions inside the base, said before work. The extension follows tokenizer.json in each case."""
    if not ((folder / "tokenizer.json").is_file() and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        return []
    out = []
    model = spec["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if read_merges_txt(folder / "merges.txt") != merges:
        out.append("merges.txt of the base differs from its tokenizer.json; both are rewritten from tokenizer.json")
    listed = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = {t["content"]: t["id"] for t in spec.get("added_tokens") or []}
    if {**listed, **added} != {**model["vocab"], **added}:
        out.append("vocab.json of the base differs from its tokenizer.json; both are rewritten from tokenizer.json")
    return out
