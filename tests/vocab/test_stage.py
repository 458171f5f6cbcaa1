"""The vocabulary stage as a whole: its folder, its refusals, its choices, and that the same text always gives the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm.errors import UserError
from rewarm.progress import Silent
from rewarm.vocab import stage
from rewarm.vocab.base import open_base
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.stage import extend, vocab_stage

from .conftest import english, vietnamese, write_base, write_text

pytestmark = pytest.mark.usefixtures("quick_gate")
FILES = ["extension.json", "new_tokens.tsv", "curve.json", "gate.json", "report.json"]


def run(base: Path, texts: dict[str, Path], out: Path, planned: int | None = None, **fields: Any) -> tuple[dict[str, Any], Silent]:
    reporter = Silent()
    cfg = VocabRecipe(**{"size": 150, **fields})
    return vocab_stage(cfg, base, {"vi": [texts["target"]]}, [texts["protect"]], {}, planned, out, reporter), reporter


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".npz"}


def test_the_folder_holds_a_model_and_what_was_done(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """Other trainers take `model/`; people and later stages read the rest."""
    folder = extended["smollm"]
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".npz") == sorted([*FILES, "model"])
    record = json.loads((folder / "extension.json").read_text())
    base = open_base(bases["smollm"])
    ids = [t["id"] for t in record["tokens"]]
    assert ids == list(range(record["first_new_id"], record["true_vocab"])) and record["first_new_id"] == base.next_id
    assert record["rows"] % 128 == 0 and all(len(t["parts"]) >= 2 and t["uses"] >= 0 for t in record["tokens"][:150])
    names = {i: s for s, i in open_base(folder / "model").vocab.items()}
    lines = (folder / "new_tokens.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == [names[i] for i in ids]
    assert all(f["ok"] for f in json.loads((folder / "gate.json").read_text()))


def test_facts_say_what_changed(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """The run's table, the loss and the row rates are made from these."""
    held = write_text(tmp_path / "held.jsonl", vietnamese(40, seed=77))
    cfg = VocabRecipe(size=150)
    facts = vocab_stage(cfg, bases["gpt2"], {"vi": [texts["target"]]}, [texts["protect"]], {"law": held}, None, tmp_path / "o", Silent())
    base, new = open_base(bases["gpt2"]), open_base(tmp_path / "o" / "model")
    assert facts["extended"] and facts["new_tokens"] == 150 and facts["first_new_id"] == base.next_id and facts["true_vocab"] == new.next_id
    assert facts["rows"] == json.loads((tmp_path / "o" / "model" / "config.json").read_text())["vocab_size"] and facts["unreachable"] == 0
    documents = [json.loads(line)["text"] for line in held.read_text().splitlines()]
    size = sum(len(d.encode()) for d in documents)
    for name, tokenizer in (("before", base.tokenizer), ("after", new.tokenizer)):
        tokens = sum(len(tokenizer.encode(d, add_special_tokens=False).ids) for d in documents)
        assert facts["bytes_per_token"]["law"][name] == pytest.approx(size / tokens, abs=1e-4)
    assert facts["bytes_per_token"]["law"]["after"] > 1.3 * facts["bytes_per_token"]["law"]["before"]


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(
    bases: dict[str, Path], texts: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:
    """Sets and dictionaries of strings have another order in each process; results must not."""
    code = (
        "import sys; from pathlib import Path; from rewarm.vocab import gate; from rewarm.vocab.recipe import VocabRecipe\n"
        "from rewarm.vocab.stage import extend\n"
        "some = gate.all_characters()[::40]; gate.FUZZED = 300; gate.all_characters = lambda: some\n"
        "b, t, p, o = map(Path, sys.argv[1:]); extend(b, {'vi': [t]}, [p], o, VocabRecipe(size=150))"
    )
    paths = [bases["smollm"], texts["target"], texts["protect"], tmp_path / "o"]
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, env=environment)
    assert contents(tmp_path / "o") == contents(extended["smollm"])


