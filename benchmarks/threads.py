"""Claim: OpenMP threads that sleep while they wait cost nothing on a quiet machine and save a training step on a busy one.

Systems  rewarm (OMP_WAIT_POLICY=passive, which the command line sets), torch (as it comes), torch_one_thread
Method   30 small MLPs forward and backward in a process of its own, 12 s each, three rounds in turn; quiet, and beside one process that
         computes without end; median and all rounds
Output   benchmarks/results/threads.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from results import save

SYSTEMS = {"rewarm": {"OMP_WAIT_POLICY": "passive"}, "torch": {}, "torch_one_thread": {"OMP_NUM_THREADS": "1"}}
STEP = """
import time, torch
torch.manual_seed(0)
linear = torch.nn.Linear
layers = [torch.nn.Sequential(linear(576, 1536), torch.nn.SiLU(), linear(1536, 576), torch.nn.LayerNorm(576)) for _ in range(30)]
rows = torch.randn(512, 576)
def step():
    x = rows
    for layer in layers: x = x + layer(x)
    x.sum().backward()
step()
start, steps = time.time(), 0
while time.time() - start < 12: step(); steps += 1
print(steps / (time.time() - start))
"""


def steps_per_second(settings: dict[str, str]) -> float:
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", STEP], env={**plain, **settings}, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 3)


def main() -> None:
    rows = []
    for machine in ("quiet", "one busy process"):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if machine != "quiet" else None
        try:
            runs: dict[str, list[float]] = {system: [] for system in SYSTEMS}
            for _ in range(3):
                for system, settings in SYSTEMS.items():
                    runs[system].append(steps_per_second(settings))
        finally:
            if busy:
                busy.kill()
                busy.wait()
        for system, found in runs.items():
            value = statistics.median(found)
            print(f"{machine:18} {system:18} {value:.2f} steps/s {found}")
            case = {"machine": machine}
            rows.append({"metric": "steps_per_second", "value": value, "unit": "steps/s", "system": system, "case": case, "runs": found})
    save("threads", rows)


if __name__ == "__main__":
    main()
