"""Claim: `rewarm plan` says time within 30 % and memory within 15 % of what the run then takes, on a CPU and on a GPU.

Systems  rewarm; each recipe is first planned and then run whole, in processes of their own
Method   predicted and seen, side by side, and their ratio: seconds of the training stage and of the whole run, peak memory of the training
         (a CPU: resident memory of the whole run's process; a GPU: the most that tensors took)
Needs    the demo's files in the cache (`make demo` once); a GPU's recipes are planned by gpu/first_run.py, which calls rows_of
Output   benchmarks/results/plan.json; rows of another device stay
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from results import FOLDER, processor, save

from rewarm.atomic import read_json
from rewarm.console import Console
from rewarm.demo.assets import fetch
from rewarm.plan import plan_recipe
from rewarm.progress import Silent
from rewarm.recipe import Loaded, load_recipe

CPU = {
    "demo": ["train.max_minutes=null", "train.tokens=20_480"],
    "demo, fp32, one row at once": ["train.max_minutes=null", "train.tokens=20_480", "train.precision=fp32", "train.micro_rows=1"],
    "demo, distilled": ["train.max_minutes=null", "train.tokens=20_480", "keep.methods=[distill]"],
}


def planned(loaded: Loaded) -> dict[str, Any]:
    """What `rewarm plan` foresees."""
    plan = plan_recipe(loaded, Console())
    assert plan.measured is not None and plan.forecast is not None
    return {"stages": plan.forecast.stages, **asdict(plan.measured)}


def rows_of(
    plan: dict[str, Any], summary: dict[str, Any], training: dict[str, Any], recipe: str, device: str, name: str
) -> list[dict[str, Any]]:
    """device: `cpu` or `cuda`, and its name. plan: `planned`. summary: the run's summary.json. training: the facts of its train stage."""
    memory = training["peak_memory_gib"] if device == "cuda" else summary["peak_memory_gib"]
    pairs = {
        ("seconds", "s", "train"): (plan["stages"]["train"], summary["seconds"]["train"]),
        ("seconds", "s", "all"): (sum(plan["stages"].values()), sum(summary["seconds"].values())),
        ("memory_gib", "GiB", "train" if device == "cuda" else "all"): (plan["memory_gib"], memory),
    }
    rows = []
    for (what, unit, part), (predicted, seen) in pairs.items():
        case = {"recipe": recipe, "on": name, "part": part}
        for metric, value, of in ((f"predicted_{what}", predicted, unit), (what, seen, unit), (f"{what}_ratio", predicted / seen, "ratio")):
            rows.append({"metric": metric, "value": round(value, 4), "unit": of, "system": "rewarm", "case": case})
        print(f"{recipe}, {part}: {what} predicted {predicted:.4g}, seen {seen:.4g}, ratio {predicted / seen:.3f}")
    return rows


def keep(rows: list[dict[str, Any]]) -> None:
    """Adds rows to plan.json in place of those of the same cases."""
    file = FOLDER / "plan.json"
    before = json.loads(file.read_text())["rows"] if file.is_file() else []
    mine = {json.dumps(row["case"], sort_keys=True) for row in rows}
    rows = [row for row in before if json.dumps(row["case"], sort_keys=True) not in mine] + rows
    save("plan", rows, device="; ".join(sorted({row["case"]["on"] for row in rows})))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; a new one, or nothing is timed")
    parser.add_argument("--recipes", nargs="*", default=list(CPU))
    chosen = parser.parse_args()
    assets = fetch(None, Silent())
    chosen.out.mkdir(parents=True)
    (chosen.out / "cache").mkdir()
    (chosen.out / "cache" / "demo").symlink_to(assets.folder)  # scores of the base that an earlier run kept would save this one time
    for i, name in enumerate(chosen.recipes):
        with as_file(files("rewarm.demo") / "recipe.yaml") as recipe:
            plan = planned(load_recipe(recipe, CPU[name], root=assets.folder))
        folder = chosen.out / f"run-{i}"
        command = [sys.executable, "-m", "rewarm.cli", "demo", *CPU[name], "--out", str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "REWARM_CACHE": str(chosen.out / "cache")})
        summary = read_json(folder / "summary.json")
        training = read_json(folder / summary["stages"]["train"] / "done.json")["facts"]
        keep(rows_of(plan, summary, training, name, "cpu", processor()))
        shutil.rmtree(chosen.out / "cache" / "scores", ignore_errors=True)


if __name__ == "__main__":
    main()
