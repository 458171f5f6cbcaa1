"""A document is plain text: what the encoder must not do to it, and when a faster one may take its place."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rewarm.errors import UserError
from rewarm.vocab.encoder import EncoderDiffers, open_encoder, special_tokens, unkind_texts, watched

TEXTS = ["tiếng Việt và con đường mới", "the old road, the new road", "a  b\n\n\tc", ""]


def byte_level(folder: Path, **saved: object) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|im_end|>"], show_progress=False),
    )
    tokenizer.add_tokens([AddedToken("<code>", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<|im_end|> $A", special_tokens=[("<|im_end|>", 1)])
    return save(tokenizer, folder, **saved)


def sentencepiece_bpe(folder: Path) -> Path:
    """As converters write Llama-2's: `</s>` stands in the vocabulary, and merges make it out of its characters."""
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", "<", "/", "s", ">", "a", "</", "s>", "▁a"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("▁", "a")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return save(tokenizer, folder)


def unigram(folder: Path) -> Path:
    """Unigram looks pieces up in the text: `</s>` with a score of 0 beats its characters."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *[(c, -3.0) for c in "</s>abc"]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "</s>")])
    return save(tokenizer, folder)


def save(tokenizer: Tokenizer, folder: Path, **saved: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tree = json.loads(tokenizer.to_str()) | saved
    (folder / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    return folder / "tokenizer.json"


KINDS = {"byte_level": byte_level, "sentencepiece_bpe": sentencepiece_bpe, "unigram": unigram}


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_document_are_its_characters(kind, tmp_path):
    """A page about HTML or chat formats must not teach the model that text ends in its middle."""
    path = KINDS[kind](tmp_path)
    special = special_tokens(path)
    encoder = open_encoder(path, [])
    texts = [f"a{text}a" for text in special] + list(special) + [" ".join(special)]
    own = Tokenizer.from_file(str(path)).encode_batch(texts, add_special_tokens=False)
    for text, ids, naive in zip(texts, encoder.encode_batch(texts), own):
        unknown = special.get("<unk>", -1)
        assert set(naive.ids) & set(special.values()), f"the tokenizer itself does it to {text!r}, else this test says nothing"
        assert not set(ids.tolist()) & (set(special.values()) - {unknown}), text


def test_special_text_decodes_to_itself(tmp_path):
    """No character is lost on the way round the special tokens."""
    path = byte_level(tmp_path)
    text = "x<|im_end|>\n<|endoftext|> y <code>"
    ids = open_encoder(path, []).encode_batch([text])[0]
    assert Tokenizer.from_file(str(path)).decode(ids.tolist(), skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
def test_other_text_has_the_ids_of_the_tokenizer(kind, tmp_path):
    """Continual pretraining must read text as the base did."""
    path = KINDS[kind](tmp_path)
    own = Tokenizer.from_file(str(path)).encode_batch([*TEXTS, "a ab c <code>"], add_special_tokens=False)
    for ids, expected in zip(open_encoder(path, []).encode_batch([*TEXTS, "a ab c <code>"]), own, strict=True):
        assert ids.dtype == np.uint32
        assert ids.tolist() == expected.ids


def test_added_tokens_that_are_not_special_are_tokens(tmp_path):
    """Runs of blanks, HTML tags and the like are added tokens of some bases, and text for all that."""
    path = byte_level(tmp_path)
    code = {t["content"]: t["id"] for t in json.loads(path.read_text())["added_tokens"]}["<code>"]
    assert code in open_encoder(path, []).encode_batch(["x<code>y"])[0].tolist()


def test_a_token_that_the_config_names_as_end_is_special(tmp_path):
    """Some tokenizer.json forget the flag; `<code>` as eos_token is then a control token all the same."""
    path = byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<code>", "special": True}}))
    code = special_tokens(path)["<code>"]
    assert code not in open_encoder(path, []).encode_batch(["x<code>y"])[0].tolist()


def test_nothing_is_cut_padded_or_added(tmp_path):
    """A tokenizer saved after training with truncation 4 and padding would lose most of a corpus."""
    path = byte_level(
        tmp_path,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
    )
    text = "the old road, the new road"
    ids = open_encoder(path, []).encode_batch([text])[0].tolist()
    assert Tokenizer.from_file(str(path)).decode(ids, skip_special_tokens=False) == text


def test_merges_are_never_dropped_at_random(tmp_path):
    """A tokenizer trained with BPE dropout keeps it in its file; a corpus would differ from run to run."""
    path = byte_level(tmp_path)
    tree = json.loads(path.read_text())
    plain = open_encoder(path, []).encode_batch(TEXTS)
    tree["model"]["dropout"] = 0.9
    path.write_text(json.dumps(tree))
    for ids, expected in zip(open_encoder(path, []).encode_batch(TEXTS), plain):
        assert np.array_equal(ids, expected)


def test_merges_may_be_pairs_or_strings(tmp_path):
    """Newer files write `["a", "b"]`, older ones `"a b"`."""
    path = sentencepiece_bpe(tmp_path)
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(tree["model"]["merges"][0], list)
    texts = ["a </s> a", "s>a</"]
    expected = open_encoder(path, []).encode_batch(texts)
    tree["model"]["merges"] = [" ".join(pair) for pair in tree["model"]["merges"]]
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    for ids, wanted in zip(open_encoder(path, []).encode_batch(texts), expected):
        assert np.array_equal(ids, wanted)


FAKE = """
import json, struct
import tokenizers
class Tokenizer:
    @staticmethod
    def from_json_str(text):
        {broken_load}
        made = Tokenizer()
        made.inner = tokenizers.Tokenizer.from_str(text)
        return made
    def encode_batch_flat(self, texts, add_special_tokens, split_special_tokens):
        self.inner.encode_special_tokens = split_special_tokens
        all_ids = [e.ids for e in self.inner.encode_batch(texts, add_special_tokens=add_special_tokens)]
        {broken_ids}
        flat = [i for ids in all_ids for i in ids]
        offsets = [0]
        for ids in all_ids:
            offsets.append(offsets[-1] + len(ids))
        return struct.pack(f"<{{len(flat)}}I", *flat), struct.pack(f"<{{len(offsets)}}Q", *offsets)
