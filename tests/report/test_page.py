"""The page: its numbers are the files' numbers, what is missing is said, and the same files give the same bytes."""

from __future__ import annotations

import html
import json
import re

import pytest

from rewarm.errors import UserError
from rewarm.report import facts
from rewarm.report.page import report_page

MARK = "0123456789ab"


def words(page):
    """The page's visible text, tags taken out and spaces joined."""
    body = page.html.partition("<body>")[2]
    body = re.sub(r"<(script|style).*?</\1>", " ", body, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def rows(page, table):
    """Cells of each row of the table with this id."""
    found = re.search(rf'<table[^>]*id="{table}".*?<tbody>(.*?)</tbody>', page.html, re.DOTALL)
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).replace("\N{NO-BREAK SPACE}", " ")
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    ]


def test_the_forgetting_table_has_the_numbers_of_the_results(page_of, files):
    """Whoever judges a run reads this table: a number that differs from results.json would be a lie."""
    page = page_of(files)
    texts = files[f"evaluate-{MARK}/results.json"]["texts"]
    found = rows(page, "changes")
    assert [row[0] for row in found] == ["vi_law", "en_wiki"]
    for name, *cells in found:
        bits = texts[name]["bits_per_byte"]
        assert int(cells[1]) == texts[name]["documents"]
        before, after, change = (cells[i].replace("\N{MINUS SIGN}", "-") for i in (3, 5, 6))
        assert float(before) == pytest.approx(bits["before"], abs=6e-4)
        assert float(cells[4]) == pytest.approx(bits["extended"], abs=6e-4)
        assert float(after) == pytest.approx(bits["after"], abs=6e-4)
        assert float(change.split()[0]) == pytest.approx(bits["delta"], abs=6e-5)
        low, high = cells[7].replace("\N{MINUS SIGN}", "-").split(" to ")
        assert (float(low), float(high)) == (bits["low"], bits["high"])


def test_a_reader_of_the_page_finds_the_answers(page_of, files):
    """What was learned and forgotten, how sure, trained on what, dropped why, used how: each as the files have it."""
    said = words(page_of(files))
    assert "Small.Q4_1 was trained further on vi_law (Vietnamese) for 5.0 minutes on a CPU: 50,599 tokens in 50 steps" in said
    assert "It learned: it predicts this text better than the base did: the 95 % interval is −0.5675 to −0.1863" in said
    assert "No forgetting was seen: the 95 % interval is −0.0239 to +0.0046 and holds zero. A loss above +0.0046 is unlikely" in said
    assert "new text, to be learned · Vietnamese · licence MIT · from law/*.txt" in said and "150, 8.6 % of the source" in said
    assert "37,993 tokens, 75 % of all" in said and "447,116" in said and "1,755" in said
    assert "repeats held-out text: 438 documents" in said and "it shares 13 words in a row" in said
    assert "too short: 3 documents" in said and "fewer than 50 characters" in said and "A shirt is a cloth garment." in said
    assert "2 of 9" in said, "rows that could not be read"
    assert f"python -m rewarm.export.generate export-{MARK}/model 'Điều 1. Phạm vi điều chỉnh'" in said
    assert "90 % of each change is kept (reason: no old text is above the base)" in said
    assert "base says this" in said and "after says that" in said
    assert "Warning: only 4.8 MB of protected text" in said and "Note: the base is a 4-bit file" in said
    assert "MIT" in said and "not stated" in said and "apache-2.0" in said
    assert ["vi_law", "new", "38.4 KB", "23,785", "8,436", "1.61", "4.55"] in rows(page_of(files), "fertility")


