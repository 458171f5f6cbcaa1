"""Any tokenizer from its file, only to encode with and to look at: what comparing and auditing need, whatever made the file.

Read are a folder with one of these files, or the file itself: tokenizer.json, a SentencePiece `.model`, tekken.json, and tiktoken's lists
of ranks. The last hold no pre-tokenizer; it is known of the public lists, which are told by their length, and of no other.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewarm.errors import UserError
from rewarm.vocab.base import encode_ids, holds, load_tokenizer, open_base
from rewarm.vocab.letters import to_bytes, to_letters

FILES = ("tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Where a folder has several, the first one is read: it is what transformers reads too."""
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CL100K = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {
    50_256: GPT2, 50_280: GPT2, 100_256: CL100K, 128_000: CL100K, 151_643: CL100K.replace("{1,3}", ""), 199_998: O200K,
}  # fmt: skip
"""Ranks in a public list -> how it cuts text first: r50k, p50k, cl100k, Llama-3, Qwen, o200k."""


@dataclass(frozen=True)
class Cutter:
    """A tokenizer as something that cuts text."""

    name: str
    kind: str
    """For people: `BPE, bytes`, `Unigram`, `SentencePiece BPE`."""
    file: Path
    encode: Callable[[list[str]], list[list[int]]]
    """Ids of each text; nothing is added to them."""
    surfaces: list[bytes | None]
    """[ids] the text that stands behind each id; None for ids that no token has."""
    unk: int | None
    """The id that stands for text the tokenizer has no token for."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return sum(surface is not None for surface in self.surfaces)


def open_cutter(path: Path, name: str | None = None) -> Cutter:
    """The tokenizer of a folder or file. UserError naming what is there and what can be read."""
    file = tokenizer_file(Path(path))
    name = name or _name(file)
    if file.name in ("vocab.json", "vocab.txt"):
        tree = open_base(file.parent).spec
        return _cutter(tree, name, _kind(tree), file)
    if file.suffix == ".json":
        tree = _json(file)
        if "vocab" in tree and "config" in tree:
            return _cutter(_tekken(tree, file), name, "tekken", file)
        if "model" not in tree:
            raise UserError("a JSON file that is no tokenizer", where=str(file), fix=f"give a folder or file: {', '.join(FILES)}")
        return _cutter(tree, name, _kind(tree), file)
    head = file.read_bytes()[:64]
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", head):
        return _cutter(_tiktoken(file), name, "tiktoken", file)
    return _sentencepiece(file, name)


def tokenizer_file(path: Path) -> Path:
    """The file that holds the tokenizer of `path`: itself, or of a folder (or the `model` folder in it) the first of FILES."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError("no such file or folder", where=str(path), fix="give a model's folder, or a tokenizer's file")
    for folder in (path, path / "model"):
        found = next((folder / name for name in FILES if (folder / name).is_file()), None)
        if found is not None:
            return found
    raise UserError("no tokenizer in this folder", where=str(path), fix=f"it should hold one of: {', '.join(FILES)}")


def apart(cutters: list[Cutter]) -> list[Cutter]:
    """The same, with parents' names before those that several share."""
    names = [c.name for c in cutters]
    if len(set(names)) == len(names):
        return cutters
    depth = 2
    while depth < 12:
        longer = [c.name if names.count(c.name) == 1 else "/".join(c.file.parent.resolve().parts[-depth:]) for c in cutters]
        if len(set(longer)) == len(longer):
            return [replace(c, name=name) for c, name in zip(cutters, longer)]
        depth += 1
    return [replace(c, name=f"{c.name} ({i})") for i, c in enumerate(cutters, 1)]


def _name(file: Path) -> str:
    """What people call it: the folder's name where the file has a usual one."""
    if file.name not in FILES:
        return file.stem
    parent = file.parent.resolve()
    return parent.parent.name if parent.name == "model" else parent.name


def _json(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(file)) from None
    return tree if isinstance(tree, dict) else {}


def _kind(tree: dict[str, Any]) -> str:
    model = tree["model"]
    name = str(model.get("type") or ("BPE" if "merges" in model else "unknown"))
    if name != "BPE":
        return name
    return "BPE, bytes" if _byte_level(tree) else "BPE, characters"


