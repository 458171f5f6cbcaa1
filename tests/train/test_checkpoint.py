"""A checkpoint is whole, or it is not taken."""

from __future__ import annotations

import errno
import shutil

import pytest
import torch

from rewarm.errors import MachineError
from rewarm.progress import Silent
from rewarm.train import checkpoint
from rewarm.train.checkpoint import Checkpointer, join_state, split_state


@pytest.fixture
def kept(tmp_path):
    return Checkpointer(tmp_path / "checkpoints", keep_last=2, reporter=Silent())


def save(checkpoints, step):
    weights = {"a": torch.full((3, 2), float(step)), "b": torch.arange(4)}
    return checkpoints.save(step, {"weights": weights, "hooks": {}}, {"progress": step})


def test_what_is_saved_is_what_is_loaded(kept):
    """Tensors by name, everything else as JSON, no temporary folder left behind."""
    save(kept, 5)
    loaded = kept.latest()
    assert loaded.step == 5 and loaded.state == {"progress": 5}
    tensors = dict(loaded.tensors("weights"))
    assert torch.equal(tensors["a"], torch.full((3, 2), 5.0)) and torch.equal(tensors["b"], torch.arange(4))
    assert sorted(p.name for p in kept.folder.iterdir()) == ["LATEST", "step-5"]


def test_only_the_last_ones_are_kept(kept):
    """Retention counts finished checkpoints and never touches the newest."""
    for step in (5, 10, 15):
        save(kept, step)
    assert kept.steps() == [10, 15] and kept.latest().step == 15


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(kept, damage):
    """One flipped bit in half a gigabyte would train on in silence."""
    save(kept, 5)
    folder = save(kept, 10)
    file = folder / ("manifest.json" if damage == "manifest" else "weights.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        file.write_bytes(content)
    assert kept.latest().step == 5
    assert "step 10 is damaged" in kept.reporter.warnings[0] and file.name in kept.reporter.warnings[0]


def test_no_whole_checkpoint_is_none(kept):
    """The run then starts again, and says which one was bad."""
    assert kept.latest() is None
    (save(kept, 5) / "state.json").unlink()
    assert kept.latest() is None and "state.json is missing" in kept.reporter.warnings[0]


def test_a_kill_while_saving_leaves_the_one_before(kept, monkeypatch):
    """The folder gets its name only when all of it is on disk; the next start sweeps what a dead process left."""
    save(kept, 5)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(checkpoint, "_seal", kill)
    with pytest.raises(Killed):
        save(kept, 10)
    monkeypatch.undo()
    assert (kept.folder / "step-10.tmp").is_dir()
    again = Checkpointer(kept.folder, 2, Silent())
    assert again.latest().step == 5 and not (kept.folder / "step-10.tmp").exists()


def test_a_kill_between_rename_and_marker_takes_the_newest(kept):
    """LATEST is a hint for people; a whole newer checkpoint beside it is as good."""
    save(kept, 5)
    save(kept, 10)
    (kept.folder / "LATEST").write_text("step-5\n")
    assert kept.latest().step == 10


@pytest.mark.parametrize("file", ["manifest.json", "state.json"])
def test_no_flipped_bit_of_the_small_files_gets_through_or_stops_the_start(kept, file):
    """Each byte of them in turn: a key, a digit, a brace. The checkpoint before is taken, and nothing but a warning is raised."""
    save(kept, 5)
    path = save(kept, 10) / file
    whole = path.read_bytes()
    for at in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << at % 7
        path.write_bytes(spoiled)
        assert kept.latest().step == 5, bytes(spoiled)
        (kept.folder / "step-10.damaged").rename(kept.folder / "step-10")
    path.write_bytes(whole)
    assert kept.latest().step == 10


@pytest.mark.parametrize("content", ["[]", '{"format": 1, "step": 10, "files": []}', '{"format": 1, "step": 10, "files": {"x": 3}}', "\0"])
def test_a_manifest_of_another_shape_is_damage_too(kept, content):
    save(kept, 5)
    (save(kept, 10) / "manifest.json").write_text(content)
    assert kept.latest().step == 5 and "manifest.json cannot be read" in kept.reporter.warnings[0]


def test_a_damaged_checkpoint_is_put_aside_and_takes_no_place_among_those_kept(kept):
    """Of two that are kept, a damaged one would leave one; it lies there for a look until the run is done."""
    save(kept, 5)
    (save(kept, 10) / "state.json").write_text("{}")
    assert kept.latest().step == 5
    save(kept, 15)
    assert kept.steps() == [5, 15] and (kept.folder / "step-10.damaged").is_dir()
    kept.remove_all()
    assert list(kept.folder.iterdir()) == []


def test_a_marker_that_names_no_folder_is_told(kept):
    """Somebody, or a file system's repair, took the newest one away: the steps since the one before are done again, and that is said."""
    save(kept, 5)
    shutil.rmtree(save(kept, 10))
    assert kept.latest().step == 5
    assert kept.reporter.warnings == ["LATEST names the checkpoint of step 10, which is not there; step 5 is taken, the steps since repeat"]
    shutil.rmtree(kept.folder / "step-5")
    assert kept.latest() is None and kept.reporter.warnings[1].endswith("there is none before it, training begins at step 0")


def test_what_a_process_began_with_is_not_written_again(kept):
    """A stop right after a resume: taking the only good checkpoint away to put the same one there leaves a moment without any."""
    before = (save(kept, 5) / "manifest.json").stat().st_mtime_ns
    assert save(kept, 5) == kept.folder / "step-5" and (kept.folder / "step-5" / "manifest.json").stat().st_mtime_ns == before


def test_a_marker_that_finds_no_room_is_no_failed_save(kept, monkeypatch):
    """The checkpoint is whole without it; three such in a row must not end the run."""

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.atomic, "write_atomic", full)
    for step in (5, 10, 15):
        assert save(kept, step) is not None
    assert kept.latest().step == 15 and len(kept.reporter.warnings) == 3 and "not its name" in kept.reporter.warnings[0]


def test_a_full_disk_warns_twice_and_stops_the_third_time(kept, monkeypatch):
    """Training outlives a disk that somebody else is filling; three failures in a row mean nobody is looking."""
    save(kept, 5)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert save(kept, 10) is None and save(kept, 15) is None
    assert len(kept.reporter.warnings) == 2 and "the last good one is step 5" in kept.reporter.warnings[1]
    assert "no space left on this disk; " in kept.reporter.warnings[0] and "a checkpoint takes about 56 B" in kept.reporter.warnings[0]
    with pytest.raises(MachineError, match="three saves in a row failed"):
        save(kept, 20)
    monkeypatch.undo()
    assert kept.latest().step == 5 and kept.steps() == [5]


def test_one_good_save_forgives_the_failures_before(kept, monkeypatch):
    """Three in a row, not three in a month."""
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert save(kept, 1) is None and save(kept, 2) is None
    monkeypatch.undo()
    assert save(kept, 3) is not None
    assert kept._failed == 0


def test_the_states_of_methods_go_through_files_and_back():
    """Tensors at any depth beside plain values."""
    state = {"ema": {"decay": 0.97, "weights": {"a": torch.ones(2)}, "list": [1, torch.zeros(1)]}, "none": {}}
    tensors = {}
    plain = split_state(state, tensors)
    assert set(tensors) == {"/ema/weights/a", "/ema/list/1"}
    back = join_state(plain, tensors)
    assert torch.equal(back["ema"]["weights"]["a"], torch.ones(2)) and back["ema"]["list"][0] == 1 and back["none"] == {}
