"""`rewarm vocab report | show | check` and the example, as people call them: what is printed, the exit codes, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewarm.auditing import check_command
from rewarm.cli import app
from rewarm.comparing import bytes_a_row, chosen_lines, curve_lines
from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.vocab.show import GREETINGS

from .conftest import english, shorten_gate, vietnamese, write_base, write_text

ROOT = Path(__file__).parents[2]


def called(*arguments: str, cwd: Path, code: int = 0) -> SimpleNamespace:
    """A command in a process of its own; its exit code is checked, and that no traceback is shown."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    shown = f"{arguments}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in shown and done.returncode == code, f"exit {done.returncode}\n{shown}"
    return SimpleNamespace(out=done.stdout, err=done.stderr)


def vocab(*arguments: str, cwd: Path, code: int = 0) -> SimpleNamespace:
    return called("-m", "rewarm.cli", "vocab", *arguments, cwd=cwd, code=code)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> Path:
    """A folder with `base`, its extension `x/model`, another tokenizer `other`, and texts vi.jsonl and en.jsonl."""
    from rewarm.vocab.recipe import VocabRecipe
    from rewarm.vocab.stage import extend

    folder = tmp_path_factory.mktemp("place")
    write_base(folder / "base", "smollm")
    write_base(folder / "other", "gpt2")
    write_text(folder / "vi.jsonl", vietnamese(1_500, seed=5))
    write_text(folder / "en.jsonl", english(400, seed=5))
    with pytest.MonkeyPatch.context() as patch:
        shorten_gate(patch)
        cfg = VocabRecipe(extend=True, size=200, check_bits=False)
        extend(folder / "base", {"vi": [texts["target"]]}, [texts["protect"]], folder / "x", cfg)
    return folder


def test_show_prints_a_row_a_text_and_no_colours_into_a_file(place: Path) -> None:
    """The folder that `vocab extend` wrote does, as well as the model in it."""
    said = vocab("show", "x", "--against", "base", "--text", "chường đọc", "--text", "the one", cwd=place).out
    head, first, second = said.splitlines()
    assert head.split() == ["text", "bytes", "before", "after"] and "\x1b" not in said
    before, after = (int(n) for n in first.split()[3:5])
    assert after < before and first.split("   ")[-1].count("|") == after - 1
    assert first.split("   ")[-1].replace("|", "") == "chường đọc" and second.endswith("   ids unchanged")
    assert [line.split("  ")[0] for line in vocab("show", "x/model", "--against", "base", cwd=place).out.splitlines()[1:]] == list(
        GREETINGS
    )


def test_report_of_many_tokenizers_says_what_a_text_costs(place: Path) -> None:
    """Side by side per text, against the first; the numbers also as JSON."""
    flags = ["--base", "old=base", "--base", "new=x", "--base", "other/tokenizer.json", "--text", "vi=vi.jsonl", "--text", "en=en.jsonl"]
    said = vocab("report", *flags, "--json", "r.json", cwd=place).out
    assert "times fewer tokens with new than with old" in said and "en costs the same with new as with old" in said
    found = json.loads((place / "r.json").read_text(encoding="utf-8"))
    assert [t["name"] for t in found["tokenizers"]] == ["old", "new", "other"] and len(found["texts"]) == 6
    row = found["texts"][1]
    assert (row["text"], row["tokenizer"]) == ("vi", "new") and f"{row['tokens']:,}" in said and f"{row['bytes_per_token']:.2f}" in said
    assert all(line in said for line in found["costs"]) and "curve" not in found


