"""What the gate asks of BPE tokenizers: old merges first, new tokens glue old ones, each can be reached, and older files agree."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rewarm.vocab.base import Base, bare_model, encode_ids
from rewarm.vocab.bpe import BpeBase
from rewarm.vocab.byte_files import has_old_files, read_merges_txt
from rewarm.vocab.gate import Finding, new_pieces

COMPARED = 25_000
"""Lines on which two files of one tokenizer are compared."""


def old_merges(base: BpeBase, new: BpeBase) -> Finding:
    """2: the old merges come first, in their order, and no pair stands twice."""
    prefix = new.merges[: len(base.merges)] == base.merges
    twice = len(new.merges) - len(set(new.merges))
    example = (
        ""
        if prefix
        else next((f"merge {i}: {a} became {b}" for i, (a, b) in enumerate(zip(base.merges, new.merges)) if a != b), "merges missing")
    )
    return Finding(
        2, "old merges are a prefix", prefix and not twice, twice, 0, example or (f"{twice} merges stand twice" if twice else "")
    )


def byte_lengths(base: Base) -> NDArray[np.int64]:
    """[ids] bytes of each id's text, 0 for ids that nothing has."""
    return np.array([len(s) if s is not None else 0 for s in base.surfaces], dtype=np.int64)


def token_ends(ids: list[list[int]], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Byte position at which each token of each text ends."""
    return [np.cumsum(lengths[np.asarray(i, dtype=np.int64)]) for i in ids]


def coarsening(base: Base, new: Base, lines: Sequence[str]) -> Finding:
    """3: where new tokens end, old ones ended too: the new tokenizer only glues. Text with bytes the base lacks is exempt."""
    lacking = bytes(base.missing_bytes)
    lines = [line for line in lines if not lacking or line.encode().translate(None, lacking) == line.encode()]
    broken, example = 0, ""
    sizes = byte_lengths(base), byte_lengths(new)
    for start in range(0, len(lines), 5_000):
        some = lines[start : start + 5_000]
        old = token_ends(encode_ids(base.tokenizer, some), sizes[0])
        now = token_ends(encode_ids(new.tokenizer, some), sizes[1])
        shift, base_ends, new_ends = 0, [], []
        for a, b in zip(old, now):
            base_ends.append(a + shift)
            new_ends.append(b + shift)
            shift += max(int(a[-1]) if len(a) else 0, int(b[-1]) if len(b) else 0) + 1
        if np.isin(np.concatenate(new_ends), np.concatenate(base_ends)).all():
            continue
        for line, a, b in zip(some, old, now):
            if not np.isin(b, a).all():
                broken += 1
                example = example or line[:200]
    return Finding(3, f"new tokens only glue old ones ({len(lines):,} texts)", not broken, broken, 0, example)


def reachable(base: BpeBase, new: BpeBase) -> Finding:
    """5: each new token comes out when its own text goes in, whether the model looks words up whole (`ignore_merges`) or not."""
    fresh = new_pieces(base, new)
    words = list(fresh)
    lost: dict[str, None] = {}
    for flag in (False, True):
        for word, ids in zip(words, encode_ids(bare_model(new.spec, ignore_merges=flag), words)):
            if ids != [fresh[word]]:
                lost[word] = None
    plain = [(w, s.decode()) for w in words if (s := new.surfaces[fresh[w]]) is not None and _is_text(s)]
    whole = [(w, t) for w, t in plain if new.pretokens(t) == [w]]
    for (word, _), ids in zip(whole, encode_ids(new.tokenizer, [t for _, t in whole])):
        if ids != [fresh[word]]:
            lost[word] = None
    return Finding(5, f"new tokens are reachable ({len(words):,})", not lost, len(lost), 0, ", ".join(list(lost)[:5]))


def _is_text(surface: bytes) -> bool:
    try:
        surface.decode()
    except UnicodeDecodeError:
        return False
    return True


def old_formats(new: BpeBase, lines: Sequence[str]) -> Finding:
    """8: vocab.json and merges.txt, where they are, mean the same as tokenizer.json."""
    files = new.folder / "vocab.json", new.folder / "merges.txt"
    lines = list(lines[:COMPARED])
    if not has_old_files(new.folder):
        return Finding(8, "old file formats agree", True, "none")
    vocab = json.loads(files[0].read_text(encoding="utf-8"))
    merges = [m.split(" ", 1) for m in read_merges_txt(files[1])]
    example = ""
    if vocab != new.vocab:
        example = "vocab.json holds other tokens than tokenizer.json"
    elif [tuple(m) for m in merges] != new.merges:
        example = "merges.txt holds other merges than tokenizer.json"
    else:
        other = Tokenizer.from_str(json.dumps({**new.spec, "model": {**new.spec["model"], "vocab": vocab, "merges": merges}}))
        example = next((s for s, a, b in zip(lines, encode_ids(other, lines), encode_ids(new.tokenizer, lines)) if a != b), "")[:200]
    return Finding(8, "old file formats agree", not example, "vocab.json, merges.txt", None, example)
