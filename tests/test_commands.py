"""The commands as people call them: real processes, a tiny real model, generated text; exit codes, messages and files.

Everything that ends with another code than 0 is checked for a message that says where and what to do, and for no traceback.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SCRIPT = Path(sys.executable).with_name("rewarm")
REWARM = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-m", "rewarm.cli"]
END = "<|endoftext|>"
HEADS, TAILS = "b c d f g l m n p r s t w st tr pl", "ake ent ing old ore and est ill ock ear ay our ish"
ENGLISH = [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]
HEADS, TAILS = "b c d đ g h l m n q t v x ch kh ng nh ph th tr", "á à ả ãi ạ ăn ấn ậy êu ọc ính ường ước iệt ông oà ĩa ếp ộng"
VIETNAMESE = [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]
RECIPE = """\
name: house
model: {base: base}
corpus:
  sources:
    - {name: vi, paths: [new.jsonl], role: new, languages: [vi], licence: MIT}
    - {name: en, paths: [old.txt], role: replay, languages: [en], licence: CC0-1.0}
  heldout: {share: 0.05, min_mb: 0.02, max_mb: 0.02}
vocab: {extend: true, size: 60}
tokens: {row_tokens: 64}
train: {tokens: 10240, step_tokens: 512, lr: 1e-3, device: cpu, precision: fp32, probe_every: off}
evaluate: {max_mb: 0.02, dtype: fp32, samples: 1, sample_tokens: 4}
"""
LONG = ("vocab.extend=false", "train.tokens=153600", "keep.mixback=off", "evaluate.max_mb=0.01")
"""300 steps: long enough to be interrupted."""


def documents(words: list[str], size: int, seed: int) -> list[str]:
    """Documents of a few lines of these words, the first ones often, `size` bytes in all."""
    rng = np.random.default_rng(seed)
    out: list[str] = []
    while size > 0:
        lines = []
        for _ in range(rng.integers(2, 5)):
            picked = (rng.random(rng.integers(10, 22)) ** 2 * len(words)).astype(int)
            lines.append(" ".join(words[i] for i in picked).capitalize() + ".")
        out.append("\n".join(lines))
        size -= len(out[-1].encode())
    return out


def write_base(folder: Path, texts: list[str]) -> None:
    """A Llama of two layers and width 32 with a byte-level BPE tokenizer trained on these texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=480, special_tokens=[END], initial_alphabet=letters, show_progress=False)
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}))


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, old and new text (one row of it broken) and a recipe."""
    folder = tmp_path_factory.mktemp("house")
    old = documents(ENGLISH, 1_500_000, 1)
    (folder / "old.txt").write_text("\n\n".join(old), encoding="utf-8")
    rows = write_jsonl(folder / "new.jsonl", documents(VIETNAMESE, 300_000, 2)).read_text(encoding="utf-8").splitlines()
    rows[100] = '{"text": "no end'
    (folder / "new.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_base(folder / "base", old[:300])
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


def rewarm(*arguments: str, cwd: Path, code: int | None = 0) -> SimpleNamespace:
    """Runs a command to its end and checks its exit code (None: any); whatever happens, no traceback is shown."""
    done = subprocess.run(
        [*REWARM, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    shown = f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr + done.stdout, shown
    assert code is None or done.returncode == code, f"exit {done.returncode}\n{shown}"
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture
def refused(place: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must end with exit 2, after `rewarm: ` on stderr; returns stderr. Its run folder is `tmp_path/run`."""

    def refuse(*arguments: str, cwd: Path = place) -> str:
        err = rewarm(*arguments, cwd=cwd, code=2).err
        assert err.startswith("rewarm: "), err
        return err

    return refuse


