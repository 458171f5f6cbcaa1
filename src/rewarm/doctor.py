"""`rewarm doctor`: what this machine has, what training would use of it, and what each missing part would give. Changes nothing, asks no
network, and ends well whatever it finds: it is what people run when something does not work."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from rewarm.console import Console

NEEDED = ("transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic", "gguf", "accelerate")
FASTOKENS = "pip install fastokens: text is encoded 3 to 15 times faster; used only where its ids equal the reference's"
DEMO_GIB = 6.0
"""Memory and free disk that the demo needs."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Of the many flags in /proc/cpuinfo those that decide how fast matrix products are."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is `ok`, could be `better` or is `missing` for a run, what was found, and what to gain."""

    name: str
    state: Literal["ok", "better", "missing"]
    found: str
    gives: str = ""


def examine() -> list[Finding]:
    """Looks at processor, memory, disk, torch, GPUs, kernels and packages."""
    out = [_processor(), _memory(), _disk()]
    try:
        import torch
    except Exception as error:  # a torch without its libraries raises whatever they raise; that is what has to be told
        out.append(Finding("torch", "missing", f"{type(error).__name__}: {error}", "rewarm needs it: pip install torch"))
    else:
        out += [_torch(torch), *_gpus(torch), *_kernels(torch)]
    out += [_package(name) for name in NEEDED]
    return [*out, _fastokens()]


def _processor() -> Finding:
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = next((x for x in info.read_text().splitlines() if x.startswith(("flags", "Features"))), "")
        flags = set(line.split())
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = [platform.machine(), f"{here} cores", *(name for name in FLAGS if name in flags)]
    allowed = _quota()
    if allowed is not None and allowed < here:
        found[1] += f", of which this container may use {allowed:g}"
    few = min(here, allowed or here) < 2
    return Finding(
        "processor",
        "better" if few else "ok",
        ", ".join(found[:2] + [" ".join(found[2:])][: len(found) - 2]),
        "2 cores or more" if few else "",
    )


def _quota() -> float | None:
    """Cores that the control group grants; None if it sets no limit or there is none."""
    try:
        granted, period = (CGROUP / "cpu.max").read_text().split()
        return int(granted) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return Finding("memory", "ok", "unknown")
    found = f"{total:.1f} GiB"
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found += f", {int(lines['MemAvailable'].split()[0]) / 2**20:.1f} GiB of it free"
    except (OSError, KeyError, ValueError):
        pass
    try:
        allowed = int((CGROUP / "memory.max").read_text()) / 2**30
    except (OSError, ValueError):
        allowed = total
    if allowed < total:
        found += f"; this container may use {allowed:.1f} GiB"
    enough = min(total, allowed) >= DEMO_GIB - 0.5  # a machine sold with 6 GiB shows a little less
    return Finding("memory", "ok" if enough else "missing", found, "" if enough else f"the demo needs {DEMO_GIB:g} GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = free >= DEMO_GIB
    return Finding("disk here", "ok" if enough else "missing", f"{free:.1f} GiB free", "" if enough else "a demo run writes up to 5 GiB")


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"rewarm needs it: pip install {name}")


def _fastokens() -> Finding:
    try:
        return Finding("fastokens", "ok", version("fastokens"))
    except PackageNotFoundError:
        return Finding("fastokens", "better", "not installed (optional)", FASTOKENS)


def _torch(torch: Any) -> Finding:
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs only"
    return Finding("torch", "ok", f"{torch.__version__}, {built}, {torch.get_num_threads()} threads")


def _gpus(torch: Any) -> list[Finding]:
    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists():
            if torch.version.cuda is None:
                wrong, gives = "this torch is built for CPUs only", "speed: pip install a CUDA build of torch"
            else:
                wrong = "it is hidden, or the driver is too old"
                gives = f"speed: look at CUDA_VISIBLE_DEVICES, and whether the driver is new enough for CUDA {torch.version.cuda}"
            return [Finding("GPU", "better", f"an NVIDIA driver is here, but torch sees no GPU: {wrong}", gives)]
        gives = "speed: a 135M model trained on 162,000 tokens a second on one H100, on about 200 on 2 cores"
        return [Finding("GPU", "better", "none", gives)]
    out = []
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        found = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, sm_{facts.major}{facts.minor}"
        try:
            found += f", {torch.cuda.mem_get_info(i)[0] / 2**30:.0f} GiB of it free"
        except RuntimeError as error:  # a GPU that another process holds for itself
            found += f", which cannot be used now ({str(error).splitlines()[0]})"
        bf16 = facts.major >= 8
        out.append(
            Finding(f"GPU {i}", "ok" if bf16 else "better", found, "" if bf16 else "compute capability 8.0 or newer multiplies bf16")
        )
    return out


def _kernels(torch: Any) -> list[Finding]:
    """What `train.precision`, `train.compile` and attention come to on this machine where the recipe leaves them at `auto`."""
    from rewarm.model.batch import form_for
    from rewarm.model.precision import choose_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = choose_precision("auto", device)
    gives = "" if precision.mode == "mixed" else "with bf16 instructions the demo trains about 1.5 times faster"
    out = [Finding("precision", "better" if gives else "ok", f"{precision.mode}: {precision.why}", gives)]
    if device.type == "cpu":
        return [*out, Finding("kernels", "ok", "torch's attention, document by document; layers not compiled")]
    flat = form_for(device, compiled=True) == "flat" and precision.mode == "mixed"
    out.append(Finding("attention", "ok" if flat else "better", "FlashAttention 2 of torch" if flat else "by its definition, slow",
                       "" if flat else "a GPU with bf16 runs FlashAttention"))  # fmt: skip
    lacks = [
        what for what, there in (("triton", find_spec("triton")), ("a C compiler", shutil.which("cc") or shutil.which("gcc"))) if not there
    ]
    gives = f"{' and '.join(lacks)}: layers are compiled on a GPU; until then set train.compile: false" if lacks else ""
    return [*out, Finding("compiled layers", "missing" if lacks else "ok", f"without {' and '.join(lacks)}" if lacks else "triton", gives)]


def show(findings: list[Finding], console: Console) -> None:
    """Prints the findings as a table, and one line that says whether `rewarm demo` can run here."""
    table = Table(box=None, pad_edge=False)
    for head in ("", "what", "found", "what it would give"):
        table.add_column(head, overflow="fold")
    marks = {"ok": "[green]ok[/green]", "better": "[yellow]--[/yellow]", "missing": "[red]!![/red]"}
    for item in findings:
        table.add_row(marks[item.state], *(escape(text) for text in (item.name, item.found, item.gives)))
    console.out.print(table)
    lacking = [f.name for f in findings if f.state == "missing"]
    console.say(f"missing for a run: {', '.join(lacking)}" if lacking else "everything that `rewarm demo` needs is here")
