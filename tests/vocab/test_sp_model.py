"""`.model` files: read as SentencePiece reads them, and written so that nothing but the pieces changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.vocab.sp_model import NORMAL, UNUSED, Piece, falling_scores, id_offset, parse_sp_model, read_sp_model

from .conftest import english
from .sp_bases import gemma_model, llama2_model


@pytest.mark.parametrize("make", [llama2_model, gemma_model])
def test_pieces_are_those_that_sentencepiece_reads(make) -> None:
    """The message is read field by field here; the library is the judge."""
    raw = make(english(400))
    model = parse_sp_model(raw)
    processor = sentencepiece.SentencePieceProcessor(model_proto=raw)
    assert [p.text for p in model.pieces] == [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    assert [p.score for p in model.pieces] == [processor.get_score(i) for i in range(processor.get_piece_size())]
    assert [p.type == NORMAL for p in model.pieces].count(True) > 150 and model.byte_fallback


def test_a_file_that_gains_no_piece_stays_byte_for_byte() -> None:
    """What is not understood here (normalisation rules, self tests, settings) must come out as it went in."""
    raw = llama2_model(english(400))
    assert parse_sp_model(raw).extended([]) == raw


def test_extended_files_hold_old_pieces_new_pieces_and_their_number() -> None:
    """The protobuf library reads the same from it, field by field."""
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="needs a protobuf runtime that fits sentencepiece")
    raw = llama2_model(english(400))
    more = [Piece("▁quyền", -2e9), Piece("<gap-7>", 0.0, UNUSED)]
    old, new = pb2.ModelProto.FromString(raw), pb2.ModelProto.FromString(parse_sp_model(raw).extended(more))
    assert [(p.piece, p.score, p.type) for p in new.pieces][-2:] == [("▁quyền", -2e9, NORMAL), ("<gap-7>", 0.0, UNUSED)]
    assert new.trainer_spec.vocab_size == len(new.pieces) == len(old.pieces) + 2
    del new.pieces[len(old.pieces) :]
    new.trainer_spec.vocab_size = old.trainer_spec.vocab_size
    assert new == old


@given(lowest=st.floats(-2e9, 0), number=st.integers(0, 40_000))
def test_scores_fall_strictly_in_float32(lowest: float, number: int) -> None:
    """Around -1e9 floats are 64 apart: steps of one leave 126 different scores of 8,000, and the order of pieces is lost."""
    scores = np.array([np.float32(lowest), *falling_scores(float(np.float32(lowest)), number)], dtype=np.float32)
    assert len(scores) == number + 1 and (np.diff(scores) < 0).all()


def test_the_step_at_minus_a_billion_is_twice_the_spacing() -> None:
    """Small enough to leave room for many more extensions."""
    assert falling_scores(-1e9, 3) == [-1_000_000_128.0, -1_000_000_256.0, -1_000_000_384.0]
    assert falling_scores(-31740.0, 2) == [-31741.0, -31742.0]


def test_the_offset_is_that_of_most_pieces() -> None:
    """XLM-R's ids are one above the file's, but for its control tokens."""
    pieces = [Piece("<unk>", 0, 2), Piece("a", -1), Piece("b", -2), Piece("c", -3)]
    assert id_offset(pieces, {"<s>": 0, "<unk>": 3, "a": 2, "b": 3, "c": 4}) == 1
    assert id_offset(pieces, {"<unk>": 0, "a": 1, "b": 2}) == 0


@pytest.mark.parametrize("raw", [b"", b"\x0a\xff\xff", b"version https://git-lfs.github.com/spec/v1\n", b"{}"])
def test_other_files_are_refused(raw: bytes, tmp_path: Path) -> None:
    """A pointer of git-lfs in place of the file is the commonest."""
    (tmp_path / "tokenizer.model").write_bytes(raw)
    with pytest.raises(UserError, match="not a SentencePiece model"):
        read_sp_model(tmp_path / "tokenizer.model")