def test_a_plot_has_a_mark_for_every_number(page_of, files):
    """An empty or thinned plot looks like a plot: marks are counted against the metrics."""
    page = page_of(files)
    plots = dict(re.findall(r'<svg class="plot"[^>]*aria-label="([^"]*)"(.*?)</svg>', page.html, re.DOTALL))
    marks = {name: svg.count('class="mark') for name, svg in plots.items()}
    steps = len(files[f"train-{MARK}/metrics.jsonl"])
    assert marks["Training loss"] == steps
    assert marks["Bits per byte of the training text, by source"] == 2 * steps
    assert marks["Held-out new text during training, bits per byte"] == 3
    assert marks["Held-out old text during training, bits per byte"] == 3
    assert marks["Bytes a token by the number of new tokens"] == 4
    assert marks["New text: what was learned"] == marks["Old text: what was forgotten"] == 1
    assert "en_wiki: the base, 0.850" in plots["Held-out old text during training, bits per byte"]
    assert len(rows(page, "training-numbers")) == steps and len(rows(page, "probe-numbers")) == 3
    assert "<title>step 12: 3.000 nats a token</title>" in plots["Training loss"]
    assert "<title>en_wiki: −0.0097 (−0.0239 to +0.0046)</title>" in plots["Old text: what was forgotten"]
    for name, svg in plots.items():
        said = re.findall(r"<title>(.*?)</title>", svg)
        assert len(said) >= marks[name] and all(re.search(r"\d", one) for one in said), name
        assert re.search(r"<desc>.*\d.*</desc>", svg) or name.startswith("Bytes"), name


def test_learned_and_forgotten_have_scales_of_their_own(page_of, files):
    """On one axis a large gain hides a small loss: the interval of the old text must fill its panel."""
    page = page_of(files)
    for name in ("New text: what was learned", "Old text: what was forgotten"):
        svg = re.search(rf'aria-label="{name}"(.*?)</svg>', page.html, re.DOTALL)[1]
        low, high = map(float, re.search(r'<path d="M([\d.]+) [\d.]+L([\d.]+) ', svg).groups())
        assert high - low > 100


def test_the_worst_text_of_a_role_is_the_headline(page_of, files):
    """With three old texts a tile that shows the best one would hide what was lost."""
    texts = files[f"evaluate-{MARK}/results.json"]["texts"]
    bits = {"before": 1.0, "extended": None, "after": 1.2, "delta": 0.2, "low": 0.1, "high": 0.3}
    texts["en_talks"] = {**texts["en_wiki"], "bits_per_byte": bits, "verdict": "forgot"}
    said = words(page_of(files))
    assert "Forgotten forgot some: +20.0 % en_talks, the worst of 2 old texts" in said
    assert "It forgot some of this: the 95 % interval is +0.1000 to +0.3000, all above zero." in said


def test_many_texts_are_counted_and_the_worst_is_told(page_of, files):
    """Forty sentences that say the same are read by nobody."""
    texts = files[f"evaluate-{MARK}/results.json"]["texts"]
    for i in range(1, 10):
        bits = {"before": 1.0, "extended": None, "after": 1 + i / 10, "delta": i / 10, "low": i / 10 - 0.05, "high": i / 10 + 0.05}
        texts[f"old_{i}"] = {**texts["en_wiki"], "bits_per_byte": bits, "verdict": "forgot"}
    page = page_of(files)
    said = words(page)
    assert "Of 10 old texts: forgot some 9, no change seen 1. The worst: old_9: from 1.000 to 1.900" in said
    assert "<li>old_3: from" not in page.html and len(rows(page, "changes")) == 11
    assert "176 held-out documents of 11 texts" in said


@pytest.mark.parametrize("verdict, said", [("kept", "all of it within the +0.0200"), ("undecided", "partly above the +0.0200")])
def test_a_budget_is_said_with_its_verdict(page_of, files, verdict, said):
    files[f"evaluate-{MARK}/results.json"]["texts"]["en_wiki"] |= {"budget": 0.02, "verdict": verdict}
    assert f"{said} that were allowed: {verdict}." in words(page_of(files))


def test_too_few_documents_give_no_interval_and_no_claim(page_of, files):
    text = files[f"evaluate-{MARK}/results.json"]["texts"]["vi_law"]
    text["bits_per_byte"] |= {"low": None, "high": None}
    text |= {"verdict": "undecided", "documents": 4}
    page = page_of(files)
    assert "4 documents are too few for an interval, so this may be chance." in words(page)
    assert "Learned undecided vi_law" in words(page)


