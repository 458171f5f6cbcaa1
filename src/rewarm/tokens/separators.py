"""Which token ends a document, and whether one begins it.

Continual pretraining goes on as pretraining did: documents end with the token that the base saw between documents. Chat models name the
end of a *turn* as their end token; trained on after every page, it would teach the model to end its turn there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm.errors import UserError, did_you_mean
from rewarm.vocab.encoder import read_tokenizer, special_tokens, token_text

_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_TURN_END = re.compile(r"im_end|eot|eom|end_of_turn|end_of_msg|turn|assistant|user|<\|end\|>|/INST", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Separators:
    """eos: id that ends every document; bos: id that begins it, or None; `reason` says in words why these."""

    eos: int
    eos_token: str
    bos: int | None
    bos_token: str | None
    reason: str


def separators(model_dir: Path, eos: str = "auto") -> Separators:
    """The separators of this model folder. eos: `auto`, or the text of one of its tokens.

    `auto` takes the first that there is of: the end token of tokenizer_config.json, unless its name is a turn's end and the tokenizer has
    one for documents; a document end by its usual names; the first end id of config.json. Raises UserError if none is there, or `eos` is
    no token.
    """
    ids = _ids_by_text(model_dir / "tokenizer.json")
    token, reason = _end(model_dir, ids) if eos == "auto" else (eos, "set in the recipe")
    if token is None:
        raise UserError(
            "the tokenizer names no token that ends a document", where=str(model_dir), fix="set tokens.eos to the text of one of its tokens"
        )
    if token not in ids:
        raise UserError(f"`{token}` is no token of this tokenizer", where="tokens.eos", fix=did_you_mean(token, sorted(ids)))
    bos = _begin(model_dir)
    if bos is not None and bos not in ids:
        raise UserError(
            f"bos_token `{bos}` is no token of this tokenizer", where=str(model_dir / "tokenizer_config.json"), fix="correct bos_token"
        )
    return Separators(ids[token], token, None if bos is None else ids[bos], bos, reason)


def _end(model_dir: Path, ids: dict[str, int]) -> tuple[str | None, str]:
    named = token_text(_json(model_dir / "tokenizer_config.json").get("eos_token"))
    documents = [token for token in _DOCUMENT_ENDS if token in ids]
    if named in ids and not (_TURN_END.search(named) and documents):
        return named, "eos_token of tokenizer_config.json"
    if documents:
        return documents[0], f"eos_token is `{named}`, the end of a turn" if named else "tokenizer_config.json names no eos_token"
    numbers = _json(model_dir / "config.json").get("eos_token_id")
    wanted = numbers if isinstance(numbers, list) else [numbers]
    return next((text for text, number in ids.items() if number in wanted[:1]), None), "eos_token_id of config.json"


def _begin(model_dir: Path) -> str | None:
    """The token that the base's own tokenizer puts before a text, or None: what the base saw is what a document begins with.

    `add_bos_token` of tokenizer_config.json decides where it is set, as in transformers; else the post-processor is asked.
    """
    from tokenizers import Tokenizer

    settings = _json(model_dir / "tokenizer_config.json")
    asked = settings.get("add_bos_token")
    if asked is not None:
        return token_text(settings.get("bos_token")) if asked else None
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    plain, full = tokenizer.encode("a", add_special_tokens=False).tokens, tokenizer.encode("a").tokens
    if len(full) > len(plain) and full[0] in special_tokens(model_dir / "tokenizer.json"):
        return str(full[0])
    return None


def _ids_by_text(tokenizer_json: Path) -> dict[str, int]:
    tree = read_tokenizer(tokenizer_json)
    vocab = tree["model"]["vocab"]
    ids = dict(vocab) if isinstance(vocab, dict) else {piece: number for number, (piece, _) in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in tree.get("added_tokens") or []}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
