"""What the gate asks of SentencePiece BPE besides: every split is a merge, scores fall, and `.model` and tokenizer.json cut alike.

Text alone shows a wrong file in a few lines of thousands, so the files are also compared by their structure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sentencepiece

from rewarm.vocab.base import encode_ids, holds
from rewarm.vocab.gate import Finding, new_pieces
from rewarm.vocab.gate_bpe import COMPARED
from rewarm.vocab.sp_base import SpBase
from rewarm.vocab.sp_model import CONTROL, NORMAL, UNUSED, id_offset
from rewarm.vocab.sp_pieces import MARK
from rewarm.vocab.sp_rebuild import rebuilt_model

PROBES = [
    "a  b", "   three in front", "two behind  ", "\tTab\t\ttwo", "line\nline\n\nend", "  x   y    z     .", "😀 👩‍👩‍👧 🇻🇳", "e\u0301 ệ ệ",
    "Xin chào, rất vui được gặp bạn!", "你好，很高兴见到你。 こんにちは、初めまして！ 안녕하세요",
    "def f(x):\n        return  x  # 12,345.67",
]  # fmt: skip
"""Lines with what files are known to disagree on."""


def findings_of(base: SpBase) -> list[str]:
    """What is odd about the base itself."""
    out = []
    inside = [piece for piece in base.vocab if MARK in piece.lstrip(MARK) and piece not in {t["content"] for t in base.added}]
    if len(inside) > len(base.vocab) // 1000:
        out.append(f"{len(inside):,} pieces of the base have a blank inside, as `{inside[0]}`: words are counted as if they had none")
    if base.sp_model is not None:
        differ = _different_lines(base, PROBES)
        if differ:
            out.append(f"tokenizer.json and {base.model_file.name if base.model_file else ''} of the base cut {differ[0]!r} in two ways")
    return out


def joins_as_the_model(base: SpBase, new: SpBase) -> Finding:
    """8, tokenizer.json: its new merges are every split of every piece, each piece's together, the order of the new pieces."""
    fresh = sorted(new_pieces(base, new).items(), key=lambda item: item[1])
    expected = base.merges_for([piece for piece, _ in fresh])
    found = new.merges[len(base.merges) :]
    example = ""
    if found != expected:
        lacking = set(expected) - set(found)
        odd = set(found) - set(expected)
        a, b = min(lacking or odd or {next(f for f, e in zip(found, expected) if f != e)})
        what = "is missing" if lacking else "belongs to no piece" if odd else "stands in another place"
        example = f"the merge of `{a}` and `{b}` {what} ({len(lacking):,} missing, {len(odd):,} too many)"
    return Finding(8, f"every split of a new piece is a merge ({len(expected):,})", not example, len(found), len(expected), example)


def model_file_agrees(base: SpBase, new: SpBase, lines: Sequence[str]) -> Finding:
    """8, `.model`: old pieces as they were, new ones under their ids with falling scores, and the same cut of real and unkind lines."""
    if base.model_file is None and new.model_file is None:
        return Finding(8, "old file formats agree", True, "none")
    if new.sp_model is None or new.model_file is None:
        return Finding(8, "old file formats agree", False, "none", base.model_file and base.model_file.name, "the .model is missing")
    name = new.model_file.name
    example = _structure(base, new)
    if not example:
        kept = [line for line in [*PROBES, *lines[:COMPARED]] if not _added_text(base, line)]
        known = set(_different_lines(base, kept)) if base.sp_model else {line for line in kept if _blank_kept(base, line)}
        example = next((f"{line[:200]!r}" for line in _different_lines(new, kept) if line not in known), "")
    return Finding(8, "old file formats agree", not example, name, None, example)


def _structure(base: SpBase, new: SpBase) -> str:
    """The first contradiction between the new `.model`, the old one and tokenizer.json; empty for none."""
    assert new.sp_model is not None
    old, now = (base.sp_model or rebuilt_model(base)).pieces, new.sp_model.pieces
    if now[: len(old)] != old:
        i = next((i for i, (a, b) in enumerate(zip(old, now)) if a != b), len(now))
        return f"old piece {i}, `{old[i].text}`, is not what it was"
    offset = id_offset(old, base.vocab)
    fresh = new_pieces(base, new)
    control = {t["content"] for t in new.added if t["id"] not in base.special_ids}
    added = [(i, piece) for i, piece in enumerate(now) if i >= len(old) and piece.type != UNUSED and piece.text not in control]
    if missing := control - {piece.text for piece in now if piece.type == CONTROL}:
        return f"the control token `{min(missing)}` is missing"
    places = {piece.text: i + offset for i, piece in added}
    if places != fresh:
        odd = sorted(set(places.items()) ^ set(fresh.items()))
        return f"`{odd[0][0]}` has other ids in the two files" if odd else "the files hold other pieces"
    scores = np.array([min(piece.score for piece in old), *(piece.score for _, piece in added)], dtype=np.float32)
    if (wrong := np.flatnonzero(np.diff(scores) >= 0)).size:
        return f"the score of `{added[wrong[0]][1].text}` ({scores[wrong[0] + 1]}) is not below {scores[wrong[0]]}"
    if any(piece.type != NORMAL for _, piece in added):
        return "a new piece is not of the normal type"
    return ""


def _blank_kept(base: SpBase, line: str) -> bool:
    """Whether Metaspace puts no blank before this line, as it has one; a `.model` always does, and no setting of it can say otherwise."""
    return line.startswith((" ", MARK)) and holds(base.spec.get("pre_tokenizer"), "Metaspace")


def _added_text(base: SpBase, line: str) -> bool:
    """Whether an added token's text stands in the line: SentencePiece takes it for text, tokenizers for the token."""
    return bool(base.added_texts and base.added_texts.search(line))


def _different_lines(base: SpBase, lines: Sequence[str]) -> list[str]:
    """Lines that tokenizer.json and `.model` cut in two ways."""
    assert base.sp_model is not None
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base.model_file))
    offset = id_offset(base.sp_model.pieces, base.vocab)
    ours = encode_ids(base.tokenizer, list(lines))
    theirs = processor.encode(list(lines))
    return [line for line, a, b in zip(lines, ours, theirs) if a != [i + offset for i in b]]
