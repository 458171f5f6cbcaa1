"""Extensions as other tools make them, and what the audit says of each: every mutant breaks what it should, with an example."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rewarm.vocab.audit import NAMES, audit, finding_lines, first_change
from rewarm.vocab.base import open_base
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import Finding
from rewarm.vocab.readers import open_cutter
from rewarm.vocab.recipe import VocabRecipe

from .conftest import english, vietnamese, write_base

pytestmark = pytest.mark.usefixtures("quick_gate")
TEXTS = GateTexts(vietnamese(60, seed=9), english(300, seed=9))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    """(base, extended model) of three kinds: gpt2 with vocab.json and merges.txt, llama3 untied, qwen with spare rows."""
    from rewarm.vocab.stage import extend

    from .conftest import shorten_gate

    folder = tmp_path_factory.mktemp("sound")
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        shorten_gate(patch)
        for kind in ("gpt2", "llama3", "qwen"):
            base = write_base(folder / kind, kind, rows=640 if kind == "qwen" else None, tied=kind != "llama3", old_files=kind == "gpt2")
            cfg = VocabRecipe(extend=True, size=150, check_bits=False)
            extend(base, {"vi": [texts["target"]]}, [texts["protect"]], folder / f"{kind}-x", cfg)
            out[kind] = base, folder / f"{kind}-x" / "model"
    return out


def judged(base: Path, new: Path, with_model: bool = True) -> dict[int, Finding]:
    """The first broken finding of each number, or else the first one."""
    findings = audit(open_base(base), new, TEXTS, VocabRecipe(), with_model)
    assert sorted({f.number for f in findings}) == list(range(1, 15)), "every invariant has a row"
    assert all(f.example for f in findings if not f.ok), "every broken one has an example"
    return {f.number: f for f in sorted(findings, key=lambda f: f.ok, reverse=True)}


def broken(findings: dict[int, Finding]) -> set[int]:
    return {n for n, f in findings.items() if not f.ok}


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen"])
def test_a_sound_extension_breaks_nothing(kind: str, sound: dict[str, tuple[Path, Path]]) -> None:
    """What cannot be judged of a stranger's extension is said, and is no fault."""
    findings = judged(*sound[kind])
    assert not broken(findings)
    assert "not judged" in findings[12].value and "stand nowhere on their own" in findings[6].value and findings[13].value == 0
    assert {state for state, _ in finding_lines(list(findings.values()))} <= {"ok", "open"}


Change = Callable[[dict[str, Any]], None]


def renumbered(spec: dict[str, Any]) -> None:
    a, b = spec["added_tokens"][1], spec["added_tokens"][2]
    a["id"], b["id"] = b["id"], a["id"]
    spec["model"]["vocab"][a["content"]], spec["model"]["vocab"][b["content"]] = a["id"], b["id"]


def ids_only_listed(spec: dict[str, Any]) -> None:
    for token in spec["added_tokens"]:
        del spec["model"]["vocab"][token["content"]]


def lost_ignore_merges(spec: dict[str, Any]) -> None:
    spec["model"]["ignore_merges"] = False


def dropped_byte(spec: dict[str, Any]) -> None:
    model = spec["model"]
    model["merges"] = [m for m in model["merges"] if "í" not in "".join(m)]
    model["vocab"] = {t: i for t, i in model["vocab"].items() if "í" not in t}


def own_merges_first(spec: dict[str, Any]) -> None:
    spec["model"]["merges"] = spec["model"]["merges"][-150:] + spec["model"]["merges"][:-150]


MUTANTS: list[tuple[str, Change, set[int], str]] = [
    ("llama3", renumbered, {1}, "had id"),
    ("llama3", ids_only_listed, {1, 9}, "is listed with id"),
    ("llama3", lost_ignore_merges, {1}, "ignore_merges"),
    ("gpt2", dropped_byte, {1, 7}, "U+"),
    ("gpt2", own_merges_first, {2}, "merge 0"),
]