def test_without_held_out_text_nothing_is_claimed(page_of, files):
    """No number where none was measured, and the page says what that leaves unknown."""
    files[f"evaluate-{MARK}/results.json"] = {"format": 1, "texts": {}, "warnings": []}
    files["summary.json"]["texts"] = {}
    del files[f"evaluate-{MARK}/samples.jsonl"], files[f"vocab-{MARK}/report.json"]
    page = page_of(files)
    said = words(page)
    assert "Missing: No text was measured, so what was learned and what was forgotten are unknown." in said
    assert said.count("not measured") >= 4 and "No samples were made in this run." in said
    assert "Nothing was measured: no text was held out." in said
    assert page.result["missing"] == [
        "No text was measured, so what was learned and what was forgotten are unknown.",
        "No samples were made.",
    ]


def test_without_old_text_the_page_says_that_forgetting_is_unknown(page_of, files):
    del files[f"evaluate-{MARK}/results.json"]["texts"]["en_wiki"]
    corpus = files[f"corpus-{MARK}/corpus.json"]
    corpus["sources"], corpus["funnel"] = corpus["sources"][:1], corpus["funnel"][:7]
    page = page_of(files)
    assert "Missing: No old text was measured: what was forgotten is unknown." in words(page)
    assert "Missing: No old text was mixed in during training" in words(page)
    assert "Old text: what was forgotten" not in page.html


@pytest.mark.parametrize("stage", ["no stage", "not worth it"])
def test_a_run_that_did_not_extend_says_so(page_of, files, stage):
    """Two ways not to extend: turned off, or found not to be worth it."""
    files = {name: value for name, value in files.items() if not name.startswith("vocab-")}
    files["summary.json"]["vocabulary"] = {"extended": False}
    if stage == "no stage":
        del files["summary.json"]["stages"]["vocab"]
    else:
        files[f"vocab-{MARK}/done.json"] = {"seconds": 1.0, "facts": {"extended": False, "reason": "the gain is 3 %"}}
    files[f"evaluate-{MARK}/results.json"]["texts"]["vi_law"]["bytes_per_token"]["after"] = 1.62
    page = page_of(files)
    said = words(page)
    assert ("The vocabulary was not extended: the gain is 3 %." in said) == (stage == "not worth it")
    assert "The vocabulary was not extended" in said and "adapted model:" not in said and "base: " in said
    assert ["vi_law", "new", "21.8 KB", "13,485", "13,485", "1.62", "1.62"] in rows(page, "fertility"), "from the measured texts"
    assert "Length of new text as many tokens as before" in said


def test_half_a_run_gives_a_page_that_says_what_is_missing(page_of, files):
    """A run that was stopped leaves no summary: its finished stages are shown, the rest is named."""
    kept = {name: value for name, value in files.items() if name.split("-")[0] in ("base", "corpus", "recipe.json")}
    page = page_of(kept)
    said = words(page)
    assert "This run did not come to its end. Finished stages: base and corpus." in said
    assert "Nothing was measured: the run did not come to its measuring." in said and "The run did not come to its vocabulary." in said
    assert "held out." not in said, "text was held out, only not yet measured"
    assert "the training has not ended" in said and "This run has no exported model." in said
    assert "2,703" in said, "what is known is shown"


def test_a_run_in_the_middle_of_training_shows_its_curves_and_no_model(page_of, files):
    """`rewarm report` beside a running training: what there is so far is drawn, and half a model is not offered for use."""
    unfinished = ("train", "mixback", "evaluate")
    left_out = {f"{name}-{MARK}/done.json" for name in (*unfinished, "export")} | {f"evaluate-{MARK}/results.json"}
    page = page_of({name: value for name, value in files.items() if name != "summary.json" and name not in left_out})
    said = words(page)
    assert "Finished stages: base, corpus, vocab, tokens and rows; begun: train, mixback, evaluate and export." in said
    assert "The training has not ended." in said and len(rows(page, "training-numbers")) == 12
    assert "This run has no exported model." in said and "No text was measured" in said


def test_a_later_call_that_did_not_end_is_told(page_of, files):
    """The numbers and the recipe are of the call that ended, though recipe.json is the later one's."""
    assert page_of(files).result["missing"] == []
    files["summary.json"]["recipe"] = {**files["recipe.json"], "name": "the one that ended"}
    folder = "train-ba9876543210"
    said = words(page_of({**files, f"{folder}/plan.json": {}}))
    assert f"A later call on this folder began and did not end ({folder})" in said
    assert "the one that ended" in said.split("Recipe, every field")[1]


