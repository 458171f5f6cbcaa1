"""Text to tokens and where they begin, for measuring: as plain text, nothing cut, nothing added, and what cannot be represented is told.

A tokenizer.json may hold a truncation, a padding and a template that adds tokens, and a tokenizer by default takes the string `</s>` in a
text for the token: each would change what is measured without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from rewarm.atomic import sha256_file
from rewarm.errors import UserError
from rewarm.model.files import read_object

SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "</s>", "<s>", "<eos>", "<bos>")
"""Tokens that stand between documents in the pretraining of known models."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document. starts: the character each token begins at, never falling. lossless: the tokens decode to the very text."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    lossless: bool


class Encoder:
    """The tokenizer of a model's folder. UserError where there is none that tells where a token begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                "tokenizer.json is missing, and only it tells where each token begins",
                where=str(folder),
                fix="load the tokenizer with transformers' AutoTokenizer and save it into the folder again",
            )
        self.sha256 = sha256_file(file)
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises the bare class
            raise UserError(f"tokenizers cannot read this file: {error}", where=str(file), fix="download the model again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.prepended = self._prepends()
        self._tokenizer.encode_special_tokens = True
        settings = folder / "tokenizer_config.json"
        self._settings: dict[str, Any] = read_object(settings) if settings.is_file() else {}
        if self.prepended is None and self._settings.get("add_bos_token"):
            self.prepended = self.named("bos_token")

    def _prepends(self) -> str | None:
        """The token that the tokenizer itself puts before every text."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        if len(full) > len(plain) and full[1 : 1 + len(plain)] == plain:
            return self._tokenizer.id_to_token(full[0])
        return None

    def named(self, kind: str) -> str | None:
        """The text of `bos_token`, `eos_token` or another one by its name in tokenizer_config.json, if the vocabulary has it."""
        value = self._settings.get(kind)
        text = value.get("content") if isinstance(value, dict) else value
        return text if isinstance(text, str) and self.id_of(text) is not None else None

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def separators(self) -> list[str]:
        """Special tokens that may begin a document: bos, eos and the usual separators, those the vocabulary has, each once."""
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        named = [self.named("bos_token"), self.named("eos_token")]
        return list(dict.fromkeys(token for token in [*named, *(t for t in SEPARATORS if t in special)] if token is not None))

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of every text; specials in it are text. A document is lossless if its tokens decode to it, but for one blank in front."""
        found = []
        for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            ids = encoding.ids
            back = self._tokenizer.decode(ids, skip_special_tokens=False)
            lossless = back.removeprefix(" ") == text.removeprefix(" ")
            starts = np.asarray([start for start, _ in encoding.offsets], dtype=np.int64)
            found.append(Encoded(np.asarray(ids, dtype=np.int32), np.maximum.accumulate(starts) if len(starts) else starts, lossless))
        return found

    def plain(self, text: str) -> list[int]:
        """Ids of a text without anything around it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)
