"""Unigram: what an extension keeps, that both files cut alike, and that the gate sees each known way to get it wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import encode_ids, open_base
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import check_tokenizer
from rewarm.vocab.gate_pieces import substrings
from rewarm.vocab.gate_sp import PROBES
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.sp_model import UNUSED, Piece, parse_sp_model, read_sp_model
from rewarm.vocab.stage import extend
from rewarm.vocab.unigram import UnigramBase, trained_pieces

from .conftest import english, shorten_gate, vietnamese, write_text
from .piece_bases import write_piece_base

pytestmark = pytest.mark.usefixtures("quick_gate")
KINDS = ["t5", "xlmr"]
TEXTS = GateTexts(vietnamese(60, seed=9), english(300, seed=9))
CFG = VocabRecipe(extend=True, size=150)
HARD = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from("Điều ườngcácthe of\n\t  ▁123한국어가르쳤습니다\u200d😀ﬁ①"), max_size=60
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    """Kind -> (base, its extension's folder)."""
    folder = tmp_path_factory.mktemp("unigram")
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        shorten_gate(patch)
        for kind in KINDS:
            base = write_piece_base(folder / kind, kind, english(400))
            extend(base, {"vi": [texts["target"]]}, [texts["protect"]], folder / f"{kind}-out", CFG)
            out[kind] = (base, folder / f"{kind}-out")
    return out


_cache: dict[Path, UnigramBase] = {}


def opened(folder: Path) -> UnigramBase:
    if folder not in _cache:
        base = open_base(folder)
        assert isinstance(base, UnigramBase)
        _cache[folder] = base
    return _cache[folder]


def broken(base: Path, new: Path) -> dict[int, str]:
    return {f.number: f.example for f in check_tokenizer(open_base(base), new, TEXTS, CFG, 2.0) if not f.ok}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_extension_passes(kind: str, made: dict[str, tuple[Path, Path]]) -> None:
    """All invariants of the tokenizer hold, and the model has rows for it."""
    base, out = made[kind]
    assert opened(base).kind == "unigram" and broken(base, out / "model") == {}
    facts = json.loads((out / "report.json").read_text())["facts"]
    assert (
        facts["new_tokens"] == 150 and facts["unreachable"] == 0 and facts["gain"] > 0.5 and facts["first_new_id"] == opened(base).next_id
    )
    assert facts["protected"]["changed_lines"] <= 0.01 * facts["protected"]["lines"]


@pytest.mark.parametrize("kind", KINDS)
def test_old_pieces_and_scores_stay_where_they_were(kind: str, made: dict[str, tuple[Path, Path]]) -> None:
    """Old scores decide how old text is cut; the lowest and the highest also what unknown characters cost."""
    base, new = opened(made[kind][0]), opened(made[kind][1] / "model")
    assert new.listed[: len(base.listed)] == base.listed and new.spec["added_tokens"] == base.spec["added_tokens"]
    assert {k: v for k, v in new.spec.items() if k != "model"} == {k: v for k, v in base.spec.items() if k != "model"}
    low, high = base.bounds
    assert all(low <= score <= high and score == np.float32(score) for _, score in new.listed[base.next_id :])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD)
def test_text_without_a_new_piece_keeps_its_tokens(kind: str, text: str, made: dict[str, tuple[Path, Path]]) -> None:
    """All that can be promised of pieces that compete, so it is promised of every text."""
    base, new = opened(made[kind][0]), opened(made[kind][1] / "model")
    fresh = {piece for piece, _ in new.listed[base.next_id :]}
    if all(fresh.isdisjoint(substrings(word, 20)) for word in base.pretokens(text)):
        assert encode_ids(new.tokenizer, [text]) == encode_ids(base.tokenizer, [text])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD | st.sampled_from(PROBES))
def test_both_files_cut_alike(kind: str, text: str, made: dict[str, tuple[Path, Path]]) -> None:
    """Some programs read the `.model`. Compared are the pieces' texts, where the base's two files agree."""
    base, new = opened(made[kind][0]), opened(made[kind][1] / "model")

    def both(some: UnigramBase) -> tuple[list[str], list[str]]:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(some.model_file))
        names = {i: p for p, i in some.vocab.items()}
        unk = some.spec["model"]["unk_id"]
        theirs = ["<unk>" if processor.is_unknown(i) else processor.id_to_piece(i) for i in processor.encode(text)]
        return ["<unk>" if i == unk else names[i] for i in encode_ids(some.tokenizer, [text])[0]], theirs

    ours, theirs = both(base)
    if ours == theirs:
        ours, theirs = both(new)
        assert ours == theirs


