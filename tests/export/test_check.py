"""Others read the folder as we do, or the export fails: proved in fresh processes, with mutants."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file

from rewarm.atomic import sha256_file
from rewarm.errors import MachineError
from rewarm.export.check import LINES, check_hf
from rewarm.export.hf import write_hf
from rewarm.export.recipe import ExportRecipe
from rewarm.export.stage import export_stage
from rewarm.progress import Silent


@pytest.fixture(scope="module")
def stage(model_dir, tmp_path_factory):
    """(out, returned, reporter) of a whole stage."""
    out, said = tmp_path_factory.mktemp("stage"), Silent()
    return out, export_stage(ExportRecipe(licence="apache-2.0"), model_dir, {"name": "tiny", "prompt": "Điều 1."}, out, said), said


def test_the_stage_writes_a_folder_its_card_and_its_proof(stage, model_dir):
    out, written, said = stage
    found = json.loads((out / "check.json").read_text())
    assert found["passed"] and found["lines"] == len(LINES) and found["changed"] == [] and found["ends"] == [2, 0]
    assert written["sha256"] == {"model.safetensors": sha256_file(model_dir / "model.safetensors")}
    assert written["changed_lines"] == 0 and json.dumps(written) and not said.warnings
    assert "# tiny" in (out / "model" / "README.md").read_text() and "license" in (out / "model" / "README.md").read_text()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("OK") == len(list((out / "model").iterdir()))


def test_the_greetings_come_back_exactly(stage):
    """Chinese, Japanese, Korean and Vietnamese, through transformers alone and tokenizers alone."""
    assert {"你好很高兴见到你", "こんにちは、初めまして！", "안녕하세요, 만나서 반갑습니다!"} < set(LINES)
    found = json.loads((stage[0] / "check.json").read_text())
    assert found["changed"] == [] and found["largest_id"] < found["rows"]


def test_a_stage_again_writes_the_same_bytes(stage, model_dir):
    """A kill between the folder and the proof must end like a run that was not killed; a licence that is not set is a warning."""
    out, written, _ = stage
    first = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "check.json").unlink()
    said = Silent()
    again = export_stage(ExportRecipe(licence="apache-2.0"), model_dir, {"name": "tiny", "prompt": "Điều 1."}, out, said)
    assert again == written
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == first


def test_a_tokenizer_that_lacks_bytes_is_a_warning_and_no_failure(build_model, tmp_path):
    """An unextended base may never have known every byte; the line is named. No licence: said too."""
    source, said = build_model(tmp_path / "lacking", byte_level=False), Silent()
    written = export_stage(ExportRecipe(), source, {}, tmp_path / "out", said)
    assert written["changed_lines"] > 0
    assert any("does not give this line back" in warning for warning in said.warnings)
    assert any("export.licence" in warning for warning in said.warnings)


def damage(folder, name):
    """One fault of the kinds that exports of other tools had."""
    if name == "config says more layers":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    elif name == "config says fewer layers":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    elif name == "infinite weights":
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][:] = float("inf")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif name == "a class that builds its own split":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps({**settings, "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True})
        )
    elif name == "broken config":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("config says more layers", "weights are missing"),
        ("config says fewer layers", "belong to nothing"),
        ("infinite weights", "not finite"),
        ("a class that builds its own split", "as other ids"),
        ("broken config", "cannot read it"),
    ],
)
def test_each_fault_is_found_and_named(stage, tmp_path, fault, told):
    """A check that no fault can fail proves nothing."""
    folder = tmp_path / "model"
    shutil.copytree(stage[0] / "model", folder)
    damage(folder, fault)
    with pytest.raises(MachineError, match=told):
        check_hf(folder, LINES[:2], tokens=2)


def test_one_command_continues_a_text(model_dir, tmp_path):
    """A run's last line names it: it must work from anywhere, and say so where there is no model."""
    write_hf(model_dir, tmp_path / "my model")
    command = [sys.executable, "-m", "rewarm.export.generate", "my model", "Điều 1.", "--tokens", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Điều 1.")
    done = subprocess.run([*command[:3], "nowhere", "x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "config.json is missing" in done.stderr and "Traceback" not in done.stderr
