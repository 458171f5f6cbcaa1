"""Claim: `import rewarm` and `rewarm --help` take about 0.3 s and load no torch, transformers or pydantic.

Systems  rewarm; transformers' own command line (`transformers --help`) beside it, where it is installed
Method   each command as a process of its own, 2 warm-ups, then 10 runs, interleaved; median and all runs, wall seconds
Output   benchmarks/results/startup.json
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from results import save

BIN = Path(sys.executable).parent
COMMANDS = {
    ("rewarm", "import"): [sys.executable, "-c", "import rewarm"],
    ("rewarm", "--help"): [str(BIN / "rewarm"), "--help"],
    ("transformers", "import"): [sys.executable, "-c", "import transformers"],
    ("transformers", "--help"): [str(BIN / "transformers"), "--help"],
}


def main() -> None:
    runs: dict[tuple[str, str], list[float]] = {key: [] for key in COMMANDS}
    commands = {key: c for key, c in COMMANDS.items() if Path(c[0]).exists() or shutil.which(c[0])}
    for turn in range(12):
        for key, command in commands.items():
            start = time.perf_counter()
            code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
            seconds = time.perf_counter() - start
            if code != 0:
                raise SystemExit(f"{' '.join(command)} ended with {code}")
            if turn >= 2:
                runs[key].append(round(seconds, 4))
    rows = []
    for (system, what), seconds in runs.items():
        if seconds:
            value = round(statistics.median(seconds), 4)
            rows.append({"metric": "seconds", "value": value, "unit": "s", "system": system, "case": {"command": what}, "runs": seconds})
            print(f"{system:14} {what:8} {value:.3f} s (median of {len(seconds)})")
    save("startup", rows)


if __name__ == "__main__":
    main()