def test_report_of_one_base_and_a_target_advises(place: Path, texts: dict[str, Path]) -> None:
    """The size curve, the size it would take, what that costs and the command that does it; nothing is written."""
    before = sorted(p.name for p in place.iterdir())
    flags = ["--base", "old=base", "--target", "vi=vi.jsonl", "--protect", str(texts["protect"])]
    said = vocab("report", *flags, "--size", "300", "--text", "en=en.jsonl", cwd=place).out
    assert (
        "new tokens gain up to" in said and "<- chosen" in said and "to do it: rewarm vocab extend --base base --target vi=vi.jsonl" in said
    )
    assert "costs" in said and "times fewer tokens with" in said
    assert sorted(p.name for p in place.iterdir()) == before
    said = vocab("report", "--base", "base", "--target", "en=en.jsonl", "--size", "40", "--json", "en.json", cwd=place).out
    assert "do not extend" in said and "to do it" not in said and "chosen" not in said and "no old text (--protect)" in said
    found = json.loads((place / "en.json").read_text(encoding="utf-8"))
    assert found["advice"]["extend"] is False and found["curve"][0]["new_tokens"] == 0 and found["bytes_a_row"] == 32 * 4


def test_check_ends_with_1_and_an_example_if_something_is_broken(place: Path, tmp_path: Path) -> None:
    """For scripts: the exit code; for people: which, and where to look; for both: JSON."""
    shutil.copytree(place / "x" / "model", tmp_path / "m")
    spec = json.loads((tmp_path / "m" / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["merges"][0], spec["model"]["merges"][1] = spec["model"]["merges"][1], spec["model"]["merges"][0]
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    flags = ["--against", "base", "--protect", "en.jsonl", "--tokenizer-only", "--json", str(tmp_path / "c.json")]
    said = vocab("check", str(tmp_path / "m"), *flags, cwd=place, code=1).out
    assert "  2  BROKEN  old merges are a prefix" in said and "merge 0: " in said and "of 14 invariants are broken: 2" in said
    found = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert 2 in found["broken"] and {f["number"] for f in found["findings"]} == set(range(1, 15))


def test_check_of_a_sound_extension_ends_with_0(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights and both models' runs included."""
    shorten_gate(monkeypatch)
    monkeypatch.chdir(place)
    assert check_command("x", "base", [Path("en.jsonl")], [Path("vi.jsonl")], None, True, None, Console())
    said = capsys.readouterr().out
    assert "nothing is broken; " in said and "BROKEN" not in said and " 13  ok      the model is the base with" in said
    assert check_command("x/model/tokenizer.json", "base", [], [], None, False, None, Console())
    assert "  4  -       protected text keeps its tokens: not judged: no protected text (--protect)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["report", "--base", "base"], ["no text to measure", "--target vi=text.txt"]),
        (["report", "--base", "base", "--text", "vi"], ["--text", "`vi` is no text", "language=file"]),
        (["report", "--base", "base", "--target", "=vi.jsonl"], ["--target", "`=vi.jsonl` is no target"]),
        (["report", "--base", "base", "--text", "vi=no.txt"], ["--text: no.txt", "no such file"]),
        (["report", "--base", "base", "--text", "vi=base"], ["a folder, not a file"]),
        (["report", "--base", "base", "--text", "vi=empty.txt"], ["no text for `vi`"]),
        (["report", "--base", "base", "--text", "vi=latin.txt"], ["latin.txt", "not UTF-8 (byte 3)"]),
        (["report", "--base", "base", "--text", "vi=vi.jsonl", "--max-mb", "0"], ["--max-mb", "more than 0"]),
        (["report", "--base", "base", "--text", "vi=vi.jsonl", "--size", "9"], ["--size is for the size curve", "give --target"]),
        (["report", "--base", "base", "--base", "other", "--target", "vi=vi.jsonl", "--tau", "0"], ["--tau is for the", "one --base"]),
        (["report", "--base", "base", "--target", "vi=vi.jsonl", "--tau", "0"], ["--tau guards old text", "--protect"]),
        (["report", "--base", "base", "--target", "vi=vi.jsonl", "--size", "0"], ["--size", "found 0"]),
        (["report", "--base", "base", "--target", "vi=vi.jsonl", "--protect", "en.jsonl"], ["at least 1 MB"]),
        (["report", "--base", "words", "--target", "vi=vi.jsonl"], ["WordLevel", "supported", "--text instead of --target"]),
        (["report", "--base", "void", "--text", "vi=vi.jsonl"], ["no tokenizer in this folder", "tokenizer.json"]),
        (["report", "--base", "", "--text", "vi=vi.jsonl"], ["an empty name"]),
        (["report", "--base", "no/such/folder", "--text", "vi=vi.jsonl"], ["no such folder"]),
        (["report", "--base", "base", "--text", "vi=vi.jsonl", "--json", ""], ["--json", "an empty name"]),
        (["report", "--base", "base", "--text", "vi=vi.jsonl", "--json", "base"], ["--json: base", "cannot be written"]),
        (["show", "x", "--against", "void"], ["no tokenizer in this folder"]),
        (["show", "x", "--against", "base", "--text", ""], ["--text", "an empty text"]),
        (["show", "vi.jsonl", "--against", "base"], ["neither a SentencePiece model nor"]),
        (["check", "base", "--against", "base"], ["both are the same folder"]),
        (["check", "x", "--against", "words"], ["WordLevel", "supported"]),
        (["check", "x", "--against", "base", "--protect", "no.txt"], ["--protect: no.txt", "no such file"]),
        (["check", "x", "--against", "base", "--target", "empty.txt"], ["--target: empty.txt", "no text in it"]),
        (["check", "x", "--against", "base", "--max-changed-lines", "2"], ["--max-changed-lines", "found 2"]),
        (["check", "", "--against", "base"], ["an empty name"]),
        (["check", "x", "--against", "void"], ["no tokenizer.json here"]),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(arguments: list[str], parts: list[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is, what was found, what to do."""
    from tokenizers import Tokenizer, models

    (place / "void").mkdir(exist_ok=True)
    (place / "words").mkdir(exist_ok=True)
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(place / "words" / "tokenizer.json"))
    (place / "empty.txt").write_text(" \n")
    (place / "latin.txt").write_bytes(b"abc\xe9")
    monkeypatch.chdir(place)
    with pytest.raises(UserError) as error:
        app(["vocab", *arguments], standalone_mode=False)
    said = error.value.render()
    assert all(part in said for part in parts), said


def test_what_cannot_be_used_ends_with_2(place: Path) -> None:
    """One of them in a process of its own."""
    assert vocab("show", "x", "--against", "base", "--text", "", cwd=place, code=2).err.startswith("rewarm: --text\n  an empty text")


def test_the_example_prints_the_greetings_before_and_after(place: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    """Twenty lines that somebody may copy have to run."""
    flags = [str(place / "base"), str(tmp_path / "out"), f"vi={texts['target']}", f"protect={texts['protect']}", "size=100"]
    said = called(str(ROOT / "examples" / "extend_vocabulary.py"), *flags, cwd=tmp_path).out
    assert "vi: " in said and said.splitlines()[-1].startswith(GREETINGS[-1])
    assert (tmp_path / "out" / "model" / "tokenizer.json").is_file()
    usage = called(str(ROOT / "examples" / "extend_vocabulary.py"), "base", cwd=tmp_path, code=1).err
    assert "protect=english.parquet" in usage


def test_what_a_row_weighs_is_read_from_the_config(tmp_path: Path) -> None:
    """Two rows a token where input and output are not tied; a bare tokenizer weighs nothing."""
    assert bytes_a_row(tmp_path) is None
    for config, size in (
        ({"hidden_size": 64, "dtype": "bfloat16", "tie_word_embeddings": False}, 64 * 2 * 2),
        ({"n_embd": 64}, 64 * 4),
        ({"text_config": {"hidden_size": 64, "torch_dtype": "float16"}}, 64 * 2),
        ({"model_type": "x"}, None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert bytes_a_row(tmp_path) == size


def test_the_curve_marks_the_chosen_size() -> None:
    curve = [
        {"new_tokens": 0, "gain": 0.0, "bytes_per_token.vi": 2.0},
        {"new_tokens": 1000, "gain": 1.0, "bytes_per_token.vi": 4.0},
    ]
    lines = curve_lines(curve, 1000, 2000)
    assert lines[2].split() == ["1,000", "4.00", "50", "%", "2.0", "MB", "<-", "chosen"] and "rows" not in curve_lines(curve, 0, None)[0]
    assert chosen_lines(curve, 1000) == ["vi costs 2.00 times fewer tokens with 1,000 new ones"]