def _byte_level(tree: dict[str, Any]) -> bool:
    return holds(tree.get("pre_tokenizer"), "ByteLevel") or holds(tree.get("decoder"), "ByteLevel")


def _cutter(tree: dict[str, Any], name: str, kind: str, file: Path) -> Cutter:
    tokenizer = load_tokenizer(tree, str(file))
    vocab: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    surfaces: list[bytes | None] = [None] * (1 + max(vocab.values(), default=-1))
    plain = _reader(tree)
    added = {t["content"] for t in tree.get("added_tokens") or []}
    for piece, i in vocab.items():
        surfaces[i] = piece.encode(errors="replace") if piece in added else plain(piece)
    unk = tree["model"].get("unk_token")
    unk_id = tree["model"].get("unk_id") if unk is None else vocab.get(unk)
    return Cutter(name, kind, file, lambda texts: encode_ids(tokenizer, texts), surfaces, unk_id)


def _reader(tree: dict[str, Any]) -> Callable[[str], bytes]:
    """From a piece as the vocabulary writes it to its text."""
    model = tree["model"]
    byte_level = _byte_level(tree)
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""

    def plain(piece: str) -> bytes:
        if byte_level and (raw := to_bytes(piece)) is not None:
            return raw
        if fallback := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
            return bytes([int(fallback[1], 16)])
        if prefix:
            piece = piece.removeprefix(prefix)
        if suffix and piece.endswith(suffix):
            piece = piece.removesuffix(suffix) + " "
        return piece.replace("▁", " ").encode(errors="replace")

    return plain


def _sentencepiece(file: Path, name: str) -> Cutter:
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(file))
    except Exception as error:  # whatever the library raises for a file that it cannot read
        raise UserError(f"neither a SentencePiece model nor a list of ranks ({type(error).__name__})", where=str(file)) from None
    plain = _reader({"model": {}})
    surfaces = [plain(processor.id_to_piece(i)) for i in range(processor.get_piece_size())]
    unk = processor.unk_id()
    return Cutter(
        name, "SentencePiece", file, lambda texts: processor.encode(texts, out_type=int), list(surfaces), unk if unk >= 0 else None
    )


def _tiktoken(file: Path) -> dict[str, Any]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError("no pair of token and rank", where=f"{file}, line {number:,}") from None
    pattern = PATTERNS.get(len(ranks))
    if pattern is None:
        raise UserError(
            f"a list of {len(ranks):,} ranks does not say how text is cut first; known: {', '.join(f'{n:,}' for n in PATTERNS)}",
            where=str(file),
            fix="give the tokenizer.json of this model",
        )
    return rank_spec(ranks, pattern, {})


def _tekken(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    try:
        config = tree["config"]
        special = int(config["default_num_special_tokens"])
        listed = tree["vocab"][: int(config["default_vocab_size"]) - special]
        ranks = {base64.b64decode(token["token_bytes"]): special + int(token["rank"]) for token in listed}
        named = {str(t["token_str"]): int(t["rank"]) for t in tree.get("special_tokens") or []}
        return rank_spec(ranks, str(config["pattern"]), named)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not as tekken files are ({type(error).__name__}: {error})", where=str(file)) from None


def rank_spec(ranks: dict[bytes, int], pattern: str, special: dict[str, int]) -> dict[str, Any]:
    """tokenizer.json of a list of ranks: at each step the adjacent pair is joined whose whole has the smallest rank.

    A merge is written for every way in which a token can be put together, in order of the ranks of whole, left and right; a word that is a
    token is taken whole (`ignore_merges`), as tiktoken does.
    """
    merges: list[tuple[int, int, int, str]] = []
    for token, rank in ranks.items():
        for i in range(1, len(token)):
            left, right = token[:i], token[i:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], f"{to_letters(left)} {to_letters(right)}"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    vocab = {to_letters(token): rank for token, rank in ranks.items()}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": text, **flags} for text, i in sorted(special.items(), key=lambda item: item[1])],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab | special, "merges": [m[3] for m in sorted(merges)]},
    }  # fmt: skip
