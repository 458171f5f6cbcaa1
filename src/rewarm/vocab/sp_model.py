"""A SentencePiece `.model` file: pieces with scores, read and written field by field.

The file is a protobuf message (sentencepiece_model.proto); the few fields that an extension touches are handled here, and all others are
kept as the bytes they were. So nothing that a base's file holds is lost, and no protobuf runtime of a certain version is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rewarm.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
MODEL_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK = 3, 4, 35
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_BLANKS = 2, 3, 4
Value = int | bytes


@dataclass(frozen=True)
class Piece:
    """One entry; its place in the list is its SentencePiece id."""

    text: str
    score: float
    type: int = NORMAL


@dataclass(frozen=True)
class SpModel:
    """The parts of a `.model` that matter here."""

    pieces: tuple[Piece, ...]
    type: int
    """UNIGRAM or BPE."""
    byte_fallback: bool
    dummy_prefix: bool
    """Whether a blank is put before the text."""
    remove_blanks: bool
    """Whether runs of blanks become one, and those at the ends none."""
    charsmap: bytes
    """Compiled normalisation rules; empty for none."""
    fields: tuple[tuple[int, int, Value], ...] = field(repr=False)
    """(number, wire type, value) of all fields as they stood, to write them back."""

    def extended(self, more: Iterable[Piece]) -> bytes:
        """The file with these pieces behind the old ones, and the vocabulary size to match; all else byte for byte."""
        more = list(more)
        pieces = [f for f in self.fields if f[0] == _PIECES] + [(_PIECES, 2, _piece_bytes(piece)) for piece in more]
        out = [_encode(pieces)]
        for number, wire, value in self.fields:
            if number == _TRAINER and isinstance(value, bytes):
                value = _with_number(value, _VOCAB_SIZE, len(pieces))
            if number != _PIECES:
                out.append(_encode([(number, wire, value)]))
        return b"".join(out)


def read_sp_model(file: Path) -> SpModel:
    """Reads a `.model`. UserError if it is none."""
    try:
        return parse_sp_model(file.read_bytes())
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(f"not a SentencePiece model: {error}", where=str(file), fix="fetch the file again") from None


def parse_sp_model(raw: bytes) -> SpModel:
    """The same from bytes. ValueError if it is none."""
    fields = tuple(_decode(raw))
    pieces = tuple(_piece(value) for number, _, value in fields if number == _PIECES and isinstance(value, bytes))
    if not pieces:
        raise ValueError("no pieces")
    trainer = _last(fields, _TRAINER)
    normalizer = _last(fields, _NORMALIZER)
    charsmap = normalizer.get(_CHARSMAP, b"")
    return SpModel(
        pieces=pieces,
        type=_int(trainer.get(_MODEL_TYPE, UNIGRAM)),
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
        remove_blanks=bool(normalizer.get(_REMOVE_BLANKS, 1)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        fields=fields,
    )


def new_sp_model(pieces: Iterable[Piece], kind: int, byte_fallback: bool, dummy_prefix: bool, remove_blanks: bool = False) -> SpModel:
    """A model of these pieces that normalises nothing."""
    trainer = _encode([(_MODEL_TYPE, 0, kind), (_VOCAB_SIZE, 0, 0), (_BYTE_FALLBACK, 0, int(byte_fallback))])
    normalizer = _encode([(1, 2, b"identity"), (_DUMMY_PREFIX, 0, int(dummy_prefix)), (_REMOVE_BLANKS, 0, int(remove_blanks))])
    fields = [(_PIECES, 2, _piece_bytes(piece)) for piece in pieces]
    raw = _encode([*fields, (_TRAINER, 2, trainer), (_NORMALIZER, 2, normalizer)])
    return parse_sp_model(parse_sp_model(raw).extended([]))


def falling_scores(lowest: float, number: int) -> list[float]:
    """`number` scores below `lowest` that fall strictly also in float32, in which the file keeps them.

    White-space pieces may sit at -1e9, where neighbouring floats are 64 apart: steps of 1 would leave most scores equal. The step is twice
    the spacing at the last score, at least 1.
    """
    step = 1.0
    while step < (need := 2.0 * float(np.spacing(np.float32(abs(lowest - number * step))))):
        step = need
    scores = (lowest - step * np.arange(1, number + 1, dtype=np.float64)).astype(np.float32)
    assert number == 0 or (scores[0] < np.float32(lowest) and (np.diff(scores) < 0).all())
    return scores.astype(np.float64).tolist()


def id_offset(pieces: Iterable[Piece], vocab: dict[str, int]) -> int:
    """Hugging Face id less SentencePiece id: 0 for most, 1 for the XLM-R type, which puts control tokens of its own in front."""
    differences = [vocab[piece.text] - i for i, piece in enumerate(pieces) if piece.type == NORMAL and piece.text in vocab]
    return int(np.median(differences)) if differences else 0


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is expected")
    return value


def _last(fields: Iterable[tuple[int, int, Value]], number: int) -> dict[int, Value]:
    """Field number -> value of a message inside; later values win, as protobuf has it."""
    return {n: v for k, _, raw in fields if k == number and isinstance(raw, bytes) for n, _, v in _decode(raw)}


def _piece(raw: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, _, value in _decode(raw):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif number == 3:
            kind = _int(value)
    return Piece(text, score, kind)


def _piece_bytes(piece: Piece) -> bytes:
    fields: list[tuple[int, int, Value]] = [(1, 2, piece.text.encode()), (2, 5, struct.pack("<f", piece.score))]
    return _encode(fields if piece.type == NORMAL else [*fields, (3, 0, piece.type)])


def _with_number(raw: bytes, number: int, value: int) -> bytes:
    """The message with this field set, in its place."""
    fields = [(n, w, value if n == number else v) for n, w, v in _decode(raw)]
    return _encode(fields if any(n == number for n, _, _ in fields) else [*fields, (number, 0, value)])


def _decode(raw: bytes) -> Iterator[tuple[int, int, Value]]:
    """(field number, wire type, value); numbers as int, all else as bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            whole, at = _varint(raw, at)
            yield number, wire, whole
            continue
        if wire == 2:
            size, at = _varint(raw, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire} at byte {at}")
        if number == 0 or at + size > len(raw):
            raise ValueError(f"cut off or damaged at byte {at}")
        yield number, wire, raw[at : at + size]
        at += size


def _encode(fields: Iterable[tuple[int, int, Value]]) -> bytes:
    out = bytearray()
    for number, wire, value in fields:
        out += _varint_bytes(number << 3 | wire)
        if isinstance(value, int):
            out += _varint_bytes(value)
        else:
            out += (_varint_bytes(len(value)) if wire == 2 else b"") + value
    return bytes(out)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
