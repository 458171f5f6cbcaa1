"""Opening a base: which tokenizers are taken, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rewarm.errors import UserError
from rewarm.vocab.base import open_base
from rewarm.vocab.byte_files import read_merges_txt
from rewarm.vocab.letters import to_bytes, to_letters

from .conftest import gpt2_spec

CLIP = {"type": "BPE", "vocab": {"<unk>": 0, "a</w>": 1}, "merges": [], "end_of_word_suffix": "</w>", "unk_token": "<unk>"}
OTHERS: dict[str, dict[str, Any]] = {
    "marks inside words": {"model": CLIP, "pre_tokenizer": {"type": "Whitespace"}},
    "WordLevel": {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}},
}


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_kinds_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    """Their merges or scores work otherwise; going on would write a tokenizer that looks right and is not."""
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **OTHERS[kind]}))
    with pytest.raises(UserError, match=kind) as caught:
        open_base(tmp_path)
    assert "byte-level BPE" in str(caught.value)


def test_a_folder_with_only_a_slow_tokenizer_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """The error names the file that is there and the call that makes the one we need."""
    (tmp_path / "tekken.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"only tekken\.json.*\n.*save_pretrained"):
        open_base(tmp_path)


def test_bytes_and_letters_are_each_others_inverse() -> None:
    """Surfaces are bytes here, and letters in the files."""
    assert to_bytes(to_letters(bytes(range(256)))) == bytes(range(256))
    assert to_letters(" é".encode()) == "ĠÃ©" and to_bytes("<|▁|>") is None


def test_the_first_line_of_merges_txt_is_a_merge_unless_it_says_version(tmp_path: Path) -> None:
    """A base whose commonest pair is `# #` lost it to readers that take any first line for a comment."""
    file = tmp_path / "merges.txt"
    file.write_text("# #\nh e\n")
    assert read_merges_txt(file) == ["# #", "h e"]
    file.write_text("#version: 0.2\n# #\nh e\n")
    assert read_merges_txt(file) == ["# #", "h e"]


def test_old_files_alone_make_a_base(tmp_path: Path) -> None:
    """GPT-2 itself came as vocab.json and merges.txt."""
    spec = gpt2_spec()
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(spec["model"]["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}))
    base = open_base(tmp_path)
    assert len(base.merges) == len(spec["model"]["merges"]) and base.special_ids == {spec["model"]["vocab"]["<|endoftext|>"]}
    assert base.tokenizer.encode("the<|endoftext|>").ids[-1] == spec["model"]["vocab"]["<|endoftext|>"]


def test_two_tokens_with_one_id_are_an_error(tmp_path: Path) -> None:
    """Whatever is built on such a base is wrong for one of the two."""
    spec = gpt2_spec()
    spec["model"]["vocab"]["zzz"] = 5
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="share the id 5"):
        open_base(tmp_path)


def test_an_added_token_that_loads_under_another_id_is_an_error(tmp_path: Path) -> None:
    """That is what a longer vocabulary does to added tokens that are not in it; such a file is broken already."""
    spec = gpt2_spec()
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 9_000, "content": "<|far|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(UserError, match="9000, but loads as"):
        open_base(tmp_path)


def test_texts_of_added_tokens_are_cut_out_before_words_are_counted(bases: dict[str, Path]) -> None:
    """The encoder never sees them as text, so merges learnt from them would be unreachable."""
    assert open_base(bases["smollm"]).pretokens("law<|im_end|>law") == ["law", "law"]


def test_what_tokenizer_json_and_merges_txt_disagree_on_is_said(tmp_path: Path) -> None:
    """The extension follows tokenizer.json, and the user should know which file was wrong."""
    spec = gpt2_spec()
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(spec["model"]["merges"][1:]))
    assert ["merges.txt" in f for f in open_base(tmp_path).findings] == [True]
