"""Stage folders: what is finished is never run again, what changed gets a folder of its own, and nobody shares a run folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rewarm.atomic import open_atomic, sweep, write_json
from rewarm.errors import Stopped, UserError
from rewarm.progress import Silent
from rewarm.stages import RunFolder, content_hash, fingerprint


def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", Silent())


def test_a_finished_stage_runs_once(tmp_path):
    calls = []

    def work(out: Path) -> dict:
        calls.append(out)
        return {"documents": 3}

    with folder(tmp_path).locked() as run:
        first = run.stage("corpus", {"a": 1}, {"text": "x"}, work)
        second = run.stage("corpus", {"a": 1}, {"text": "x"}, work)
    assert len(calls) == 1 and second.reused and second.facts == {"documents": 3} == first.facts


def test_another_setting_or_input_is_another_folder(tmp_path):
    """Nothing stale is reused, nothing old is overwritten."""
    with folder(tmp_path).locked() as run:
        folders = {
            run.stage("corpus", settings, {"text": text}, lambda out: {}).folder.name
            for settings in ({"a": 1}, {"a": 2})
            for text in ("x", "y")
        }
    assert len(folders) == 4


def test_a_stage_that_failed_has_no_done_and_keeps_its_parts(tmp_path):
    def work(out: Path) -> dict:
        if (out / "part").exists():
            return {"found": True}
        write_json(out / "part", 1)
        raise Stopped("stopped")

    with folder(tmp_path).locked() as run:
        with pytest.raises(Stopped):
            run.stage("corpus", {}, {}, work)
        done = run.stage("corpus", {}, {}, work)
    assert done.facts == {"found": True} and not done.reused


def test_fingerprints_depend_on_values_not_on_order():
    assert fingerprint("a", {"x": 1, "y": 2}, {"p": "1", "q": "2"}) == fingerprint("a", {"y": 2, "x": 1}, {"q": "2", "p": "1"})
    assert fingerprint("a", {"x": 1}, {}) != fingerprint("b", {"x": 1}, {})


def test_a_run_folder_is_held_by_one_process(tmp_path):
    """Two runs in one folder would write each other's files; the lock of a dead process is no lock."""
    code = (
        "import sys; from pathlib import Path; from rewarm.stages import RunFolder; from rewarm.progress import Silent\n"
        "try:\n"
        "    with RunFolder(Path(sys.argv[1]), Silent()).locked(): print('free')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "run")]
    with folder(tmp_path).locked():
        held = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert "UserError" in held and "in use by process" in held
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "free"


def test_content_hash_sees_a_changed_byte_and_remembers_the_rest(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("one")
    b.write_text("two")
    cache = tmp_path / "hashes.json"
    before = content_hash([a, b], cache)
    assert content_hash([b, a], cache) == before
    b.write_text("twO")
    assert content_hash([a, b], cache) != before


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"old": True})
    with pytest.raises(ZeroDivisionError), open_atomic(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text().strip().startswith("{") and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


def test_sweep_removes_only_what_dead_processes_left(tmp_path):
    import os

    (tmp_path / "a.tmp-999999999").write_text("dead")
    (tmp_path / f"b.tmp-{os.getpid()}").write_text("alive")
    assert sweep(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == [f"b.tmp-{os.getpid()}"]


def test_user_errors_say_where_what_and_what_to_do():
    error = UserError("no such field", where="recipe.yaml: vocab.min_use", fix="did you mean `min_uses`?")
    assert str(error) == "recipe.yaml: vocab.min_use\n  no such field\n  did you mean `min_uses`?"
