"""The gate catches each way in which an extension is known to go wrong: mutants of a good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewarm.errors import UserError
from rewarm.vocab import stage
from rewarm.vocab.base import Base, open_base
from rewarm.vocab.byte_bpe import KIND
from rewarm.vocab.fuzz import GateTexts, all_characters, fuzz
from rewarm.vocab.gate import Finding, allowed_changes, check_tokenizer, same_again
from rewarm.vocab.recipe import VocabRecipe

from .conftest import english, vietnamese, write_base, write_text
from .test_gate_rows import extension_in

pytestmark = pytest.mark.usefixtures("quick_gate")
TEXTS = GateTexts(vietnamese(60, seed=9), english(300, seed=9))
CFG = VocabRecipe(size=150)


def mutant(extended: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    shutil.copytree(extended / "model", to)
    spec = json.loads((to / "tokenizer.json").read_text(encoding="utf-8"))
    change(spec)
    (to / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return to


def broken(base: Base, folder: Path) -> set[int]:
    return {f.number for f in check_tokenizer(base, folder, TEXTS, CFG, 2.0) if not f.ok}


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen", "smollm"])
def test_a_good_extension_passes(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """A gate that never opens would be as bad as none."""
    findings = check_tokenizer(open_base(bases[kind]), extended[kind] / "model", TEXTS, CFG, 2.0)
    assert [f for f in findings if not f.ok] == []
    assert {f.number for f in findings} == set(range(1, 12))


def renumbered(spec: dict[str, Any]) -> None:
    spec["added_tokens"][1]["id"] += 1
    spec["added_tokens"][2]["id"] -= 1
    a, b = (spec["added_tokens"][i]["content"] for i in (1, 2))
    spec["model"]["vocab"][a], spec["model"]["vocab"][b] = spec["model"]["vocab"][b], spec["model"]["vocab"][a]


def unlisted(spec: dict[str, Any]) -> None:
    for token in spec["added_tokens"]:
        del spec["model"]["vocab"][token["content"]]


def without_ignore_merges(spec: dict[str, Any]) -> None:
    spec["model"]["ignore_merges"] = False


def added_subwords(spec: dict[str, Any]) -> None:
    last = max(spec["model"]["vocab"].values())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": last + 1, "content": "the l", "special": False})


def first_merge_lost(spec: dict[str, Any]) -> None:
    del spec["model"]["merges"][0]


def new_merges_first(spec: dict[str, Any]) -> None:
    spec["model"]["merges"] = spec["model"]["merges"][-150:] + spec["model"]["merges"][:-150]


def last_merge_lost(spec: dict[str, Any]) -> None:
    del spec["model"]["merges"][-1]


@pytest.mark.parametrize(
    ("kind", "change", "number"),
    [
        ("llama3", renumbered, 1),
        ("llama3", unlisted, 9),
        ("llama3", without_ignore_merges, 1),
        ("gpt2", added_subwords, 1),
        ("gpt2", added_subwords, 3),
        ("gpt2", first_merge_lost, 2),
        ("gpt2", new_merges_first, 2),
        ("gpt2", last_merge_lost, 5),
    ],
)
def test_mutants_are_caught(
    kind: str, change: Callable[[dict[str, Any]], None], number: int, bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:
    """Each of these was seen in a public tool's output: moved control tokens, lost flags, added tokens for subwords, lost or reordered
    merges, tokens nothing can build."""
    assert number in broken(open_base(bases[kind]), mutant(extended[kind], tmp_path / "m", change))


def test_a_dropped_byte_is_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """Without its token, every character that begins with this byte is lost."""
    base = open_base(bases["gpt2"])

    def drop(spec: dict[str, Any]) -> None:
        vocab = spec["model"]["vocab"]
        spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "í" not in m]
        spec["model"]["vocab"] = {t: i for t, i in vocab.items() if "í" not in t}

    assert {1, 7} <= broken(base, mutant(extended["gpt2"], tmp_path / "m", drop))


def test_an_unguarded_run_is_caught(bases: dict[str, Path], tmp_path: Path) -> None:
    """Target text carries English, whose merges go on growing where nothing holds them: old text then gets other tokens."""
    base = open_base(bases["gpt2"])
    statutes = [f"{line} The statute of liability." for line in english(18_000, seed=4)]
    target = write_text(tmp_path / "target.jsonl", [f"{line} The statute of liability." for line in vietnamese(3_000)])
    protect = write_text(tmp_path / "protect.jsonl", statutes)
    texts = GateTexts(TEXTS.target, statutes[:300])
    for tau, expected in (("off", {4}), (0.01, set())):
        stage.extend(bases["gpt2"], {"vi": [target]}, [protect], tmp_path / str(tau), VocabRecipe(size=300, tau=tau))
        found = check_tokenizer(base, tmp_path / str(tau) / "model", texts, CFG, 2.0)
        assert {f.number for f in found if not f.ok} == expected


def test_digits_in_a_new_token_are_caught(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """The rules are judged on the result, whoever made it."""
    cfg = VocabRecipe(size=400, tau="off", rules={"digits": "allow"})
    stage.extend(bases["gpt2"], {"vi": [texts["target"]]}, [], tmp_path / "o", cfg)
    assert 11 in broken(open_base(bases["gpt2"]), tmp_path / "o" / "model")


def test_stale_old_files_are_caught(tmp_path: Path, texts: dict[str, Path]) -> None:
    """Programs that read merges.txt would cut text otherwise than those that read tokenizer.json."""
    base = write_base(tmp_path / "b", "gpt2", old_files=True)
    stage.extend(base, {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", CFG)
    model = tmp_path / "o" / "model"
    assert not broken(open_base(base), model)
    (model / "merges.txt").write_text((base / "merges.txt").read_text())
    assert broken(open_base(base), model) == {8}


def test_a_second_write_that_differs_is_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """Files that depend on the moment cannot be checked by anybody else."""
    files = KIND.files(open_base(bases["gpt2"]), extension_in(extended["gpt2"]))
    assert same_again(files, extended["gpt2"] / "model").ok
    shutil.copytree(extended["gpt2"] / "model", tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    assert not same_again(files, tmp_path / "m").ok


def test_a_failing_gate_puts_nothing_into_place(
    bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files stay for a look, with what was found; no later stage can take them for a model."""
    monkeypatch.setattr(stage, "check_tokenizer", lambda *a: [Finding(5, "reachable", False, 3, 0, "abc")])
    with pytest.raises(UserError, match=r"5\. reachable: 3"):
        stage.extend(bases["gpt2"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path, CFG)
    assert not (tmp_path / "model").exists() and not (tmp_path / "building").exists()
    assert json.loads((tmp_path / "rejected" / "gate.json").read_text())[0]["example"] == "abc"


def test_few_lines_leave_room_for_chance_and_many_do_not() -> None:
    """With 450 lines and a share of 1 %, six changed lines prove nothing; with a million lines the share itself is the limit."""
    from scipy.stats import binom

    for lines, share, chance in [(450, 0.01, 0.05), (453, 0.01, 0.001), (5_810, 0.01, 0.001), (1_000_000, 0.002, 0.001), (30, 0.5, 0.05)]:
        assert allowed_changes(lines, share, chance) == int(binom.isf(chance, lines, share))
    assert allowed_changes(1_000_000, 0.002, 0.001) < 1.1 * 2_000
    assert allowed_changes(10, 0.0, 0.05) == 0 and allowed_changes(10, 1.0, 0.05) == 10


def test_fuzzed_strings_are_the_same_every_time_and_valid(bases: dict[str, Path]) -> None:
    """A gate that fails must fail again when somebody looks."""
    base = open_base(bases["gpt2"])
    a = fuzz(TEXTS, base, 3, 300)
    assert len(a) == 300 and a == fuzz(TEXTS, base, 3, 300) != fuzz(TEXTS, base, 4, 300)
    assert all(s.encode() is not None for s in a) and len(set(all_characters())) == len(all_characters())