"""


@pytest.fixture
def fastokens(tmp_path, monkeypatch):
    """Puts a package called fastokens on the path, exact or broken as told."""

    def install(broken_load: str = "pass", broken_ids: str = "pass") -> None:
        package = tmp_path / "site" / "fastokens"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "_native.py").write_text(FAKE.format(broken_load=broken_load, broken_ids=broken_ids))
        monkeypatch.syspath_prepend(str(package.parent))
        for name in ("fastokens", "fastokens._native"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    yield install
    for name in ("fastokens", "fastokens._native"):
        sys.modules.pop(name, None)


def test_a_fast_encoder_that_is_exact_is_used(fastokens, tmp_path):
    fastokens()
    path = byte_level(tmp_path / "base")
    encoder = open_encoder(path, TEXTS)
    assert encoder.name == "fastokens" and not encoder.passed_over
    reference = open_encoder(path, TEXTS, prefer=("tokenizers",))
    texts = TEXTS + unkind_texts(path)
    for ids, expected in zip(encoder.encode_batch(texts), reference.encode_batch(texts), strict=True):
        assert np.array_equal(ids, expected)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"broken_load": "raise ValueError('unknown normalizer')"}, "unknown normalizer"),
        ({"broken_ids": "all_ids = [ids[:-1] if 'đường' in t else ids for ids, t in zip(all_ids, texts)]"}, "other ids"),
        ({"broken_ids": "all_ids = [ids[:4000] for ids in all_ids]"}, "other ids"),
    ],
)
def test_a_fast_encoder_that_is_not_exact_is_passed_over_and_named(broken, said, fastokens, tmp_path):
    """Wrong ids train without an error: the sample of the text at hand and the unkind set stand between. The last one fails only there."""
    fastokens(**broken)
    encoder = open_encoder(byte_level(tmp_path / "base"), TEXTS)
    assert encoder.name == "tokenizers"
    assert said in encoder.passed_over[0]


def test_a_folder_without_tokenizer_json_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="save_pretrained"):
        open_encoder(tmp_path / "tokenizer.json", [])


def test_a_tokenizer_json_that_nothing_reads_is_an_error_for_the_user(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        open_encoder(tmp_path / "tokenizer.json", [])
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Nothing", "vocab": {}}}))
    with pytest.raises(UserError, match="cannot read it"):
        open_encoder(tmp_path / "tokenizer.json", [])


def test_a_fast_encoder_is_watched_while_it_works(fastokens, tmp_path):
    """A fault that no text of the sample shows: found at the next document that is encoded twice, wherever batches begin and end."""
    fastokens(broken_ids="all_ids = [ids[:-1] if 'trap' in t else ids for ids, t in zip(all_ids, texts)]")
    path = byte_level(tmp_path / "base")
    fast = open_encoder(path, TEXTS)
    assert fast.name == "fastokens" and fast.reference is not None and fast.reference.name == "tokenizers"
    assert len(fast.encode_batch(["trap", *["road"] * 50])) == 51, "the first of 10,000 documents is not looked at"
    for number in range(1, 8):
        texts = ["road"] * 12
        texts[number] = "trap"
        watched_one = watched(fast, fast.reference, every=4)
        batches = [texts[:3], texts[3:8], texts[8:]]
        if (number + 1) % 4:
            assert sum(len(watched_one.encode_batch(batch)) for batch in batches) == 12
        else:
            with pytest.raises(EncoderDiffers, match=r"fastokens unknown gives other ids than tokenizers for 'trap'"):
                for batch in batches:
                    watched_one.encode_batch(batch)


@pytest.mark.skipif(find_spec("fastokens") is None, reason="fastokens is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_the_real_fastokens_is_exact_or_passed_over(kind, tmp_path):
    """Whatever it makes of this kind of tokenizer, the ids are the reference's."""
    path = KINDS[kind](tmp_path)
    encoder = open_encoder(path, TEXTS)
    reference = open_encoder(path, TEXTS, prefer=("tokenizers",))
    assert encoder.name == "fastokens" or encoder.passed_over
    texts = [*TEXTS, *unkind_texts(path), "con đường </s> mới"]
    for ids, expected in zip(encoder.encode_batch(texts), reference.encode_batch(texts), strict=True):
        assert np.array_equal(ids, expected)
