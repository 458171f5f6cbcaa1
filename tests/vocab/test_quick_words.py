"""The quick way to cut lines into pre-tokens against the library's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.vocab import quick_words
from rewarm.vocab.base import open_base
from rewarm.vocab.count import count
from rewarm.vocab.fuzz import GateTexts, all_characters, fuzz
from rewarm.vocab.quick_words import agrees, checked_cut, newer_letters, quick_cut, spelt

from .conftest import SPECS, english, vietnamese

BYTE_LEVEL = [kind for kind in SPECS if kind in ("gpt2", "llama3", "qwen", "smollm")]


@pytest.mark.parametrize("kind", BYTE_LEVEL)
def test_unkind_strings_are_cut_as_the_library_cuts_them(kind: str, bases: dict[str, Path]) -> None:
    """Blanks, digits, apostrophes, marks, scripts: where two engines of regular expressions could differ."""
    base = open_base(bases[kind])
    cut = quick_cut(base)
    lines = fuzz(GateTexts(vietnamese(200), english(200)), base, 3, 3_000)
    assert cut is not None and agrees(cut, base, lines)
    assert sum(cut(line) is not None for line in lines) > 2_000, "the quick way is not taken"


@pytest.mark.parametrize("kind", BYTE_LEVEL)
@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_is_cut_alike(kind: str, text: str, bases: dict[str, Path]) -> None:
    """Hypothesis knows odder strings than people do."""
    base = open_base(bases[kind])
    words = (quick_cut(base) or (lambda line: None))(text)
    assert words is None or newer_letters([text]) or [spelt(word) for word in words] == base.pretokens(text)


def test_letters_newer_than_this_python_are_left_to_the_library(bases: dict[str, Path]) -> None:
    """Two versions of Unicode disagree on what was assigned in between; all that both know is cut alike."""
    base = open_base(bases["llama3"])
    cut = quick_cut(base)
    assert cut is not None
    some = all_characters()[:0x3000:2] + all_characters()[0x3000::301]
    known = [f"a{c}1 {c}" for c in some if not newer_letters([c])]
    assert len(known) > 5_000 and [t for t in known if [spelt(w) for w in cut(t) or []] != base.pretokens(t)] == []
    lines = [f"a{c}1 {c}\n" for c in "\u0378\u0558\U00012618b"]
    counts = count({"x": (["".join(lines)], None)}, base)
    assert counts.words == sorted({word for line in lines for word in base.pretokens(line)})


@pytest.mark.parametrize("kind", ["smollm", "qwen"])
def test_counts_are_the_same_either_way(kind: str, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the merges are made of must not depend on which way was taken."""
    base = open_base(bases[kind])
    texts: dict[str, tuple[list[str], int | None]] = {
        "a": (["\n".join(vietnamese(100)), "x<|im_start|>y\n", "e\u0301 a\u0323\n" * 9], 4), "b": (["\n".join(english(100))], None),
    }  # fmt: skip
    quick = count(texts, base)
    assert checked_cut(base, [["the law"]]) is not None
    monkeypatch.setattr("rewarm.vocab.count.checked_cut", lambda *args: None)
    plain = count(texts, base)
    assert quick.words == plain.words and (quick.weight == plain.weight).all() and (quick.bytes == plain.bytes).all()


def test_a_way_that_cuts_otherwise_is_not_taken(bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on the text at hand decides, not the belief that both read a pattern alike."""
    base = open_base(bases["gpt2"])
    assert checked_cut(base, [english(50)]) is not None
    monkeypatch.setattr(quick_words, "GPT2", r"\S+|\s+")
    assert checked_cut(base, [english(50)]) is None


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True},
        {
            "type": "Sequence",
            "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}],
        },
        {"type": "Split", "pattern": {"Regex": "(a)|b"}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": False},
    ],
)
def test_other_pre_tokenizers_are_left_to_the_library(pre_tokenizer: dict[str, object], bases: dict[str, Path]) -> None:
    """Prefix blanks, other splitters, groups: not worth a second implementation."""
    base = open_base(bases["gpt2"])
    spec = json.loads(json.dumps({**base.spec, "pre_tokenizer": pre_tokenizer}))
    assert quick_cut(dataclasses.replace(base, spec=spec)) is None
