"""From a step to rows: shares kept in every step, epochs complete, and changes that leave the past alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rewarm.errors import UserError
from rewarm.progress import Silent
from rewarm.tokens.mixture import MixedSource, Mixture, Segment, open_mixture
from rewarm.tokens.pack import pack
from rewarm.tokens.recipe import MaxEpochs, MixtureRecipe, TokensRecipe
from rewarm.tokens.scramble import key_of
from rewarm.tokens.shards import Shard
from rewarm.tokens.shares import shares_within_roles, token_weights
from rewarm.tokens.stage import TokenSource, rows_stage, tokenize_stage
from rewarm.tokens.tree import count, descend, plant

ROW = 32


def source(name: str, role: str, documents: int, longest: int = 50) -> MixedSource:
    """A source in memory with documents of 2 to `longest` tokens, in two shards."""
    shards, tables = [], []
    for number in range(2):
        lengths = 2 + (np.arange(documents, dtype=np.int64) * 7919 + number) % (longest - 1)
        ids = np.arange(int(lengths.sum()), dtype=np.uint16) % 100
        shards.append(Shard(f"{name}/{number}", ids, np.cumsum(lengths)))
        tables.append(pack(lengths, ROW, key_of(name, number)))
    tokens = sum(int(s.ends[-1]) for s in shards)
    return MixedSource(name, role, tuple(shards), tuple(tables), tokens, 3 * tokens)


def mixed(
    share: float = 0.25, rows: int = 16, seed: int = 0, sources: tuple[MixedSource, ...] | None = None, cfg: MixtureRecipe | None = None
):
    made = sources or (
        source("law", "new", 90),
        source("wiki", "new", 40),
        source("news", "new", 10, 20),
        source("old", "replay", 30),
        source("web", "replay", 60, 9),
    )
    roles = [s.role for s in made]
    within = shares_within_roles(cfg or MixtureRecipe(), [s.name for s in made], roles, [s.tokens for s in made])
    segment = Segment(0, token_weights(roles, within, share), (0,) * len(made))
    return Mixture(made, rows, ROW, within, (segment,), seed, np.ones(100, np.int32), 0, MaxEpochs())


def replay_rows(mixture: Mixture, g: np.ndarray) -> int:
    old = [i for i, role in enumerate(mixture.roles) if role == "replay"]
    return int(np.isin(mixture.locate(g).source, old).sum())


def asked_row_share(mixture: Mixture, number: int) -> float:
    """Share of rows that the segment asks of its replay sources, in exact arithmetic but for the division."""
    weights = [w / s.mean_row_tokens for w, s in zip(mixture.segments[number].weights, mixture.sources)]
    return sum(w for w, role in zip(weights, mixture.roles) if role == "replay") / sum(weights)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0, 0.95), rows=st.integers(1, 40), step=st.integers(0, 5_000))
def test_every_step_has_its_replay_share_within_one_row(share, rows, step):
    """Not on average over a thousand steps: each one, so that a loss by source means the same at every step."""
    mixture = mixed(share, rows)
    found = replay_rows(mixture, np.arange(step * rows, (step + 1) * rows))
    assert abs(found - rows * asked_row_share(mixture, 0)) <= 1.0 + 1e-6


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=9), old=st.integers(0, 4))
def test_every_prefix_has_each_source_within_the_depth_of_the_tree(weights, old):
    roles = ["replay" if i < old else "new" for i in range(len(weights))]
    tree, n = plant(weights, roles), 3_000
    sources, k = np.zeros(n, np.int32), np.zeros(n, np.int64)
    descend(tree, np.arange(n), np.arange(n), sources, k)
    for i, weight in enumerate(weights):
        so_far = np.cumsum(sources == i)
        assert np.abs(so_far - np.arange(1, n + 1) * weight / sum(weights)).max() <= 5.0
        assert_array_equal(k[sources == i], np.arange(so_far[-1]))
    for prefix in (0, 1, 7, n):
        assert_array_equal(count(tree, prefix, len(weights)), np.bincount(sources[:prefix], minlength=len(weights)))


def test_an_epoch_reads_every_row_of_a_source_once_and_the_next_in_another_order():
    mixture = mixed(0.3)
    at = mixture.locate(np.arange(4_000))
    for i, s in enumerate(mixture.sources):
        mine = at.source == i
        rows = s.first_rows[at.shard[mine]] + at.row[mine]
        assert_array_equal(at.epoch[mine], np.arange(mine.sum()) // s.rows)
        whole = [rows[e * s.rows : (e + 1) * s.rows] for e in range(len(rows) // s.rows)]
        assert whole and all(np.array_equal(np.sort(epoch), np.arange(s.rows)) for epoch in whole)
        if len(whole) > 1 and s.rows > 8:
            assert not np.array_equal(whole[0], whole[1])


def test_located_rows_do_not_depend_on_the_order_of_asking():
    mixture = mixed(0.25).with_replay(20, 0.5)
    g = np.random.default_rng(0).permutation(2_000)
    shuffled, straight = mixture.locate(g), mixture.locate(np.arange(2_000))
    for ours, theirs in zip(shuffled, straight):
        assert_array_equal(ours, theirs[g])


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, 200), share=st.floats(0, 0.95), again=st.integers(0, 100), other=st.floats(0, 0.95))
def test_a_changed_share_leaves_all_before_it_alone(step, share, again, other):
    """A budget keeper changes the share at step n: rows g < nB are read as if it had not, and no row of an epoch is lost or read twice."""
    mixture = mixed(0.25)
    changed = mixture.with_replay(step, share).with_replay(step + again, other)
    g = np.arange(step * mixture.batch_rows)
    for ours, theirs in zip(changed.locate(g), mixture.locate(g)):
        assert_array_equal(ours, theirs)
    rows = np.arange((step + again + 30) * mixture.batch_rows)
    at = changed.locate(rows)
    for i, s in enumerate(changed.sources):
        mine = at.source == i
        place = at.epoch[mine] * s.rows + s.first_rows[at.shard[mine]] + at.row[mine]
        assert len(np.unique(place)) == mine.sum()
        assert at.epoch[mine].max(initial=0) <= mine.sum() // s.rows
    assert_array_equal(changed.counts(len(rows)), np.bincount(at.source, minlength=len(changed.sources)))
    after = np.arange((step + again) * mixture.batch_rows, len(rows))
    assert abs(replay_rows(changed, after) - len(after) * asked_row_share(changed, -1)) <= 1 + 1e-6
    assert changed.replay_share(step + again) == pytest.approx(other)
    if step:
        assert changed.replay_share(step - 1) == pytest.approx(0.25)


def test_the_segments_are_all_that_a_checkpoint_needs():
    """Through JSON and back, over sources opened anew: the same rows."""
    import json

    changed = mixed(0.25).with_replay(3, 1 / 3).with_replay(9, 0.05)
    again = mixed(0.25).with_state(json.loads(json.dumps(changed.state())))
    for ours, theirs in zip(again.locate(np.arange(600)), changed.locate(np.arange(600))):
        assert_array_equal(ours, theirs)


def test_two_changes_at_one_step_leave_one_segment():
    """Nothing was read under the first of them: a checkpoint holds what happened."""
    twice = mixed(0.25).with_replay(4, 0.9).with_replay(4, 0.5)
    assert twice.state() == mixed(0.25).with_replay(4, 0.5).state()
    assert len(twice.segments) == 2 and len(mixed(0.25).with_replay(0, 0.5).segments) == 1


def test_a_share_may_go_to_zero_and_come_back():
    mixture = mixed(0.25).with_replay(5, 0.0).with_replay(10, 0.5)
    at = [replay_rows(mixture, np.arange(s * 16, (s + 1) * 16)) for s in (0, 5, 9, 10)]
    assert at[1] == at[2] == 0 and at[0] > 0 and at[3] >= 6


def test_another_seed_reads_in_another_order_and_the_same_shares():
    one, other = mixed(seed=0).locate(np.arange(400)), mixed(seed=1).locate(np.arange(400))
    assert_array_equal(one.source, other.source)
    assert not np.array_equal(one.row, other.row)


def test_a_source_more_does_not_reorder_the_rows_of_the_others():
    """The order of a source hangs on its name and the seed: comparisons between mixtures read the same rows of it."""
    few = mixed(0, sources=(source("law", "new", 90),))
    more = mixed(0, sources=(source("wiki", "new", 40), source("law", "new", 90)))
    a, b = few.locate(np.arange(50)), more.locate(np.arange(400))
    mine = np.flatnonzero(b.source == 1)[:50]
    assert_array_equal(a.row[: len(mine)], b.row[mine])


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_realised_token_shares_are_those_asked_within_a_thousandth(share):
    """Sources fill their rows differently (short documents leave gaps): rows are dealt so that the tokens come out right."""
    sources = (source("law", "new", 400, 500), source("haiku", "new", 800, 12), source("old", "replay", 500, 60))
    mixture = mixed(share, 64, sources=sources)
    table = mixture.describe(600)
    assert sum(row["weight_realised"] for row in table) == pytest.approx(1)
    for row in table:
        assert row["weight_realised"] == pytest.approx(row["weight_asked"], abs=1e-3)
    assert table[2]["weight_asked"] == pytest.approx(share)


def test_what_is_described_is_what_is_read():
    """Rows and tokens of the plan are counts, not estimates, over changes of share too."""
    mixture = mixed(0.25).with_replay(7, 0.6)
    at = mixture.locate(np.arange(20 * 16))
    for i, row in enumerate(mixture.describe(20)):
        s, mine = mixture.sources[i], at.source == i
        assert row["rows"] == mine.sum()
        assert row["tokens"] == s.row_tokens[s.first_rows[at.shard[mine]] + at.row[mine]].sum()
        assert row["epochs"] == pytest.approx(mine.sum() / s.rows)
        assert row["bytes"] == 3 * row["tokens"]
    replay = sum(row["weight_asked"] for row in mixture.describe(20) if row["role"] == "replay")
    assert replay == pytest.approx((7 * 0.25 + 13 * 0.6) / 20)


def test_more_epochs_than_allowed_are_a_warning_that_names_the_field():
    mixture = mixed(0.25)
    assert not any(row["warning"] for row in mixture.describe(2))
    warned = {row["name"]: row["warning"] for row in mixture.describe(400)}
    assert "mixture.max_epochs.new: 4" in warned["law"] and "mixture.max_epochs.replay: 4" in warned["old"]


def test_weights_by_name_count_within_their_role():
    cfg = MixtureRecipe(weights={"law": 3, "wiki": 1, "news": 0, "old": 1, "web": 1})
    assert shares_within_roles(cfg, ["law", "wiki", "news", "old", "web"], ["new"] * 3 + ["replay"] * 2, [9] * 5) == (
        0.75,
        0.25,
        0,
        0.5,
        0.5,
    )
    sizes = shares_within_roles(MixtureRecipe(), ["a", "b", "c"], ["new", "new", "replay"], [30, 10, 5])
    assert sizes == (0.75, 0.25, 1.0)


def test_wrong_weights_name_the_source():
    names, roles, sizes = ["law", "wiki"], ["new", "new"], [9, 9]
    with pytest.raises(UserError, match=r"no source is called `lwa`[\s\S]*did you mean `law`"):
        shares_within_roles(MixtureRecipe(weights={"lwa": 1, "wiki": 1}), names, roles, sizes)
    with pytest.raises(UserError, match="no weight for: wiki"):
        shares_within_roles(MixtureRecipe(weights={"law": 1}), names, roles, sizes)


def test_replay_without_old_text_is_an_error_and_zero_is_none():
    with pytest.raises(UserError, match=r"mixture\.replay[\s\S]*0\.25"):
        mixed(0.25, sources=(source("law", "new", 9),))
    assert set(mixed(0, sources=(source("law", "new", 9),)).locate(np.arange(50)).source) == {0}
    with pytest.raises(UserError, match=r"mixture\.replay"):
        mixed(0, sources=(source("law", "new", 9),)).with_replay(3, 0.1)


def test_one_row_is_read_again_and_again():
    """The smallest mixture there is: one source of one row."""
    lone = source("law", "new", 1, 3)
    lone = MixedSource("law", "new", lone.shards[:1], lone.tables[:1], lone.tokens, lone.bytes)
    at = mixed(0, 4, sources=(lone,)).locate(np.arange(12))
    assert_array_equal(at.epoch, np.arange(12))
    assert not at.row.any()


def opened(folders: tuple[Path, Path], **changes) -> Mixture:
    return open_mixture(*folders, MixtureRecipe(**({"replay": 0.25} | changes)), 8, seed=0)


def test_a_mixture_opens_from_folders(folders):
    mixture = opened(folders)
    assert mixture.names == ("law", "wiki", "old") and mixture.roles == ("new", "new", "replay")
    assert [len(s.shards) for s in mixture.sources] == [2, 1, 1] and mixture.row_tokens == 64
    assert open_mixture(*folders, MixtureRecipe(), 8, seed=0, replay=0.25).state() == mixture.state()


def test_every_field_of_the_mixture_changes_the_plan(folders):
    plans = [
        opened(folders),
        opened(folders, replay=0.5),
        opened(folders, weights={"law": 1, "wiki": 5, "old": 1}),
        opened(folders, max_epochs={"new": 0.01}),
        opened(folders, max_epochs={"replay": 0.01}),
    ]
    tables = [plan.describe(5) for plan in plans]
    assert all(a != b for a, b in itertools.combinations(tables, 2))


def test_an_empty_source_takes_no_part_and_no_new_text_is_an_error(tmp_path, model_dir, write):
    files = {"law": ["một hai ba bốn"] * 3, "none": [], "old": ["one two three"] * 3}
    made = [TokenSource(n, "replay" if n == "old" else "new", (write(tmp_path / f"{n}.parquet", t),)) for n, t in files.items()]
    for name, sources in (("some", made), ("only_old", made[1:])):
        tokenize_stage(TokensRecipe(row_tokens=32), model_dir, sources, tmp_path / name, Silent())
        rows_stage(TokensRecipe(row_tokens=32), tmp_path / name, tmp_path / f"{name}-rows", Silent())
    mixture = open_mixture(tmp_path / "some", tmp_path / "some-rows", MixtureRecipe(replay=0.5), 4, 0)
    assert set(mixture.locate(np.arange(100)).source) == {0, 2}
    assert mixture.describe(3)[1]["rows"] == 0
    with pytest.raises(UserError, match="no new text"):
        open_mixture(tmp_path / "only_old", tmp_path / "only_old-rows", MixtureRecipe(replay=0.5), 4, 0)
