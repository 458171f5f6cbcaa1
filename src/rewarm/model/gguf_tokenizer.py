"""The tokenizer inside a GGUF file, as a Hugging Face `tokenizer.json`.

A GGUF file holds tokens, merges and the *name* of a split (`tokenizer.ggml.pre`), not the split itself. Readers that take GPT-2's split for
all of them lose, for SmolLM2, the rule that every digit stands alone: plain text tokenises as before, and an extension then learns whole
numbers, for which English pays. So the split is built here from a table (`pretokenizers.json`), and a name that is not in it is refused.
Only byte-level BPE (`tokenizer.ggml.model: gpt2`) is built; SentencePiece models are refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rewarm.errors import UserError, did_you_mean

ANEW = "the file is damaged: get it anew"
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # token types of the GGUF specification


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer with what a `tokenizer_config.json` and a `generation_config.json` say beside it.

    ends: ids that end a text, the model's own end first. special: names as in tokenizer_config (`bos_token` ..) to surfaces.
    """

    tokenizer: Tokenizer
    pre: str
    special: dict[str, str]
    ends: tuple[int, ...]
    bos: int | None
    eos: int | None
    pad: int | None
    add_bos: bool
    chat_template: str | None


@cache
def table() -> dict[str, Any]:
    """The splits by name, package data."""
    parsed: dict[str, Any] = json.loads((files("rewarm.model") / "pretokenizers.json").read_text(encoding="utf-8"))
    return parsed


def build_tokenizer(metadata: dict[str, Any], where: str) -> GgufTokenizer:
    """The tokenizer that this metadata describes. metadata: GGUF keys to plain values. Raises UserError with the key and what it holds."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(
            f"tokenizer.ggml.model is `{kind}`; only byte-level BPE (`gpt2`) is read from a GGUF file",
            where=where,
            fix="take this model's Hugging Face folder (config.json, tokenizer.json, *.safetensors) as model.base instead",
        )
    pre = metadata.get("tokenizer.ggml.pre")
    rule = table()["pre"].get(pre)
    if rule is None:
        known = sorted(table()["pre"])
        found = f"tokenizer.ggml.pre is `{pre}`, a split that is not known here" if pre else "tokenizer.ggml.pre is missing"
        near = did_you_mean(pre, known) if pre else None
        hint = "take this model's Hugging Face folder as model.base instead: a guessed split would change its words unseen"
        raise UserError(f"{found}; known: {', '.join(known)}", where=where, fix=f"{near} {hint}" if near else hint)

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    vocab = {token: i for i, (token, kind_of) in enumerate(zip(tokens, types, strict=True)) if kind_of != UNUSED}
    if len(vocab) != sum(t != UNUSED for t in types):
        raise UserError("two tokens have the same surface, so ids cannot be told apart", where=where, fix="take another file of this model")
    bpe = models.BPE(vocab=vocab, merges=_merges(metadata, vocab, where), ignore_merges=bool(rule.get("ignore_merges")))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _pre_tokenizer(rule)
    tokenizer.decoder = decoders.ByteLevel()
    if rule.get("normalizer") == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [AddedToken(t, normalized=False, special=special) for t, kind_of in zip(tokens, types) if kind_of == wanted]
        tokenizer.add_special_tokens(added) if special else tokenizer.add_tokens(added)

    ids = {name: _id(metadata, name, tokens, where) for name in ("bos", "eos", "eot", "eom", "unknown", "padding")}
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", rule.get("add_bos", False)))
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    _add_ends(tokenizer, tokens, ids["bos"] if add_bos else None, ids["eos"] if add_eos else None)
    ends = [ids["eos"], ids["eot"], ids["eom"]]
    ends += [i for i, (t, kind_of) in enumerate(zip(tokens, types)) if kind_of == CONTROL and t in table()["ends"]]
    names = (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))
    return GgufTokenizer(
        tokenizer=tokenizer,
        pre=str(pre),
        special={name: tokens[i] for name, key in names if (i := ids[key]) is not None},
        ends=tuple(dict.fromkeys(i for i in ends if i is not None)),
        bos=ids["bos"],
        eos=ids["eos"],
        pad=ids["padding"],
        add_bos=add_bos,
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _merges(metadata: dict[str, Any], vocab: dict[str, int], where: str) -> list[tuple[str, str]]:
    """Pairs of surfaces, in rank order. A byte-level surface holds no blank, so the first blank parts the two."""
    merges = []
    for rank, line in enumerate(metadata.get("tokenizer.ggml.merges") or []):
        left, _, right = line.partition(" ")
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise UserError(f"merge {rank:,} (`{line}`) names a token that is not there", where=where, fix=ANEW)
        merges.append((left, right))
    if not merges:
        raise UserError("tokenizer.ggml.merges is missing or empty", where=where, fix=ANEW)
    return merges


def _pre_tokenizer(rule: dict[str, Any]) -> pre_tokenizers.PreTokenizer:
    steps: list[pre_tokenizers.PreTokenizer] = []
    if rule.get("digits"):
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split := rule.get("split"):
        steps.append(pre_tokenizers.Split(Regex(table()["splits"][split]), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split))
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def _add_ends(tokenizer: Tokenizer, tokens: list[str], bos: int | None, eos: int | None) -> None:
    """What the encoder writes around a text unasked."""
    if bos is None and eos is None:
        return
    before = f"{tokens[bos]} " if bos is not None else ""
    after = f" {tokens[eos]}" if eos is not None else ""
    pair_after = f" {tokens[eos]}:1" if eos is not None else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{after}",
        pair=f"{before}$A{after} {before and before.strip() + ':1 '}$B:1{pair_after}",
        special_tokens=[(tokens[i], i) for i in (bos, eos) if i is not None],
    )


def _id(metadata: dict[str, Any], name: str, tokens: list[str], where: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None:
        return None
    if not 0 <= value < len(tokens):
        raise UserError(f"tokenizer.ggml.{name}_token_id is {value}, but there are {len(tokens):,} tokens", where=where)
    return int(value)
