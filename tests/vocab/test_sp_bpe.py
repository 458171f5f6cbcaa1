"""SentencePiece BPE: what an extension keeps, that both files cut alike, and that the gate sees each known way to get it wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import open_base
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import check_tokenizer
from rewarm.vocab.gate_bpe import byte_lengths, token_ends
from rewarm.vocab.gate_sp import PROBES
from rewarm.vocab.kinds import kind_named
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.scripts import one_script, script_of
from rewarm.vocab.sp_base import SpBase, splits
from rewarm.vocab.sp_model import UNUSED, Piece, parse_sp_model, read_sp_model
from rewarm.vocab.sp_rebuild import rebuilt_model
from rewarm.vocab.stage import extend

from .conftest import english, vietnamese, write_base
from .sp_bases import as_mistral, llama2_model, spec_of

pytestmark = pytest.mark.usefixtures("quick_gate")
KINDS = ["llama2", "gemma", "mistral"]
TEXTS = GateTexts(vietnamese(60, seed=9), english(300, seed=9))
CFG = VocabRecipe(size=150)
HARD = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from("Điều ườngcácthe of\n\t  ▁123한국어가르쳤습니다\u200d😀"), max_size=60
)


def opened(folder: Path) -> SpBase:
    base = open_base(folder)
    assert isinstance(base, SpBase)
    return base


def broken(base: Path, new: Path) -> dict[int, str]:
    return {f.number: f.example for f in check_tokenizer(open_base(base), new, TEXTS, CFG, 2.0) if not f.ok}


def test_kinds_are_told_by_structure(bases: dict[str, Path]) -> None:
    """Names of classes and models say nothing; how text is cut does."""
    assert [open_base(bases[k]).kind for k in ("gpt2", "llama3", *KINDS)] == ["byte_bpe"] * 2 + ["sp_bpe"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_extension_passes(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """All invariants of the tokenizer hold, on real files of each type."""
    assert broken(bases[kind], extended[kind] / "model") == {}
    facts = json.loads((extended[kind] / "report.json").read_text())["facts"]
    assert facts["new_tokens"] == 150 and facts["unreachable"] == 0 and facts["gain"] > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_old_pieces_merges_and_keys_stay_where_they_were(kind: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """A trained row belongs to an id."""
    old, new = (json.loads((f / "tokenizer.json").read_text()) for f in (bases[kind], extended[kind] / "model"))
    assert {k: v for k, v in new.items() if k != "model"} == {k: v for k, v in old.items() if k != "model"}
    assert new["model"]["merges"][: len(old["model"]["merges"])] == old["model"]["merges"]
    assert old["model"]["vocab"].items() <= new["model"]["vocab"].items()
    assert {type(m) for m in new["model"]["merges"]} == {type(old["model"]["merges"][0])}
    loaded = Tokenizer.from_file(str(extended[kind] / "model" / "tokenizer.json"))
    assert all(loaded.token_to_id(t["content"]) == t["id"] for t in old["added_tokens"])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD)
def test_new_tokens_only_glue_old_ones(kind: str, text: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """New scores lie below all old ones, so text is first cut exactly as before."""
    base, new = cached(bases[kind]), cached(extended[kind] / "model")
    old = token_ends([base.tokenizer.encode(text, add_special_tokens=False).ids], byte_lengths(base))[0]
    now = token_ends([new.tokenizer.encode(text, add_special_tokens=False).ids], byte_lengths(new))[0]
    assert np.isin(now, old).all() and len(now) <= len(old)


_cache: dict[Path, SpBase] = {}


def cached(folder: Path) -> SpBase:
    return _cache[folder] if folder in _cache else _cache.setdefault(folder, opened(folder))


@pytest.mark.parametrize("kind", ["llama2", "gemma"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD | st.sampled_from(PROBES))
def test_both_files_cut_alike(kind: str, text: str, bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """Some programs read the one, some the other: a model trained on one cut answers badly to the other."""
    new = cached(extended[kind] / "model")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(new.model_file))
    old = sentencepiece.SentencePieceProcessor(model_file=str(bases[kind] / "tokenizer.model"))
    if old.encode(text) == cached(bases[kind]).tokenizer.encode(text, add_special_tokens=False).ids:
        assert processor.encode(text) == new.tokenizer.encode(text, add_special_tokens=False).ids


def test_places_without_a_piece_are_filled(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """A SentencePiece id is a place in the file; Gemma's added token above the pieces has none, and new ids begin behind it."""
    base = opened(bases["gemma"])
    old, new = read_sp_model(bases["gemma"] / "tokenizer.model"), read_sp_model(extended["gemma"] / "model" / "tokenizer.model")
    assert base.next_id == len(old.pieces) + 1 and new.pieces[len(old.pieces)] == Piece("<image>", 0.0, UNUSED)
    ids = opened(extended["gemma"] / "model").vocab
    assert all(ids[p.text] == i for i, p in enumerate(new.pieces) if i >= base.next_id) and len(new.pieces) == base.next_id + 150


