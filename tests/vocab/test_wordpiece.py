"""WordPiece: what an extension keeps, what no extension can bring, and that the gate sees each known way to get it wrong."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewarm.errors import UserError
from rewarm.progress import Silent
from rewarm.vocab.base import encode_ids, load_tokenizer, open_base
from rewarm.vocab.blind import TONES, blind_spots
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import check_tokenizer
from rewarm.vocab.gate_pieces import substrings
from rewarm.vocab.gate_wordpiece import old_text
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.stage import extend
from rewarm.vocab.wordpiece import WordPieceBase

from .conftest import english, shorten_gate, vietnamese, write_text
from .piece_bases import bert_files, write_piece_base
from .test_prune import wordpiece_base

pytestmark = pytest.mark.usefixtures("quick_gate")
KINDS = ["bert", "uncased"]
TEXTS = GateTexts(vietnamese(60, seed=9), english(300, seed=9))
CFG = VocabRecipe(extend=True, size=150)
OPEN = VocabRecipe(extend=True, size=50, tau="off", check_bits=False)
HARD = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from("Điều ườngcácthe of\n\t  ##123한국어가르쳤습니다人工\u200d😀"), max_size=60
)
HAN = ["人工", "智能", "电池", "材料", "研究"]


def chinese(lines: int, more: str = "") -> list[str]:
    """Two-character words in a fixed order of all pairs, with these single characters strewn in."""
    pairs = [a + b for a in HAN for b in HAN]
    return [f"{pairs[i % 25]}{more[i % len(more)] if more else ''}{pairs[(7 * i + 3) % 25]}。" for i in range(lines)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> dict[str, tuple[Path, Path]]:
    """Kind -> (base, its extension's folder)."""
    folder = tmp_path_factory.mktemp("wordpiece")
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        shorten_gate(patch)
        for kind in KINDS:
            base = write_piece_base(folder / kind, kind, english(400))
            extend(base, {"vi": [texts["target"]]}, [texts["protect"]], folder / f"{kind}-out", CFG)
            out[kind] = (base, folder / f"{kind}-out")
    return out


_cache: dict[Path, WordPieceBase] = {}


def opened(folder: Path) -> WordPieceBase:
    if folder not in _cache:
        base = open_base(folder)
        assert isinstance(base, WordPieceBase)
        _cache[folder] = base
    return _cache[folder]


def broken(base: Path, new: Path) -> dict[int, str]:
    return {f.number: f.example for f in check_tokenizer(open_base(base), new, TEXTS, CFG, 2.0) if not f.ok}


def new_surfaces(out: Path) -> list[str]:
    return [line.split("\t")[2] for line in (out / "new_tokens.tsv").read_text().splitlines()[1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_extension_passes(kind: str, made: dict[str, tuple[Path, Path]]) -> None:
    """All invariants hold, hardly any word is unknown any more, and both files say the same."""
    base, out = made[kind]
    assert opened(base).kind == "wordpiece" and broken(base, out / "model") == {}
    facts = json.loads((out / "report.json").read_text())["facts"]
    assert facts["new_tokens"] == 150 and facts["unreachable"] == 0 and facts["gain"] > 0.5 and facts["protected"]["changed_lines"] == 0
    reason = next(r for r in facts["size_reasons"] if "cannot be written" in r)
    before, after = (int(n.replace(",", "")) for n in (reason.split(": ")[1].split(" ")[0], reason.split("base, ")[1].split(" ")[0]))
    assert before > 10_000 and after < before / 100
    lines = (out / "model" / "vocab.txt").read_text().splitlines()
    assert {p: i for i, p in enumerate(lines)} == opened(out / "model").vocab


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD)
def test_text_without_a_new_piece_keeps_its_tokens(kind: str, text: str, made: dict[str, tuple[Path, Path]]) -> None:
    """All that can be promised of pieces that compete, so it is promised of every text."""
    base, new = opened(made[kind][0]), opened(made[kind][1] / "model")
    fresh = set(new.vocab) - set(base.vocab)
    before, after = (encode_ids(b.tokenizer, [text])[0] for b in (base, new))
    words = base.pretokens(text)
    starts = {word[:i] for word in words for i in range(1, len(word) + 1)}
    if fresh.isdisjoint(starts) and not any("##" + s in fresh for word in words for s in substrings(word[1:], 20)):
        assert before == after
    assert after.count(base.unknown) <= before.count(base.unknown)


def test_the_output_bias_of_new_tokens_is_a_mean_of_their_parts(made: dict[str, tuple[Path, Path]]) -> None:
    """A masked model's head has one, tied under two names; left short, the model does not load."""
    import torch
    from safetensors.numpy import load_file
    from transformers import BertForMaskedLM

    base, out = made["bert"]
    old, new = load_file(base / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    name = next(n for n in old if n.startswith("cls.predictions.") and n.endswith("bias") and len(old[n]) == opened(base).next_id)
    token = next(t for t in json.loads((out / "extension.json").read_text())["tokens"] if len(t["parts"]) > 1)
    lengths = [len(opened(base).surfaces[i] or b"") for i in token["parts"]]
    assert np.isclose(new[name][token["id"]], np.average(old[name][token["parts"]], weights=lengths), atol=1e-5)
    ids = torch.tensor([opened(base).tokenizer.encode("they had one of the").ids])
    before, after = (BertForMaskedLM.from_pretrained(p).eval()(ids).logits for p in (base, out / "model"))
    assert after.shape[-1] == 384 and torch.allclose(after[..., : before.shape[-1]], before, atol=1e-6)


def test_vocab_txt_alone_is_read(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Many BERTs come with nothing else; ids are those of the whole tokenizer, control tokens in their places included."""
    for lowercase in (False, True):
        (tmp_path / str(lowercase)).mkdir()
        for name, content in bert_files(english(400), lowercase, old_only=True).items():
            (tmp_path / str(lowercase) / name).write_bytes(content)
        alone, whole = opened(tmp_path / str(lowercase)), opened(made["uncased" if lowercase else "bert"][0])
        for text in ["They had One, of the [MASK]. Tiếng", "", "人工"]:
            assert alone.tokenizer.encode(text).ids == whole.tokenizer.encode(text).ids


def test_added_tokens_above_the_vocabulary_get_their_lines(tmp_path: Path, texts: dict[str, Path]) -> None:
    """The number of a line in vocab.txt is an id, and in tokenizer.json an unlisted added token would move."""
    base = write_piece_base(tmp_path / "base", "bert", english(400), model=False)
    file = base / "tokenizer.json"
    spec = json.loads(file.read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 200, "content": "[CITE]"})
    file.write_text(json.dumps(spec))
    write_model(base, 201)
    extend(base, {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "out", CFG)
    assert (tmp_path / "out" / "model" / "vocab.txt").read_text().splitlines()[200] == "[CITE]"
    assert opened(tmp_path / "out" / "model").tokenizer.token_to_id("[CITE]") == 200


def write_model(folder: Path, rows: int) -> None:
    import torch
    from safetensors.torch import save_model
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=rows, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    config.architectures = ["BertModel"]
    (folder / "config.json").write_text(config.to_json_string())
    torch.manual_seed(0)
    save_model(BertModel(config), str(folder / "model.safetensors"), metadata={"format": "pt"})


def test_of_han_text_only_single_characters_help(tmp_path: Path) -> None:
    """BERT cuts Han characters apart before it looks words up, so words of them would be rows that no text reaches; the report says so."""
    base = write_piece_base(tmp_path / "base", "uncased", [*english(400), *chinese(50)])
    text = write_text(tmp_path / "zh.jsonl", chinese(2_000, more="锂钛"))
    reporter = Silent()
    extend(base, {"zh": [text]}, [], tmp_path / "out", OPEN, reporter=reporter)
    assert sorted(new_surfaces(tmp_path / "out")) == sorted("锂钛")
    assert any("only single characters can help" in line for line in reporter.warnings)
    new = opened(tmp_path / "out" / "model")
    assert all(new.tokenizer.encode(c, add_special_tokens=False).tokens == [c] for c in "锂钛")
    with pytest.raises(UserError, match=r"`人工智能` cannot be one token.*`人`, `工`, `智`, `能`"):
        extend(base, {"zh": [text]}, [], tmp_path / "no", OPEN.model_copy(update={"words": ("人工智能",)}))
    assert not (tmp_path / "no" / "model").exists()


def test_an_uncased_base_cannot_tell_tones_apart_and_says_so(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """It strips them before any vocabulary: a token with a mark would be a row that no text reaches. đ is a letter of its own."""
    lines = [f"{a} {b} {c} đi" for a in TONES for b in ("nhà", "sẽ", "được", "cảnh") for c in ("người", "tiếng", "đẹp")] * 40
    reporter = Silent()
    text = write_text(tmp_path / "vi.jsonl", lines)
    extend(made["uncased"][0], {"vi": [text]}, [], tmp_path / "out", OPEN, reporter=reporter)
    assert any("tone marks" in line and "cased base" in line for line in reporter.warnings)
    surfaces = new_surfaces(tmp_path / "out")
    assert surfaces and not [s for s in surfaces if any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", s))]
    extend(made["bert"][0], {"vi": [text]}, [], tmp_path / "cased", OPEN)
    assert "má" in new_surfaces(tmp_path / "cased")


def test_blind_spots_are_found_in_every_kind_of_tokenizer(
    bases: dict[str, Path], made: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """What a normalizer removes has nothing to do with the model behind it: ALBERT's is a Unigram that strips marks and capitals."""
    assert [blind_spots(open_base(bases[kind])) for kind in ("gpt2", "llama3", "llama2", "mistral")] == [[]] * 4
    assert [len(blind_spots(opened(made[kind][0]))) for kind in KINDS] == [1, 3]
    albert = write_piece_base(tmp_path / "albert", "xlmr", english(400), model=False)
    spec = json.loads((albert / "tokenizer.json").read_text())
    rules = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, spec["normalizer"]]
    spec["normalizer"] = {"type": "Sequence", "normalizers": rules}
    (albert / "tokenizer.json").write_text(json.dumps(spec))
    found = open_base(albert).findings
    assert any("Vietnamese tones" in f and "Thai" in f for f in found) and any("capitals" in f for f in found)


def test_a_single_digit_that_lacks_is_added_but_no_number(tmp_path: Path) -> None:
    """Numbers stay cut as they were; but one digit that nothing writes makes the whole number unknown."""
    words = [line.translate(str.maketrans("", "", "0123456789")) for line in english(400)]
    base = write_piece_base(tmp_path / "base", "bert", words, model=False)
    write_model(base, 200)
    text = write_text(tmp_path / "n.jsonl", [f"the {i} of १२{i % 7}" for i in range(3_000)])
    extend(base, {"hi": [text]}, [], tmp_path / "out", OPEN)
    surfaces = new_surfaces(tmp_path / "out")
    assert {*"123456789१", *(f"##{d}" for d in "0123456789२")} <= {*surfaces}
    assert not [s for s in surfaces if sum(c.isdecimal() for c in s) > 1]


def test_no_new_piece_leads_into_a_dead_end(tmp_path: Path) -> None:
    """Pieces are taken from the left, the longest each: a longer one may end where nothing goes on. Characters that lack are then added."""
    base = write_piece_base(tmp_path / "base", "bert", english(400), model=False)
    spec = json.loads((base / "tokenizer.json").read_text())
    vocab = spec["model"]["vocab"]
    del vocab["##h"]
    spec["model"]["vocab"] = vocab = {p: i for i, p in enumerate(vocab)}
    (base / "tokenizer.json").write_text(json.dumps(spec))
    (base / "vocab.txt").write_text("".join(f"{p}\n" for p in vocab))
    opened_base = opened(base)
    assert opened_base.unclosed == ["##h"]
    write_model(base, len(vocab))
    extend(base, {"vi": [write_text(tmp_path / "vi.jsonl", vietnamese(1_000))]}, [], tmp_path / "out", OPEN)
    assert "##h" in opened(tmp_path / "out" / "model").vocab


def test_the_gate_sees_a_word_that_became_unknown(tmp_path: Path) -> None:
    """The base writes `cbca` as c, ##bca; with the piece cb nothing goes on at c."""
    base = wordpiece_base()
    spec = base.spec_with(["cb"])
    finding = old_text(base, replace(base, spec=spec, tokenizer=load_tokenizer(spec, "")), ["cbca"])
    assert not finding.ok and finding.name == "no word has become [UNK]"


def edited(folder: Path, change: Callable[[dict[str, int]], None]) -> None:
    file = folder / "tokenizer.json"
    spec: dict[str, Any] = json.loads(file.read_text())
    change(spec["model"]["vocab"])
    file.write_text(json.dumps(spec, ensure_ascii=False, indent=2))
    vocab = spec["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{p}\n" for p in sorted(vocab, key=vocab.__getitem__)))


def _instead(new: str) -> Callable[[dict[str, int]], None]:
    def change(vocab: dict[str, int]) -> None:
        last = max(vocab, key=vocab.__getitem__)
        vocab[new] = vocab.pop(last)

    return change


def _swapped(vocab: dict[str, int]) -> None:
    vocab["the"], vocab["of"] = vocab["of"], vocab["the"]


def _old_words(vocab: dict[str, int]) -> None:
    """Six words that old lines begin with, in place of the last six pieces."""
    words = Counter(w for line in english(300, seed=9) for w in line.split() if w.isalpha())
    last = sorted(vocab, key=vocab.__getitem__)[-6:]
    for old, new in zip(last, [w for w, _ in words.most_common() if w not in vocab]):
        vocab[new] = vocab.pop(old)


MUTANTS: dict[str, tuple[Callable[[dict[str, int]], None], int]] = {
    "old pieces change places": (_swapped, 2),
    "a word of two Han characters": (_instead("人工"), 5),
    "a Han character that continues a word": (_instead("##人"), 5),
    "a piece across a hyphen": (_instead("a-b"), 5),
    "words of old text": (_old_words, 4),
    "a number": (_instead("2024"), 11),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_gate_sees_a_broken_tokenizer(name: str, made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A gate is tested by what it must catch."""
    change, number = MUTANTS[name]
    base, out = made["bert"]
    shutil.copytree(out / "model", tmp_path / "new")
    edited(tmp_path / "new", change)
    assert number in broken(base, tmp_path / "new")


def test_the_gate_sees_marks_that_are_stripped_and_a_stale_vocab_txt(made: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """Both look right in the file that was changed."""
    base, out = made["uncased"]
    for name in ("marks", "stale"):
        shutil.copytree(out / "model", tmp_path / name)
    edited(tmp_path / "marks", _instead("má"))
    shutil.copyfile(base / "vocab.txt", tmp_path / "stale" / "vocab.txt")
    assert 5 in broken(base, tmp_path / "marks") and 8 in broken(base, tmp_path / "stale")
