"""What an extension did: bytes a token, changed paragraphs, tokens of old text, new tokens that nothing can reach.

The unit of change is the paragraph: a line of a held-out document that holds more than blanks. It is the same for all systems, and so are
the texts: for `protected`, the 5 % of the protected text that rewarm sets aside for its own gate and never counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

Encode = Callable[[list[str]], list[list[int]]]
Decode = Callable[[list[list[int]]], list[str]]

TARGETS = {"vi": ("vi_wiki", "vi_law", "vi_docs"), "zh": ("zh",), "ja": ("ja",), "ko": ("ko",)}
PROTECT = ("en_openstax", "en_factbook", "en_novels")
HELDOUT = {
    "vi": ("vi_wiki",),
    "zh": ("zh_history",),
    "ja": ("ja_aozora", "ja_wiki_jsquad"),
    "ko": ("ko_reviews", "ko_sentences_klue"),
}
OLD = {"en_wikitext2": "en_wikitext2_valid", "en_openstax": "en_openstax", "en_novels": "en_novels"}


@dataclass(frozen=True)
class Texts:
    """Held-out text: documents of the target languages, paragraphs of old text."""

    target: dict[str, dict[str, list[str]]]
    """language -> text's name -> documents."""
    old: dict[str, list[str]]
    """text's name -> paragraphs."""


def paragraphs(documents: list[str]) -> list[str]:
    return [line for text in documents for line in text.split("\n") if line.strip()]


def read_texts(data: Path) -> Texts:
    from rewarm.vocab.text import read_documents, sample_pieces

    held = data / "heldout"
    target = {lang: {n: list(read_documents(held / f"{n}.jsonl")) for n in names} for lang, names in HELDOUT.items()}
    old = {name: paragraphs(list(read_documents(held / f"{file}.jsonl"))) for name, file in OLD.items()}
    sample = sample_pieces([data / "train" / f"{n}.parquet" for n in PROTECT], 100_000_000, 0.05, 0.05, 0)
    return Texts(target, {**old, "protected": paragraphs(sample.test)})


def codec(file: Path) -> tuple[Encode, Decode]:
    """Texts to ids, nothing added, and back, by a tokenizer.json or a SentencePiece `.model`."""
    if file.suffix == ".model":
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
        return processor.encode, processor.decode
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()

    def encode(texts: list[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return encode, lambda ids: list(tokenizer.decode_batch(ids, skip_special_tokens=False))


@dataclass(frozen=True)
class Encoded:
    """All held-out text as one tokenizer cuts it."""

    tokens: dict[str, int]
    """target text -> tokens."""
    old: dict[str, list[list[int]]]
    back: list[bool]
    """Whether each paragraph, of the target texts and of old text, comes back from its ids."""


def encode_all(file: Path, texts: Texts, language: str) -> Encoded:
    encode, decode = codec(file)
    tokens = {name: sum(map(len, encode(documents))) for name, documents in texts.target[language].items()}
    old = {name: encode(lines) for name, lines in texts.old.items()}
    target = [line for documents in texts.target[language].values() for line in paragraphs(documents)]
    back = [a == b for a, b in zip(target, decode(encode(target)))]
    for name, lines in texts.old.items():
        back += [a == b for a, b in zip(lines, decode(old[name]))]
    return Encoded(tokens, old, back)


def _row(metric: str, value: float, unit: str, system: str, case: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit, "system": system, "case": case, "runs": [value]}


def fertility_rows(encoded: Encoded, texts: Texts, language: str, system: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Bytes a token: of all held-out text of the language, and of each text where there are several."""
    sizes = {name: sum(len(d.encode()) for d in documents) for name, documents in texts.target[language].items()}
    rows = [_row("bytes_per_token", round(sum(sizes.values()) / sum(encoded.tokens.values()), 4), "bytes/token", system, case)]
    for name, size in sizes.items() if len(sizes) > 1 else ():
        rows.append(_row("bytes_per_token", round(size / encoded.tokens[name], 4), "bytes/token", system, {**case, "text": name}))
    return rows


def change_rows(base: Encoded, new: Encoded, system: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Old text: share of paragraphs whose ids differ, and tokens after over tokens before, less 1; of each text and of the three held-out
    ones together. `lost_lines`: paragraphs of any text that came back from the base's ids, and do not from the new ones."""
    rows, lines, changed, before, after = [], 0, 0, 0, 0
    for name, old in base.old.items():
        here = sum(a != b for a, b in zip(old, new.old[name]))
        tokens = sum(map(len, old)), sum(map(len, new.old[name]))
        rows.append(_row("changed_lines", round(here / len(old), 6), "share", system, {**case, "text": name}))
        rows.append(_row("token_change", round(tokens[1] / tokens[0] - 1.0, 6), "share", system, {**case, "text": name}))
        if name in OLD:
            lines, changed = lines + len(old), changed + here
            before, after = before + tokens[0], after + tokens[1]
    rows.append(_row("changed_lines", round(changed / lines, 6), "share", system, case))
    rows.append(_row("token_change", round(after / before - 1.0, 6), "share", system, case))
    lost = sum(a and not b for a, b in zip(base.back, new.back))
    rows.append(_row("lost_lines", round(lost / len(base.back), 6), "share", system, case))
    return rows


def unreachable(base_folder: Path, file: Path) -> tuple[int, int]:
    """(new tokens, those that do not come out when their own text goes in).

    Asked of the model alone, without the pre-tokenizer and with `ignore_merges` off: a token that only a lookup of whole words finds is
    lost inside of longer words. An AddedToken is matched in the text before any of this and is asked of the whole tokenizer.
    """
    spec = json.loads((base_folder / "tokenizer.json").read_text(encoding="utf-8"))
    old = {*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])}
    if file.suffix == ".model":
        return _unreachable_pieces(file, old)
    new = json.loads(file.read_text(encoding="utf-8"))
    added = {t["content"]: t["id"] for t in new["added_tokens"] if t["id"] not in old}
    inside = {t: i for t, i in new["model"]["vocab"].items() if i not in old and t not in added}
    bare = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    model = Tokenizer.from_str(json.dumps({**new, **bare, "added_tokens": [], "model": {**new["model"], "ignore_merges": False}}))
    whole = Tokenizer.from_file(str(file))
    lost = 0
    for tokenizer, table in ((model, inside), (whole, added)):
        found = tokenizer.encode_batch_fast(list(table), add_special_tokens=False)
        lost += sum(e.ids != [i] for e, i in zip(found, table.values()))
    return len(added) + len(inside), lost


def _unreachable_pieces(file: Path, old: set[int]) -> tuple[int, int]:
    import sentencepiece
    from sp_files import read_pieces, without_dummy_prefix

    raw = file.read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=without_dummy_prefix(raw))
    new = [(i, piece) for i, (piece, kind) in enumerate(read_pieces(raw)) if i not in old and kind == 1]
    found = processor.encode([piece.replace("▁", " ") for _, piece in new])
    return len(new), sum(ids != [i] for (i, _), ids in zip(new, found))