@pytest.fixture(scope="session")
def house(place: Path) -> SimpleNamespace:
    """A whole run, once: what it printed, its folder, its summary."""
    done = rewarm("run", "recipe.yaml", cwd=place)
    folder = place / "runs" / "house"
    return SimpleNamespace(out=done.out, folder=folder, summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# What the commands do


def test_run_goes_from_text_to_a_measured_model(house):
    """The stable keys of summary.json are what scripts read; the lines at the end are what people read."""
    summary = house.summary
    assert set(summary) >= {"new", "old", "texts", "seconds", "tokens_per_second", "peak_memory_gib", "report"}
    assert set(summary["texts"]) == {"vi", "en"}
    for name, role in (("vi", "new"), ("en", "old")):
        text = summary["texts"][name]
        assert text == summary[role] and text["role"] == role
        assert set(text["bytes_per_token"]) >= {"before", "after"}
        assert set(text["bits_per_byte"]) == {"before", "extended", "after", "delta", "low", "high"}
        bits = text["bits_per_byte"]
        assert bits["delta"] == pytest.approx(bits["after"] - bits["before"]) and bits["low"] < bits["delta"] < bits["high"]
    assert summary["new"]["bits_per_byte"]["delta"] < -1
    assert summary["new"]["bytes_per_token"]["after"] > 1.5 * summary["new"]["bytes_per_token"]["before"]
    assert summary["old"]["bytes_per_token"]["after"] == pytest.approx(summary["old"]["bytes_per_token"]["before"], rel=0.001)
    assert set(summary["seconds"]) == {"corpus", "vocab", "tokens", "rows", "train", "mixback", "evaluate", "export"}
    assert summary["tokens_per_second"] > 0 and 0.1 < summary["peak_memory_gib"] < 6 and summary["steps"] == 20
    assert summary["report"] is None or (house.folder / summary["report"]).is_file()
    assert (house.folder / summary["model"] / "README.md").is_file()
    for said in ("Learned: ", "Forgotten: ", "Model: ", "Try it: ", "rewarm.export.generate"):
        assert said in house.out


def test_the_exported_folder_is_read_by_transformers_and_by_tokenizers_alike(house):
    """A model that only its maker can load was not handed over."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = house.folder / house.summary["model"]
    model, tokenizer, alone = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        Tokenizer.from_file(str(folder / "tokenizer.json")),
    )
    for text in ("你好很高兴见到你", "こんにちは、初めまして！", "안녕하세요, 만나서 반갑습니다!", "Điều 1. Phạm vi điều chỉnh"):
        ids = tokenizer(text)["input_ids"]
        assert ids == alone.encode(text).ids and tokenizer.decode(ids) == text == alone.decode(ids)
    written = model.generate(**tokenizer("Điều 1.", return_tensors="pt", return_token_type_ids=False), max_new_tokens=5, do_sample=False)
    assert written.shape[1] > len(tokenizer("Điều 1.")["input_ids"])


def test_a_broken_row_is_named_counted_and_left_out(house):
    """One bad line in a million must not stop a run, nor vanish."""
    corpus = only(house.folder, "corpus-*")
    [reject] = [json.loads(line) for line in (corpus / "rejected" / "vi.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (reject["file"], reject["row"], reject["kind"]) == ("new.jsonl", 101, "json")
    assert "| rows that could not be used | 1 | 0 |" in (corpus / "report.md").read_text(encoding="utf-8")
    assert "source `vi`: 1 of" in house.out and "rejected/vi.jsonl" in house.out


def test_a_second_run_finds_everything_done(house, place):
    before = {path: path.stat().st_mtime_ns for path in house.folder.rglob("*") if path.is_file() and path.parent != house.folder}
    done = rewarm("run", "recipe.yaml", cwd=place)
    assert "All stages were done before; nothing was trained again." in done.out and done.out.count(": done before (") == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = json.loads((house.folder / "summary.json").read_text(encoding="utf-8"))
    assert {k: v for k, v in again.items() if k != "warnings"} == {k: v for k, v in house.summary.items() if k != "warnings"}


def test_tokenize_stops_at_rows_and_reuses_what_is_there(house, place):
    done = rewarm("tokenize", "recipe.yaml", "tokens.row_tokens=128", cwd=place)
    assert "vocabulary: done before" in done.out and "tokens: done before" in done.out and "rows: done before" not in done.out
    rows = [json.loads((folder / "rows.json").read_text())["row_tokens"] for folder in house.folder.glob("rows-*")]
    assert sorted(rows) == [64, 128] and len(list(house.folder.glob("train-*"))) == 1


def test_corpus_needs_no_model(place, tmp_path):
    """Cleaning text is a job of its own."""
    done = rewarm("corpus", "recipe.yaml", "model.base=none-here", "--out", str(tmp_path / "run"), cwd=place)
    assert "report.md" in done.out and only(tmp_path / "run", "corpus-*/docs/vi/*.parquet").is_file()


def test_plan_says_what_will_be_done_and_writes_nothing(place):
    before = sorted(place.rglob("*"))
    said = rewarm("plan", "recipe.yaml", cwd=place).out
    for part in (
        "Base: base, ",
        "Replay: 25 % of the tokens",
        "Steps: 512 tokens (8 rows) each; 20, 10,240 tokens in all",
        "Rate: warm-up from step 0 at 0.001, decay from step 1 at 0.001, step 19 at 0.00011",
        " 0.0005 ",
    ):
        assert part in said, said
    assert "Nothing was trained or written." in said and sorted(place.rglob("*")) == before


def test_report_makes_the_page_of_a_run_anew(house, tmp_path):
    """The same page that the run wrote, wherever it is put; of a run that did not end, what is missing is said."""
    page = (house.folder / "report.html").read_bytes()
    assert "Report: " in rewarm("report", str(house.folder), cwd=tmp_path).out
    assert (house.folder / "report.html").read_bytes() == page
    rewarm("report", str(house.folder), "--out", "there/page.html", cwd=tmp_path)
    assert (tmp_path / "there/page.html").stat().st_size > 0.9 * len(page)
    shutil.copytree(only(house.folder, "corpus-*"), tmp_path / "half" / only(house.folder, "corpus-*").name)
    said = rewarm("report", "half", cwd=tmp_path).out
    assert "missing: This run did not come to its end. Finished stages: corpus." in said
    assert (tmp_path / "half/report.html").is_file()


def test_report_says_what_it_cannot_use(refused, house, tmp_path):
    assert "no run here" in refused("report", str(tmp_path))
    (tmp_path / "mine.html").write_text("mine")
    assert "nothing is overwritten" in refused("report", str(house.folder), "--out", str(tmp_path / "mine.html"))
    assert "cannot be written" in refused("report", str(house.folder), "--out", str(tmp_path / "mine.html" / "page.html"))
    assert "--out" in refused("report", str(house.folder), "--out", "")


def test_a_source_of_another_language_is_noticed_before_the_run_and_in_it(place, tmp_path):
    """A third of English in what is called Vietnamese teaches the wrong thing for hours: plan and corpus say how much it is."""
    vietnamese, english = documents(VIETNAMESE, 60_000, 5), documents(ENGLISH, 30_000, 6)
    write_jsonl(tmp_path / "a.jsonl", vietnamese)
    write_jsonl(tmp_path / "b.jsonl", english)
    sources = "[{name: vi, paths: ['*.jsonl'], languages: [vi], licence: MIT}]"
    (tmp_path / "mixed.yaml").write_text(f"{{model: {{base: {place / 'base'}}}, corpus: {{sources: {sources}}}, vocab: {{extend: false}}}}")
    letters = {name: sum(map(str.isalpha, "".join(texts))) for name, texts in (("vi", vietnamese), ("en", english))}
    share = letters["en"] / sum(letters.values())
    wanted = f"source `vi`: {share:.0%} of its text does not look like vi: mostly Latin letters without Vietnamese marks, as in English"
    for command in (["plan", "mixed.yaml", "--quick"], ["corpus", "mixed.yaml", "--out", "run"]):
        assert wanted in " ".join(rewarm(*command, cwd=tmp_path).out.split())
    folder = only(tmp_path / "run", "corpus-*")
    assert json.loads((folder / "other_language.jsonl").read_text().splitlines()[0])["text"][:20] in "".join(english)
    assert wanted in (folder / "report.md").read_text()
    assert "does not look like" not in rewarm("plan", "mixed.yaml", "corpus.sources[0].languages=[vi,en]", "--quick", cwd=tmp_path).out


def test_evaluate_compares_two_models(house, place, tmp_path):
    model = str(house.folder / house.summary["model"])
    texts = ["--text", "old=old.txt", "--text", f"new={write_jsonl(tmp_path / 'văn bản.jsonl', documents(VIETNAMESE, 30_000, 7))}"]
    done = rewarm(
        "evaluate", model, "--against", "base", *texts, "--max-mb", "0.02", "--dtype", "fp32", "--out", str(tmp_path / "e"), cwd=place
    )
    results = json.loads((tmp_path / "e" / "results.json").read_text(encoding="utf-8"))
    assert {name: text["role"] for name, text in results["texts"].items()} == {"old": "old", "new": "new"}
    assert results["texts"]["new"]["verdict"] == "learned" and "learned" in done.out and (tmp_path / "e" / "documents.parquet").is_file()


def test_vocab_extend_with_flags_writes_a_folder_that_any_trainer_reads(place, tmp_path):
    from tokenizers import Tokenizer

    new = write_jsonl(tmp_path / "new.jsonl", documents(VIETNAMESE, 200_000, 3))
    flags = ["--base", "base", "--target", f"vi={new}", "--protect", "old.txt", "--size", "40"]
    done = rewarm("vocab", "extend", *flags, "--out", str(tmp_path / "x"), cwd=place)
    assert "40 new tokens, ids 480 to 519" in done.out and (tmp_path / "x" / "model" / "model.safetensors").is_file()
    old, extended = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (place / "base", tmp_path / "x" / "model"))
    assert old.encode("Bake and rent.").ids == extended.encode("Bake and rent.").ids and extended.get_vocab_size() == 520
    write_jsonl(new, documents(VIETNAMESE, 200_000, 4))
    said = rewarm("vocab", "extend", *flags, "--out", str(tmp_path / "x"), cwd=place, code=2).err
    assert "this folder holds an extension by other texts" in said


def test_recipe_lists_every_field(place):
    from rewarm.recipe import reference

    said = rewarm("recipe", cwd=place).out
    assert all(f"{field.path}  " in said for field in reference())
    assert "vocab." not in rewarm("recipe", "train", cwd=place).out


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "run",
        "plan",
        "corpus",
        "tokenize",
        "train",
        "evaluate",
        "vocab",
        "vocab extend",
        "vocab report",
        "vocab show",
        "vocab check",
        "report",
        "recipe",
        "doctor",
    ],
)
def test_every_command_explains_itself(command, place):
    assert "Usage: " in rewarm(*command.split(), "--help", cwd=place).out


def test_version(place):
    from rewarm import __version__

    assert rewarm("--version", cwd=place).out.strip() == f"rewarm {__version__}"


# Without a vocabulary, without old text


def test_without_old_text_the_run_says_that_forgetting_was_not_measured(place, tmp_path):
    """A blank where a number should be is read as `nothing was lost`."""
    (place / "alone.yaml").write_text(
        RECIPE.replace("    - {name: en, paths: [old.txt], role: replay, languages: [en], licence: CC0-1.0}\n", "")
    )
    run = tmp_path / "run"
    done = rewarm("run", "alone.yaml", "vocab.tau=off", "train.tokens=2048", "--out", str(run), cwd=place)
    assert "Forgotten: NOT measured. There is no old text" in done.out and "such as Wikipedia in its languages" in done.out
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["old"] is None and summary["new"]["bits_per_byte"]["delta"] < 0 and summary["vocabulary"]["extended"]
    refused = rewarm("run", "alone.yaml", "--out", str(tmp_path / "other"), cwd=place, code=2).err
    assert "vocab.tau: off" in refused and "role: replay" in refused and not list((tmp_path / "other").glob("vocab-*"))
    assert "vocab.tau: off" in rewarm("plan", "alone.yaml", cwd=place, code=2).err


def test_old_text_of_which_none_is_held_out_is_not_called_missing():
    from rewarm.summary import sentence

    summary = {"new": None, "old": None, "sources": [{"role": "new"}, {"role": "replay"}]}
    assert sentence(summary)[1] == "Forgotten: NOT measured, no old text was held out (corpus.heldout)"
    assert "There is no old text" in sentence(summary | {"sources": [{"role": "new"}]})[1]


@pytest.fixture(scope="session")
def uninterrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    rewarm("run", "recipe.yaml", *LONG, "--out", str(folder), cwd=place)
    return folder


def test_without_a_vocabulary_the_base_keeps_its_tokenizer(uninterrupted, place):
    summary = json.loads((uninterrupted / "summary.json").read_text(encoding="utf-8"))
    assert summary["vocabulary"] == {"extended": False} and "vocab" not in summary["seconds"] and summary["steps"] == 300
    assert summary["new"]["bits_per_byte"]["delta"] < -1 and summary["new"]["bits_per_byte"]["extended"] is None
    exported, base = (json.loads((f / "tokenizer.json").read_text()) for f in (uninterrupted / summary["model"], place / "base"))
    assert exported["model"]["vocab"] == base["model"]["vocab"]


# Signals


def interrupt(command: str, number: signal.Signals, run: Path, place: Path) -> str:
    """Starts a command, sends it a signal once it has made some steps, returns its stderr. Its exit code must be 130."""
    for _ in range(3):
        arguments = [*REWARM, command, "recipe.yaml", *LONG, "--out", str(run)]
        process = subprocess.Popen(arguments, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not any(file.read_text().count("\n") >= 5 for file in run.glob("train-*/metrics.jsonl")):
            time.sleep(0.01)
        process.send_signal(number)
        err = process.communicate(timeout=120)[1]
        if process.returncode != 0:
            break
        shutil.rmtree(run)  # it had ended before this process came to its turn: the machine is busy
    assert process.returncode == 130 and "Traceback" not in err, (process.returncode, err)
    return err


def steps_done(run: Path) -> int:
    lines = only(run, "train-*/metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]


def test_ctrl_c_saves_and_the_same_command_ends_with_the_same_weights(uninterrupted, place, tmp_path):
    """What makes stopping safe: nothing is lost, and nobody can tell afterwards that it happened."""
    run = tmp_path / "run"
    err = interrupt("run", signal.SIGINT, run, place)
    assert "SIGINT" in err and 5 <= steps_done(run) < 300
    assert only(run, "train-*/checkpoints/LATEST").is_file() and not (run / "summary.json").exists()
    done = rewarm("run", "recipe.yaml", *LONG, "--out", str(run), cwd=place)
    assert "goes on from the checkpoint of step" in done.out and "corpus: done before" in done.out
    assert steps_done(run) == 300
    for pattern in ("export-*/model/model.safetensors", "train-*/model/model.safetensors"):
        assert sha256(only(run, pattern)) == sha256(only(uninterrupted, pattern))
    lines = only(run, "train-*/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 301))


def test_sigterm_saves_too(uninterrupted, place, tmp_path):
    """What a scheduler sends before it takes the machine away."""
    run = tmp_path / "run"
    assert "SIGTERM" in interrupt("train", signal.SIGTERM, run, place)
    assert only(run, "train-*/checkpoints/LATEST").is_file()
    done = rewarm("train", "recipe.yaml", *LONG, "--out", str(run), cwd=place)
    assert "trained model: " in done.out
    assert sha256(only(run, "train-*/model/model.safetensors")) == sha256(only(uninterrupted, "train-*/model/model.safetensors"))


def test_a_planned_end_is_no_failure(place, tmp_path):
    """`train.max_hours` is for machines lent by the hour: exit 0, a checkpoint, and the next call goes on."""
    run = ["train", "recipe.yaml", *LONG, "--out", str(tmp_path / "run")]
    done = rewarm(*run, "train.max_hours=1e-5", cwd=place)
    assert "train.max_hours (1e-05) is over" in done.err and "the same command goes on from here" in done.err
    assert only(tmp_path / "run", "train-*/checkpoints/LATEST").is_file() and not list((tmp_path / "run").glob("train-*/model"))


def test_a_locked_run_folder_is_refused(refused, tmp_path):
    """Two runs in one folder would write each other's files."""
    run = tmp_path / "run"
    run.mkdir()
    handle = os.open(run / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        said = refused("run", "recipe.yaml", "--out", str(run))
    finally:
        os.close(handle)
    assert "in use by" in said and "--out" in said


# Recipes that are wrong


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.lrr=3", ["command line: train.lrr", "no such field: found 3", "did you mean `lr`?"]),
        ("train.lr=abc", ["command line: train.lr", "found 'abc'", "expected 'auto' or a valid number"]),
        ("train.tokens=-5", ["command line: train.tokens", "found -5", "greater than 0"]),
        ("train=3", ["command line: train", "expected a section"]),
        ("train.lr", ["`train.lr` is no override", "field=value"]),
        ("train.lr.x=1", ["`train.lr` holds a value"]),
        ("train.max_minutes=1", ["line 10: train", "tokens and max_minutes both set the length"]),
        ("corpus.sources=[]", ["command line: corpus.sources", "at least 1 item"]),
        ("corpus.sources[7].name=x", ["the list has 2"]),
        ("corpus.sources[0].paths=['']", ["command line: corpus.sources[0].paths", "whole folder"]),
        ("corpus.sources[1].role=new", ["vocab.tau", "vocab.tau: off"]),
        ("corpus.sources[0].role=replay", ["corpus.sources", "no source has `role: new`"]),
        ("mixture.weights={vi: 1, fr: 2}", ["mixture.weights", "no source is called `fr`"]),
        ("name=a/b", ["command line: name", "found 'a/b'", "names a folder"]),
    ],
)
def test_a_wrong_override_is_named_with_what_to_do(refused, tmp_path, override, parts):
    """Before any work that takes time."""
    said = refused("run", "recipe.yaml", override, "--out", str(tmp_path / "run"))
    assert all(part in said for part in parts), said
    assert not list((tmp_path / "run").glob("vocab-*"))


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("tab.yaml", b"model: {base: base}\ncorpus:\n\tsources: []\n", ["tab.yaml, line 3", "\\t"]),
        ("list.yaml", b"- model\n", ["mapping of sections, this is a list"]),
        ("empty.yaml", b"", ["empty.yaml: model", "missing", "empty.yaml: corpus", "`rewarm recipe model`"]),
        ("utf16.yaml", RECIPE.encode("utf-16"), ["not UTF-8 (byte 0)"]),
        ("near.yaml", RECIPE.replace("size: 60", "sizes: 60").encode(), ["near.yaml, line 8: vocab.sizes", "did you mean `size`?"]),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(refused, tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    said = refused("plan", str(tmp_path / name))
    assert all(part in said for part in parts), said


def test_a_recipe_that_is_not_there_and_a_folder_in_its_place(refused):
    assert "no such file" in (said := refused("run", "recipes.yaml")) and "did you mean `recipe.yaml`?" in said
    assert "a folder, not a file" in refused("run", "base")
    assert "a folder, not a file" in refused("run", "")


def test_a_recipe_of_a_windows_editor_means_the_same(place, tmp_path):
    """Line ends, a byte order mark, a name that is not ASCII: here of recipe, text and run folder."""
    write_jsonl(tmp_path / "văn bản.jsonl", documents(VIETNAMESE, 30_000, 6))
    recipe = RECIPE.replace("new.jsonl", "văn bản.jsonl").replace("old.txt", str(place / "old.txt"))
    (tmp_path / "công thức.yaml").write_bytes(("\ufeff" + recipe.replace("\n", "\r\n")).encode())
    rewarm("corpus", "công thức.yaml", "name=", "--out", "kết quả", cwd=tmp_path, code=2)
    rewarm("corpus", "công thức.yaml", "--out", "kết quả", cwd=tmp_path)
    read = json.loads((tmp_path / "kết quả" / "recipe.json").read_text(encoding="utf-8"))
    assert read["corpus"]["sources"][0]["paths"] == ["văn bản.jsonl"] and read["vocab"]["size"] == 60


def test_numbers_reach_the_run_as_numbers(place, tmp_path):
    """YAML 1.1 reads 6e-4 as a string and 1:30 as 90; a learning rate that is text fails hours later."""
    fields = {
        "vocab.tau": "1e-2",
        "train.lr": "6e-4",
        "train.weight_decay": "1E-1",
        "train.step_tokens": "524_288",
        "train.max_hours": "12.5",
    }
    rewarm("corpus", "recipe.yaml", *(f"{k}={v}" for k, v in fields.items()), "--out", str(tmp_path / "run"), cwd=place)
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["vocab"]["tau"] == 0.01 and recipe["train"]["lr"] == 6e-4 and recipe["train"]["weight_decay"] == 0.1
    assert recipe["train"]["step_tokens"] == 524_288 and recipe["train"]["max_hours"] == 12.5


def test_numbers_that_are_none_are_told_all_at_once(refused, tmp_path):
    (tmp_path / "bad.yaml").write_text("train:\n  lr: 6e-4\n  max_hours: 1:30\n  seed: 0o17x\n  warmup_share: 1 %\n")
    said = refused("plan", str(tmp_path / "bad.yaml"))
    for part in ("line 3: train.max_hours", "'1:30'", "line 4: train.seed", "'0o17x'", "line 5: train.warmup_share", "'1 %'"):
        assert part in said, said


# Text that is wrong


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("none.jsonl", None, ["no file at", "none.jsonl"]),
        ("empty.jsonl", b"", ["no document in 1 file, 0 rows"]),
        ("many.jsonl", b"{oops\n" * 30, ["30 of 30 rows cannot be used", "many.jsonl, row 1 (byte 0)", "max_bad_share"]),
        ("field.jsonl", b'{"body": "x"}\n' * 30, ["field `text` is missing; this row has: body", "text_field"]),
        ("image.txt", bytes(3000), ["image.txt, row 1 (byte 0): NUL bytes", "no document"]),
        ("page.docx", b"x", ["ending of page.docx", "format to txt, jsonl or parquet"]),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48", ["cut.jsonl.gz", "ends in the middle"]),
        ("table.parquet", b"PAR1 no", ["table.parquet", "no whole parquet file"]),
    ],
)
def test_text_that_cannot_be_read_is_named(refused, tmp_path, name, content, parts):
    """Exit 2, the file, and what to do; the recipe lies beside the text."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    recipe = f"model: {{base: x}}\ncorpus: {{sources: [{{name: a, paths: [{name}]}}]}}\n"
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    said = refused("corpus", "r.yaml", "--out", "run", cwd=tmp_path)
    assert all(part in said for part in parts), said


def test_less_text_than_one_row_is_said_before_training(refused, place, tmp_path):
    """Other trainers divide by zero, wait for ever, or hand the base back as trained."""
    write_jsonl(tmp_path / "tiny.jsonl", documents(ENGLISH, 900, 5))
    (tmp_path / "tiny.yaml").write_text(
        f"model: {{base: {place / 'base'}}}\ncorpus: {{sources: [{{name: tiny, paths: [tiny.jsonl], role: new}}], min_chars: 0}}\n"
        "vocab: {extend: false}\ntokens: {row_tokens: 4096}\nmixture: {replay: 0}\n"
        "train: {step_tokens: 524288, precision: fp32, device: cpu}\n"
    )
    guarded = (tmp_path / "tiny.yaml").read_text().replace("vocab: {extend: false}\n", "")
    (tmp_path / "guarded.yaml").write_text(guarded)  # has no old text either; that there is too little new text comes first
    for command in (["plan", "tiny.yaml"], ["run", "tiny.yaml", "--out", "run"], ["run", "guarded.yaml", "--out", "run"]):
        said = refused(*command, cwd=tmp_path)
        assert "a row holds 4,096, a step reads 524,288" in said and "tokens.row_tokens" in said and "train.step_tokens" in said
    assert not list((tmp_path / "run").glob("train-*"))
    done = rewarm("train", "tiny.yaml", "train.step_tokens=4096", "train.tokens=8192", "--out", "run", cwd=tmp_path)
    assert "2 steps read it 2.0 times" in done.out and steps_done(tmp_path / "run") == 2


# Models that are wrong


def spoil_config(base: Path) -> None:
    (base / "config.json").write_text((base / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "my_llama"'))


SUPPORTED = "supported: byte-level BPE"


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_config, ["model type `my_llama`"]),
        (lambda base: (base / "tokenizer.json").unlink(), ["there is no tokenizer.json", "save_pretrained"]),
        (lambda base: (base / "tokenizer.json").write_text("{"), ["tokenizer.json", "cannot read this file"]),
        (lambda base: (base / "config.json").unlink(), ["there is no config.json"]),
        (lambda base: (base / "config.json").write_text("{"), ["config.json", "not valid JSON"]),
        (lambda base: (base / "model.safetensors").rename(base / "pytorch_model.bin"), ["only pytorch_model.bin", "safetensors"]),
        (lambda base: os.truncate(base / "model.safetensors", 9_000), ["cut or damaged"]),
    ],
)
def test_a_base_that_will_not_do_is_refused_before_any_text_is_read(refused, place, tmp_path, spoil, parts):
    """Not after an hour of corpus work; `plan` and `run` say the same."""
    base = tmp_path / "base"
    base.mkdir()
    for file in (place / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    spoil(base)
    said = refused("run", "recipe.yaml", f"model.base={base}", "--out", str(tmp_path / "run"))
    assert all(part in said for part in parts), said
    assert not list((tmp_path / "run").glob("corpus-*"))


def test_a_base_that_is_not_there(refused, tmp_path):
    out = ["--out", str(tmp_path / "run")]
    assert "this is a file" in refused("run", "recipe.yaml", "model.base=old.txt", *out)
    assert "no such file" in refused("run", "recipe.yaml", "model={gguf: nothing.gguf}", *out)
    assert "not a whole GGUF file" in refused("run", "recipe.yaml", "model={gguf: old.txt}", *out)


def test_a_gpu_that_is_not_there(refused, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = refused("run", "recipe.yaml", "train.device=cuda", "--out", str(tmp_path / "run"))
    assert "train.device" in said and "no GPU" in said and not list((tmp_path / "run").glob("corpus-*"))


@pytest.fixture(scope="session")
def positions(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A GPT-2 of 128 learned positions with zero weights, so a token costs log2 of the rows; its tokenizer claims 10^30 or 16."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("positions")
    letters = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    config = GPT2Config(vocab_size=len(letters), n_positions=128, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name, limit in (("base", 10**30), ("base-small", 16)):
        model.save_pretrained(folder / name)
        tokenizer.save(str(folder / name / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "model_max_length": limit}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
    write_jsonl(folder / "docs.jsonl", [" ".join(ENGLISH[:14]), " ".join(VIETNAMESE[:180])])
    (folder / "recipe.yaml").write_text(
        "model: {base: base}\ncorpus: {sources: [{name: x, paths: [docs.jsonl], role: new}]}\nvocab: {extend: false}\n"
        "tokens: {row_tokens: 256}\ntrain: {tokens: 512, step_tokens: 256, device: cpu}\n"
    )
    return SimpleNamespace(folder=folder, bits=math.log2(len(letters)))


@pytest.mark.parametrize("base", ["base", "base-small"])
def test_the_length_limit_is_the_models_own(positions, base, tmp_path):
    """A tokenizer's limit is the stand-in for `not set`, or wrong: nothing is cut at it, and nothing runs over the model's positions."""
    arguments = ["--text", "x=docs.jsonl", "--prefix", "none", "--dtype", "fp32", "--out", str(tmp_path / "e")]
    done = rewarm("evaluate", base, *arguments, cwd=positions.folder)
    results = json.loads((tmp_path / "e" / "results.json").read_text(encoding="utf-8"))
    assert results["texts"]["x"]["bits_per_byte"]["after"] == pytest.approx(positions.bits, abs=1e-4)
    assert 0 < results["protocol"]["window"] <= 128 and "windows of" in done.out


@pytest.mark.parametrize("command", ["train", "plan"])
def test_rows_longer_than_learned_positions_are_refused(refused, positions, command, tmp_path):
    out = [] if command == "plan" else ["--out", str(tmp_path / "run")]
    assert "256 > 128 positions" in refused(command, "recipe.yaml", *out, cwd=positions.folder)


# Folders and flags that are wrong


@pytest.mark.parametrize(
    ("out", "parts"),
    [("", ["--out", "an empty name"]), ("old.txt", ["a file, not a folder"]), ("old.txt/run", ["cannot be written"])],
)
def test_a_run_folder_that_cannot_be(refused, out, parts):
    for command in (["run", "recipe.yaml"], ["vocab", "extend", "--base", "base", "--target", "vi=new.jsonl", "--tau", "off"]):
        said = refused(*command, "--out", out)
        assert all(part in said for part in parts), said


def test_somebody_elses_files_are_not_replaced(refused, tmp_path):
    """`--out .` in a folder with a recipe.json of the user's own."""
    for command, name in ((["run", "recipe.yaml"], "recipe.json"), (["evaluate", "base", "--text", "old=old.txt"], "report.md")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        said = refused(*command, "--out", str(folder))
        assert "nothing is overwritten" in said and [p.name for p in folder.iterdir()] == [name]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--text", "old="], ["--text", "`old=` is no text", "old=english.txt"]),
        (["--text", "=old.txt"], ["`=old.txt` is no text"]),
        (["--text", "old=nothing.txt"], ["nothing.txt", "no such file"]),
        (["--text", "old=base"], ["a folder, not a file"]),
        (["--text", "old=recipe.yaml"], ["unknown kind of file `.yaml`"]),
        (["--text", "new=new.jsonl"], ["new.jsonl, row 101", "not JSON"]),
        (["--text", "a=old.txt", "--text", "a=old.txt"], ["two texts have the name `a`"]),
        (["--text", "old=old.txt", "--window", "-5"], ["--window", "found -5", "greater than or equal to 2"]),
        (["--text", "old=old.txt", "--window", "10"], ["--window, --stride", "stride 2,048 is above window 10"]),
        (["--text", "old=old.txt", "--dtype", "fp16"], ["--dtype", "'fp32' or 'bf16'"]),
        (["--text", "old=old.txt", "--max-mb", "-1"], ["--max-mb", "greater than 0"]),
        (["--text", "old=old.txt", "--prefix", "<none>"], ["no token `<none>`", END]),
    ],
)
def test_evaluate_says_what_it_cannot_use(refused, arguments, parts):
    said = refused("evaluate", "base", *arguments)
    assert all(part in said for part in parts), said


