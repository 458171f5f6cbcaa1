"""A new tokenizer for a model that is trained from nothing.

It is an extension like any other: of a base that knows no word yet, only bytes (or digits) and control tokens. So it is chosen by the same
code, keeps the same rules, weighs several languages alike, and passes the same gate; and since all text is counted as words, no line is too
long for it (SentencePiece's own training leaves out lines above some kilobytes).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids, open_base
from rewarm.vocab.count import count
from rewarm.vocab.fuzz import GateTexts, all_characters
from rewarm.vocab.gate import Finding, check_tokenizer, same_again
from rewarm.vocab.kinds import kind_named
from rewarm.vocab.letters import LETTER_OF_BYTE, to_letters
from rewarm.vocab.readers import CL100K
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.report import fertility
from rewarm.vocab.sp_base import spec_of_model
from rewarm.vocab.sp_model import BPE, BYTE, CONTROL, MODEL_FILES, NORMAL, UNIGRAM, UNKNOWN, Piece, new_sp_model
from rewarm.vocab.sp_pieces import MARK
from rewarm.vocab.text import lines_of
from rewarm.vocab.unigram import LOWEST

SPLIT = CL100K.replace("{1,3}", "").replace(r"\p{L}+", r"[\p{L}\p{M}]+")
"""How Llama-3 cuts text, but digits one by one, and marks stay with their letters (Thai, Hindi, decomposed Vietnamese)."""
RUNS = [b"  ", b"    ", b"        ", b"\n\n", b"\t\t"]
"""White space that code is full of; each is made of the one before or of single characters."""
TEXT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NEVER_TEXT = -1e4
"""Score of byte pieces in a Unigram tokenizer.json, so that the text `<0x41>` is not read as the byte."""
BLANK_SCORE = -4.0
"""Of the blank as a token of its own in a Unigram tokenizer: one in 55 tokens, what trained ones have."""
GATE_LINES = 2_000
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@dataclass(frozen=True)
class Fresh:
    """A tokenizer that was trained, as files, and what was found of it."""

    files: dict[str, bytes]
    findings: list[Finding]
    facts: dict[str, Any]
    """`kind, size, bytes` (of each text), `bytes_per_token`, `reasons`."""


def train(kind: str, texts: Mapping[str, list[str]], size: int, balance: Literal["equal", "proportional"] = "equal") -> Fresh:
    """A tokenizer of `size` tokens, control tokens included, or of as many as the texts make.

    kind: `bpe`, `sp_bpe`, `unigram`, `wordpiece`. texts: language -> pieces of its text. balance: see `vocab.balance`. UserError if the
    size does not even hold what every such tokenizer begins with.
    """
    start, settings = STARTS[kind]
    digits = sorted({c for pieces in texts.values() for piece in pieces for c in set(piece) if c.isdecimal()} | set("0123456789"))
    with tempfile.TemporaryDirectory(prefix="rewarm-") as folder:
        first, new = Path(folder) / "start", Path(folder) / "new"
        first.mkdir()
        new.mkdir()
        start(first, digits)
        base = open_base(first)
        if size <= base.next_id:
            what = f"{base.next_id:,} of {size:,} tokens are bytes, digits and control tokens"
            raise UserError(what, where="size", fix="give a larger size; 8,000 to 128,000 are usual")
        more = size - base.next_id
        cfg = VocabRecipe(extend=True, size=more, max_size=more, tau="off", balance=balance if len(texts) > 1 else "equal")
        groups: dict[str, tuple[list[str], int | None]] = {f"held:{name}": ([], None) for name in sorted(texts)}
        groups |= {f"target:{name}": (pieces, cfg.rules.repeat_cap) for name, pieces in sorted(texts.items())}
        counts = count(groups, base)
        open_to_all = replace(base, spec={**base.spec, "added_tokens": []})  # or `end` and `of`, parts of <|endoftext|>, were no tokens
        choice = kind_named(base.kind).extend(open_to_all, counts, sorted(texts), cfg, None, [])

        def written() -> dict[str, bytes]:
            files = kind_named(base.kind).files(base, choice.extension)
            return files | {"tokenizer_config.json": json.dumps(settings, indent=2).encode()}

        for name, content in written().items():
            (new / name).write_bytes(content)
        lines = [line.strip("\n") for _, pieces in sorted(texts.items()) for line in lines_of(pieces) if line.strip()]
        lines = lines[:: max(1, len(lines) // GATE_LINES)]
        findings = [f for f in check_tokenizer(base, new, GateTexts(lines, []), cfg, choice.fewest_uses) if f.number in (5, 6, 7, 8, 9)]
        tokenizer = Tokenizer.from_file(str(new / "tokenizer.json"))
        if base.kind != "wordpiece":
            findings.append(_lossless(tokenizer, base))
        findings += [_transformers(new, tokenizer, lines), same_again(written(), new)]
        sizes = {name: sum(len(p.encode(errors="surrogatepass")) for p in pieces) for name, pieces in sorted(texts.items())}
        table = fertility({"new": tokenizer}, dict(sorted(texts.items())))
        facts = {
            "kind": kind, "size": choice.extension.true_vocab, "asked": size, "bytes": sizes, "weights": choice.weights,
            "bytes_per_token": {name: row["new"]["bytes_per_token"] for name, row in table.items()}, "reasons": list(choice.reasons),
        }  # fmt: skip
        return Fresh(written(), sorted(findings, key=lambda f: f.number), facts)


def _lossless(tokenizer: Tokenizer, base: Base) -> Finding:
    """7: every code point comes back, but for `▁` where it stands for a blank."""
    apart = {MARK} if base.kind != "byte_bpe" else set()
    characters = [c for c in all_characters() if c not in apart]
    blocks = ["".join(characters[i : i + 512]) for i in range(0, len(characters), 512)]
    ids = encode_ids(tokenizer, blocks)
    suspects = [c for block, back in zip(blocks, tokenizer.decode_batch(ids, skip_special_tokens=False)) if block != back for c in block]
    back = tokenizer.decode_batch(encode_ids(tokenizer, suspects), skip_special_tokens=False)
    lost = [c for c, now in zip(suspects, back) if c != now]
    example = ", ".join(f"U+{ord(c):04X}" for c in lost[:5])
    return Finding(7, f"code points come back ({len(characters):,})", not lost, len(lost), 0, example)


def _transformers(folder: Path, tokenizer: Tokenizer, lines: list[str]) -> Finding:
    """9: transformers reads the folder to the same ids."""
    from transformers import AutoTokenizer

    name = "transformers reads it alike"
    try:
        other = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever it says, nobody can use the tokenizer there
        return Finding(9, name, False, example=str(error)[:300])
    pairs = zip(lines, other(lines, add_special_tokens=False)["input_ids"], encode_ids(tokenizer, lines))
    example = next((line[:200] for line, a, b in pairs if a != b), "")
    return Finding(9, name, not example, len(lines), None, example)


def _added(names: tuple[str, ...] | list[str]) -> list[dict[str, Any]]:
    return [{"id": i, "content": name, **_FLAGS} for i, name in enumerate(names)]


def _write_spec(folder: Path, spec: dict[str, Any]) -> None:
    head = {"version": "1.0", "truncation": None, "padding": None}
    order = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
    content = json.dumps(head | {key: spec.get(key) for key in order}, ensure_ascii=False, indent=2)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")


def _byte_start(folder: Path, digits: list[str]) -> None:
    """256 bytes, runs of white space, control tokens. (Digits are cut apart, so they need no pieces.)"""
    pieces = [*TEXT_TOKENS, *(LETTER_OF_BYTE[b] for b in range(256)), *map(to_letters, RUNS)]
    merges = [[to_letters(run[: len(run) // 2])] * 2 for run in RUNS]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {p: i for i, p in enumerate(pieces)}, "merges": merges,
    }  # fmt: skip
    pre = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    _write_spec(folder, {"added_tokens": _added(TEXT_TOKENS), "pre_tokenizer": pre, "decoder": byte_level, "model": model})


def _sp_start(folder: Path, digits: list[str], kind: int) -> None:
    """unk, <s>, </s>, 256 bytes, the blank and all digits, as a `.model`.

    Unigram: no piece will hold a digit, so digits' scores decide nothing; they are set so that all later scores lie between them.
    """
    pieces = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    pieces += [Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    scores = [-float(i) for i in range(1 + len(digits))] if kind == BPE else [BLANK_SCORE, 0.0, *[LOWEST] * (len(digits) - 1)]
    pieces += [Piece(text, score, NORMAL) for text, score in zip([MARK, *digits], scores)]
    (folder / MODEL_FILES[0]).write_bytes(new_sp_model(pieces, kind, byte_fallback=True, dummy_prefix=True).extended([]))
    if kind == BPE:
        spec = spec_of_model(folder)
        assert spec is not None
    else:
        marks = [{"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]
        back = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
        spec = {
            "added_tokens": _added([p.text for p in pieces[:3]]), "normalizer": {"type": "Sequence", "normalizers": marks},
            "pre_tokenizer": {"type": "Split", "pattern": {"String": MARK}, "behavior": "MergedWithNext", "invert": False},
            "decoder": {"type": "Sequence", "decoders": [*back, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {
                "type": "Unigram", "unk_id": 0, "byte_fallback": True,
                "vocab": [[p.text, NEVER_TEXT if p.type == BYTE else p.score] for p in pieces],
            },
        }  # fmt: skip
    _write_spec(folder, spec)


def _wordpiece_start(folder: Path, digits: list[str]) -> None:
    """Control tokens, ASCII and digits, each also as `##`: all other characters come from the text."""
    ascii_signs = [c for c in map(chr, range(33, 127)) if not c.isdecimal()]
    inside = [f"##{c}" for c in [*digits, *filter(str.isalpha, ascii_signs)]]
    vocab = {name: i for i, name in enumerate([*BERT_TOKENS, *digits, *ascii_signs, *inside])}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    single = [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": False, "lowercase": False}
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab,
    }  # fmt: skip
    _write_spec(folder, {
        "added_tokens": _added(BERT_TOKENS), "normalizer": normalizer, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "model": model,
    })  # fmt: skip
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in vocab), encoding="utf-8")


_ANY = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
_SP = {**_ANY, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_BERT = {f"{name.strip('[]').lower()}_token": name for name in BERT_TOKENS}
STARTS: dict[str, tuple[Callable[[Path, list[str]], None], dict[str, Any]]] = {
    "bpe": (_byte_start, {**_ANY, "bos_token": TEXT_TOKENS[0], "eos_token": TEXT_TOKENS[0]}),
    "sp_bpe": (lambda folder, digits: _sp_start(folder, digits, BPE), _SP),
    "unigram": (lambda folder, digits: _sp_start(folder, digits, UNIGRAM), _SP),
    "wordpiece": (_wordpiece_start, {**_ANY, **_BERT}),
}
"""Kind -> what writes its first files to a folder, given the digits of the text; and its tokenizer_config.json."""
