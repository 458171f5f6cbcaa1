"""`rewarm doctor`: what this machine has, and what each missing part would give."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from rewarm.console import Console

OPTIONAL = {
    "fastokens": "encodes text 3 to 15 times faster; used only where its ids equal the reference's",
}
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic", "gguf", "accelerate")


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is there, what was found, and what a missing one would give."""

    name: str
    ok: bool
    found: str
    gives: str = ""


def examine() -> list[Finding]:
    """Looks at processor, memory, disk, GPUs and packages; changes nothing and asks no network."""
    out = [_processor(), _memory(), _disk()]
    out += [_package(name) for name in NEEDED]
    out += _accelerators()
    out += [_package(name, gives) for name, gives in OPTIONAL.items()]
    return out


def _processor() -> Finding:
    flags = set()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = next((x for x in info.read_text().splitlines() if x.startswith("flags")), "")
        flags = set(line.split())
    kinds = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    bf16 = bool({"avx512_bf16", "amx_bf16"} & flags)
    found = f"{platform.machine()}, {os.cpu_count()} cores{', ' if kinds else ''}{' '.join(kinds)}"
    return Finding("processor", True, found, "" if bf16 else "bf16 instructions (none here) would train two to three times faster on a CPU")


def _memory() -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return Finding("memory", True, "unknown")
    return Finding("memory", total >= 6, f"{total:.1f} GiB", "" if total >= 6 else "the demo needs 6 GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("disk here", free >= 6, f"{free:.1f} GiB free", "" if free >= 6 else "a demo run writes up to 5 GiB")


def _package(name: str, gives: str = "") -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"pip install {name}: {gives}" if gives else f"pip install {name}: rewarm needs it")


def _accelerators() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [
            Finding(
                "GPU",
                False,
                "none seen by torch",
                "training on one is a thousand times faster than on a CPU; it needs a CUDA build of torch",
            )
        ]
    out = []
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        bf16 = facts.major >= 8
        found = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, sm_{facts.major}{facts.minor}"
        out.append(Finding(f"GPU {i}", bf16, found, "" if bf16 else "bf16 needs compute capability 8.0 or newer"))
    return out


def show(findings: list[Finding], console: Console) -> None:
    """Prints the findings as a table, and one line that says whether `rewarm demo` can run here."""
    table = Table(box=None, pad_edge=False)
    for head in ("", "", "found", "what it would give"):
        table.add_column(head, overflow="fold")
    for item in findings:
        table.add_row("[green]ok[/green]" if item.ok else "[yellow]--[/yellow]", item.name, item.found, item.gives)
    console.out.print(table)
    lacking = [f.name for f in findings if not f.ok and f.name in (*NEEDED, "memory", "disk here")]
    console.say(f"missing for a run: {', '.join(lacking)}" if lacking else "everything that `rewarm demo` needs is here")