def test_no_model_file_is_invented(extended: dict[str, Path]) -> None:
    """A base that never had one is read by its tokenizer.json alone."""
    assert not (extended["mistral"] / "model" / "tokenizer.model").exists()


def test_a_model_file_is_rebuilt_where_it_is_asked_for(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """Scores from the ranks of merges cut as the merges do, also where blanks stand side by side."""
    cfg = VocabRecipe(size=150, model_file="always")
    extend(bases["mistral"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", cfg)
    new = opened(tmp_path / "o" / "model")
    assert new.sp_model is not None and new.sp_model.dummy_prefix and broken(bases["mistral"], new.folder) == {}
    processor = sentencepiece.SentencePieceProcessor(model_file=str(new.model_file))
    lines = [line for line in [*PROBES, *TEXTS.target] if not line.startswith(" ")]  # Metaspace leaves a blank in front as it is
    assert processor.encode(lines) == [e.ids for e in new.tokenizer.encode_batch(lines, add_special_tokens=False)]


def test_no_model_file_is_rebuilt_for_a_base_that_rewrites_text(bases: dict[str, Path]) -> None:
    """Its rules would be lost, and text cut another way without a word."""
    spec = json.loads((bases["mistral"] / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}
    with pytest.raises(UserError, match="normalizer has NFKC"):
        rebuilt_model(kind_named("sp_bpe").open(bases["mistral"], spec, None))


def test_a_base_of_the_model_file_alone_gets_both_files(texts: dict[str, Path], tmp_path: Path) -> None:
    """Older checkpoints ship only tokenizer.model."""
    base = write_base(tmp_path / "b", "llama2")
    (base / "tokenizer.json").unlink()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **names}))
    extend(base, {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", CFG)
    new = opened(tmp_path / "o" / "model")
    assert new.model_file is not None and (new.folder / "tokenizer.json").is_file() and broken(base, new.folder) == {}


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_metaspace_puts_the_blank_as_it_did(scheme: str, bases: dict[str, Path]) -> None:
    """Words are counted with the blank that the encoder will put."""
    spec = as_mistral(json.loads((bases["llama2"] / "tokenizer.json").read_text()), scheme)
    base = kind_named("sp_bpe").open(bases["mistral"], spec, None)
    assert base.pretokens("the law  of") == [*(["the"] if scheme == "never" else ["▁the"]), "▁law", "▁▁of"]


def test_words_of_a_legacy_normalizer_begin_with_one_blank_more(bases: dict[str, Path]) -> None:
    """Llama-2 puts a blank before every text, also one that begins with blanks."""
    base = open_base(bases["llama2"])
    assert base.pretokens("the law") == ["▁the", "▁law"] and base.pretokens(" law</s>law") == ["▁▁law", "▁law"]


def test_characters_come_first_and_only_where_they_are_missing(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """Vietnamese vowels and Korean syllables are bytes for an English base: no word can be built from them."""
    base, new = cached(bases["llama2"]), cached(extended["llama2"] / "model")
    fresh = [p for p, i in sorted(new.vocab.items(), key=lambda item: item[1]) if i >= base.next_id]
    characters = [p for p in fresh if len(p) == 1]
    assert fresh[: len(characters)] == characters and {"ệ", "ư", "한"} <= set(characters) and not set(characters) & set(base.vocab)


def test_repeated_runs_give_the_same_bytes(
    bases: dict[str, Path], texts: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:
    """The smaller extension's pieces are the first of the larger one's."""
    extend(bases["gemma"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "a", CFG)
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "a" / "model" / name).read_bytes() == (extended["gemma"] / "model" / name).read_bytes()
    extend(bases["gemma"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "b", VocabRecipe(size=60))
    large, small = (read_sp_model(tmp_path / x / "model" / "tokenizer.model").pieces for x in "ab")
    assert large[: len(small)] == small


# Mutants: each was seen in a public tool's output.


def rewritten(extended: Path, to: Path, change: Callable[[list[Piece], int], list[Piece]], first: int) -> Path:
    shutil.copytree(extended / "model", to)
    file = to / "tokenizer.model"
    old = read_sp_model(file)
    kept = parse_sp_model(old.extended([]))
    pieces = change(list(kept.pieces[first:]), first)
    fields = [f for f in kept.fields if f[0] == 1][:first] + [f for f in kept.fields if f[0] != 1]
    file.write_bytes(type(kept)(kept.pieces[:first], 2, True, True, False, b"", tuple(fields)).extended(pieces))
    return to


def score_zero(pieces: list[Piece], first: int) -> list[Piece]:
    return [Piece(p.text, 0.0) for p in pieces]


def steps_of_one(pieces: list[Piece], first: int) -> list[Piece]:
    return [Piece(p.text, float(np.float32(-1e9 - 1 - i))) for i, p in enumerate(pieces)]


def other_order(pieces: list[Piece], first: int) -> list[Piece]:
    return pieces[::-1]


@pytest.mark.parametrize(
    ("change", "says"), [(score_zero, "is not below"), (steps_of_one, "is not below"), (other_order, "other ids"), (lambda p, n: [], "ids")]
)
def test_wrong_model_files_are_caught(
    change: Callable[[list[Piece], int], list[Piece]], says: str, bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path
) -> None:
    """Score 0 beats every old piece; steps of one at a billion are no steps; a stale file knows none of the new ids."""
    first = opened(bases["llama2"]).next_id
    found = broken(bases["llama2"], rewritten(extended["llama2"], tmp_path / "m", change, first))
    assert list(found) == [8] and says in found[8]


def only_trained(base: SpBase, new: SpBase, record: dict[str, Any]) -> list[list[str]]:
    name = {i: piece for piece, i in new.vocab.items()}
    return [[name[a], name[b]] for a, b in record["merges"]]


def test_only_the_trained_merges_are_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """The `.model` joins any two halves of a piece, so a tokenizer.json with one pair a piece cuts other text another way."""
    shutil.copytree(extended["llama2"] / "model", tmp_path / "m")
    base, new = opened(bases["llama2"]), opened(tmp_path / "m")
    record = json.loads((extended["llama2"] / "extension.json").read_text())
    spec = {**new.spec, "model": {**new.spec["model"], "merges": [*map(list, base.merges), *only_trained(base, new, record)]}}
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(spec))
    assert "missing" in broken(bases["llama2"], tmp_path / "m")[8]


def test_a_stale_model_file_is_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """The old file beside a new tokenizer.json is what copying a folder leaves."""
    shutil.copytree(extended["gemma"] / "model", tmp_path / "m")
    shutil.copyfile(bases["gemma"] / "tokenizer.model", tmp_path / "m" / "tokenizer.model")
    assert list(broken(bases["gemma"], tmp_path / "m")) == [8]
    (tmp_path / "m" / "tokenizer.model").unlink()
    assert list(broken(bases["gemma"], tmp_path / "m")) == [8]


def test_a_piece_across_scripts_is_caught(bases: dict[str, Path], extended: dict[str, Path], tmp_path: Path) -> None:
    """SentencePiece has no pre-tokenizer that would keep a word and the comma behind it apart."""
    shutil.copytree(extended["mistral"] / "model", tmp_path / "m")
    new = opened(tmp_path / "m")
    spec = new.spec_with({"e,": new.next_id, "▁la▁": new.next_id + 1})
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(spec))
    assert "two scripts" in (found := broken(bases["mistral"], tmp_path / "m"))[11] and "white space" in found[11]


def test_a_base_whose_files_disagree_is_said(tmp_path: Path) -> None:
    """Its own contradiction is not the extension's fault, but the user should know."""
    base = write_base(tmp_path / "b", "llama2")
    spec = json.loads((base / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:40]
    (base / "tokenizer.json").write_text(json.dumps(spec))
    assert "in two ways" in " ".join(open_base(base).findings)


def test_a_new_character_completes_an_old_piece(bases: dict[str, Path], tmp_path: Path) -> None:
    """The `.model` joins two pieces to any old piece that they make, so tokenizer.json must too, before all new pieces."""
    folder = tmp_path / "b"
    spec = spec_of(llama2_model(english(400)), folder)
    spec["model"]["vocab"]["éà"] = 900
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer.model").unlink()
    base = opened(folder)
    assert base.merges_for(["à", "é", "éàé"]) == [("é", "à"), ("éà", "é")]
    assert splits("▁ab", {"▁", "ab", "▁a", "b", "a"}) == [("▁", "ab"), ("▁a", "b")]


def test_scripts_are_told_apart_as_the_cut_between_words_needs_it() -> None:
    """Han and kana mix within words, marks belong to their letters, and everything else stays apart."""
    for text in ("食べる", "ラーメン", "tie\u0302\u0301ng", "quyền", "한국어", "...", "ﾊﾝｶｸ", "東京タワー"):
        assert one_script(text), text
    for text in ("law,", "Aдля", "한a", "中。", "(a", "x2"):
        assert not one_script(text), text
    assert script_of("\u0301") is None and script_of("é") == "LATIN" and script_of("。") == "COMMON"
