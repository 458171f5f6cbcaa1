"""A `.model` for a SentencePiece BPE base that has only tokenizer.json."""

from __future__ import annotations

from rewarm.errors import UserError
from rewarm.vocab.base import holds
from rewarm.vocab.sp_base import SpBase
from rewarm.vocab.sp_model import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Piece, SpModel, new_sp_model

_SIMPLE = ("Sequence", "Prepend", "Replace")


def rebuilt_model(base: SpBase) -> SpModel:
    """The `.model` that cuts text as the base's merges do: a piece's score is minus the rank of the first merge that makes it.

    (Scores from ids, as some converters take, cut text with double blanks another way.) Single characters, whose scores decide nothing,
    and pieces that no merge makes lie below. One difference no file can say: Metaspace puts no blank before text that begins with one.
    Raises UserError if the base rewrites text in a way that such a file cannot say.
    """
    odd = [part["type"] for part in _parts(base.spec.get("normalizer")) if part.get("type") not in _SIMPLE]
    if odd:
        raise UserError(
            f"no tokenizer.model can be made: the base's normalizer has {odd[0]}",
            where="vocab.model_file",
            fix="set vocab.model_file: as_base",
        )
    rank: dict[str, int] = {}
    for i, (left, right) in enumerate(base.merges):
        rank.setdefault(left + right, i)
    pre = base.spec.get("pre_tokenizer") or {}
    prefix = holds(base.spec.get("normalizer"), "Prepend") or (holds(pre, "Metaspace") and pre.get("prepend_scheme") != "never")
    unk = base.spec["model"].get("unk_token")
    special = {t["content"]: bool(t.get("special")) for t in base.added}
    text_of = {i: text for text, i in base.vocab.items()}
    pieces = []
    for i in range(1 + max(base.vocab.values())):
        text = text_of.get(i)
        if text is None:
            pieces.append(Piece(f"<gap-{i}>", 0.0, UNUSED))
        elif text == unk:
            pieces.append(Piece(text, 0.0, UNKNOWN))
        elif text in special:
            pieces.append(Piece(text, 0.0, CONTROL if special[text] else USER_DEFINED))
        elif text in base.byte_pieces:
            pieces.append(Piece(text, 0.0, BYTE))
        else:
            pieces.append(Piece(text, float(-rank.get(text, len(base.merges) + i)), NORMAL))
    return new_sp_model(pieces, BPE, bool(base.byte_pieces), prefix)


def _parts(normalizer: dict | None) -> list[dict]:
    """The steps of a normalizer, nested or not."""
    if not normalizer:
        return []
    return [normalizer, *(part for inner in normalizer.get("normalizers", []) for part in _parts(inner))]
