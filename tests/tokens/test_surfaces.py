"""Bytes by id: exact for byte-level tokenizers, by the rules of SentencePiece for its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.tokens.surfaces import byte_lengths, byte_level_alphabet
from rewarm.vocab.encoder import open_encoder, special_tokens


@pytest.fixture(scope="module")
def encoded(model_dir):
    """(encode_batch, byte lengths) of the tiny model."""
    path = model_dir / "tokenizer.json"
    return open_encoder(path, [], prefer=("tokenizers",)).encode_batch, byte_lengths(path, 320)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_the_ids_of_a_text_add_up_to_its_bytes(encoded, text):
    """Any text, tone marks, emoji and control characters: what is counted is what was written."""
    encode_batch, lengths = encoded
    assert lengths[encode_batch([text])[0]].sum() == len(text.encode())


def test_special_tokens_and_empty_rows_have_no_bytes(model_dir):
    path = model_dir / "tokenizer.json"
    lengths = byte_lengths(path, 512)
    assert len(lengths) == 512 and not lengths[list(special_tokens(path).values())].any() and not lengths[400:].any()
    added = {t["content"]: t["id"] for t in json.loads(path.read_text())["added_tokens"]}
    assert lengths[added["<code>"]] == len("<code>")


def test_pieces_of_sentencepiece_count_a_blank_for_its_mark_and_one_for_a_byte(tmp_path):
    pieces = {"<unk>": 0, "</s>": 1, "<0x0A>": 2, "▁": 3, "▁đường": 4, "▁▁a": 5, "ế": 6}
    tree = {
        "added_tokens": [{"id": i, "content": t, "special": True} for t, i in (("<unk>", 0), ("</s>", 1))],
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}],
        },
        "model": {"type": "BPE", "vocab": pieces, "merges": [], "byte_fallback": True},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    assert byte_lengths(tmp_path / "tokenizer.json", 7).tolist() == [0, 0, 1, 1, len(" đường".encode()), 3, 3]


def test_a_mark_without_its_decoder_and_a_byte_name_without_fallback_are_text(tmp_path):
    tree = {"added_tokens": [], "decoder": None, "model": {"type": "BPE", "vocab": {"▁": 0, "<0x0A>": 1}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    assert byte_lengths(tmp_path / "tokenizer.json", 2).tolist() == [3, 6]


def test_the_byte_alphabet_has_one_character_a_byte():
    from tokenizers.pre_tokenizers import ByteLevel

    assert byte_level_alphabet() == set(ByteLevel.alphabet())
