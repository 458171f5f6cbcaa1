"""Bits per byte against hand computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rewarm.errors import UserError
from rewarm.evaluate.bits import DocScores, bits_per_byte, check_scores, rows_of, score_documents, score_rows, shared
from rewarm.evaluate.documents import Documents, _sorted
from rewarm.evaluate.encode import Encoder
from rewarm.evaluate.protocol import Protocol
from rewarm.model.score import Scorer, open_model

WIDE = Protocol(4096, 2048, "<|endoftext|>", "fp32")
NARROW = Protocol(40, 16, "<|endoftext|>", "fp32")


class Counting:
    """Every token costs its place in its row; keeps what it was asked."""

    def nll(self, ids, first, progress=None):
        return [np.arange(begin, len(row), dtype=np.float64) for row, begin in zip(ids, first)]


def test_by_hand_on_a_small_model(make_model: Callable[..., Path], documents: Callable[..., list[str]]):
    """The definition, as anybody would write it with transformers alone: no window is shorter than the document."""
    folder = make_model()
    texts = _sorted((str(i), text) for i, text in enumerate(documents(6)))
    encoder = Encoder(folder)
    with open_model(folder) as model:
        found = score_documents(Scorer(model), encoder, texts, WIDE)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, size = 0.0, 0
    for i, text in enumerate(texts.texts):
        ids = [encoder.id_of("<|endoftext|>"), *encoder.plain(text)]
        with torch.no_grad():
            log_p = plain(torch.tensor([ids])).logits[0].double().log_softmax(1)
        nats = -sum(float(log_p[t - 1, ids[t]]) for t in range(1, len(ids)))
        assert found.nll[i] == pytest.approx(nats, abs=1e-4)
        total, size = total + nats, size + len(text.encode())
    assert bits_per_byte(found) == pytest.approx(total / math.log(2) / size, abs=1e-6)
    assert found.tokens.sum() == sum(len(encoder.plain(text)) for text in texts.texts)


@pytest.mark.parametrize("prefix", ["<|endoftext|>", None])
def test_a_uniform_model_costs_log2_of_its_rows(make_model: Callable[..., Path], documents: Callable[..., list[str]], prefix: str | None):
    """Whatever the windows and the prefix: log2(V) for each token, none twice, none left out."""
    folder = make_model(zero=True, rows=384)
    texts = _sorted((str(i), " ".join(documents(9)[i:])) for i in range(4))
    with open_model(folder) as model:
        for protocol in (Protocol(40, 16, prefix, "fp32"), Protocol(4096, 2048, prefix, "fp32")):
            found = score_documents(Scorer(model), Encoder(folder), texts, protocol)
            expected = math.log2(384) * found.tokens.sum() / found.bytes.sum()
            assert bits_per_byte(found) == pytest.approx(expected, rel=1e-6)


def test_windows_see_the_context_they_are_given(make_model: Callable[..., Path]):
    """One window scored alone by hand: the prefix, the context from character S on, then the scored tokens."""
    folder = make_model()
    text = "The cat sat on the mat and the dog sat on the cat, which the mat did not like at all."
    encoder = Encoder(folder)
    [encoded] = encoder.encode([text])
    rows = rows_of(encoder, Documents(("a",), (text,)), NARROW)
    with open_model(folder) as model:
        found = score_rows(Scorer(model), Documents(("a",), (text,)), rows)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total = 0.0
    for k in range(10):
        low, high = (0, 40) if k == 0 else (40 + (k - 1) * 16, 40 + k * 16)
        scored = [t for t, c in enumerate(encoded.starts) if low <= c < high]
        if scored:
            seen = [t for t, c in enumerate(encoded.starts) if k * 16 <= c < high]
            ids = [encoder.id_of("<|endoftext|>"), *encoded.ids[seen].tolist()]
            with torch.no_grad():
                log_p = plain(torch.tensor([ids])).logits[0].double().log_softmax(1)
            total -= sum(float(log_p[t, ids[t + 1]]) for t in range(len(ids) - 1 - len(scored), len(ids) - 1))
    assert found.nll[0] == pytest.approx(total, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), window=st.integers(4, 60), data=st.data())
def test_rows_hold_every_token_once(tmp_path_factory, sizes, window, data):
    """From text to what the scorer gets: rows begin with the prefix, scored tokens joined are the document."""
    folder = tmp_path_factory.getbasetemp() / "rows"
    if not folder.exists():
        folder.mkdir()
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}, []))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        tokenizer.add_special_tokens(["<|endoftext|>"])
        tokenizer.save(str(folder / "tokenizer.json"))
    encoder = Encoder(folder)
    texts = Documents(tuple(map(str, range(len(sizes)))), tuple("Điều kiện và luật " * n for n in sizes))
    rows = rows_of(encoder, texts, Protocol(window, data.draw(st.integers(1, window)), "<|endoftext|>", "fp32"))
    joined: list[list[int]] = [[] for _ in sizes]
    for ids, first, owner in zip(rows.ids, rows.first, rows.owner):
        assert ids[0] == encoder.id_of("<|endoftext|>") and first >= 1
        joined[owner] += ids[first:].tolist()
    assert joined == [encoder.plain(text) for text in texts.texts]


def scores(**changes) -> DocScores:
    n = 1000
    values = {
        "ids": tuple(f"d{i}" for i in range(n)), "nll": np.full(n, 70.0), "bytes": np.full(n, 100), "chars": np.full(n, 90),
        "tokens": np.full(n, 20), "lossy": np.zeros(n, bool), "bad_at": np.full(n, -1),
    }  # fmt: skip
    return DocScores(**{**values, **changes})


def test_lossy_documents_leave_both_sums_and_too_many_are_an_error():
    """Lost bytes are free bytes: what one model cannot read is compared for none."""
    lossy = np.zeros(1000, bool)
    lossy[:5] = True
    one = scores(lossy=lossy, nll=np.where(lossy, np.nan, 70.0))
    assert shared([one, scores()]).sum() == 995
    [warning] = check_scores("vi", {"base": one, "after": scores()})
    assert "5 of 1000 documents (500 of 100,000 bytes), first `d0`" in warning and "base" in warning
    lossy[:20] = True
    with pytest.raises(UserError, match="cannot be represented by the tokenizer of base"):
        check_scores("vi", {"base": scores(lossy=lossy)})
    one = scores(ids=("a", "b"), bytes=np.asarray([10, 90]), lossy=np.asarray([False, True]), bad_at=np.asarray([-1, -1]))
    assert len(check_scores("small", {"base": one})) == 1  # of few documents, one may go


def test_a_number_that_is_not_finite_is_named():
    """NaN in one document would make the whole text NaN, or vanish in a sum that skips it."""

    class Broken(Counting):
        def nll(self, ids, first, progress=None):
            found = super().nll(ids, first)
            found[1][2] = math.nan
            return found

    class Plain:
        prepended = None
        folder = Path()

        def id_of(self, token):
            return 0

        def encode(self, texts):
            from rewarm.evaluate.encode import Encoded

            return [Encoded(np.arange(len(t), dtype=np.int32), np.arange(len(t)), True) for t in texts]

    found = score_documents(Broken(), Plain(), Documents(("a", "b"), ("abc" * 40, "defgh")), NARROW)  # type: ignore[arg-type]
    assert found.bad_at.tolist() == [40 + 2, -1] and math.isnan(found.nll[0]) and found.usable.tolist() == [False, True]
    bad = np.full(1000, -1)
    bad[7] = 12
    [warning] = check_scores("en", {"after": scores(bad_at=bad)})
    assert "after gives no finite number on 1 documents, first `d7`, token 12" in warning
    bad[8] = 0
    with pytest.raises(UserError, match="no finite number on 2"):
        check_scores("en", {"after": scores(bad_at=bad)})


def test_nothing_to_divide_by_is_an_error():
    with pytest.raises(UserError, match="no document"):
        bits_per_byte(scores(lossy=np.ones(1000, bool)))