def test_places_without_a_piece_are_filled(made: dict[str, tuple[Path, Path]]) -> None:
    """A SentencePiece id is a place in the file: T5's sentinels and XLM-R's mask, with its offset of one, have none there."""
    base, new = (read_sp_model(made["t5"][i] / name) for i, name in ((0, "spiece.model"), (1, "model/spiece.model")))
    assert [p.text for p in new.pieces[len(base.pieces) :][:10]] == [f"<extra_id_{i}>" for i in range(9, -1, -1)]
    base, new = (read_sp_model(made["xlmr"][i] / f"{p}sentencepiece.bpe.model") for i, p in ((0, ""), (1, "model/")))
    assert new.pieces[len(base.pieces)] == Piece("<mask>", 0.0, UNUSED)
    ids = opened(made["xlmr"][1] / "model").vocab
    assert all(ids[p.text] == i + 1 for i, p in enumerate(new.pieces) if i > len(base.pieces))


def test_spare_rows_of_t5_are_written(made: dict[str, tuple[Path, Path]]) -> None:
    """The real one has 32,128 rows for 32,100 ids: new ids fall on rows that nobody trained."""
    from safetensors.numpy import load_file

    base, new = (load_file(p / "model.safetensors") for p in (made["t5"][0], made["t5"][1] / "model"))
    first = opened(made["t5"][0]).next_id
    name = next(n for n, t in base.items() if t.shape[0] == first + 28)
    assert len(base[name]) == first + 28 and len(new[name]) == 512
    assert np.array_equal(new[name][:first], base[name][:first])
    assert not (new[name][first : first + 28] == base[name][first:]).all(axis=1).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_extended_model_loads_and_gives_the_old_logits(kind: str, made: dict[str, tuple[Path, Path]]) -> None:
    """Encoders have an output bias, T5 two stacks: all that hangs on the vocabulary has grown, nothing else moved."""
    import torch
    import transformers

    name = {"t5": "T5ForConditionalGeneration", "xlmr": "XLMRobertaForMaskedLM"}[kind]
    ids = torch.tensor([opened(made[kind][0]).tokenizer.encode("they had one of the", add_special_tokens=False).ids])
    more = {"decoder_input_ids": ids} if kind == "t5" else {}
    before, after = (
        getattr(transformers, name).from_pretrained(p).eval()(ids, **more).logits for p in (made[kind][0], made[kind][1] / "model")
    )
    first = opened(made[kind][0]).next_id
    assert after.shape[-1] == 512 and torch.allclose(after[..., :first], before[..., :first], atol=1e-6)


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "tokenizer.json"
    spec = json.loads(file.read_text())
    change(spec)
    file.write_text(json.dumps(spec, ensure_ascii=False, indent=2))


def old_score(spec: dict[str, Any]) -> None:
    spec["model"]["vocab"][40][1] += 0.5


def free_piece(spec: dict[str, Any]) -> None:
    spec["model"]["vocab"][-1][1] = 0.0


def dead_piece(spec: dict[str, Any]) -> None:
    vocab = spec["model"]["vocab"]
    best = sorted((p for p in vocab[5:250] if not p[0].startswith("▁")), key=lambda p: -p[1])
    vocab[-1] = [best[0][0] + best[1][0], min(score for _, score in vocab[5:250])]


def old_letters(spec: dict[str, Any]) -> None:
    """Two pieces that stand side by side in English words, as one, with the best score there is."""
    vocab = spec["model"]["vocab"]
    tokens = Tokenizer.from_str(json.dumps(spec)).encode(" ".join(english(50, seed=9)), add_special_tokens=False).tokens
    pairs = Counter(a + b for a, b in pairwise(tokens) if b.isalpha())
    pair = next(p for p, _ in pairs.most_common() if p not in dict(vocab))
    vocab[-1] = [pair, max(score for _, score in vocab[4:250])]


def rewritten_piece(spec: dict[str, Any]) -> None:
    spec["model"]["vocab"][-1][0] = "ﬁx"