def test_a_home_that_cannot_be_written_stops_no_measurement(place, tmp_path, monkeypatch):
    """Scores of a base are kept in the user's cache, which many containers do not have."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("REWARM_CACHE", str(tmp_path / "home" / "cache"))
    text = write_jsonl(tmp_path / "x.jsonl", documents(ENGLISH, 20_000, 8))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")  # nor does a terminal that cannot show the text's name
    assert "l\\u1eddi: " in rewarm("evaluate", "base", "--text", f"lời={text}", "--max-mb", "0.005", "--prefix", "none", cwd=place).out


def test_a_texts_name_is_no_markup(place, tmp_path):
    """`[/x]` in a name once closed a tag of the table that nobody had opened."""
    text = write_jsonl(tmp_path / "x.jsonl", documents(ENGLISH, 20_000, 9))
    assert "[/x]" in rewarm("evaluate", "base", "--text", f"[/x]={text}", "--max-mb", "0.005", "--prefix", "none", cwd=place).out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--base, --target and --out"]),
        (["--base", "base", "--target", "vi", "--out", "x"], ["--protect", "--tau off"]),
        (["--base", "base", "--target", "vi", "--tau", "off", "--out", "x"], ["`vi` is no target"]),
        (["--base", "base", "--target", "vi=base", "--tau", "off", "--out", "x"], ["--target: base", "a folder, not a file"]),
        (["--base", "", "--target", "vi=new.jsonl", "--tau", "off", "--out", "x"], ["an empty name"]),
        (["--base", "base", "--target", "vi=new.jsonl", "--tau", "off", "--size", "0", "--out", "x"], ["--size", "found 0"]),
        (["--base", "base", "--target", "vi=new.jsonl", "--protect", "old.txt", "--tau", "3", "--out", "x"], ["--tau", "'off'"]),
        (["--base", "base", "--target", "vi=new.jsonl", "--tau", "off", "--out", "recipe.yaml"], ["a file, not a folder"]),
        (["--base", "base", "--target", "vi=new.jsonl", "--tau", "off", "--out", "base/x"], ["inside the base's folder"]),
        (["--base", "base", "--target", "vi=new.jsonl", "--tau", "off", "--out", "."], ["this folder is not empty"]),
        (["recipe.yaml", "--size", "0"], ["a recipe and --size"]),
    ],
)
def test_vocab_extend_says_what_it_cannot_use(refused, place, arguments, parts):
    said = refused("vocab", "extend", *arguments)
    assert all(part in said for part in parts), said
    assert not (place / "x").exists()
