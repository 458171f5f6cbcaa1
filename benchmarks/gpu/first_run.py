"""Claim: a ten-line recipe teaches SmolLM2-135M Vietnamese from 26M tokens on one GPU, English gets no worse, and distillation helps both.

Systems  rewarm (distillation from the frozen base on replay), rewarm_no_distill, rewarm_unextended (no new tokens): same text and tokens
Method   each a whole `rewarm run` of recipe() below; bits per byte on two held-out sets that are of no training source's documents
Needs    --base MODEL.gguf (or a folder) and REWARM_DATA (train/vi_*.parquet, train/en_*.parquet, heldout/); one CUDA GPU
Output   benchmarks/results/first_run.json, and plan.json with --plan; --tiny rehearses it on a CPU with a few steps and writes nothing.
         Rows of systems that are not run again stay: run all in one call, or calls on one card
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from plan import keep, planned
from plan import rows_of as plan_rows
from results import FOLDER, save

SYSTEMS = {
    "rewarm": ["keep.methods=[distill]"],
    "rewarm_no_distill": [],
    "rewarm_unextended": ["vocab.extend=false"],
}
TEXTS = {"vi_wiki_heldout": "vi_wiki", "en_wikitext2": "en_wikitext2"}


def recipe(base: Path, data: Path) -> str:
    """What a user would write."""
    kind = "gguf" if base.suffix == ".gguf" else "base"
    return f"""
model: {{{kind}: "{base}"}}
corpus:
  sources:
    - {{name: vi, paths: ["{data}/train/vi_*.parquet"], role: new, languages: [vi], licence: mixed}}
    - {{name: en, paths: ["{data}/train/en_*.parquet"], role: replay, languages: [en], licence: mixed}}
  heldout: {{max_mb: 0, min_mb: 0}}
vocab: {{size: 8000}}
tokens: {{row_tokens: 2048}}
mixture: {{replay: 0.25}}
train: {{tokens: 26_000_000, step_tokens: 65_536, lr: 6e-4, probe_every: "off"}}
evaluate:
  samples: 0
  texts:
    - {{name: vi_wiki_heldout, path: "{data}/heldout/vi_wiki.jsonl", role: new}}
    - {{name: en_wikitext2, path: "{data}/heldout/en_wikitext2_valid.jsonl", role: old}}
"""


def rows_of(system: str, summary: dict) -> list[dict]:
    rows = []
    for name, text in TEXTS.items():
        bits = summary["texts"][name]["bits_per_byte"]
        # with alpha 1 nothing was mixed back: the exported model is the unmixed one
        unmixed = (("unmixed", "after"),) if summary["mixback"] == 1 else ()
        for step, key in (("base", "before"), ("extended", "extended"), *unmixed, ("final", "after")):
            if bits[key] is not None:
                case = {"text": text, "tokens": "26M", "step": step}
                rows.append({"metric": "bits_per_byte", "value": bits[key], "unit": "bits/byte", "system": system, "case": case})
        case = {"text": text, "tokens": "26M", "step": "final"}
        low_high = {"low": bits["low"], "high": bits["high"]}
        rows.append(
            {"metric": "bits_per_byte_delta", "value": bits["delta"], "unit": "bits/byte", "system": system, "case": case, **low_high}
        )
    case = {"tokens": "26M", "step": "final"}
    rows.append({"metric": "tokens_per_second", "value": summary["tokens_per_second"], "unit": "tokens/s", "system": system, "case": case})
    rows.append({"metric": "peak_memory_gib", "value": summary["gpu_memory_gib"], "unit": "GiB", "system": system, "case": case})
    rows.append({"metric": "seconds", "value": round(sum(summary["seconds"].values()), 1), "unit": "s", "system": system, "case": case})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further system after so many seconds")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS))
    parser.add_argument("--plan", nargs="*", default=[], help="systems that are planned first; plan and run are compared in plan.json")
    chosen = parser.parse_args()
    data = Path(os.environ["REWARM_DATA"]).resolve()
    import torch

    from rewarm.atomic import read_json
    from rewarm.console import Console
    from rewarm.recipe import load_recipe
    from rewarm.run import run_recipe

    start = time.monotonic()
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "recipe.yaml"
    file.write_text(recipe(chosen.base.resolve(), data), encoding="utf-8")
    tiny = ["train.tokens=2048", "train.step_tokens=512", "tokens.row_tokens=256", "evaluate.max_mb=0.01"] if chosen.tiny else []
    # planned before any run: what a run leaves in this process's share of the GPU would be missing to the measurement
    plans = {system: planned(load_recipe(file, [*SYSTEMS[system], *tiny])) for system in chosen.plan}
    done = FOLDER / "first_run.json"
    rows: list[dict] = [row for row in read_json(done)["rows"] if row["system"] not in chosen.systems] if done.is_file() else []
    for system in chosen.systems:
        if time.monotonic() - start > chosen.seconds:
            print(f"no time left for {system}")
            continue
        loaded = load_recipe(file, [*SYSTEMS[system], *tiny])
        summary = run_recipe(loaded, chosen.out / "run", Console())
        assert summary is not None
        train = read_json(chosen.out / "run" / summary["stages"]["train"] / "done.json")["facts"]
        rows += rows_of(system, {**summary, "gpu_memory_gib": train["peak_memory_gib"]})
        card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
        compared = plan_rows(plans[system], summary, train, f"26M, {system}", "cuda", card) if system in plans else []
        if not chosen.tiny:
            save("first_run", rows, device=card)
            if compared:
                keep(compared)
    print(f"{len(rows)} rows; results in {FOLDER}" if not chosen.tiny else f"{len(rows)} rows, not written")


if __name__ == "__main__":
    main()
