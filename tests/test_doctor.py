"""`rewarm doctor` is what people run when nothing else works: it names what is here, what it would bring, and never fails itself."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console as RichConsole

from rewarm import doctor
from rewarm.console import Console


def shown(findings: list[doctor.Finding]) -> str:
    out = io.StringIO()
    doctor.show(findings, Console(RichConsole(file=out, width=300, color_system=None)))
    return out.getvalue()


def by_name() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine()}


def test_doctor_says_what_is_here():
    """A real process in the real environment: the table, one line that sums it up, exit 0."""
    done = subprocess.run([sys.executable, "-m", "rewarm.cli", "doctor"], capture_output=True, text=True, encoding="utf-8", check=True)
    for name in ("processor", "memory", "disk here", "torch", "GPU", "precision", *doctor.NEEDED, "fastokens"):
        assert f" {name} " in done.stdout, name
    assert "rewarm demo" in done.stdout or "missing for a run" in done.stdout


def test_a_missing_package_is_named_with_what_it_gives(monkeypatch):
    """One that is needed counts as missing; one that only makes things faster does not."""
    monkeypatch.setattr(doctor, "NEEDED", ("numpy", "no-such-package"))
    found = doctor.examine()
    said = shown(found)
    assert "pip install no-such-package" in said and "missing for a run: " in said and "no-such-package" in said.splitlines()[-1]
    fast = doctor._fastokens()
    assert fast.state in ("ok", "better") and (fast.state == "ok" or "3 to 15 times faster" in fast.gives)


def test_a_torch_that_cannot_be_loaded_is_a_finding_and_no_crash(monkeypatch):
    """A CUDA build without its libraries fails at import; the rest of the table is then needed most."""
    monkeypatch.setitem(sys.modules, "torch", None)
    found = by_name()
    assert found["torch"].state == "missing" and "pip install torch" in found["torch"].gives
    assert found["transformers"].state == "ok"


def test_a_containers_limits_count_and_not_the_hosts(monkeypatch, tmp_path):
    """In a container with 1.5 cores and 3 GiB of a large host, the host's figures would promise what a run cannot have."""
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{3 * 2**30}\n")
    found = by_name()
    assert found["memory"].state == "missing" and "this container may use 3.0 GiB" in found["memory"].found
    if "1 cores" not in found["processor"].found:
        assert "may use 1.5" in found["processor"].found and found["processor"].state == "better"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert "container" not in by_name()["processor"].found + by_name()["memory"].found


def cuda(**changed) -> SimpleNamespace:
    """A torch that sees one GPU."""
    facts = SimpleNamespace(name="GPU X", total_memory=80 * 2**30, major=9, minor=0)
    there = {
        "is_available": lambda: True, "device_count": lambda: 1, "get_device_properties": lambda i: facts,
        "mem_get_info": lambda i: (70 * 2**30, 80 * 2**30),
    } | changed  # fmt: skip
    return SimpleNamespace(cuda=SimpleNamespace(**there), version=SimpleNamespace(cuda="12.8"))


def test_a_gpu_is_told_with_its_memory_and_what_of_it_is_free():
    (found,) = doctor._gpus(cuda())
    assert (found.name, found.state) == ("GPU 0", "ok") and found.found == "GPU X, 80 GiB, sm_90, 70 GiB of it free"


def test_a_gpu_that_another_process_holds_is_told_and_no_crash():
    def refuse(i: int) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nmore")

    (found,) = doctor._gpus(cuda(mem_get_info=refuse))
    assert "cannot be used now (CUDA error: all CUDA-capable devices are busy)" in found.found


@pytest.mark.parametrize(
    "built, wrong, gives", [(None, "built for CPUs only", "a CUDA build"), ("12.8", "hidden, or the driver", "new enough for CUDA 12.8")]
)
def test_a_driver_without_a_gpu_in_torch_is_told_apart_from_no_gpu(monkeypatch, built, wrong, gives):
    """The most frequent fault: a CPU build of torch on a machine with a GPU looks like a machine without."""
    blind = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), version=SimpleNamespace(cuda=built))
    monkeypatch.setattr(doctor.Path, "exists", lambda self: True)
    (found,) = doctor._gpus(blind)
    assert wrong in found.found and gives in found.gives
    monkeypatch.setattr(doctor.Path, "exists", lambda self: False)
    assert doctor._gpus(blind)[0].found == "none"


def test_precision_is_what_training_would_choose(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    found = {finding.name: finding for finding in doctor._kernels(torch)}
    assert found["precision"].state == "better" and found["precision"].found.startswith("fp32")
    assert "document by document" in found["kernels"].found


def test_text_from_the_machine_is_no_markup():
    """A GPU or an error may be called [anything]."""
    assert "[bold]x[/bold]" in shown([doctor.Finding("GPU 0", "ok", "[bold]x[/bold]")])
