"""Text to token ids, as plain text: the one way in which this project encodes a document.

A document is somebody's words. If it says `</s>` or `<|im_end|>`, these are characters, not control tokens: a model must not learn that
text ends in the middle of a page about HTML. Hugging Face's `tokenizers` is the reference, but its defaults do otherwise, so the tokenizer
is loaded from an edited copy of its JSON (`plain_text_json`): no special token can match or be made by the model, nothing is cut or padded
however the file was saved (a forgotten `truncation` of 512 is a known way to lose most of a corpus), no merge is dropped at random.

`fastokens`, where it is installed, is several times faster. It is used only if its ids are equal on a sample of the text at hand and on a
fixed set of unkind strings, and while it works one document in 10,000 is encoded by the reference, too. Wrong ids train without an error.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError

Ids = npt.NDArray[np.uint32]

WATCHED = 10_000
"""One document in so many is encoded twice: an error in 1 % of documents is found after a million of them, at no cost that shows."""
_UNREACHABLE = "\U0010ffff"
"""A noncharacter: no byte-level alphabet has it, and no real text does."""
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Encoder:
    """`name` and `version` of the library that does the work, and `encode_batch`: one uint32 array of ids a text, nothing added.

    passed_over: a line for people for each preferred library that is installed and was not used. reference: what to go on with where
    `encode_batch` raises EncoderDiffers; None if this is the reference.
    """

    name: str
    version: str
    encode_batch: Callable[[list[str]], list[Ids]]
    passed_over: tuple[str, ...] = ()
    reference: Encoder | None = None


class EncoderDiffers(Exception):
    """A fast encoder gave other ids than the reference while it was at work: what it made of this shard is not to be trusted."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self.text = text
        super().__init__(f"{encoder.name} {encoder.version} gives other ids than tokenizers for {text[:60]!r}")


def open_encoder(tokenizer_json: Path, sample: list[str], prefer: tuple[str, ...] = ("fastokens", "tokenizers")) -> Encoder:
    """The first of `prefer` that is installed and exact, else the reference.

    sample: documents of the corpus at hand; a fast encoder must give the reference's ids on all of them and on `unkind_texts`. A name is
    one of `fastokens`, `tokenizers`. Raises UserError if there is no tokenizer.json, or the reference cannot read it.
    """
    text = plain_text_json(tokenizer_json)
    reference = _tokenizers(text, tokenizer_json)
    passed_over: list[str] = []
    for name in prefer:
        if name == "tokenizers":
            break
        assert name == "fastokens", f"no encoder is called {name}"
        if find_spec(name) is None:
            continue
        try:
            fast = _fastokens(text)
            difference = first_difference(fast, reference, sample + unkind_texts(tokenizer_json))
        except Exception as error:  # foreign native code: whatever it raises, the reference does the work, and we say so
            passed_over.append(f"fastokens cannot encode with this tokenizer ({str(error).splitlines()[0][:120]}): tokenizers is used")
            continue
        if difference is None:
            return watched(fast, reference)
        passed_over.append(f"fastokens {fast.version} gives other ids for {difference[:60]!r}: tokenizers is used")
    return replace(reference, passed_over=tuple(passed_over))


def watched(encoder: Encoder, reference: Encoder, every: int = WATCHED) -> Encoder:
    """The encoder, with one in `every` documents encoded by the reference, too; raises EncoderDiffers where their ids are not equal."""
    seen = 0

    def encode_batch(texts: list[str]) -> list[Ids]:
        nonlocal seen
        out = encoder.encode_batch(texts)
        for i in range(-(seen + 1) % every, len(texts), every):
            if not np.array_equal(out[i], reference.encode_batch([texts[i]])[0]):
                raise EncoderDiffers(encoder, texts[i])
        seen += len(texts)
        return out

    return replace(encoder, encode_batch=encode_batch, reference=reference)


def first_difference(encoder: Encoder, reference: Encoder, texts: list[str]) -> str | None:
    """The first text that the two encode differently, or None."""
    for text, ours, theirs in zip(texts, encoder.encode_batch(texts), reference.encode_batch(texts), strict=True):
        if not np.array_equal(ours, theirs):
            return text
    return None


def read_tokenizer(tokenizer_json: Path) -> dict[str, Any]:
    """The parsed tokenizer.json; UserError if it is missing or no JSON."""
    if not tokenizer_json.is_file():
        raise UserError(
            "there is no tokenizer.json",
            where=str(tokenizer_json.parent),
            fix="write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers does",
        )
    try:
        tree = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(tokenizer_json), fix="fetch the base model's tokenizer.json again") from None
    return tree


def special_tokens(tokenizer_json: Path) -> dict[str, int]:
    """Text -> id of the control tokens: added tokens marked special, or named as one (eos, bos, pad, ...) in tokenizer_config.json beside
    it."""
    named = set()
    config = tokenizer_json.with_name("tokenizer_config.json")
    if config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
        named = {token_text(settings.get(role)) for role in _ROLES}
    added = read_tokenizer(tokenizer_json).get("added_tokens") or []
    return {t["content"]: t["id"] for t in added if t.get("special") or t["content"] in named}


