"""Two models and two texts in, a result out: the whole way on tiny models."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from rewarm import signals
from rewarm.errors import Stopped, UserError
from rewarm.evaluate import report
from rewarm.evaluate.documents import TextRef
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.evaluate.stage import ModelRef, evaluate_models, evaluate_stage, score_change
from rewarm.progress import Silent

CFG = EvaluateRecipe(window=64, stride=32, prefix="<|endoftext|>", dtype="fp32", samples=2, sample_tokens=4)


@pytest.fixture
def texts(write_text: Callable[..., Path], documents: Callable[..., list[str]]) -> list[TextRef]:
    return [
        TextRef("en", "old", write_text("en.jsonl", documents(24, 0))),
        TextRef("vi", "new", write_text("vi.jsonl", documents(24, 1))),
    ]


@pytest.fixture
def pair(make_model: Callable[..., Path]) -> tuple[Path, Path]:
    """A base, and the same with noise on its weights."""
    base = make_model("base")
    noisy = make_model("noisy")
    model = AutoModelForCausalLM.from_pretrained(noisy)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(noisy)
    return base, noisy


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_result_can_be_redone_from_its_documents(pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path):
    """results.json is what documents.parquet says: nobody needs the models to check a number."""
    models = [ModelRef("base", pair[0]), ModelRef("extended", pair[0]), ModelRef("after", pair[1])]
    result = evaluate_stage(CFG, models, texts, tmp_path / "out", Silent(), cache=tmp_path / "cache")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(result))
    table = pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    for name in ("en", "vi"):
        rows = [row for row in table if row["text"] == name]
        bits = result["texts"][name]["bits_per_byte"]
        total = sum(row["bytes"] for row in rows)
        for key in ("before", "extended", "after"):
            assert bits[key] == pytest.approx(sum(row[f"nll_{key}"] for row in rows) / math.log(2) / total)
        assert bits["extended"] == bits["before"] and bits["delta"] == pytest.approx(bits["after"] - bits["before"])
        assert bits["low"] < bits["delta"] < bits["high"]
        assert result["texts"][name]["bytes_per_token"]["after"] == pytest.approx(total / sum(row["tokens_after"] for row in rows))
        assert result["texts"][name]["documents"] == len(rows) == 24
    assert result["protocol"]["prefix"] == {"base": "<|endoftext|>", "extended": "<|endoftext|>", "after": "<|endoftext|>", "tried": {}}
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [set(sample["continuations"]) for sample in samples] == [{"base", "after"}] * len(samples)


def test_a_model_against_itself_is_kept(pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path):
    result = evaluate_models(pair[0], pair[0], texts, cfg=CFG, budget={"en": 0.0}, cache=tmp_path / "cache")
    bits = result["texts"]["en"]["bits_per_byte"]
    assert (bits["delta"], bits["low"], bits["high"]) == (0, 0, 0) and result["texts"]["en"]["verdict"] == "kept"
    assert result["texts"]["vi"]["verdict"] == "no change seen"


def test_noise_on_the_weights_is_seen(pair: tuple[Path, Path], texts: list[TextRef], make_model: Callable[..., Path], tmp_path: Path):
    """An untrained model cannot lose much; against a model of the text itself, noise must show as forgetting."""
    base, noisy = pair
    model = AutoModelForCausalLM.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    from rewarm.evaluate.encode import Encoder

    encoder = Encoder(base)
    for document in [json.loads(line)["text"] for line in texts[0].path.read_text().splitlines()] * 2:
        ids = torch.tensor([[0, *encoder.plain(document)]])
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(base)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(noisy)
    result = evaluate_models(noisy, base, texts, cfg=CFG, budget={"en": 0.01}, cache=tmp_path / "cache")
    assert result["texts"]["en"]["verdict"] == "over" and result["texts"]["en"]["bits_per_byte"]["low"] > 0.01


def test_a_stopped_evaluation_goes_on_and_ends_in_the_same_bytes(
    pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A kill costs one part; what comes out is what an uninterrupted call writes, to the byte."""
    from rewarm.evaluate import store

    monkeypatch.setitem(store.PART_BYTES, "cpu", 700)
    models = [ModelRef("base", pair[0]), ModelRef("after", pair[1])]
    evaluate_stage(CFG, models, texts, tmp_path / "whole", Silent(), cache=tmp_path / "cache-1")
    written: list[Path] = []
    real = store.write_scores

    def stop_after_three(path: Path, scores) -> None:
        real(path, scores)
        written.append(path)
        if len(written) == 3:
            signals.request_stop("test")

    monkeypatch.setattr(store, "write_scores", stop_after_three)
    try:
        with pytest.raises(Stopped):
            evaluate_stage(CFG, models, texts, tmp_path / "resumed", Silent(), cache=tmp_path / "cache-2")
    finally:
        signals.clear_stop()
    assert not (tmp_path / "resumed" / "results.json").exists()
    before = len(written)
    evaluate_stage(CFG, models, texts, tmp_path / "resumed", Silent(), cache=tmp_path / "cache-2")
    assert folder_bytes(tmp_path / "resumed") == folder_bytes(tmp_path / "whole")
    names = [path for path in written[before:] if path.parent.name == "scores"]
    assert not {path.name for path in written[:before]} & {path.name for path in names}


