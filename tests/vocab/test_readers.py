"""Tokenizers of any make as things that cut text: the ids are those of the library that owns the format."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rewarm.errors import UserError
from rewarm.vocab import readers
from rewarm.vocab.letters import to_bytes
from rewarm.vocab.readers import CL100K, apart, open_cutter

from .conftest import english, gpt2_spec, vietnamese

LINES = [*english(50, 3), *vietnamese(50, 3), "  two  blanks\n\n\ttab 12345 don't I'LL", "a" * 40, ""]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """A byte-level vocabulary as a list of ranks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(english(200) + vietnamese(200), trainer)
    return {to_bytes(token) or b"": i for token, i in tokenizer.get_vocab().items()}


def by_ranks(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """How tiktoken encodes a word, written plainly: join the pair whose whole has the smallest rank, the leftmost first."""
    if word in ranks:
        return [ranks[word]]
    parts = [bytes([b]) for b in word]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not found:
            return [ranks[p] for p in parts]
        i = min(found)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def plain_ids(line: str, ranks: dict[bytes, int]) -> list[int]:
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(CL100K), "isolated")
    return [i for word, _ in split.pre_tokenize_str(line) for i in by_ranks(word.encode(), ranks)]


def test_a_list_of_ranks_encodes_as_tiktoken_does(ranks: dict[bytes, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds no pre-tokenizer: it is told by the length of the public lists."""
    file = tmp_path / "tokenizer.model"
    file.write_bytes(b"".join(base64.b64encode(t) + f" {r}\n".encode() for t, r in sorted(ranks.items(), key=lambda item: item[1])))
    with pytest.raises(UserError, match=f"a list of {len(ranks)} ranks"):
        open_cutter(file)
    monkeypatch.setitem(readers.PATTERNS, len(ranks), CL100K)
    cutter = open_cutter(tmp_path)
    assert cutter.kind == "tiktoken" and cutter.size == len(ranks)
    assert cutter.encode(LINES) == [plain_ids(line, ranks) for line in LINES]


def test_tekken_numbers_its_tokens_behind_the_special_ones(ranks: dict[bytes, int], tmp_path: Path) -> None:
    """And lists more of them than the model has: those beyond `default_vocab_size` are no tokens."""
    listed = sorted(ranks, key=lambda t: ranks[t])
    vocab = [{"rank": ranks[t], "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t in listed]
    config = {"pattern": CL100K, "default_vocab_size": 400 + 10, "default_num_special_tokens": 10}
    special = [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}]
    (tmp_path / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocab, "special_tokens": special}))
    cutter = open_cutter(tmp_path / "tekken.json")
    first = {t: r for t, r in ranks.items() if r < 400}
    assert cutter.encode(LINES) == [[10 + i for i in plain_ids(line, first)] for line in LINES]
    assert cutter.surfaces[1] == b"<s>" and cutter.surfaces[10] == listed[0] and cutter.size == 402


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_encodes_as_sentencepiece_does(kind: str, tmp_path: Path) -> None:
    """Byte pieces are bytes; `▁` is a blank."""
    import sentencepiece as sp

    model = io.BytesIO()
    sp.SentencePieceTrainer.train(
        sentence_iterator=iter(english(300)), model_writer=model, vocab_size=380, model_type=kind, byte_fallback=True, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    cutter = open_cutter(tmp_path)
    assert cutter.encode(LINES) == sp.SentencePieceProcessor(model_proto=model.getvalue()).encode(LINES)
    ids = cutter.encode(["the ệ"])[0]
    assert b"".join(cutter.surfaces[i] or b"" for i in ids) == " the ệ".encode()


def test_a_folder_is_named_after_itself_and_shared_names_are_told_apart(tmp_path: Path) -> None:
    """`model` is what every second folder is called."""
    for name in ("one/model", "two/model", "deep/one/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(gpt2_spec()))
    a, b, c = (open_cutter(tmp_path / name) for name in ("one", "two/model", "deep/one/model/tokenizer.json"))
    assert (a.name, b.name, c.name) == ("one", "two", "one") and a.kind == "BPE, bytes"
    assert [cutter.name for cutter in apart([a, b])] == ["one", "two"]
    assert len({cutter.name for cutter in apart([a, b, c])}) == 3 and len({cutter.name for cutter in apart([a, a])}) == 2


def test_old_files_alone_are_read(tmp_path: Path) -> None:
    """GPT-2 was published without a tokenizer.json."""
    spec = gpt2_spec()
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *spec["model"]["merges"], ""]))
    assert open_cutter(tmp_path).encode(LINES) == [e.ids for e in Tokenizer.from_str(json.dumps(spec)).encode_batch(LINES)]


def spoilt(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f / "nothing", "no such file or folder"),
        (lambda f: f, "no tokenizer in this folder"),
        (lambda f: spoilt(f, "tokenizer.json", b"{"), "not JSON"),
        (lambda f: spoilt(f, "tokenizer.json", b"[1]"), "no tokenizer"),
        (lambda f: spoilt(f, "config.json", b'{"vocab_size": 3}'), "no tokenizer"),
        (lambda f: spoilt(f, "tokenizer.json", b'{"model": {"type": "Nothing"}}'), "cannot load it"),
        (lambda f: spoilt(f, "tokenizer.model", b"no model at all"), "neither a SentencePiece model nor"),
        (lambda f: spoilt(f, "x.tiktoken", b"YQ== 0\nYg==\n"), "line 2"),
        (lambda f: spoilt(f, "tekken.json", b'{"config": {}, "vocab": []}'), "not as tekken files are"),
    ],
)
def test_what_cannot_be_read_is_named(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        open_cutter(make(tmp_path))


def test_every_kind_of_piece_gives_its_text() -> None:
    """For tokens on the screen, and for telling a letter from a byte of one."""
    cases: list[tuple[dict[str, Any], str, bytes]] = [
        ({"decoder": {"type": "ByteLevel"}, "model": {}}, "Ġxin", b" xin"),
        ({"model": {"byte_fallback": True}}, "<0xE1>", b"\xe1"),
        ({"model": {}}, "▁xin", b" xin"),
        ({"model": {"continuing_subword_prefix": "##"}}, "##in", b"in"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "xin</w>", b"xin "),
    ]
    for tree, piece, surface in cases:
        assert readers._reader(tree)(piece) == surface
