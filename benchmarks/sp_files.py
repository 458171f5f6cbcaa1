"""SentencePiece files from lists of pieces: a `.model` written field by field, and the merges that a tokenizer.json wants.

Written here, and not with what rewarm has for it, so that the benchmark's bases do not rest on the code they test.
"""

from __future__ import annotations

import struct

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def piece_block(piece: str, score: float, kind: int) -> bytes:
    """One entry of `ModelProto.pieces`; NORMAL is the default type and is not written."""
    tail = b"" if kind == NORMAL else number(3, kind)
    return block(1, block(1, piece.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + tail)


def sentencepiece_model(pieces: list[str], scores: list[float], kinds: list[int], prefix: bool, unk: int, bos: int, eos: int) -> bytes:
    """A `.model` of type BPE with the settings of Llama-2 and Gemma: byte fallback, digits apart, blanks kept; prefix: a blank put before
    the text; unk, bos, eos: their ids."""
    trainer = number(3, 2) + number(4, len(pieces)) + number(23, 1) + number(35, 1) + number(40, unk) + number(41, bos) + number(42, eos)
    normalizer = block(1, b"identity") + number(3, int(prefix)) + number(4, 0) + number(5, 1)
    kinds = [UNKNOWN if i == unk else kind for i, kind in enumerate(kinds)]
    return b"".join(piece_block(*p) for p in zip(pieces, scores, kinds)) + block(2, trainer) + block(3, normalizer)


def scores_of_merges(pieces: list[str], merges: list[tuple[str, str]]) -> list[float]:
    """Scores that make SentencePiece join in the order of the merges: minus the rank of the first merge that gives the piece.

    Pieces that no merge gives follow in the order of their ids; nothing asks for their score."""
    rank: dict[str, int] = {}
    for i, (a, b) in enumerate(merges):
        rank.setdefault(a + b, i)
    return [-float(rank.get(piece, len(merges) + i)) for i, piece in enumerate(pieces)]


def bpe_merges(pieces: list[str], scores: list[float], kinds: list[int]) -> list[tuple[str, str]]:
    """Every split of every piece into two pieces, best score of the whole first, then by the ids of the halves (transformers' order)."""
    rank = {piece: i for i, (piece, kind) in enumerate(zip(pieces, kinds)) if kind in (NORMAL, USER_DEFINED)}
    found = []
    for i, (piece, kind) in enumerate(zip(pieces, kinds)):
        if kind == NORMAL:
            halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
            found += [(-scores[i], rank[a], rank[b]) for a, b in halves if a in rank and b in rank]
    return [(pieces[a], pieces[b]) for _, a, b in sorted(found)]


def read_pieces(model: bytes) -> list[tuple[str, int]]:
    """(piece, type) of each piece of a `.model`, in order of ids."""
    out, at = [], 0
    while at < len(model):
        key, at = _varint(model, at)
        size, at = _varint(model, at)
        if key == 1 << 3 | 2:
            piece, kind, inner, end = "", NORMAL, at, at + size
            while inner < end:
                tag, inner = _varint(model, inner)
                if tag & 7 == 2:
                    length, inner = _varint(model, inner)
                    piece, inner = model[inner : inner + length].decode(), inner + length
                elif tag & 7 == 5:
                    inner += 4
                else:
                    kind, inner = _varint(model, inner)
            out.append((piece, kind))
        at += size
    return out


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def without_dummy_prefix(model: bytes) -> bytes:
    """The same model, which puts no blank before the text: a second normalizer_spec is merged into the first."""
    return model + block(3, number(3, 0))
