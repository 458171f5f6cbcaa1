"""Text as plain text, and whether a tokenizer keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rewarm.errors import UserError
from rewarm.evaluate.encode import Encoder


def folder_of(tmp_path: Path, tokenizer: Tokenizer, **settings) -> Path:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


HARD = ["oà òa", "ｆｕｌｌ　ｗｉｄｔｈ　全角", "👩‍👩‍👧🇻🇳", "lone \ufffd here", " blank", "e\u0301", "a\r\n\tb", "Điều 1.</s><|endoftext|>"]


def test_byte_level_keeps_every_text(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """Both tone styles, full width, emoji sequences, a replacement character of the text's own: nothing is lost."""
    encoder = Encoder(folder_of(tmp_path, make_tokenizer()))
    found = encoder.encode(HARD)
    assert all(document.lossless for document in found)
    for text, document in zip(HARD, found):
        assert document.starts[0] == 0 and (np.diff(document.starts) >= 0).all() and document.starts[-1] < len(text)


def test_specials_in_a_text_are_text(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """A page about tokenizers must not end in its middle."""
    encoder = Encoder(folder_of(tmp_path, make_tokenizer()))
    [document] = encoder.encode(["a<|endoftext|>b"])
    assert encoder.id_of("<|endoftext|>") not in document.ids and document.lossless


def test_missing_bytes_are_noticed(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """A tokenizer that drops a character would get its bytes for free."""
    letters = make_tokenizer().encode("Ω").tokens
    encoder = Encoder(folder_of(tmp_path, make_tokenizer(without=letters[0])))
    assert [d.lossless for d in encoder.encode(["1 Ω", "The cat"])] == [False, True]


def test_a_normaliser_that_changes_the_text_is_noticed(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """NFKC folds full-width letters: the model then predicts another, easier text."""
    tokenizer = make_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    encoder = Encoder(folder_of(tmp_path, tokenizer))
    assert [d.lossless for d in encoder.encode(["ｆｕｌｌ", "full"])] == [False, True]


def test_one_dummy_blank_in_front_is_no_loss(tmp_path: Path):
    """SentencePiece puts a blank before every text and takes it off again; unknown words are lost."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}
    tokenizer = Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    encoder = Encoder(folder_of(tmp_path, tokenizer))
    assert [d.lossless for d in encoder.encode(["a a", " a", "ab"])] == [True, True, False]


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """Some published tokenizer.json files cut every text at 512 tokens."""
    tokenizer = make_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    encoder = Encoder(folder_of(tmp_path, tokenizer))
    short, long = encoder.encode(["a", "The cat sat on the mat and the dog sat on the cat"])
    assert len(short.ids) == 1 and len(long.ids) > 4 and long.lossless


def test_the_token_that_a_tokenizer_prepends_is_found(tmp_path: Path, make_tokenizer: Callable[..., Tokenizer]):
    """By its template, or by its settings."""
    tokenizer = make_tokenizer(specials=("<|endoftext|>", "<s>"))
    (tmp_path / "plain").mkdir()
    assert Encoder(folder_of(tmp_path / "plain", tokenizer, eos_token="<|endoftext|>")).prepended is None
    (tmp_path / "set").mkdir()
    assert Encoder(folder_of(tmp_path / "set", tokenizer, bos_token={"content": "<s>"}, add_bos_token=True)).prepended == "<s>"
    number = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    (tmp_path / "template").mkdir()
    encoder = Encoder(folder_of(tmp_path / "template", tokenizer))
    assert encoder.prepended == "<s>" and number not in encoder.encode(["a"])[0].ids
    assert encoder.separators() == ["<|endoftext|>", "<s>"]


def test_a_folder_without_a_tokenizer_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        Encoder(tmp_path)
