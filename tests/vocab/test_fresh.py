"""Fresh tokenizers: every kind holds what was promised, sees all of the text, and comes out the same everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.training import train_command
from rewarm.vocab import fresh
from rewarm.vocab.base import encode_ids, open_base
from rewarm.vocab.fresh import SPLIT, TEXT_TOKENS, Fresh, train
from rewarm.vocab.fuzz import all_characters
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.stage import extend

from .conftest import english, shorten_gate, vietnamese, write_base, write_text
from .test_commands_of_vocab import vocab

KINDS = ("bpe", "sp_bpe", "unigram", "wordpiece")
LOSSLESS = KINDS[:3]


def quick(patch: pytest.MonkeyPatch) -> None:
    some = all_characters()[::40]
    shorten_gate(patch)
    patch.setattr(fresh, "all_characters", lambda: some)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


@pytest.fixture(scope="module")
def trained() -> dict[str, Fresh]:
    texts = {"en": ["\n".join([*english(600), *["if a < b > x: <end>"] * 3])], "vi": ["\n".join(vietnamese(600))]}
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return {kind: train(kind, texts, 700) for kind in KINDS}


def tokenizer_of(made: Fresh) -> Tokenizer:
    return Tokenizer.from_str(made.files["tokenizer.json"].decode())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_passes_its_gate(kind: str, trained: dict[str, Fresh]) -> None:
    """Each token can come out and is used, nothing is lost, all files and libraries agree, a second write is equal."""
    made = trained[kind]
    assert all(f.ok for f in made.findings), [f for f in made.findings if not f.ok]
    assert {5, 6, 7, 8, 9, 12} <= {f.number for f in made.findings}
    assert 500 < made.facts["size"] <= 700 and made.facts["size"] == tokenizer_of(made).get_vocab_size()


@pytest.mark.parametrize("kind", LOSSLESS)
def test_any_text_comes_back(kind: str, trained: dict[str, Fresh]) -> None:
    """Also text in scripts that it never saw, double blanks, tabs, and the name of a byte piece as text."""
    tokenizer = tokenizer_of(trained[kind])
    for text in ["  two  in front", "\tx\n\n  y ", "नमस्ते, สวัสดี 😀", "a <0x41> b", "", " ", "12 345", "e\u0301"]:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_digits_stand_alone(kind: str, trained: dict[str, Fresh]) -> None:
    """A model that counts learns with digits, not with the numbers that its text happened to hold."""
    tokenizer = tokenizer_of(trained[kind])
    assert not [t for t in tokenizer.get_vocab() if sum(c.isdecimal() for c in t) > 1 and not t.startswith("<")]
    tokens = tokenizer.encode("19x2047", add_special_tokens=False).tokens
    assert [t.strip("▁Ġ#") for t in tokens if t.strip("▁Ġ#")] == [*"19x2047"]


def test_white_space_of_code_is_short(trained: dict[str, Fresh]) -> None:
    """Eight blanks are one token, not eight."""
    tokens = tokenizer_of(trained["bpe"]).encode("        x\n\n\t\ty").tokens
    assert len(tokens) < 9 and "ĊĊ" in tokenizer_of(trained["bpe"]).get_vocab()


@pytest.mark.parametrize("kind", ["sp_bpe", "unigram", "wordpiece", "bpe"])
def test_no_line_is_too_long(kind: str) -> None:
    """SentencePiece's own training leaves out lines above some kilobytes, and says so in a log at most; text without line ends is usual in
    Japanese and Chinese."""
    short, long = "今日は天気がいい。", "琵琶湖の水は古い都の人を潤した。"
    text = "\n".join([short] * 40 + [long * 200, (long + short) * 120])
    made = train(kind, {"ja": [text]}, 400 if kind != "wordpiece" else 200)
    assert made.facts["bytes"] == {"ja": len(text.encode())}
    tokenizer = tokenizer_of(made)
    tokens = tokenizer.encode("琵琶潤", add_special_tokens=False)
    names = [t for t in tokens.tokens if t != "▁"]
    assert not [t for t in names if t.startswith("<0x") or t == "[UNK]"]
    assert len(names) <= 3


def test_languages_are_weighed_alike(tmp_path: Path) -> None:
    """Twenty times as much English leaves Vietnamese its share; `proportional` does not."""
    texts = {"en": ["\n".join(english(4_000))], "vi": ["\n".join(vietnamese(150))]}
    equal, proportional = train("bpe", texts, 340), train("bpe", texts, 340, "proportional")
    assert equal.facts["bytes_per_token"]["vi"] > 1.1 * proportional.facts["bytes_per_token"]["vi"]
    assert equal.facts["weights"]["vi"] > 10 * equal.facts["weights"]["en"] and set(proportional.facts["weights"].values()) == {1}


def test_byte_level_bpe_compresses_as_the_librarys_own(tmp_path: Path) -> None:
    """Same cut, same size: rules and ties aside, byte-pair encoding is byte-pair encoding."""
    lines = [line + "\n" for line in [*english(3_000), *vietnamese(3_000)]]
    made = train("bpe", {"text": ["".join(lines)]}, 800)
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    other.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800 - len(TEXT_TOKENS) - 5, initial_alphabet=alphabet, show_progress=False)
    other.train_from_iterator(lines, trainer)
    ours, theirs = (sum(map(len, encode_ids(t, lines))) for t in (tokenizer_of(made), other))
    assert ours <= 1.003 * theirs


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_fresh_tokenizer_can_be_extended(kind: str, trained: dict[str, Fresh], texts: dict[str, Path], tmp_path: Path) -> None:
    """It is a base like any other, once a model stands beside it."""
    base = write_base(tmp_path / "base", "gpt2", rows=trained[kind].facts["size"])
    for name, content in trained[kind].files.items():
        (base / name).write_bytes(content)
    assert open_base(base).findings == ()
    russian = write_text(tmp_path / "ru.jsonl", [f"привет, как твои дела сегодня {i}" for i in range(2_000)])
    cfg = VocabRecipe(extend=True, size=10, check_bits=False)
    assert extend(base, {"ru": [russian]}, [texts["protect"]], tmp_path / "out", cfg)["new_tokens"] >= 5


_SCRIPT = """
import hashlib, sys
from tests.vocab.conftest import english, vietnamese
from tests.vocab.test_fresh import KINDS, fresh, quick
import pytest
if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        for kind in KINDS:
            files = fresh.train(kind, {"en": english(300), "vi": vietnamese(300)}, 600).files
            print(kind, hashlib.sha256(b"".join(files[n] for n in sorted(files))).hexdigest())
