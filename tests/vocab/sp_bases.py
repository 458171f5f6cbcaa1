"""Small SentencePiece bases, trained here with the settings of the real ones: the pieces differ, the file and what it holds do not."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

from rewarm.vocab.sp_base import spec_of_model
from rewarm.vocab.sp_model import BPE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, new_sp_model, parse_sp_model

WHITE = ["▁▁", "▁▁▁▁", "▁▁▁"]


@cache
def _trained(lines: tuple[str, ...], size: int) -> tuple[Piece, ...]:
    """Pieces of SentencePiece's own training: unk, <s>, </s>, 256 bytes, then merges and characters."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=size, model_type="bpe", byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0, minloglevel=2, num_threads=1,
        max_sentence_length=100_000,
    )  # fmt: skip
    return parse_sp_model(out.getvalue()).pieces


def llama2_model(lines: list[str]) -> bytes:
    """Llama-2 type: unk, <s>, </s>, bytes, and white-space pieces at -1e9, a billion below the last other score."""
    pieces = [Piece(p.text, -1e9) if set(p.text) == {"▁"} else p for p in _trained(tuple(lines), 460)]
    have = {p.text for p in pieces}
    pieces[259:259] = [Piece(text, -1e9) for text in WHITE if text not in have]
    return new_sp_model(pieces, BPE, byte_fallback=True, dummy_prefix=True).extended([])


def gemma_model(lines: list[str]) -> bytes:
    """Gemma type: four control tokens in front, turn marks as user-defined pieces, no blank before the text."""
    control = [Piece("<pad>", 0, CONTROL), Piece("<eos>", 0, CONTROL), Piece("<bos>", 0, CONTROL), Piece("<unk>", 0, UNKNOWN)]
    turns = [Piece("<start_of_turn>", 0, USER_DEFINED), Piece("<end_of_turn>", 0, USER_DEFINED)]
    rest = [p for p in _trained(tuple(lines), 460) if p.type not in (UNKNOWN, CONTROL)]
    lowest = min(p.score for p in rest)
    more = [Piece(text, lowest - 1 - i, NORMAL) for i, text in enumerate(["▁▁", "▁▁▁", "\n", "\n\n"])]
    return new_sp_model([*control, *turns, *rest, *more], BPE, byte_fallback=True, dummy_prefix=False).extended([])


def spec_of(model: bytes, folder: Path) -> dict[str, Any]:
    """tokenizer.json of these pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    spec = spec_of_model(folder)
    assert spec is not None
    return spec


def as_gemma(spec: dict[str, Any]) -> dict[str, Any]:
    """Gemma's own normalizer and split, and an added token above all pieces, with a gap below it."""
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    spec["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    end = 1 + max(spec["model"]["vocab"].values())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": end, "content": "<image>"})
    return spec


def as_mistral(spec: dict[str, Any], scheme: str = "first") -> dict[str, Any]:
    """The newer way to put the blank in front: Metaspace; merges as strings."""
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    return json.loads(json.dumps(spec))
