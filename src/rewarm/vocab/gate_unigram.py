"""What the gate asks of Unigram tokenizers: old scores, the reach of each new piece, and a `.model` that cuts alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import sentencepiece

from rewarm.vocab import gate_pieces
from rewarm.vocab.base import encode_ids
from rewarm.vocab.gate import Finding, new_pieces
from rewarm.vocab.gate_bpe import COMPARED
from rewarm.vocab.gate_sp import PROBES
from rewarm.vocab.sp_model import NORMAL, UNKNOWN, UNUSED, id_offset

if TYPE_CHECKING:
    from rewarm.vocab.unigram import UnigramBase

ROUNDING = 1e-6
"""A `.model` sums scores in float32: two cuts whose sums differ by less than this share of them are one as good as the other."""


def findings_of(base: UnigramBase) -> list[str]:
    """What is odd about the base itself."""
    if base.sp_model is None:
        return []
    differ = _different_lines(base, PROBES)
    return [f"tokenizer.json and {base.model_file.name} of the base cut {differ[0]!r} in two ways"] if differ and base.model_file else []


def old_scores(base: UnigramBase, new: UnigramBase) -> Finding:
    """2: the old pieces come first, with their scores, and the new scores lie between the lowest and the highest of them."""
    old, now = base.listed, new.listed[: len(base.listed)]
    example = next(
        (f"piece {i}, `{a[0]}` {a[1]}, became `{b[0]}` {b[1]}" for i, (a, b) in enumerate(zip(old, now)) if list(a) != list(b)), ""
    )
    low, high = base.bounds
    outside = [(p, s) for p, s in new.listed[len(old) :] if not low <= s <= high]
    if not example and outside:
        example = f"the score of `{outside[0][0]}`, {outside[0][1]}, is not between {low} and {high}: it moves what unknown characters cost"
    return Finding(2, "old pieces keep their scores", not example and len(now) == len(old), len(outside), 0, example)


def old_text(base: UnigramBase, new: UnigramBase, lines: Sequence[str]) -> Finding:
    """3: see `gate_pieces`."""
    fresh = new_pieces(base, new).keys()
    longest = max(map(len, fresh), default=0)
    return gate_pieces.old_text(base, new, lines, lambda word: not fresh.isdisjoint(gate_pieces.substrings(word, longest)))


def reachable(base: UnigramBase, new: UnigramBase) -> Finding:
    """5: each new piece comes out when its own text goes in, and the normalizer leaves that text as it is."""
    fresh = new_pieces(base, new)
    words = list(fresh)
    lost = [w for w, ids in zip(words, encode_ids(new.bare, words)) if ids != [fresh[w]]]
    lost += [w for w in words if not "".join(new.pretokens(new.surface_of(w).decode(errors="replace"))).endswith(w)]
    return Finding(5, f"new tokens are reachable ({len(words):,})", not lost, len(set(lost)), 0, ", ".join(list(dict.fromkeys(lost))[:5]))


def files_agree(base: UnigramBase, new: UnigramBase, lines: Sequence[str]) -> Finding:
    """8: the `.model` holds the same pieces, ids and scores, and cuts real and unkind lines alike."""
    name = "old file formats agree"
    if base.model_file is None and new.model_file is None:
        return Finding(8, name, True, "none")
    if new.sp_model is None or new.model_file is None:
        return Finding(8, name, False, "none", base.model_file and base.model_file.name, "the .model is missing")
    example = _structure(base, new)
    if not example:
        kept = [line for line in [*PROBES, *lines[:COMPARED]] if not (base.added_texts and base.added_texts.search(line))]
        known = set(_different_lines(base, kept)) if base.sp_model else set()
        example = next((f"{line[:200]!r}" for line in _different_lines(new, kept) if line not in known), "")
    return Finding(8, name, not example, new.model_file.name, None, example)


def _structure(base: UnigramBase, new: UnigramBase) -> str:
    """The first contradiction between the new `.model`, the old one and tokenizer.json; empty for none."""
    assert new.sp_model is not None
    now = new.sp_model.pieces
    old = base.sp_model.pieces if base.sp_model else now[: len(base.listed)]
    if now[: len(old)] != old:
        i = next((i for i, (a, b) in enumerate(zip(old, now)) if a != b), len(now))
        return f"old piece {i}, `{old[i].text}`, is not what it was"
    offset = id_offset(old, base.vocab)
    there = {(p.text, i + offset, p.score) for i, p in enumerate(now) if i >= len(old) and p.type != UNUSED}
    fresh = {(p, i, float(np.float32(new.listed[i][1]))) for p, i in new_pieces(base, new).items()}
    if there != fresh:
        text, i, score = min(there ^ fresh)
        return f"`{text}` (id {i}, score {score}) is not the same in the two files"
    if any(p.type != NORMAL for i, p in enumerate(now) if i >= len(old) and p.type != UNUSED):
        return "a new piece is not of the normal type"
    return ""


def _different_lines(base: UnigramBase, lines: Sequence[str]) -> list[str]:
    """Lines that tokenizer.json and `.model` cut in two ways, of which one is better by more than rounding."""
    assert base.sp_model is not None
    processor = sentencepiece.SentencePieceProcessor(model_file=str(base.model_file))
    offset, unk = id_offset(base.sp_model.pieces, base.vocab), base.spec["model"].get("unk_id")
    table = [unk if p.type == UNKNOWN else base.vocab.get(p.text, i + offset) for i, p in enumerate(base.sp_model.pieces)]
    score = np.array([s for _, s in base.listed], dtype=np.float64)
    out = []
    for line, ours, theirs in zip(lines, encode_ids(base.tokenizer, list(lines)), processor.encode(list(lines))):
        theirs = [table[i] for i in theirs]
        if ours == theirs:
            continue
        known = all(i is not None and i < len(score) for i in [*ours, *theirs]) and ours.count(unk) == theirs.count(unk)
        sums = (float(score[ours].sum()), float(score[theirs].sum())) if known else (0.0, np.inf)
        if not abs(sums[0] - sums[1]) <= ROUNDING * max(1.0, abs(sums[0])):
            out.append(line)
    return out
