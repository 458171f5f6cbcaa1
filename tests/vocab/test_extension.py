"""What an extended tokenizer keeps and what it gains, for each type of base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rewarm.vocab.base import bare_model, open_base
from rewarm.vocab.fuzz import all_characters
from rewarm.vocab.gate_bpe import byte_lengths, token_ends
from rewarm.vocab.letters import to_letters

KINDS = ["gpt2", "llama3", "qwen", "smollm"]
SURROGATES = st.characters(exclude_categories=["Cs"])


def read(folder: Path) -> dict:
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_old_tokens_merges_and_keys_stay_where_they_were(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """A trained row belongs to an id: one moved id and the model reads another word."""
    old, new = read(bases[kind]), read(extended[kind] / "model")
    assert list(new) == list(old) and list(new["model"]) == list(old["model"])
    assert list(new["model"]["vocab"].items())[: len(old["model"]["vocab"])] == list(old["model"]["vocab"].items())
    assert new["model"]["merges"][: len(old["model"]["merges"])] == old["model"]["merges"]
    assert {k: v for k, v in new.items() if k != "model"} == {k: v for k, v in old.items() if k != "model"}
    loaded = Tokenizer.from_file(str(extended[kind] / "model" / "tokenizer.json")).get_vocab()
    before = Tokenizer.from_file(str(bases[kind] / "tokenizer.json")).get_vocab()
    assert {t: loaded.get(t) for t in before} == before
    assert len(loaded) == len(before) + 150 + len(open_base(bases[kind]).missing_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_merges_are_written_as_the_base_writes_them(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """Some converters read only one of the two notations, and none reads a mixture."""
    notation = {type(m) for m in read(extended[kind] / "model")["model"]["merges"]}
    assert notation == {type(read(bases[kind])["model"]["merges"][0])}


def test_added_tokens_above_the_vocabulary_keep_their_ids_when_loaded(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """The library numbers added tokens that are not in the vocabulary on from its size: a longer vocabulary would move `<|eot_id|>`."""
    old, new = open_base(bases["llama3"]), open_base(extended["llama3"] / "model")
    assert "<|eot_id|>" not in old.vocab
    for token in old.added:
        assert new.tokenizer.token_to_id(token["content"]) == token["id"] == new.tokenizer.encode(token["content"]).ids[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_new_token_comes_out_when_its_text_goes_in(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """A token that no text can reach is a row that is trained for nothing."""
    base, new = open_base(bases[kind]), open_base(extended[kind] / "model")
    fresh = {t: i for t, i in new.vocab.items() if i >= base.next_id}
    for flag in (True, False):
        model = bare_model(new.spec, ignore_merges=flag)
        assert [model.encode(t).ids for t in fresh] == [[i] for i in fresh.values()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(SURROGATES, max_size=40) | st.text(st.sampled_from("Điều ườngcácthe of\n\t  123한국어<|im_end|>'s"), max_size=60))
def test_new_tokens_only_glue_old_ones(kind: str, text: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """Because every new merge ranks after every old one, a new token ends only where an old one did."""
    base, new = _opened(bases[kind]), _opened(extended[kind] / "model")
    if any(byte in text.encode() for byte in base.missing_bytes):
        return
    old = token_ends([base.tokenizer.encode(text, add_special_tokens=False).ids], byte_lengths(base))[0]
    now = token_ends([new.tokenizer.encode(text, add_special_tokens=False).ids], byte_lengths(new))[0]
    assert np.isin(now, old).all() and len(now) <= len(old)


_cache: dict[Path, object] = {}


def _opened(folder: Path):
    return _cache.setdefault(folder, open_base(folder)) if folder not in _cache else _cache[folder]


def test_every_character_survives_once_the_missing_bytes_are_there(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """SmolLM2 lacks 21 bytes, and with them half of Unicode: what it writes for such text is not the text."""
    old, new = open_base(bases["smollm"]), open_base(extended["smollm"] / "model")
    assert old.missing_bytes and not new.missing_bytes
    characters = all_characters()
    blocks = ["".join(characters[i : i + 2048]) for i in range(0, len(characters), 2048)]
    for block, encoding in zip(blocks, new.tokenizer.encode_batch(blocks, add_special_tokens=False)):
        assert new.tokenizer.decode(encoding.ids, skip_special_tokens=False) == block
    assert old.tokenizer.decode(old.tokenizer.encode("가").ids, skip_special_tokens=False) != "가"


def test_repaired_bytes_have_the_last_ids(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """They come after the words, so an extension without the repair has the same ids for its words."""
    base, new = open_base(bases["smollm"]), open_base(extended["smollm"] / "model")
    assert [new.vocab[to_letters(bytes([b]))] for b in base.missing_bytes] == list(range(base.next_id + 150, new.next_id))


@pytest.mark.parametrize("kind", KINDS)
def test_target_text_gets_shorter_and_numbers_stay(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """The point of it all, and what it must not touch."""
    base, new = open_base(bases[kind]), open_base(extended[kind] / "model")
    text = "trường học ở đường phố chính"
    assert len(new.tokenizer.encode(text).ids) < 0.8 * len(base.tokenizer.encode(text).ids)
    for old in ("1234567 and 2023-11-05", "All of it, not at that, was for you (no. 7)."):
        assert new.tokenizer.encode(old).ids == base.tokenizer.encode(old).ids


def test_transformers_reads_the_folder_to_the_same_ids(extended: dict[str, Path]) -> None:
    """Users meet the tokenizer through transformers."""
    from transformers import AutoTokenizer

    text = "Điều 1. Trường học ở đường phố; the law"
    for kind in KINDS:
        folder = extended[kind] / "model"
        expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        assert AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"] == expected
