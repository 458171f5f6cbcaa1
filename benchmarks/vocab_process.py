"""A benchmark's child process: started with its own environment, watched for memory, its JSON line read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += parents.get(pid, [])
    return found


def _memory(pid: int) -> int:
    """Bytes of a process, pages it shares with n others counted 1/n (proportional set size)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


class Watch:
    """The most memory that a process and all below it held together, looked at five times a second."""

    def __init__(self, pid: int) -> None:
        self.peak, self.pid, self._over = 0, pid, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self.peak = max(self.peak, sum(map(_memory, _descendants(self.pid))))

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.peak


def run_child(script: str, job: dict[str, Any], env: dict[str, str] | None = None) -> dict[str, Any]:
    """Runs `script` (beside this file) with the job as its argument; its last line of JSON, with `peak_memory_gib` added."""
    command = [sys.executable, str(Path(__file__).parent / script), json.dumps(job)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}, text=True)
    watch = Watch(child.pid)
    try:
        out, _ = child.communicate()
    finally:
        peak = watch.stop()
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return {"refused": f"ended by signal {-child.returncode}: too much CPU time or memory", "peak_memory_gib": round(peak / 2**30, 3)}
    if child.returncode != 0:
        raise SystemExit(f"{script} ended with {child.returncode}: {json.dumps(job)[:300]}")
    made = json.loads(out.strip().splitlines()[-1])
    return {**made, "peak_memory_gib": round(max(peak, made.pop("own_peak", 0)) / 2**30, 3)}