@pytest.mark.parametrize(("kind", "change", "numbers", "says"), MUTANTS, ids=[m[1].__name__ for m in MUTANTS])
def test_a_mutant_is_named(
    kind: str, change: Change, numbers: set[int], says: str, sound: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """Each was seen in a public tool's output. The audit goes on after the first fault: all the listed ones are found."""
    base, good = sound[kind]
    new = copied(good, tmp_path, change)
    findings = judged(base, new, with_model=False)
    assert numbers <= broken(findings)
    assert any(says in findings[n].example for n in numbers), {n: findings[n].example for n in numbers}


def copied(folder: Path, to: Path, change: Change | None = None) -> Path:
    shutil.copytree(folder, to / "m")
    if change is not None:
        spec = json.loads((to / "m" / "tokenizer.json").read_text(encoding="utf-8"))
        change(spec)
        (to / "m" / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return to / "m"


def test_words_added_by_add_tokens_change_old_text(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """The way most people try first. Added tokens match inside other words and before any merge."""
    base, _ = sound["gpt2"]
    new = copied(base, tmp_path)
    tokenizer = Tokenizer.from_file(str(new / "tokenizer.json"))
    assert tokenizer.add_tokens(["e o", "o t"]) == 2
    tokenizer.save(str(new / "tokenizer.json"))
    findings = judged(base, new)
    assert {1, 3, 4} <= broken(findings)
    assert "2 added tokens are new, first `e o`" in findings[1].example and findings[4].value["changed_lines"] > 100
    cuts, line = findings[4].example.splitlines()
    assert "  ->  " in cuts and ("e o" in cuts.split("  ->  ")[1] or "o t" in cuts.split("  ->  ")[1]) and line.startswith("in: ")
    assert findings[13].ok is False and "the tokenizer gives id" in findings[13].example, "add_tokens without a resize"


def test_a_tokenizer_trained_anew_breaks_all_that_is_old(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Its vocabulary suits the new language; nothing the model learnt fits it."""
    base, _ = sound["gpt2"]
    new = copied(base, tmp_path)
    spec = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps({**spec, "added_tokens": []}))
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=430, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(vietnamese(300), trainer)
    tokenizer.save(str(new / "tokenizer.json"))
    findings = judged(base, new, with_model=False)
    assert {1, 2, 3, 4, 8} <= broken(findings)


def test_fresh_merges_appended_are_unreachable(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Merges that were trained without the old ones start from pairs that the old ones have already taken apart."""
    base, _ = sound["gpt2"]

    def append(spec: dict[str, Any]) -> None:
        fresh = Tokenizer(models.BPE())
        fresh.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        fresh.train_from_iterator(english(300, 5) + vietnamese(300), trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
        model, vocab = json.loads(fresh.to_str())["model"], spec["model"]["vocab"]
        for token in model["vocab"]:
            vocab.setdefault(token, len(vocab))
        known = {tuple(m.split(" ")) for m in spec["model"]["merges"]}
        spec["model"]["merges"] += [" ".join(m) for m in model["merges"] if tuple(m) not in known]

    findings = judged(base, copied(base, tmp_path, append), with_model=False)
    assert {4, 5} <= broken(findings) and findings[2].ok, "old merges do come first"
    assert findings[5].value > 0


def test_an_unguarded_extension_fails_on_protected_text_alone(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Continued merges over text that holds English, too: nothing is broken by structure, and old text changes all the same."""
    from rewarm.vocab.stage import extend

    from .conftest import write_text

    base, _ = sound["gpt2"]
    mixed = write_text(tmp_path / "mixed.jsonl", [f"{line} The statute of liability." for line in vietnamese(2_000)])
    extend(base, {"vi": [mixed]}, [], tmp_path / "x", VocabRecipe(extend=True, size=300, tau="off", check_bits=False))
    texts = GateTexts(TEXTS.target, [f"{line} The statute of liability." for line in TEXTS.protected])
    findings = audit(open_base(base), tmp_path / "x" / "model", texts, VocabRecipe(), with_model=False)
    assert {f.number for f in findings if not f.ok} == {4}


def test_a_tokenizer_of_another_kind_is_judged_as_far_as_it_goes(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """WordPiece in place of BPE: whether the kind is known here or not, old ids and old text are compared."""
    base, _ = sound["gpt2"]
    new = copied(base, tmp_path)
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "the": 1, "##re": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(new / "tokenizer.json"))
    assert {1, 4} <= broken(judged(base, new, with_model=False))


@pytest.mark.parametrize("name", ["merges.txt", "vocab.json"])
def test_stale_old_files_are_named(name: str, sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A tool that rewrites only tokenizer.json leaves the base's files to programs that read those."""
    base, good = sound["gpt2"]
    new = copied(good, tmp_path)
    shutil.copyfile(base / name, new / name)
    findings = judged(base, new, with_model=False)
    assert broken(findings) == {8} and name in findings[8].example


def retensor(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name].copy()))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_output_matrix_left_unresized_is_named(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Half a resize: input rows grew, the untied head did not."""
    base, good = sound["llama3"]
    new = copied(good, tmp_path)
    retensor(new, "lm_head.weight", lambda head: head[:424])
    findings = judged(base, new)
    assert broken(findings) == {13} and "lm_head.weight" in findings[13].example and "13 is broken" in findings[14].value


def test_new_ids_on_spare_rows_that_nobody_wrote_are_named(sound: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Qwen's matrices have rows to spare, so nothing fails to load: the new tokens train from rows that mean nothing."""
    base, good = sound["qwen"]
    new = copied(good, tmp_path)
    shutil.copyfile(base / "model.safetensors", new / "model.safetensors")
    findings = judged(base, new)
    assert broken(findings) == {13} and "nobody wrote the row" in findings[13].example


def test_lines_for_people_name_the_fault_with_its_example() -> None:
    """One line an invariant; what is wrong comes below it."""
    some = [
        Finding(1, NAMES[1], True, 0, 0),
        Finding(4, NAMES[4], False, {"changed_lines": 1234, "lines": 5000}, {"changed_lines": 8, "share": 0.01}, "the line", "do this"),
        Finding(12, NAMES[12], True, "not judged: why"),
    ]
    assert finding_lines(some) == [
        ("ok", "  1  ok      old ids, added tokens and settings are equal"),
        ("broken", "  4  BROKEN  protected text keeps its tokens: changed lines 1,234, lines 5,000 (allowed: 8)"),
        ("detail", "             the line"),
        ("open", " 12  -       a second write is equal: not judged: why"),
    ]


def test_the_first_change_is_shown_up_to_where_both_cut_again(sound: dict[str, tuple[Path, Path]]) -> None:
    """A line of 200 characters as an example says nothing: the reader wants the place."""
    base, new = (open_cutter(path) for path in sound["gpt2"])
    assert first_change(base, new, "the one") is None
    text = "the one, chường đọc"
    old, now = (part.split("|") for part in (first_change(base, new, text) or "").split("  ->  "))
    assert "".join(now) in text and len(now) < len(old) and "the" not in "".join(now)
