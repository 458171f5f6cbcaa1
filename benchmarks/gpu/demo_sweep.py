"""Claim: in the few minutes of the demo, few new tokens and small steps teach most.

Method   the demo's recipe at a fixed number of tokens in fp32, once a setting (seed 0); held-out halves and mixing back as in the demo.
         On a GPU only because it is quicker: the arithmetic is that of the demo on a CPU
Output   benchmarks/results/demo_sweep.json, system rewarm, case = the settings
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from results import save

COMMON = ["train.max_minutes=null", "train.precision=fp32", "evaluate.dtype=fp32", "evaluate.samples=0", "train.probe_every=off"]
SETTINGS = [
    *({"vocab.size": n, "train.step_tokens": 1024, "train.lr": "6e-4", "train.tokens": 57344} for n in (2750, 1500, 1000, 600)),
    *({"vocab.size": n, "train.step_tokens": 512, "train.lr": "6e-4", "train.tokens": 57344} for n in (1500, 800, 600)),
    {"vocab.size": 600, "train.step_tokens": 512, "train.lr": "4.5e-4", "train.tokens": 57344},
    {
        "vocab.size": 600,
        "train.step_tokens": 512,
        "train.lr": "6e-4",
        "train.tokens": 53248,
        "keep.methods": "[distill]",
        "mixture.replay": 0.2,
    },
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, required=True, help="the folder of the demo's files (in the cache, after one `make demo`)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    chosen = parser.parse_args()
    import torch

    from rewarm.console import Console
    from rewarm.recipe import load_recipe
    from rewarm.run import run_recipe

    rows = []
    recipe = Path(str(files("rewarm.demo") / "recipe.yaml"))
    for setting in SETTINGS:
        loaded = load_recipe(recipe, [*COMMON, *(f"{k}={v}" for k, v in setting.items())], root=chosen.demo)
        summary = run_recipe(loaded, chosen.out, Console())
        assert summary is not None
        for name, text in summary["texts"].items():
            bits = text["bits_per_byte"]
            case = {"text": name, **setting, "alpha": summary["mixback"]}
            rows.append({"metric": "bits_per_byte", "value": bits["after"], "unit": "bits/byte", "system": "rewarm", "case": case})
            more = {"low": bits["low"], "high": bits["high"]}
            rows.append(
                {"metric": "bits_per_byte_delta", "value": bits["delta"], "unit": "bits/byte", "system": "rewarm", "case": case, **more}
            )
        for stage in ("train", "mixback", "export"):
            shutil.rmtree(chosen.out / summary["stages"][stage] / "model", ignore_errors=True)
        save("demo_sweep", rows, device=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None)


if __name__ == "__main__":
    main()
