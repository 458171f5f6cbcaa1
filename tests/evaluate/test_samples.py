"""Continuations that a reader can compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from rewarm.evaluate.documents import Documents
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.samples import OPENING_CHARS, choose_openings, continue_openings
from rewarm.model.score import open_model


def long(name: str, count: int) -> Documents:
    return Documents(
        tuple(f"{name}{i}" for i in range(count)), tuple(f"{name} {i} " + "The cat sat on the mat. " * 20 for i in range(count))
    )


def test_openings_come_from_all_texts_in_turn_and_end_between_words():
    texts = {"old": long("o", 5), "new": long("n", 1), "short": Documents(("s",), ("too short",))}
    found = choose_openings(texts, 4)
    assert [opening.text for opening in found] == ["old", "new", "old", "old"]
    for opening in found:
        document = texts[opening.text].texts[texts[opening.text].ids.index(opening.document)]
        assert document.startswith(opening.prompt + opening.reference) and opening.reference[0] == " "
        assert OPENING_CHARS * 2 // 3 < len(opening.prompt) <= OPENING_CHARS
    [chinese] = choose_openings({"zh": Documents(("a",), ("人" * 300,))}, 1)
    assert len(chinese.prompt) == OPENING_CHARS
    assert choose_openings(texts, 0) == []


def test_a_batch_says_what_each_prompt_alone_says(make_model: Callable[..., Path]):
    """Shorter prompts are padded on the left; the result is the plain greedy loop's, without padding and cache."""
    folder = make_model()
    encoder = Encoder(folder)
    texts = {"a": Documents(("a", "b"), ("Điều 1. Phạm vi " * 20, "The cat sat on the mat. " * 20))}
    openings = choose_openings(texts, 2)
    with open_model(folder) as model:
        found = continue_openings(model, encoder, openings, 0, 6)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    for opening, said in zip(openings, found):
        ids = [0, *encoder.plain(opening.prompt)]
        begin = len(ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == 0:
                break
        assert said == encoder.decode(ids[begin:]).rstrip("\ufffd")


def test_a_model_with_few_positions_says_less(make_model: Callable[..., Path]):
    """GPT-2's learned positions end; an opening of 120 characters and 48 tokens more would go past 64 of them."""
    folder = make_model(kind="gpt2", n_positions=64, settings={"eos_token": None})
    openings = choose_openings({"a": Documents(("a",), ("Điều 1. Phạm vi " * 20,))}, 1)
    with open_model(folder) as model:
        model.generation_config.eos_token_id = None
        [said] = continue_openings(model, Encoder(folder), openings, 0, 48)
    assert said