def token_text(value: Any) -> str | None:
    """The text of a token in tokenizer_config.json, which writes it as a string or as an object with `content`."""
    return value.get("content") if isinstance(value, dict) else value


def plain_text_json(tokenizer_json: Path) -> str:
    """The tokenizer's JSON, changed so that it reads plain text: see the module's docstring. Ids stay what they are.

    Not matching the special tokens is not enough: `</s>` also stands in the vocabulary of a SentencePiece model, where Unigram finds it and
    merges may make it. So such an entry gets a name that no text has, and the merges that make it go.
    """
    tree = read_tokenizer(tokenizer_json)
    special = special_tokens(tokenizer_json)
    tree["truncation"] = tree["padding"] = tree["post_processor"] = None
    model = tree["model"]
    if "dropout" in model:
        model["dropout"] = None
    vocab = model["vocab"]
    known = set(vocab) if isinstance(vocab, dict) else {piece for piece, _ in vocab}
    hidden = {text: _UNREACHABLE + text for text in special if text in known}
    for token in tree.get("added_tokens") or []:
        token["special"] = token["content"] in special
        token["content"] = hidden.get(token["content"], token["content"])
    if isinstance(vocab, dict):
        model["vocab"] = {hidden.get(text, text): number for text, number in vocab.items()}
    else:
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") is not None:
        model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if hidden.keys().isdisjoint(_parts_and_whole(merge))]
    return json.dumps(tree, ensure_ascii=False)


def _parts_and_whole(merge: str | list[str]) -> tuple[str, str, str]:
    """tokenizer.json writes a merge as `"a b"` or, in newer files, as `["a", "b"]`."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right, left + right


def unkind_texts(tokenizer_json: Path) -> list[str]:
    """A fixed set on which encoders are known to differ, and every added token of this tokenizer as text."""
    added = [t["content"] for t in read_tokenizer(tokenizer_json).get("added_tokens") or []]
    return [
        "",
        " ",
        "\n",
        "\x00\x01\x1f\x7f\x85\ufeff\u200b\u2028\ufffd",
        "\r\n\r\n\t \t  \n\n   x",
        "a" * 10_000,
        " " * 10_000,
        "\u1ec7" * 3_000,
        "1234567890" * 300 + " 3.14 1,000,000 \u0663\u0664 \u2167 \u00bd",
        "Tie\u0302\u0301ng Vie\u0323\u0302t",
        "Ti\u1ebfng Vi\u1ec7t, \u0110i\u1ec1u 1.",
        "\u4f60\u597d\u5f88\u9ad8\u5174\u89c1\u5230\u4f60\u3053\u3093\u306b\u3061\u306f\u3001\uc548\ub155\ud558\uc138\uc694",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1fb\U0001f1f3\U0001f44d\U0001f3fd\ufe0f",
        "\u0645\u0631\u062d\u0628\u0627 \u202e\u05e9\u05dc\u05d5\u05dd\u202c \u0928\u092e\u0938\u094d\u0924\u0947",
        "\ue000\U0010fffd\U000e0041e\u0301\u0302\u0303\u0304",
        "don't I'LL we'Ve 'tis ''''s camelCaseABCDef __init__ a_b-c/d\\e",
        "<s></s><unk><pad><|endoftext|><|im_start|><|im_end|>[CLS][SEP]<0x0A>\u2581\u2581x \u2581",
        *added,
        "".join(f"a{text}b {text} c\n{text}" for text in added),
    ]


def _tokenizers(text: str, path: Path) -> Encoder:
    from tokenizers import Tokenizer, __version__

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for a file that it cannot read
        raise UserError(f"tokenizers {__version__} cannot read it: {error}", where=str(path), fix="see what wrote this file") from None
    tokenizer.encode_special_tokens = True

    def encode_batch(texts: list[str]) -> list[Ids]:
        # array("I", list) takes a third of the time of np.array(list): 4 against 13 ns a token, beside 13 for making the list.
        return [np.frombuffer(array("I", e.ids), dtype=np.uint32) for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return Encoder("tokenizers", __version__, encode_batch)


def _fastokens(text: str) -> Encoder:
    from importlib.metadata import PackageNotFoundError, version

    tokenizer = import_module("fastokens._native").Tokenizer.from_json_str(text)

    def encode_batch(texts: list[str]) -> list[Ids]:
        flat, offsets = tokenizer.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        ids = np.frombuffer(flat, dtype="<u4")
        ends = np.frombuffer(offsets, dtype="<u8").astype(np.int64)
        return [ids[a:b] for a, b in itertools.pairwise(ends.tolist())]

    try:
        number = version("fastokens")
    except PackageNotFoundError:
        number = "unknown"
    return Encoder("fastokens", number, encode_batch)