"""


def test_every_process_trains_the_same_tokenizer(tmp_path: Path) -> None:
    """Whatever its hash seed and number of threads; the libraries' own WordPiece training gives other ids every time."""
    out = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=root, env=env, capture_output=True, text=True, check=True, timeout=300)
        out.append(done.stdout)
    assert out[0] == out[1] and len(out[0].splitlines()) == len(KINDS)


def test_a_size_that_holds_no_words_is_refused() -> None:
    """Bytes and control tokens alone are no tokenizer."""
    with pytest.raises(UserError, match="bytes, digits and control tokens"):
        train("bpe", {"en": english(10)}, 200)


def test_the_command_writes_a_folder_that_others_read(tmp_path: Path) -> None:
    """And refuses what it would overwrite, what it cannot read, and what makes no sense."""
    from transformers import AutoTokenizer

    write_text(tmp_path / "vi.jsonl", vietnamese(300))
    (tmp_path / "en.txt").write_text("\n".join(english(300)))
    vocab("train", "--kind", "bpe", "--text", "vi=vi.jsonl", "--text", "en.txt", "--size", "600", "--out", "new", cwd=tmp_path)
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert report["size"] == 600 and set(report["bytes"]) == {"vi", "text"}
    assert all(f["ok"] for f in json.loads((tmp_path / "new" / "gate.json").read_text()))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokenizer.eos_token_id == 0 and tokenizer.decode(tokenizer("Điều 5. the law")["input_ids"]) == "Điều 5. the law"
    cases: dict[str, tuple[list[str], float, str]] = {
        "new": (["en.txt"], 5.0, "there is something already"),
        "a": (["no.txt"], 5.0, "no such file"),
        "b": (["en.txt"], 0.0, "expected more than 0"),
        "c": ([], 5.0, "give --text and --out"),
    }
    for out, (texts, most, what) in cases.items():
        with pytest.raises(UserError, match=what):
            train_command("bpe", [str(tmp_path / t) for t in texts], 600, "equal", most, tmp_path / out, Console())
    assert not (tmp_path / "a").exists() and np.array_equal(sorted(tokenizer.get_vocab().values()), np.arange(600))