MUTANTS: dict[str, tuple[Callable[[dict[str, Any]], None], int]] = {
    "an old score has moved": (old_score, 2),
    "a new score is above all old ones": (free_piece, 2),
    "a long piece is worse than its parts": (dead_piece, 5),
    "a piece of the letters of old words": (old_letters, 4),
    "a piece that the normalizer rewrites": (rewritten_piece, 5),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_gate_sees_a_broken_tokenizer(name: str, made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A gate is tested by what it must catch."""
    change, number = MUTANTS[name]
    base, out = made["xlmr"]
    shutil.copytree(out / "model", tmp_path / "new")
    edited(tmp_path / "new", change)
    assert number in broken(base, tmp_path / "new")


@pytest.mark.parametrize("how", ["stale", "score", "missing"])
def test_the_gate_sees_a_model_file_that_disagrees(how: str, made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """The other file is what some programs read."""
    base, out = made["t5"]
    shutil.copytree(out / "model", tmp_path / "new")
    file = tmp_path / "new" / "spiece.model"
    if how == "stale":
        shutil.copyfile(base / "spiece.model", file)
    elif how == "missing":
        file.unlink()
    else:
        old, new = read_sp_model(base / "spiece.model"), read_sp_model(file)
        more = new.pieces[len(old.pieces) :]
        file.write_bytes(old.extended([*more[:-1], replace(more[-1], score=0.0)]))
        assert parse_sp_model(file.read_bytes()).pieces[-1].score == 0.0
    assert 8 in broken(base, tmp_path / "new")


def test_old_text_decides_over_a_size(made: dict[str, tuple[Path, Path]], texts: dict[str, Path], tmp_path: Path) -> None:
    """A size that was asked for is not quietly made smaller: the error shows other guards. An automatic one shrinks, and says so."""
    target = {"en": [write_text(tmp_path / "en.jsonl", english(2_000, seed=3))]}
    fields: dict[str, Any] = {"extend": True, "tau": 1.0, "name_guard": "off", "max_changed_lines": 0.0, "check_bits": False, "min_uses": 2}
    with pytest.raises(UserError) as error:
        extend(made["xlmr"][0], target, [texts["protect"]], tmp_path / "asked", VocabRecipe(size=150, **fields))
    assert "protected lines would change" in error.value.what and "off" in error.value.what
    facts = extend(made["xlmr"][0], target, [texts["protect"]], tmp_path / "auto", VocabRecipe(**fields))
    assert any("more would change" in reason for reason in facts["size_reasons"])


def test_a_word_that_is_insisted_on_comes_out(made: dict[str, tuple[Path, Path]], texts: dict[str, Path], tmp_path: Path) -> None:
    """However rare it is; its score is raised until its own text gives it."""
    cfg = VocabRecipe(extend=True, size=60, words=["kiểm"], check_bits=False)
    extend(made["t5"][0], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "out", cfg)
    assert opened(tmp_path / "out" / "model").tokenizer.encode("kiểm", add_special_tokens=False).tokens == ["▁kiểm"]
    with pytest.raises(UserError, match="cannot be one token"):
        cfg = VocabRecipe(extend=True, size=60, words=["xin chào"])
        extend(made["t5"][0], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "no", cfg)


def test_parity_is_refused_before_anything_is_read(made: dict[str, tuple[Path, Path]], texts: dict[str, Path], tmp_path: Path) -> None:
    """It follows merges one by one."""
    cfg = VocabRecipe(extend=True, balance="parity", parallel={"vi": "a.txt"})
    with pytest.raises(UserError) as error:
        extend(made["t5"][0], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "out", cfg)
    assert error.value.where == "vocab.balance"


def test_training_of_candidates_weighs_words_by_their_counts() -> None:
    """No word is read twice, so a count is all that tells a common word from a rare one. Odd words are left out, not an error."""
    words = ["▁xin", "▁chào", "▁xinh", "\t", "▁z\0b", "▁rất"]
    pieces = dict(trained_pieces(words, [1000, 900, 2, 5, 5, 800], 20, 16))
    assert pieces["▁xin"] > pieces["▁rất"] and not {*"\tzb\0"} & {*"".join(pieces)}
    assert trained_pieces(["▁xin"], [0], 20, 16) == []


def test_a_piece_that_stands_twice_is_an_error(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """The library takes one of the two without a word."""
    shutil.copytree(made["t5"][0], tmp_path / "base")
    edited(tmp_path / "base", lambda spec: spec["model"]["vocab"].append(list(spec["model"]["vocab"][30])))
    with pytest.raises(UserError, match="stands twice"):
        open_base(tmp_path / "base")


def test_a_model_file_alone_is_not_enough(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """It does not say which ids its model gives to the pieces (XLM-R: one more)."""
    (tmp_path / "base").mkdir()
    shutil.copyfile(made["t5"][0] / "spiece.model", tmp_path / "base" / "spiece.model")
    with pytest.raises(UserError, match=r"only spiece\.model"):
        open_base(tmp_path / "base")
