"""How many bytes of text each token id stands for: what turns a loss in nats a token into bits a byte.

Counted on the surface of a token alone, so that a step's bytes are one lookup. For byte-level tokenizers this is exact: the lengths of a
document's ids add up to its UTF-8 bytes. SentencePiece writes a blank as U+2581, one byte of text, and may put one before a document that
has none: one byte too many there. Where a normalizer changes the text, it counts the changed text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rewarm.vocab.encoder import read_tokenizer, special_tokens


def byte_lengths(tokenizer_json: Path, rows: int) -> npt.NDArray[np.int32]:
    """int32 [rows]: UTF-8 bytes of each id's surface; 0 for special tokens and for ids without a token.

    rows: size of the model's id space. Ids beyond it are left out here: some bases have an added token that no row belongs to, which does
    no harm until a text has it (`encode` checks).
    """
    tree = read_tokenizer(tokenizer_json)
    vocab = tree["model"]["vocab"]
    surfaces = list(vocab.items()) if isinstance(vocab, dict) else [(piece, number) for number, (piece, _) in enumerate(vocab)]
    added = [(token["content"], token["id"]) for token in tree.get("added_tokens") or []]
    measure = _measure(tree)
    lengths = np.zeros(rows, dtype=np.int32)
    special = special_tokens(tokenizer_json)
    for text, number in surfaces:
        if number < rows:
            lengths[number] = measure(text)
    for text, number in added:
        if number < rows:
            lengths[number] = 0 if text in special else len(text.encode())
    return lengths


def _measure(tree: dict[str, Any]) -> Callable[[str], int]:
    """The function from a surface in the vocabulary to its bytes of text, by the kind of tokenizer."""
    parts = list(_components(tree.get("decoder"))) + list(_components(tree.get("pre_tokenizer")))
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        alphabet = byte_level_alphabet()
        return lambda text: sum(1 if c in alphabet else len(c.encode()) for c in text)
    model = tree["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    blank = "Metaspace" in kinds or any((part.get("pattern") or {}).get("String") == "\u2581" for part in parts)
    fallback = bool(model.get("byte_fallback"))

    def measure(text: str) -> int:
        if fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return 1
        text = text.removeprefix(prefix) if prefix else text
        return len((text.replace("\u2581", " ") if blank else text).encode())

    return measure


def _components(node: Any) -> Iterator[dict[str, Any]]:
    """A decoder or pre-tokenizer and all that it is made of."""
    if isinstance(node, dict):
        yield node
        for part in [*(node.get("decoders") or []), *(node.get("pretokenizers") or [])]:
            yield from _components(part)


def byte_level_alphabet() -> frozenset[str]:
    """The 256 characters that stand for bytes in byte-level BPE: printable Latin-1 for itself, the others from U+0100 on (GPT-2's
    encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return frozenset(chr(c) for c in [*printable, *range(256, 256 + 256 - len(printable))])
