"""What new rows start as: each method against its formula in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab import initialise
from rewarm.vocab.base import Base, open_base
from rewarm.vocab.extension import Extension, NewToken
from rewarm.vocab.initialise import (
    METHODS,
    Mix,
    is_reserved,
    mix_of,
    mix_rows,
    mix_rows_reference,
    plan_start,
    refuse_split_start,
    token_parts,
)
from rewarm.vocab.recipe import VocabRecipe

from .conftest import vietnamese

PARTS = st.lists(st.lists(st.tuples(st.integers(0, 29), st.floats(0.1, 9)), max_size=6), max_size=12)


@given(PARTS, st.integers(0, 2**32 - 1), st.sampled_from([(5,), ()]), st.integers(1, 400))
def test_rows_are_weighted_sums_of_old_rows(parts: list[list[tuple[int, float]]], seed: int, shape: tuple[int, ...], room: int) -> None:
    """Matrices and biases, tokens without parts, any number of rows gathered at a time: as the definition says, token by token."""
    E = np.random.default_rng(seed).normal(size=(30, *shape)).astype(np.float32)
    mean = E.mean(axis=0)
    mix = mix_of([[i for i, _ in p] for p in parts], [[w for _, w in p] for p in parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "GATHERED_BYTES", room)
        rows = mix_rows(lambda ids: E[ids], mix, mean, 0, len(parts))
        some = mix_rows(lambda ids: E[ids], mix, mean, len(parts) // 2, len(parts))
    expected = mix_rows_reference(E, mix, mean)
    np.testing.assert_allclose(rows, expected.reshape(rows.shape), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(some, rows[len(parts) // 2 :])


def extension_of(base: Base, tokens: list[tuple[bytes, tuple[int, ...]]]) -> Extension:
    return Extension(base.next_id, tuple(NewToken(base.next_id + i, s, p) for i, (s, p) in enumerate(tokens)), ())


def as_dict(mix: Mix) -> list[dict[int, float]]:
    return [dict(zip(*mix.of(k))) for k in range(len(mix))]


def test_the_methods_differ_in_what_a_part_weighs(bases: dict[str, Path]) -> None:
    """`length_mean`: by its bytes; `fvt`: all alike; `mean`: none has parts."""
    base = open_base(bases["gpt2"])
    long = next(i for i, s in enumerate(base.surfaces) if s == b" the")
    short = next(i for i, s in enumerate(base.surfaces) if s == b"a")
    extension = extension_of(base, [(b" thea", (long, short)), (b"\xe1", ())])
    cfg, nothing = VocabRecipe(), Tokenizer.from_str(base.tokenizer.to_str())

    def planned(method: str) -> list[dict[int, float]]:
        return as_dict(plan_start(base, extension, cfg.model_copy(update={"init": method}), nothing, {}).input)

    assert planned("length_mean") == [{long: pytest.approx(0.8), short: pytest.approx(0.2)}, {}]
    assert planned("fvt") == [{long: 0.5, short: 0.5}, {}]
    assert planned("mean") == [{}, {}]
    assert planned("focus") == planned("length_mean")  # no text shows the tokens


def test_output_rows_have_a_start_of_their_own_where_the_model_has_them(bases: dict[str, Path]) -> None:
    """A tied model writes one matrix once, so another start for its output would silently do nothing."""
    base = open_base(bases["gpt2"])
    extension = extension_of(base, [(b"ab", (5, 6))])
    start = plan_start(base, extension, VocabRecipe(init="fvt", init_output="mean"), base.tokenizer, {})
    assert as_dict(start.input) == [{5: 0.5, 6: 0.5}] and as_dict(start.output) == [{}]
    refuse_split_start(VocabRecipe(init="fvt", init_output="mean"), False, "m")
    refuse_split_start(VocabRecipe(init="fvt", init_output="fvt"), True, "m")
    with pytest.raises(UserError, match=r"init_output is mean.*shares its output rows"):
        refuse_split_start(VocabRecipe(init="fvt", init_output="mean"), True, "m")


def test_unknown_parts_do_not_count_and_a_marked_letter_starts_as_its_letter(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base with few characters maps ậ to its unknown token: the row of `a` says more than the row of unknown, or than no row."""
    base = open_base(bases["smollm"])
    unknown = base.vocab["<|endoftext|>"]
    letter = next(i for i, s in enumerate(base.surfaces) if s == b"a")
    tokens = [("xậ".encode(), (letter, unknown)), ("ậ".encode(), (unknown,)), (b"\xea", ()), ("한".encode(), (unknown,)), (b"zz", ())]
    parts = token_parts(base, extension_of(base, tokens))
    assert parts[:3] == [(letter,), (letter,), ()] and parts[4] == ()
    assert unknown not in parts[3]


def test_focus_mixes_old_rows_by_the_text(bases: dict[str, Path], extended: dict[str, Path]) -> None:
    """On a real extension: most tokens get parts other than their own pieces, all of them old and ordinary."""
    from .test_gate_rows import extension_in

    base, folder = open_base(bases["gpt2"]), extended["gpt2"]
    extension = extension_in(folder)
    new = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    mix = METHODS["focus"](base, extension, new, {"vi": vietnamese(400)})
    plain = METHODS["length_mean"](base, extension, new, {})
    assert sum(set(mix.of(k)[0]) != set(plain.of(k)[0]) for k in range(len(mix))) > len(mix) / 2
    assert all(abs(sum(weights) - 1) < 1e-5 for k in range(len(mix)) if (weights := mix.of(k)[1]))
    assert (mix.ids < base.next_id).all() and not base.special_ids & set(mix.ids.tolist())


def test_reserved_tokens_are_known_by_their_look() -> None:
    """Some bases list them as ordinary pieces; nobody trained their rows, so they are no part of any mean."""
    for surface in (b"<unused42>", b"[unused3]", b"<|reserved_special_token_9|>", b"<extra_id_7>", b"<pad_0>"):
        assert is_reserved(surface)
    for surface in (b"unused", b"<b>", b"[0]", b"<0xE1>", b" <unused", b"reserved>"):
        assert not is_reserved(surface)
