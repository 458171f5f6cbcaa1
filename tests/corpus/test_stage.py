"""The whole room on small text: what goes in comes out or is counted, the same bytes after any kill, and clear errors."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rewarm.corpus import parts, plan, shards
from rewarm.corpus.read_back import open_corpus
from rewarm.corpus.recipe import CorpusRecipe, Decontaminate, Heldout, Normalise, Source
from rewarm.corpus.report import STEPS
from rewarm.corpus.stage import corpus_stage
from rewarm.errors import Stopped, UserError
from rewarm.progress import Silent
from rewarm.signals import clear_stop, request_stop

WORDS = """người lao động quyền nghĩa vụ tài sản hợp đồng thời hạn cơ quan nhà nước
trách nhiệm an toàn điều kiện học sinh sông núi""".split()  # noqa: SIM905


def sentence(seed: int, words: int = 40) -> str:
    """Made-up Vietnamese; two seeds share no 13 words in a row."""
    return " ".join(random.Random(seed).choices(WORDS, k=words)).capitalize() + f" số {seed}."


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sources in five files: 200 + 100 documents, copies inside and across, short ones, broken rows, dirt."""
    new = [{"id": f"n{i}", "text": sentence(i)} for i in range(200)]
    new += [{"id": f"c{i}", "text": sentence(i).upper() + "!!"} for i in range(10)]
    new += [
        {"id": "short", "text": "Ngắn quá."},
        {"id": "empty", "text": " \u200b\n"},
        {"id": "dirt", "text": sentence(900) + "\u00a0\r\n" + sentence(901)},
    ]
    for part in range(3):
        write_jsonl(tmp_path / "raw" / f"new-{part}.jsonl", new[part::3])
    with (tmp_path / "raw" / "new-1.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    old = [{"id": f"o{i}", "text": sentence(1000 + i)} for i in range(100)] + [{"id": "across", "text": sentence(3)}]
    write_jsonl(tmp_path / "raw" / "old-0.jsonl", old[:60])
    write_jsonl(tmp_path / "raw" / "old-1.jsonl", old[60:])
    return tmp_path / "raw"


def recipe(**changes) -> CorpusRecipe:
    fields = {
        "sources": [
            Source(name="new", paths=["new-*.jsonl"], id_field="id", languages=["vi"], licence="MIT"),
            Source(name="old", paths=["old-*.jsonl"], id_field="id", role="replay"),
        ],
        "heldout": Heldout(share=0, min_mb=0.002, max_mb=0.002),
    }
    return CorpusRecipe(**{**fields, **changes})


def documents(out: Path) -> dict[str, dict]:
    """id -> document, of all sources' training shards."""
    return {d["id"]: d for s in open_corpus(out).sources for file in s.files for d in pq.read_table(file).to_pylist()}


def held(out: Path, source: int = 0) -> dict[str, dict]:
    path = open_corpus(out).sources[source].heldout
    return {d["id"]: d for d in pq.read_table(path).to_pylist()} if path else {}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_document_is_kept_held_out_or_counted_with_its_reason(root, tmp_path):
    """The funnel adds up in documents and bytes, and the files hold what it says."""
    out = tmp_path / "out"
    record = corpus_stage(recipe(), root, out, Silent())
    steps = {(row["source"], row["step"]): row for row in record["funnel"]}
    for source in ("new", "old"):
        for unit in ("documents", "bytes"):
            assert steps[source, "read"][unit] == sum(steps[source, step][unit] for step in STEPS if step != "read")
    assert {step: steps["new", step]["documents"] for step in ("read", "empty", "short", "exact_duplicate")} == {
        "read": 213, "empty": 1, "short": 1, "exact_duplicate": 10,
    }  # fmt: skip
    assert steps["old", "exact_duplicate"]["documents"] == 1
    found = documents(out)
    new, old = open_corpus(out).sources
    assert len(found) == new.documents + old.documents and new.documents == steps["new", "kept"]["documents"]
    assert sum(d["bytes"] for d in found.values()) == new.bytes + old.bytes == sum(len(d["text"].encode()) for d in found.values())
    assert set(held(out)).isdisjoint(found) and sum(d["bytes"] for d in held(out).values()) == new.heldout_bytes <= 2000
    assert {(d["source"], d["language"], d["licence"]) for d in found.values()} == {("new", "vi", "MIT"), ("old", None, None)}
    assert (new.role, old.role, new.languages, new.licence) == ("new", "replay", ("vi",), "MIT")
    assert ("dirt" in found or "dirt" in held(out)) and "short" not in found and "across" not in found


def test_samples_and_rejects_show_what_was_dropped(root, tmp_path):
    """Whoever asks which filter ate a document finds it, and what it was a copy of."""
    out = tmp_path / "out"
    corpus_stage(recipe(), root, out, Silent())
    copies = {row["id"]: row["copy_of"] for row in lines(out / "removed" / "exact_duplicate.jsonl")}
    assert copies["across"] in ("n3", "c3")
    assert {frozenset((a[1:], b[1:])) for a, b in copies.items() if a != "across"} == {frozenset((str(i),)) for i in range(10)}
    assert [row["id"] for row in lines(out / "removed" / "short.jsonl")] == ["short"]
    (reject,) = lines(out / "rejected" / "new.jsonl")
    assert (reject["file"], reject["row"], reject["kind"]) == ("new-1.jsonl", 72, "json")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| exact duplicates | 10 (" in text and "licence unknown" in text and "MIT" in (out / "DATACARD.md").read_text(encoding="utf-8")


def test_training_text_that_quotes_held_out_text_of_any_source_is_dropped(root, tmp_path):
    """Law repeats itself; a quotation in the old source praises the model for the new one."""
    corpus_stage(recipe(), root, tmp_path / "before", Silent())
    leaked = next(iter(held(tmp_path / "before").values()))
    quote = "Như đã viết: " + " ".join(leaked["text"].split()[5:19]).upper() + ". " + sentence(5000)
    write_jsonl(root / "old-2.jsonl", [{"id": "quote", "text": quote}])
    out = tmp_path / "out"
    record = corpus_stage(recipe(), root, out, Silent())
    assert leaked["id"] in held(out) and "quote" not in documents(out)
    assert {row["source"]: row["documents"] for row in record["funnel"] if row["step"] == "contaminated"} == {"new": 0, "old": 1}
    (sample,) = lines(out / "removed" / "contaminated.jsonl")
    assert (sample["id"], sample["heldout"]) == ("quote", leaked["id"]) and sample["passage"] == " ".join(
        leaked["text"].split()[5:18]
    ).upper()


@pytest.mark.parametrize(
    "changes",
    [
        {"normalise": Normalise(unicode="keep")},
        {"min_chars": 5},
        {"min_chars": 200},
        {"seed": 1},
        {"heldout": Heldout(share=0.05, min_mb=0.002, max_mb=0.1)},
        {"heldout": Heldout(share=0, min_mb=0.001, max_mb=0.002)},
        {"heldout": Heldout(share=0, min_mb=0, max_mb=0)},
        {"decontaminate": Decontaminate(ngram=0)},
        {"decontaminate": Decontaminate(ngram=3)},
    ],
    ids=repr,
)
def test_every_setting_changes_the_result(root, tmp_path, changes):
    """No field without effect."""
    from unicodedata import normalize

    rows = [{"id": "nfd", "text": normalize("NFD", sentence(7000))}]
    corpus_stage(recipe(), root, tmp_path / "probe", Silent())
    rows += [{"id": f"q{i}", "text": d["text"] + " Và thêm một câu."} for i, d in enumerate(held(tmp_path / "probe").values())]
    write_jsonl(root / "new-3.jsonl", rows)
    corpus_stage(recipe(), root, tmp_path / "a", Silent())
    corpus_stage(recipe(**changes), root, tmp_path / "b", Silent())
    a, b = ((documents(tmp_path / x), set(held(tmp_path / x))) for x in "ab")
    assert a != b


def test_the_same_recipe_gives_the_same_bytes_and_a_second_start_does_nothing(root, tmp_path):
    for name in ("a", "b"):
        corpus_stage(recipe(), root, tmp_path / name, Silent())
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    said = Silent()
    corpus_stage(recipe(), root, tmp_path / "a", said)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} and any("licence" in w for w in said.warnings)


def test_how_work_is_cut_into_tasks_and_shards_does_not_change_the_documents(root, tmp_path, monkeypatch):
    """Batch, task and shard sizes are for memory and speed only."""
    corpus_stage(recipe(), root, tmp_path / "a", Silent())
    monkeypatch.setattr(plan, "TASK_BYTES", 1)
    monkeypatch.setattr(parts, "BATCH_CHARS", 1000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 5000)
    corpus_stage(recipe(), root, tmp_path / "b", Silent())
    assert documents(tmp_path / "a") == documents(tmp_path / "b") and held(tmp_path / "a") == held(tmp_path / "b")
    assert len(open_corpus(tmp_path / "b").sources[0].files) > 3
    assert (tmp_path / "a" / "report.md").read_bytes() == (tmp_path / "b" / "report.md").read_bytes()


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


CHILD = """
import os, signal, sys
from pathlib import Path
from rewarm.corpus import parts, plan, shards
from rewarm.corpus.recipe import CorpusRecipe
from rewarm.corpus.stage import corpus_stage
from rewarm.progress import Silent
plan.TASK_BYTES, parts.BATCH_CHARS, shards.SHARD_BYTES = 1, 3000, 5000
left = int(sys.argv[4])
def check():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
parts.check_stop = shards.check_stop = check
corpus_stage(CorpusRecipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Silent())
"""


def test_a_run_killed_anywhere_ends_with_the_same_bytes(root, tmp_path):
    """kill -9 in the middle of parts and of shards; each start gets a little further."""

    def start(out: Path, kill_at: int) -> int:
        command = [sys.executable, "-c", CHILD, recipe().model_dump_json(), str(root), str(out), str(kill_at)]
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode

    assert start(tmp_path / "whole", -1) == 0
    codes = [start(tmp_path / "killed", at) for at in (2, 5, 9, 12, -1)]
    assert codes[0] == codes[1] == -9 and codes[-1] == 0
    left = {name: data for name, data in tree(tmp_path / "killed").items() if ".tmp-" not in name}
    assert left == tree(tmp_path / "whole")


def test_a_stop_keeps_finished_parts(root, tmp_path, monkeypatch):
    """Ctrl-C is no failure: the same command goes on."""
    monkeypatch.setattr(plan, "TASK_BYTES", 1)
    request_stop("SIGINT")
    try:
        with pytest.raises(Stopped):
            corpus_stage(recipe(), root, tmp_path / "out", Silent())
    finally:
        clear_stop()
    corpus_stage(recipe(), root, tmp_path / "out", Silent())
    corpus_stage(recipe(), root, tmp_path / "other", Silent())
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


def fails(root: Path, tmp_path: Path, *sources: Source, **changes) -> str:
    with pytest.raises(UserError) as error:
        corpus_stage(recipe(sources=list(sources), **changes), root, tmp_path / "out", Silent())
    return error.value.render()


def test_too_many_broken_rows_stop_with_the_first_three_and_the_fix(root, tmp_path):
    """A wrong field name is the usual reason, and the message says which fields there are."""
    write_jsonl(root / "bad.jsonl", [{"body": sentence(i)} for i in range(11)])
    text = fails(root, tmp_path, Source(name="bad", paths=["bad.jsonl"]))
    assert "11 of 11 rows" in text and text.count("bad.jsonl, row") == 3 and "this row has: body" in text
    assert "set corpus.sources[0].text_field" in text and "max_bad_share" in text
    assert len(lines(tmp_path / "out" / "rejected" / "bad.jsonl")) == 11


def test_ten_broken_rows_are_always_tolerated_and_the_share_decides_above(root, tmp_path):
    rows = [{"text": sentence(i)} for i in range(30)]
    write_jsonl(root / "mixed.jsonl", rows + [{"no": 1}] * 10)
    source = Source(name="mixed", paths=["mixed.jsonl"], licence="MIT")
    said = Silent()
    corpus_stage(recipe(sources=[source]), root, tmp_path / "ten", said)
    assert any("10 of 40 rows could not be used" in warning for warning in said.warnings)
    write_jsonl(root / "mixed.jsonl", rows + [{"no": 1}] * 11)
    assert "11 of 41 rows" in fails(root, tmp_path, source)
    corpus_stage(recipe(sources=[source.model_copy(update={"max_bad_share": 0.3})]), root, tmp_path / "share", Silent())


def test_a_big_file_of_broken_rows_is_noticed_before_its_end(root, tmp_path, monkeypatch):
    """Nobody wants to read 100 GB to learn that a field has another name."""
    monkeypatch.setattr(parts, "BATCH_CHARS", 1000)
    write_jsonl(root / "big.jsonl", [{"body": 1}] * 2000 + [{"text": sentence(1)}] * 10 + [{"body": 1}] * 5000)
    assert "of 2,0" in fails(root, tmp_path, Source(name="big", paths=["big.jsonl"]))


def test_nothing_to_read_and_nothing_left_are_errors_that_say_why(root, tmp_path):
    (root / "none.jsonl").write_text("")
    assert "no document in 1 file, 0 rows" in fails(root, tmp_path, Source(name="none", paths=["none.jsonl"]))
    (root / "image.txt").write_bytes(bytes(2000))
    said = fails(root, tmp_path, Source(name="image", paths=["image.txt"]))
    assert "1 rows, none of which can be used" in said and "image.txt, row 1 (byte 0): NUL bytes" in said
    (root / "folder").mkdir()
    said = fails(root, tmp_path, Source(name="folder", paths=["folder"]))
    assert "no text file in the folder `folder`" in said and "did you mean" not in said
    assert "no file at `*.csv`" in fails(root, tmp_path, Source(name="x", paths=["*.csv"]))
    text = fails(root, tmp_path, Source(name="new", paths=["new-*.jsonl"]), min_chars=100_000)
    assert "none of its 213 documents" in text and "lower corpus.min_chars" in text
    sources = [Source(name="a", paths=["new-*.jsonl"]), Source(name="b", paths=["new-*.jsonl"])]
    assert "an earlier source holds the same text" in fails(root, tmp_path, *sources)


def test_warnings_name_what_cannot_be_measured_or_looks_wrong(root, tmp_path):
    """Wrong language, few documents, repeated ids, an empty file: noticed, not guessed at."""
    write_jsonl(
        root / "few.jsonl", [{"id": "same", "text": f"This is English sentence number {i}, said to be Vietnamese."} for i in range(5)]
    )
    (root / "few-empty.jsonl").write_text("")
    said = Silent()
    source = Source(name="few", paths=["few*.jsonl"], id_field="id", languages=["vi"])
    corpus_stage(recipe(sources=[source]), root, tmp_path / "out", said)
    text = "\n".join(said.warnings)
    assert "100% of its text does not look like vi: mostly Latin letters" in text and "fewer than 10 documents" in text
    shown = [json.loads(line) for line in (tmp_path / "out/other_language.jsonl").read_text().splitlines()]
    assert [entry["source"] for entry in shown] == ["few"] * 5 and "This is English" in shown[0]["text"]
    assert json.loads((tmp_path / "out/corpus.json").read_text())["sources"][0]["letters_other_language"] > 200
    assert "ids of 4 document(s)" in text and "few-empty.jsonl" in text and "licence unknown" in text


def test_opening_a_folder_without_a_corpus_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="run the corpus stage first"):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"sources": [{"name": "a", "paths": ["x"]}, {"name": "a", "paths": ["y"]}]}, "two sources are called `a`"),
        ({"sources": [{"name": "../a", "paths": ["x"]}]}, "it names a folder"),
        ({"sources": [{"name": "a", "paths": ["x"]}], "heldout": {"max_mb": 0.1}}, "lower min_mb"),
        ({"sources": []}, "at least 1"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_read(fields, word):
    with pytest.raises(ValueError, match=word):
        CorpusRecipe.model_validate(fields)


def test_the_bar_moves_inside_a_file_and_ends_at_its_size(root, tmp_path, monkeypatch):
    """One file of 10 GB is a usual corpus; a bar that waits for its end is none."""
    import contextlib

    monkeypatch.setattr(parts, "BATCH_CHARS", 3000)
    moves: dict[str, list[float]] = {}

    class Bars(Silent):
        @contextlib.contextmanager
        def bar(self, label, total, unit):
            steps = moves.setdefault(label, [total])

            class Bar:
                def advance(self, amount=1, note=""):
                    steps.append(amount)

            yield Bar()

    corpus_stage(recipe(), root, tmp_path / "out", Bars())
    for total, *steps in moves.values():
        assert sum(steps) == total and min(steps) >= 0
    assert len([step for step in moves["read"][1:] if step]) > 4
