"""Real text, and text made dirty on purpose with a table of what must become of it. Needs REWARM_DATA; never copied into the project."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rewarm.corpus.language import look, told
from rewarm.corpus.recipe import CorpusRecipe, Heldout, Source
from rewarm.corpus.stage import corpus_stage
from rewarm.progress import Silent

DATA = Path(os.environ.get("REWARM_DATA", ""))
pytestmark = pytest.mark.skipif(not os.environ.get("REWARM_DATA"), reason="REWARM_DATA is not set: no folder with real text")

TABLES = ["web-00.jsonl", "web-01.jsonl.gz", "part.parquet"]
NOTHING_HELD_OUT = Heldout(share=0, min_mb=0, max_mb=0)


def truth(*files: str) -> list[dict]:
    rows = map(json.loads, (DATA / "dirty" / "truth.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row.get("file", "").split("/")[0] in files]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory) -> tuple[Path, dict[tuple[str, str], str]]:
    """The dirty files as four sources; (output folder, (source, id) -> text)."""
    sources = [
        Source(name="web", paths=TABLES, id_field="id", max_bad_share=0.05),
        Source(name="bad", paths=["bad_rows.jsonl"], id_field="id", max_bad_share=0.9),
        Source(name="pages", paths=["pages/*.txt"], txt_unit="file", max_bad_share=0.9),
        Source(name="bom", paths=["bom.jsonl", "empty.jsonl"], id_field="id"),
    ]
    out = tmp_path_factory.mktemp("dirty")
    record = corpus_stage(CorpusRecipe(sources=sources, heldout=NOTHING_HELD_OUT, min_chars=1), DATA / "dirty", out, Silent())
    found = {}
    for source in record["sources"]:
        for name in source["files"]:
            found |= {(source["name"], row["id"]): row["text"] for row in pq.read_table(out / name).to_pylist()}
    return out, found


def raw_texts() -> dict[str, str]:
    folder = DATA / "dirty"
    rows = [json.loads(line) for line in (folder / "web-00.jsonl").read_text(encoding="utf-8").split("\n") if line]
    rows += [json.loads(line) for line in gzip.decompress((folder / "web-01.jsonl.gz").read_bytes()).decode().split("\n") if line]
    rows += pq.read_table(folder / "part.parquet", columns=["id", "text"]).to_pylist()
    return {row["id"]: row["text"] for row in rows}


def test_clean_documents_pass_unchanged(dirty):
    """The first duty of a cleaner; traps (emoji joiners, angle brackets in code) among them."""
    raw = raw_texts()
    wanted = [t["id"] for t in truth(*TABLES) if t["kind"][0] in ("clean", "html_lookalike", "zwj_legit")]
    assert len(wanted) > 150 and all(dirty[1]["web", name] == raw[name] for name in wanted)


def test_decomposed_text_and_invisible_characters_are_repaired(dirty):
    wanted = [t for t in truth(*TABLES) if t["kind"] in (["nfd"], ["zero_width"])]
    assert len(wanted) > 15 and all(dirty[1]["web", t["id"]] == t["clean"] for t in wanted)


def test_one_of_each_group_of_copies_stays(dirty):
    groups: dict[str, list[bool]] = {}
    for t in truth(*TABLES):
        if t["kind"] == ["exact_dup"]:
            groups.setdefault(t["group"], []).append(("web", t["id"]) in dirty[1])
    assert len(groups) > 20 and all(sum(kept) == 1 for kept in groups.values())


def test_blank_and_null_texts_are_no_documents(dirty):
    assert not any(("web", t["id"]) in dirty[1] for t in truth(*TABLES) if t["kind"][0] in ("empty", "null_text"))


def test_broken_rows_are_those_of_the_table(dirty):
    rejects = [json.loads(line) for line in (dirty[0] / "rejected" / "bad.jsonl").read_text(encoding="utf-8").split("\n") if line]
    found = {reject["row"] - 1 for reject in rejects}  # the table counts from 0, a message as editors do
    rows = truth("bad_rows.jsonl")
    assert {t["row"] for t in rows if t["expect"] == "reject"} <= found
    assert not {t["row"] for t in rows if t["expect"] in ("keep", "repair", "skip", "drop")} & found


def test_pages_that_are_utf8_are_read_and_the_others_are_rejected(dirty):
    kept = {}
    for t in truth("pages"):
        name = t["file"].split("/")[-1]
        kept[t["kind"][0]] = dirty[1].get(("pages", hashlib.blake2b(f"pages\0{name}\0000".encode(), digest_size=16).hexdigest()))
        if t["kind"][0] in ("txt_bom", "txt_crlf", "txt_cr"):
            assert kept[t["kind"][0]] == t["clean"]
    assert kept["txt_utf8"] and kept["long_line"] and not kept["legacy_encoding"] and not kept["binary"]


LANGUAGES = {
    "vi_wiki": "vi", "vi_law": "vi", "vi_docs": "vi", "en_openstax": "en", "en_factbook": "en", "en_novels": "en", "zh": "zh", "ja": "ja",
    "ko": "ko",
}  # fmt: skip


def opening(name: str, letters: int) -> list[str]:
    """The first documents of a training file, about so many characters."""
    out: list[str] = []
    for text in pq.read_table(DATA / "train" / f"{name}.parquet", columns=["text"]).column("text").to_pylist():
        if letters <= 0:
            break
        out.append(text)
        letters -= len(text)
    return out


@pytest.mark.parametrize("name", LANGUAGES)
def test_clean_text_is_not_said_to_be_in_another_language(name):
    """Manuals hold code, articles hold names and formulas: a warning there would be cried wolf."""
    looks = look(opening(name, 2_000_000), [LANGUAGES[name]])
    assert looks.letters > 100_000 and looks.share < 0.06 and told(looks, [LANGUAGES[name]]) is None


def test_a_third_of_english_in_vietnamese_is_found():
    """As documents of their own, and as paragraphs between the Vietnamese ones."""
    vietnamese, english = opening("vi_wiki", 1_000_000), opening("en_openstax", 500_000)
    paragraphs = [line for text in english for line in text.split("\n") if len(line) > 80]
    each = -(-len(paragraphs) // len(vietnamese))
    woven = ["\n".join([text, *paragraphs[i * each : (i + 1) * each]]) for i, text in enumerate(vietnamese)]
    for texts in ([*vietnamese, *english], woven):
        assert look(texts, ["vi"]).share == pytest.approx(1 / 3, abs=0.05)