def test_the_base_is_scored_once_for_many_runs(
    pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half of the time of a second evaluation; another protocol or text is not taken for the same."""
    from rewarm.model import score

    loaded: list[str] = []
    real = score.load_base

    def counted(path, *args, **kwargs):
        loaded.append(Path(path).name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(score, "load_base", counted)
    cfg = CFG.model_copy(update={"samples": 0})
    first = evaluate_models(pair[1], pair[0], texts, cfg=cfg, cache=tmp_path / "cache")
    assert loaded == ["base", "noisy"]
    assert evaluate_models(pair[1], pair[0], texts, cfg=cfg, cache=tmp_path / "cache") == first
    assert loaded == ["base", "noisy", "noisy"]
    evaluate_models(pair[1], pair[0], texts, cfg=cfg.model_copy(update={"stride": 16}), cache=tmp_path / "cache")
    assert loaded[3:] == ["base", "noisy"]


def test_any_two_tokenizers_are_compared_on_the_same_characters(
    make_model: Callable[..., Path], make_tokenizer: Callable[..., object], texts: list[TextRef], tmp_path: Path
):
    """A model with another vocabulary and another begin token: same documents, same bytes, its own prefix, and a warning."""
    base = make_model("base", zero=True)
    other = make_model("other", zero=True, tokenizer=make_tokenizer(300, specials=("<s>",)), settings={"eos_token": "<s>"}, rows=512)
    result = evaluate_models(other, base, texts, cfg=CFG, cache=tmp_path / "cache")
    assert result["protocol"]["prefix"]["after"] == "<s>" and any("begin token" in warning for warning in result["warnings"])
    for text in result["texts"].values():
        assert text["bits_per_byte"]["before"] == pytest.approx(math.log2(320) / text["bytes_per_token"]["before"], rel=1e-6)
        assert text["bits_per_byte"]["after"] == pytest.approx(9 / text["bytes_per_token"]["after"], rel=1e-6)


def test_the_window_is_the_models_not_the_tokenizers(
    make_model: Callable[..., Path], make_tokenizer: Callable[..., object], write_text: Callable[..., Path], tmp_path: Path
):
    """`model_max_length` is 10^30 where nobody set it and 16 where somebody erred; the model's 64 learned positions are the limit, and
    nothing is cut: every token of a document ten times as long costs log2 of the rows."""
    path = write_text("x.jsonl", ["The cat sat on the mat. ", "Điều 1. Phạm vi điều chỉnh. " * 40])
    found = []
    for name, limit in (("base", 10**30), ("base-small", 16)):
        folder = make_model(name, zero=True, kind="gpt2", n_positions=64, rows=320, settings={"model_max_length": limit})
        cfg = EvaluateRecipe(prefix="none", samples=0)
        result = evaluate_models(folder, None, [TextRef("x", "old", path)], cfg=cfg, cache=tmp_path / "cache")
        [text] = result["texts"].values()
        found.append(text["bits_per_byte"]["after"])
        assert text["bits_per_byte"]["after"] == pytest.approx(math.log2(320) / text["bytes_per_token"]["after"], abs=1e-4)
        assert result["protocol"]["window"] <= 64 and any("positions" in warning for warning in result["warnings"])
        assert text["bits_per_byte"]["before"] is None and text["verdict"] == "measured"
    assert found[0] == found[1]


def test_half_texts_and_what_a_step_back_is_chosen_on(pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path):
    """What a step back is chosen on: the control half, the base only on old text, and the same numbers as the whole evaluation gives."""
    halves = [TextRef(t.name, t.role, t.path, "control") for t in texts]
    change = score_change(CFG, pair[0], pair[1], halves, tmp_path / "out", Silent(), cache=tmp_path / "cache")
    assert change["vi"]["base"] is None
    whole = evaluate_models(pair[1], pair[0], halves, cfg=CFG, cache=tmp_path / "cache")
    assert whole["texts"]["en"]["documents"] == 12
    assert change["en"]["bits_per_byte"] == whole["texts"]["en"]["bits_per_byte"]["after"]
    assert change["en"]["base"] == whole["texts"]["en"]["bits_per_byte"]["before"]
    assert change["vi"]["role"] == "new"


def test_one_text_as_old_and_new_is_an_error(pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path):
    """Another file name does not make it another text."""
    shutil.copy(texts[0].path, tmp_path / "copy.jsonl")
    twice = [texts[0], TextRef("again", "new", tmp_path / "copy.jsonl")]
    with pytest.raises(UserError, match="same text"):
        evaluate_models(pair[1], pair[0], twice, cfg=CFG, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="name `en`"):
        evaluate_models(pair[1], pair[0], [texts[0], TextRef("en", "new", texts[1].path)], cfg=CFG, cache=tmp_path / "cache")
    with pytest.raises(UserError, match="no text `fr`"):
        evaluate_models(pair[1], pair[0], texts, cfg=CFG, budget={"fr": 0.1}, cache=tmp_path / "cache")


def test_few_documents_are_undecided(pair: tuple[Path, Path], write_text: Callable[..., Path], tmp_path: Path):
    path = write_text("few.jsonl", ["one short text", "another one"])
    result = evaluate_models(pair[1], pair[0], [TextRef("few", "old", path)], cfg=CFG, cache=tmp_path / "cache")
    assert result["texts"]["few"]["verdict"] == "undecided" and result["texts"]["few"]["bits_per_byte"]["low"] is None
    assert "at least 10" in result["texts"]["few"]["sentence"]


def test_the_table_and_the_report_show_the_numbers(pair: tuple[Path, Path], texts: list[TextRef], tmp_path: Path):
    """What a person reads is what results.json holds; a model's words are no markup."""
    result = evaluate_models(pair[1], pair[0], texts, cfg=CFG, out=tmp_path / "out", cache=tmp_path / "cache")
    rows = report.rows_of(result)
    bits = result["texts"]["en"]["bits_per_byte"]
    assert rows[0][4] == f"{bits['before']:.4f}" and rows[0][5] == "" and rows[0][6] == f"{bits['after']:.4f}"
    assert f"{bits['low']:+.4f} to {bits['high']:+.4f}" == rows[0][8]
    assert [column.header for column in report.table_of(result).columns][4:6] == ["before", "after"]
    written = (tmp_path / "out" / "report.md").read_text()
    assert f"| {rows[0][4]} |" in written and result["texts"]["vi"]["sentence"] in written
    alone = evaluate_models(pair[0], None, texts, cfg=CFG, cache=tmp_path / "cache")
    assert report.rows_of(alone)[0][4] == "" and "protocol" in report.lines_of(alone)[2]
    nasty = [{"text": "en", "document": "d", "prompt": "# a", "reference": "b", "continuations": {"after": "```\n# no\n| x |"}}]
    assert "\n    # no\n" in report.markdown(result, nasty)
