"""The same openings continued by each model, side by side: not a measure, but what a reader looks at first.

Greedy, so that the same model says the same again; openings of held-out documents, taken in the order of a hash, so that nobody chose them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

from rewarm.evaluate.documents import Documents
from rewarm.evaluate.encode import Encoder
from rewarm.model.score import position_limit

OPENING_CHARS, REFERENCE_CHARS = 120, 200


@dataclass(frozen=True, slots=True)
class Opening:
    """A document's first characters, and how it really goes on."""

    text: str
    document: str
    prompt: str
    reference: str


def choose_openings(texts: Mapping[str, Documents], count: int) -> list[Opening]:
    """`count` openings, from the texts in turn; only of documents that go on for as long again. Fewer if there are no more."""
    queues = []
    for name, documents in texts.items():
        long = [i for i, text in enumerate(documents.texts) if len(text) >= 2 * OPENING_CHARS]
        queues.append([_opening(name, documents.ids[i], documents.texts[i]) for i in long[:count]])
    turns = [queue[i] for i in range(count) for queue in queues if i < len(queue)]
    return turns[:count]


def _opening(name: str, document: str, text: str) -> Opening:
    """Cut before a blank in its last third, so that no word is split; where there is none (Chinese, Thai), at the character."""
    cut = max(text.rfind(blank, 2 * OPENING_CHARS // 3, OPENING_CHARS) for blank in " \n")
    cut = OPENING_CHARS if cut < 0 else cut
    return Opening(name, document, text[:cut], text[cut : cut + REFERENCE_CHARS])


def continue_openings(
    model: PreTrainedModel, encoder: Encoder, openings: Sequence[Opening], prefix: int | None, new_tokens: int
) -> list[str]:
    """The model's greedy continuation of each opening, up to `new_tokens` tokens or its end token. prefix: id of the token in front.

    Of a model with few positions, half of them at most are new tokens, and an opening that is too long for the rest loses its beginning.
    """
    if not openings:
        return []
    own = encoder.named("eos_token")
    ends = set(_as_list(encoder.id_of(own) if own else None))
    ends |= set(_as_list(model.generation_config.eos_token_id if model.generation_config else None))
    pad = next(iter(sorted(ends)), 0)
    front = [] if prefix is None else [prefix]
    rows = [front + encoder.plain(opening.prompt) for opening in openings]
    if (limit := position_limit(model)) is not None:
        new_tokens = min(new_tokens, limit // 2)
        rows = [row[-(limit - new_tokens) :] for row in rows]
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=pad)
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    texts = []
    for row in made[:, width:].tolist():
        end = next((i for i, token in enumerate(row) if token in ends), len(row))
        texts.append(encoder.decode(row[:end]).rstrip("\ufffd"))
    return texts


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