def test_text_that_looks_like_another_language_is_told_with_its_share(page_of, files):
    page = page_of(files)
    assert "34 % of its text does not look like Vietnamese. Nothing was dropped for that. 1 example" in words(page)
    assert "Published in the official gazette." in page.html and "look like English" not in words(page)


def test_a_file_that_is_no_report_is_not_overwritten(page_of, files, tmp_path):
    """`rewarm report RUN --out notes.html` typed by mistake."""
    page = page_of(files)
    report_page(page.path.parent, page.path)
    notes = tmp_path / "notes.html"
    notes.write_text("<title>mine</title>")
    with pytest.raises(UserError, match="no report"):
        report_page(page.path.parent, notes)
    with pytest.raises(UserError, match="a folder"):
        report_page(page.path.parent, tmp_path)
    assert notes.read_text() == "<title>mine</title>"


def test_torn_lines_and_broken_files_are_noted_not_fatal(page_of, files):
    """A kill may cut the last line of the metrics; a full disk may leave an empty file."""
    lines = "".join(json.dumps(line) + "\n" for line in files[f"train-{MARK}/metrics.jsonl"])
    files[f"train-{MARK}/metrics.jsonl"] = lines + '{"step": 13, "tok'
    files[f"vocab-{MARK}/gate.json"] = ""
    files[f"vocab-{MARK}/model/tokenizer.json"] = "{"
    page = page_of(files)
    assert f"Could not be read: train-{MARK}/metrics.jsonl: 1 line could not be read." in words(page)
    assert f"Could not be read: vocab-{MARK}/gate.json" in words(page)
    assert len(rows(page, "training-numbers")) == 12


def test_numbers_that_are_none_are_never_zero(page_of, files):
    """A step that was left out has loss null, or "nan": a gap, not a zero."""
    files[f"train-{MARK}/metrics.jsonl"][3] |= {"loss": None, "sources": {}}
    files[f"train-{MARK}/metrics.jsonl"][4]["loss"] = "nan"
    page = page_of(files)
    assert [row[2] for row in rows(page, "training-numbers")][2:6] == ["5.250", "not measured", "not measured", "4.500"]


def test_the_same_files_give_the_same_page(page_of, files):
    """No clock, no order of files on disk: a report can be compared with one that was made elsewhere."""
    assert page_of(files).result["sha256"] == page_of(files).result["sha256"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run here"):
        report_page(tmp_path, tmp_path / "report.html")


def test_a_long_run_of_many_sources_stays_under_three_megabytes(page_of, files):
    """50,000 steps, 30 sources, endless samples and warnings: a page that is mailed around must stay small."""
    names = [f"source_{i:02d}" for i in range(30)]
    source = files[f"corpus-{MARK}/corpus.json"]["sources"][0]
    files[f"corpus-{MARK}/corpus.json"]["sources"] = [{**source, "name": name} for name in names]
    line = json.dumps({name: {"bits_per_byte": 1.2345678} for name in names})
    files[f"train-{MARK}/metrics.jsonl"] = "".join(
        f'{{"step": {s}, "tokens": {s * 1000}, "loss": 2.5, "sources": {line if s % 100 == 0 else "{}"}}}\n' for s in range(1, 50_001)
    )
    sample = files[f"evaluate-{MARK}/samples.jsonl"][0]
    files[f"evaluate-{MARK}/samples.jsonl"] = [{**sample, "prompt": "x" * 100_000}] * 500
    texts = files[f"evaluate-{MARK}/results.json"]["texts"]
    texts |= dict.fromkeys(names, texts["vi_law"])
    files["summary.json"]["warnings"] = [f"warning {i} " + "y" * 5000 for i in range(300)]
    page = page_of(files)
    assert page.result["bytes"] < 3_000_000
    assert "and 240 more warnings" in words(page)
    assert page.html.count('class="card sample"') == facts.MOST_SAMPLES
