"""What a step reads: pure, the same for any world, and every label where it belongs."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.tokens.loader import IGNORE, Batch, batch, rows_of
from rewarm.tokens.mixture import Mixture, open_mixture
from rewarm.tokens.recipe import MixtureRecipe
from rewarm.tokens.shards import open_tokens

WORLD_ROWS = 8


@pytest.fixture(scope="module")
def mixture(folders) -> Mixture:
    return open_mixture(*folders, MixtureRecipe(replay=0.25), WORLD_ROWS, seed=3)


def assert_same(a: Batch, b: Batch) -> None:
    for field in fields(Batch):
        if field.name != "weight":
            assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def joined(parts: list[Batch]) -> Batch:
    names = [f.name for f in fields(Batch) if f.name != "weight"]
    return Batch(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


@settings(max_examples=40, deadline=None)
@given(world=st.sampled_from([1, 2, 4, 8]), step=st.integers(0, 10_000))
def test_ranks_together_read_the_rows_of_one_rank(mixture, world, step):
    """Resume on another number of GPUs rests on this: what a step reads does not depend on who reads it."""
    assert_same(joined([batch(mixture, step, rank, world) for rank in range(world)]), batch(mixture, step))


def test_steps_may_be_read_in_any_order(mixture):
    """No iterator, no state: a resumed run asks for step 7 first."""
    forward = [batch(mixture, step) for step in range(10)]
    for step in (7, 0, 9, 3, 3):
        assert_same(batch(mixture, step), forward[step])


def test_a_run_resumed_on_another_world_reads_on_as_if_nothing_had_been(mixture, folders):
    """4 steps on 2 ranks, then a new process with the saved segments on 4: the same rows as 8 steps on one."""
    changed = mixture.with_replay(3, 0.5)
    before = [joined([batch(changed, s, r, 2) for r in range(2)]) for s in range(4)]
    again = open_mixture(*folders, MixtureRecipe(replay=0.25), WORLD_ROWS, seed=3).with_state(changed.state())
    after = [joined([batch(again, s, r, 4) for r in range(4)]) for s in range(4, 8)]
    for step, read in enumerate(before + after):
        assert_same(read, batch(changed, step))


def by_hand(mixture: Mixture, g: int) -> dict[str, np.ndarray]:
    """One row, token by token: the definition of a batch."""
    at = mixture.locate(np.array([g]))
    source = mixture.sources[at.source[0]]
    table, shard = source.tables[at.shard[0]], source.shards[at.shard[0]]
    row = int(at.row[0])
    ids, positions, labels, piece, size = [], [], [], [], 0
    pieces = range(int(table.row_ptr[row]), int(table.row_ptr[row + 1]))
    for number, p in enumerate(pieces):
        tokens = shard.ids[int(table.starts[p]) : int(table.starts[p]) + int(table.lens[p])].tolist()
        for i, token in enumerate(tokens):
            ids.append(token)
            positions.append(i)
            piece.append(number)
            labels.append(tokens[i + 1] if i + 1 < len(tokens) else IGNORE)
            size += int(mixture.byte_lengths[tokens[i + 1]]) if i + 1 < len(tokens) else 0
    for i in range(mixture.row_tokens - len(ids)):
        ids.append(mixture.pad_id)
        positions.append(i)
        piece.append(len(pieces))
        labels.append(IGNORE)
    return {"ids": ids, "position_ids": positions, "labels": labels, "piece": piece, "bytes": [size], "source": [at.source[0]]}


def test_a_batch_is_its_definition_token_by_token(mixture):
    """Labels shift inside the piece, none at a piece's end or in padding; positions restart; bytes are those of the labels."""
    for g in range(60):
        row, expected = rows_of(mixture, np.array([g])), by_hand(mixture, g)
        for name, value in expected.items():
            assert_array_equal(np.ravel(getattr(row, name)), value, err_msg=f"{name} of row {g}")


def test_the_types_of_a_batch_are_those_of_the_contract(mixture):
    b = batch(mixture, 0)
    assert b.ids.dtype == b.position_ids.dtype == b.piece.dtype == b.source.dtype == np.int32
    assert b.labels.dtype == b.bytes.dtype == np.int64 and b.weight is None
    assert b.ids.shape == b.labels.shape == b.piece.shape == b.position_ids.shape == (8, 64) and b.source.shape == b.bytes.shape == (8,)


def test_an_epoch_of_rows_gives_the_documents_back(folders, sources, model_dir):
    """Nothing of the text is lost or invented on its way into batches: labels in shard order, decoded, are the documents."""
    from pyarrow.parquet import read_table

    mixture = open_mixture(*folders, MixtureRecipe(replay=0), 1, seed=0)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    eos = open_tokens(folders[0]).eos
    for number, source in enumerate(mixture.sources[:2]):
        mine = [g for g in range(2000) if mixture.locate(np.array([g])).source[0] == number][: source.rows]
        assert len(mine) == source.rows
        found: dict[tuple[int, int], int] = {}
        at = mixture.locate(np.array(mine))
        rows = rows_of(mixture, np.array(mine))
        for i in range(len(mine)):
            table = source.tables[at.shard[i]]
            pieces = slice(int(table.row_ptr[at.row[i]]), int(table.row_ptr[at.row[i] + 1]))
            column = 0
            for start, length in zip(table.starts[pieces].tolist(), table.lens[pieces].tolist()):
                for j in range(length - 1):
                    place = (int(at.shard[i]), start + j + 1)
                    assert place not in found, "a label twice in an epoch"
                    found[place] = int(rows.labels[i, column + j])
                column += length
        for s, (shard, file) in enumerate(zip(source.shards, sources[number].files)):
            texts, start = read_table(file)["text"].to_pylist(), 0
            for text, end in zip(texts, shard.ends.tolist()):
                ids = [int(shard.ids[start]), *[found.pop((s, place)) for place in range(start + 1, end)]]
                assert ids[-1] == eos and tokenizer.decode(ids[:-1]) == text
                start = end
        assert not found


def test_bytes_of_rows_are_the_utf8_bytes_of_the_text_they_predict(folders, sources, model_dir):
    """Bits a byte divides by them: over an epoch, all bytes of the documents but those of their first tokens; end tokens have none."""
    from pyarrow.parquet import read_table

    mixture = open_mixture(*folders, MixtureRecipe(replay=0, weights={"law": 1, "wiki": 0, "old": 0}), 1, seed=0)
    read = rows_of(mixture, np.arange(mixture.sources[0].rows))
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    texts = [text for file in sources[0].files for text in read_table(file)["text"].to_pylist()]
    first = [tokenizer.encode(text).tokens[0] for text in texts]
    assert read.bytes.sum() == sum(len(t.encode()) for t in texts) - sum(map(len, first))


def test_rows_that_cannot_be_dealt_out_name_the_nearest_step(mixture):
    with pytest.raises(UserError, match=r"8 rows a step cannot be dealt out to 3[\s\S]*train.step_tokens: 576"):
        batch(mixture, 0, 0, 3)


def test_no_row_has_more_pieces_than_was_said(mixture):
    """The engine gives the bounds of pieces a fixed length by it, so that nothing compiles twice."""
    most = max(int(batch(mixture, step).piece.max()) + 1 for step in range(60))
    assert most == mixture.row_pieces
