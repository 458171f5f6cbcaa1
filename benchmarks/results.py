"""Writing a benchmark's results: one JSON file a benchmark, with date, commit, device and versions beside the rows."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name as the system gives it, with its number of cores and whether it has bf16 instructions."""
    import os

    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    name = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), platform.processor())
    kind = next((k for k in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if k in text), platform.machine())
    return f"{name}, {os.cpu_count()} cores, {kind}"


def commit() -> str:
    """The commit that was measured, marked if the tree had changes."""
    here = Path(__file__).parent
    try:
        short = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return short + ("+changes" if dirty else "")


def save(benchmark: str, rows: list[dict[str, Any]], device: str | None = None, **more: Any) -> Path:
    """Writes `results/<benchmark>.json`; `device` defaults to this machine's processor."""
    from rewarm.stages import versions

    value = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "device": device or processor(),
        "versions": versions(),
        **more,
        "rows": rows,
    }
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{benchmark}.json"
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(Path(__file__).parent.parent)}")
    return path
