"""Texts that will not do, told early and with a figure; and the memory a run will take."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from rewarm.errors import UserError
from rewarm.progress import Silent
from rewarm.vocab import stage
from rewarm.vocab.base import open_base
from rewarm.vocab.count import count, split_words
from rewarm.vocab.inputs import decomposed, must_be_joinable, old_words, shared_lines
from rewarm.vocab.memory import PROGRAM, check_memory, free_memory, growth_of, needed
from rewarm.vocab.recipe import VocabRecipe

from .conftest import english, vietnamese, write_base


def test_decomposed_letters_are_told_with_what_they_cost(bases: dict[str, Path]) -> None:
    """The user sees the same letters on the screen; only the figure shows that something is wrong."""
    lines = vietnamese(200)
    apart = [unicodedata.normalize("NFD", "\n".join(lines[:100])), "\n".join(lines[100:])]
    warning = decomposed("vi", apart, open_base(bases["gpt2"]))
    assert warning is not None and "50.0 % of the lines of `vi` are not NFC" in warning and " times the tokens" in warning
    assert float(warning.partition("cuts them into ")[2].split()[0]) > 1.2
    assert decomposed("vi", ["\n".join(lines)], open_base(bases["gpt2"])) is None
    assert decomposed("vi", apart, open_base(bases["qwen"])) is None, "this base composes letters by itself"


def test_old_text_inside_the_target_is_told_with_an_example() -> None:
    """Its words would count as old ones and get no tokens, for no reason that the user could see."""
    old = english(300)
    mixed = ["\n".join([*vietnamese(50), *old[:30]])]
    warnings = shared_lines({"vi": mixed, "ko": ["\n".join(vietnamese(20, seed=5))]}, ["\n".join(old)])
    assert len(warnings) == 1 and "9.6 % of the protected text stands in the text of `vi`" in warnings[0]


def test_a_target_in_the_old_language_is_told_with_its_share(bases: dict[str, Path]) -> None:
    """Its gain would be small for a reason that has nothing to do with the tokenizer: the wrong file."""
    base = open_base(bases["gpt2"])
    texts: dict[str, Any] = {"target:en": (english(200, seed=5), 4), "target:vi": (vietnamese(200), 4), "protected": (english(400), 4)}
    warnings = old_words(count(texts, base), ["en", "vi"], "protected")
    assert len(warnings) == 1 and "of the text of `en` is words" in warnings[0]


def test_a_pre_tokenizer_that_lets_no_token_grow_is_an_error(tmp_path: Path, texts: dict[str, Path]) -> None:
    """One letter a word: merges never see two tokens side by side."""
    folder = write_base(tmp_path / "base", "gpt2")
    spec = json.loads((folder / "tokenizer.json").read_text())
    each = {"type": "Split", "pattern": {"Regex": "[A-Za-z ]"}, "behavior": "Isolated", "invert": False}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [each, {**spec["pre_tokenizer"], "use_regex": False}]}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    base = open_base(folder)
    counts = count({"target:en": (["never a token of two letters"], None), "target:vi": (vietnamese(20), None)}, base)
    must_be_joinable(counts, split_words(counts, base), ["vi"], base)
    with pytest.raises(UserError, match=r"no new token can ever come out for `en`.*'e', ' ', 't'"):
        must_be_joinable(counts, split_words(counts, base), ["en"], base)


def test_memory_is_told_before_it_is_taken_and_refused_if_there_is_none(
    bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed for memory after an hour says nothing; and from kept counts nothing need be told again."""
    monkeypatch.setattr(stage, "free_memory", lambda: 230_000_000)
    args = (VocabRecipe(size=20), open_base(bases["gpt2"]), {"vi": [texts["target"]]}, [texts["protect"]], None)
    with pytest.raises(UserError, match=r"memory: about \d\.\d GB for 1 MB of text; 0\.2 GB are free(?s:.*)set vocab\.sample_mb: 1"):
        monkeypatch.setattr("rewarm.vocab.memory.PER_WORD", 1_000_000)
        stage.survey(*args, tmp_path, Silent())
    monkeypatch.undo()
    reporter = Silent()
    stage.survey(*args, tmp_path, reporter)
    assert any(line.strip().startswith("memory: about") for line in reporter.lines)


def test_the_estimate_grows_with_words_not_only_with_bytes(bases: dict[str, Path]) -> None:
    """Text that repeats needs its bytes; text of ever new words needs far more."""
    base = open_base(bases["gpt2"])
    same = ["\n".join(english(100)) + "\n"] * 200
    new = ["\n".join(" ".join(f"{i * 7919 + k:x}" for k in range(12)) for i in range(part, part + 100)) for part in range(0, 20_000, 100)]
    few, many = growth_of(same, base), growth_of(new, base)
    real = len(count({"x": (new, None)}, base).words)
    assert few.words < 1_000 and 0.5 * real < many.words < 2 * real
    assert needed([many]) > needed([few]) > PROGRAM and check_memory({"x": same}, base, None).startswith("memory: about")


def test_free_memory_is_the_smaller_of_machine_and_container(tmp_path: Path) -> None:
    """In a container the machine's figure is not ours to take."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:     50 kB\n")
    assert free_memory(tmp_path, meminfo) == 50 * 1024
    for name, value in {"memory.max": "30000", "memory.current": "20000", "memory.stat": "anon 1\ninactive_file 5000\n"}.items():
        (tmp_path / name).write_text(value)
    assert free_memory(tmp_path, meminfo) == 15_000
    (tmp_path / "memory.max").write_text("max")
    assert free_memory(tmp_path, tmp_path / "none") is None