def test_the_order_of_files_changes_nothing(bases: dict[str, Path], tmp_path: Path) -> None:
    """A glob gives files as the disk has them."""
    a, b = write_text(tmp_path / "a.jsonl", vietnamese(400, 1)), write_text(tmp_path / "b.jsonl", vietnamese(400, 2))
    cfg = VocabRecipe(size=60, tau="off")
    for name, files in (("x", [a, b]), ("y", [b, a])):
        extend(bases["gpt2"], {"vi": files}, [], tmp_path / name, cfg)
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_a_small_size_is_the_beginning_of_a_large_one(
    bases: dict[str, Path], texts: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:
    """So a curve over all sizes costs one run."""
    run(bases["gpt2"], texts, tmp_path / "o", size=60)
    small, large = (json.loads((f / "extension.json").read_text()) for f in (tmp_path / "o", extended["gpt2"]))
    assert large["tokens"][:60] and [t["surface"] for t in small["tokens"]] == [t["surface"] for t in large["tokens"][:60]]
    assert small["merges"] == large["merges"][: len(small["merges"])]


@pytest.mark.parametrize("step", ["kind_named", "copy_beside", "extend_model", "check_model", "_tsv"])
def test_a_kill_at_any_step_and_a_rerun_give_the_same_folder(
    step: str, bases: dict[str, Path], texts: dict[str, Path], extended: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half done must neither be believed nor get in the way."""

    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, step, die)
        with pytest.raises(KeyboardInterrupt):
            run(bases["smollm"], texts, tmp_path)
    assert not (tmp_path / "model").exists()
    assert list((tmp_path.parent / "vocab-cache").glob("counts-*.npz"))
    monkeypatch.setattr("rewarm.vocab.count.count", die)  # the counts are there: a rerun that counts again fails here
    run(bases["smollm"], texts, tmp_path)
    assert contents(tmp_path) == contents(extended["smollm"])


def test_a_finished_folder_is_not_made_again(
    bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the rename and the caller's note of it costs nothing; other settings never overwrite."""
    first, _ = run(bases["gpt2"], texts, tmp_path)
    monkeypatch.setattr(stage, "_sample", None)
    assert run(bases["gpt2"], texts, tmp_path)[0] == first
    with pytest.raises(UserError, match="holds another extension"):
        run(bases["gpt2"], texts, tmp_path, size=149)


def test_protected_text_is_asked_for_with_the_way_to_go_without(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """No proof without old text; whoever has none must say so, not be surprised."""
    for protect in ([], [write_text(tmp_path / "little.jsonl", english(100))]):
        with pytest.raises(UserError, match=r"role: replay.*vocab\.tau: off"):
            extend(bases["gpt2"], {"vi": [texts["target"]]}, protect, tmp_path / "o")
    facts = extend(bases["gpt2"], {"vi": [texts["target"]]}, [], tmp_path / "o", VocabRecipe(size=50, tau="off"))
    assert facts["extended"] and facts["protected"] is None
    assert 4 not in [f["number"] for f in json.loads((tmp_path / "o" / "gate.json").read_text())]


def test_little_protected_text_and_decomposed_letters_are_warned_of(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """Both cost the user something that only shows much later."""
    decomposed = write_text(tmp_path / "nfd.jsonl", [unicodedata.normalize("NFD", line) for line in vietnamese(300)])
    reporter = Silent()
    extend(bases["gpt2"], {"vi": [decomposed]}, [texts["protect"]], tmp_path / "o", VocabRecipe(size=50), reporter=reporter)
    assert any("MB of protected text" in w for w in reporter.warnings) and any("not NFC" in w for w in reporter.warnings)


def test_shared_documents_and_empty_targets_are_errors(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """Protected target text would forbid the very merges that are wanted."""
    with pytest.raises(UserError, match="both protected text and text of `vi`"):
        extend(bases["gpt2"], {"vi": [texts["protect"]]}, [texts["protect"]], tmp_path / "o")
    empty = write_text(tmp_path / "empty.jsonl", [" ", ""])
    with pytest.raises(UserError, match="no text for `vi`"):
        extend(bases["gpt2"], {"vi": [empty]}, [texts["protect"]], tmp_path / "o")
    assert not (tmp_path / "o" / "model").exists()


def test_another_kind_of_tokenizer_writes_nothing(tmp_path: Path, texts: dict[str, Path]) -> None:
    """The error names the kind; a folder would look like a start."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {}}}))
    with pytest.raises(UserError, match="WordLevel"):
        extend(tmp_path / "base", {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_auto_leaves_a_tokenizer_alone_that_knows_the_text(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """New rows for text that is short already only cost; `true` does it all the same and says so."""
    known = {"target": write_text(tmp_path / "en.jsonl", english(3_000, seed=50)), "protect": texts["protect"]}
    facts, reporter = run(bases["gpt2"], known, tmp_path / "a", size="auto")
    assert facts["bytes_per_token"]["vi"]["before"] == facts["bytes_per_token"]["vi"]["after"] > 1
    assert not facts["extended"] and "do not extend" in facts["reason"] and not (tmp_path / "a" / "model").exists()
    assert json.loads((tmp_path / "a" / "report.json").read_text())["texts"]["vi"]["before"]["tokens"] > 0
    facts, reporter = run(bases["gpt2"], known, tmp_path / "b", tau="off", extend=True, size=5)
    assert facts["extended"] and any("done all the same" in w for w in reporter.warnings)
    assert run(bases["gpt2"], known, tmp_path / "c", extend=False)[0]["extended"] is False


def test_an_automatic_size_stops_where_more_tokens_no_longer_help(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """Each row has to be trained: the knee, less what the planned training would hardly see."""
    whole, _ = run(bases["gpt2"], texts, tmp_path / "a", size="auto", min_uses=1)
    short, _ = run(bases["gpt2"], texts, tmp_path / "b", planned=20_000, size="auto", min_uses=20)
    assert 0 < short["new_tokens"] < whole["new_tokens"] and "20,000 planned tokens" in short["size_reasons"][-1]
    curve = {p["new_tokens"]: p for p in json.loads((tmp_path / "a" / "curve.json").read_text())}
    chosen = curve[whole["new_tokens"]]["bytes_per_token.vi"]
    assert chosen > 0.9 * max(p["bytes_per_token.vi"] for p in curve.values()) and 0 in curve
    smaller, _ = run(bases["gpt2"], texts, tmp_path / "c", size="auto", max_size=64)
    assert smaller["new_tokens"] <= 64


def test_fewer_admissible_merges_than_asked_give_fewer_tokens_and_the_reason(bases: dict[str, Path], tmp_path: Path) -> None:
    """A little text cannot fill a large vocabulary; padding it with noise would be worse."""
    target = write_text(tmp_path / "t.jsonl", vietnamese(40))
    facts = extend(bases["gpt2"], {"vi": [target]}, [], tmp_path / "o", VocabRecipe(size=5_000, tau="off"))
    assert facts["new_tokens"] < 5_000 and "twice in the target text" in facts["size_reasons"][0]


def mixed(folder: Path, share: float) -> dict[str, Path]:
    """Target text with an English word that stands in one protected line in a hundred or so, too seldom for the guard to see much."""
    rng = np.random.default_rng(3)
    odd = [f"zyg{a}x{b}" for a in "abcdefghij" for b in "abcdefghij"]
    target = [f"{line} {odd[i % 100]} {odd[i % 100]}" for i, line in enumerate(vietnamese(3_000))]
    protect = [f"{line} {odd[int(rng.integers(100))]}" if rng.random() < share else line for line in english(18_000, 5)]
    return {"target": write_text(folder / "t.jsonl", target), "protect": write_text(folder / "p.jsonl", protect)}


def test_a_size_that_changes_too_much_old_text_shrinks_or_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """`auto` keeps the limit by itself; a size the user set is not bent, the error shows what other guards would give."""
    texts = mixed(tmp_path, 0.05)
    facts, _ = run(bases["gpt2"], texts, tmp_path / "a", size="auto", max_size=400, tau=1.0, max_changed_lines=0.002)
    assert facts["extended"] and "protected lines" in facts["size_reasons"][-1]
    assert facts["protected"]["changed_lines"] <= 0.01 * facts["protected"]["lines"]
    with pytest.raises(UserError, match=r"(?s)protected lines would change.*tau .*0\.01 .*off ") as caught:
        run(bases["gpt2"], texts, tmp_path / "b", size=400, tau=1.0, max_changed_lines=0.002)
    assert "vocab.size" in str(caught.value)


def test_several_languages_share_the_new_tokens(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """They count alike, though one has ten times the text."""
    korean = write_text(tmp_path / "ko.jsonl", [f"{i}. 안녕하세요, 만나서 반갑습니다! 한국어를 배우고 있습니다." for i in range(200)])
    facts = extend(bases["smollm"], {"vi": [texts["target"]], "ko": [korean]}, [texts["protect"]], tmp_path / "o", VocabRecipe(size=150))
    record = json.loads((tmp_path / "o" / "extension.json").read_text())
    assert record["weights"]["ko"] == 1 << 20 > record["weights"]["vi"] * 5
    for name in ("vi", "ko"):
        assert facts["bytes_per_token"][name]["after"] > 1.4 * facts["bytes_per_token"][name]["before"]


def test_old_files_are_rewritten_with_a_version_line_and_agree(tmp_path: Path, texts: dict[str, Path]) -> None:
    """Some readers drop the first line of merges.txt unseen: then it must not be a merge."""
    base = write_base(tmp_path / "base", "gpt2", old_files=True)
    first = (base / "merges.txt").read_text().splitlines()
    run(base, texts, tmp_path / "o")
    lines = (tmp_path / "o" / "model" / "merges.txt").read_text().splitlines()
    assert lines[0].startswith("#version") and lines[1 : 1 + len(first)] == first
    spec = json.loads((tmp_path / "o" / "model" / "tokenizer.json").read_text())["model"]
    assert lines[1:] == spec["merges"] and json.loads((tmp_path / "o" / "model" / "vocab.json").read_text()) == spec["vocab"]


def test_a_base_of_old_files_alone_is_extended(tmp_path: Path, texts: dict[str, Path]) -> None:
    """vocab.json and merges.txt without tokenizer.json: both kinds of file come out."""
    base = write_base(tmp_path / "base", "gpt2", old_files=True)
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    whole = open_base(base)
    (base / "tokenizer.json").unlink()
    run(base, texts, tmp_path / "o")
    new = open_base(tmp_path / "o" / "model")
    assert new.merges[: len(whole.merges)] == whole.merges and {t: new.vocab[t] for t in whole.vocab} == whole.vocab


def test_every_field_has_its_effect(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """A field that nothing reads would be a promise that nobody keeps. (Size, tau and the like have tests of their own.)"""
    run(bases["smollm"], texts, tmp_path / "0", size=60)
    plain = contents(tmp_path / "0" / "model")
    changes: list[dict[str, Any]] = [{"init": "mean"}, {"pad_to": 192}, {"repair_bytes": False}, {"seed": 5}]
    for i, fields in enumerate([*changes, {"rules": {"max_chars": 2}}], 1):
        run(bases["smollm"], texts, tmp_path / str(i), **{"size": 60, **fields})
        assert contents(tmp_path / str(i) / "model") != plain, fields
    footers = write_text(tmp_path / "footers.jsonl", [*vietnamese(100), *["qzqzqz"] * 300])
    for cap in (1, 300):
        extend(
            bases["smollm"],
            {"vi": [footers]},
            [],
            tmp_path / f"cap{cap}",
            VocabRecipe(extend=True, size=1, tau="off", rules={"repeat_cap": cap}),
        )
    first = [json.loads((tmp_path / f"cap{cap}" / "extension.json").read_text())["tokens"][0]["surface"] for cap in (1, 300)]
    assert first[0] != first[1] == {"str": "qz"}
    big = write_text(tmp_path / "big.jsonl", vietnamese(12_000, seed=8))
    cfg = VocabRecipe(size=60, tau="off", sample_mb=1)
    extend(bases["smollm"], {"vi": [big]}, [], tmp_path / "s", cfg)
    uses = json.loads((tmp_path / "s" / "extension.json").read_text())["tokens"]
    extend(bases["smollm"], {"vi": [big]}, [], tmp_path / "t", cfg.model_copy(update={"sample_mb": 2}))
    assert sum(t["uses"] for t in uses) < 0.8 * sum(
        t["uses"] for t in json.loads((tmp_path / "t" / "extension.json").read_text())["tokens"]
    )
