"""Claim: on the same rows a GPU's loss is within 1e-4 (fp32) and 5e-3 (bf16), relative, of the CPU's in fp32.

Systems  rewarm on cpu (fp32, one document after the other), on cuda in fp32, and on cuda in bf16 with compiled layers and varlen attention
Method   one whole training step at rate 0 of packed Vietnamese and English documents on the real base, by the engine itself; mean loss a
         token and gradient norm of each, and their relative distance from the CPU's
Needs    --base FOLDER (a Hugging Face folder) and REWARM_DATA (train/vi_wiki.parquet, train/en_openstax.parquet); one CUDA GPU
Output   benchmarks/results/loss_parity.json; --tiny rehearses it on a CPU and writes nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results import save

from rewarm.progress import Silent
from rewarm.tokens import stage
from rewarm.tokens.loader import batch
from rewarm.tokens.mixture import Mixture, open_mixture
from rewarm.tokens.recipe import MixtureRecipe, TokensRecipe
from rewarm.train.context import RunContext
from rewarm.train.recipe import TrainRecipe
from rewarm.train.setup import set_up

SYSTEMS = {"cpu": ("cpu", "fp32"), "cuda_fp32": ("cuda", "fp32"), "cuda_bf16": ("cuda", "mixed")}
TEXTS = (("vi", "new", "vi_wiki"), ("en", "replay", "en_openstax"))


def rows(base: Path, data: Path, root: Path, row_tokens: int, count: int) -> Mixture:
    """`count` packed rows of both texts."""
    cfg = TokensRecipe(row_tokens=row_tokens)
    sources = []
    for name, role, file in TEXTS:
        texts = pq.read_table(data / "train" / f"{file}.parquet", columns=["text"]).column(0).to_pylist()[:2_000]
        path = root / f"{name}.parquet"
        pq.write_table(pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}), path)
        sources.append(stage.TokenSource(name, role, (path,)))
    stage.tokenize_stage(cfg, base, sources, root / "tokens", Silent())
    stage.rows_stage(cfg, root / "tokens", root / "rows", Silent())
    return open_mixture(root / "tokens", root / "rows", MixtureRecipe(), count, 0, 0.25)


def step(base: Path, mixture: Mixture, device: str, precision: str, out: Path) -> tuple[float, float, int]:
    """(mean loss in nats a token, gradient norm, labels) of one step."""
    cfg = TrainRecipe.model_validate({"device": device, "precision": precision, "micro_rows": 4})
    out.mkdir()
    setup = set_up(cfg, base, mixture, partial(batch, mixture), None, None, [], out, Silent())
    engine = setup.engine
    context = RunContext(engine.params, base, 1, 0.0, 0, mixture.names, partial(batch, mixture), engine.gradients)
    record = engine.step(context)
    loss, norm = record.values[:2].tolist()
    return loss / record.labels, norm, record.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        mixture = rows(chosen.base, Path(os.environ["REWARM_DATA"]), root, 256 if chosen.tiny else 2048, 4 if chosen.tiny else 16)
        for system, (device, precision) in SYSTEMS.items():
            if torch.cuda.is_available() or device == "cpu":
                found[system] = step(chosen.base, mixture, device, precision, root / system)
    table = []
    for system, (loss, norm, labels) in found.items():
        far = [abs(a - b) / abs(b) for a, b in ((loss, found["cpu"][0]), (norm, found["cpu"][1]))]
        print(f"{system:10} {labels:,} labels: loss {loss:.6f} ({far[0]:.2e} from the CPU's), gradient norm {norm:.6f} ({far[1]:.2e})")
        case = {"rows": mixture.batch_rows, "labels": labels}
        for metric, value, unit in (
            ("loss", loss, "nats"),
            ("loss_distance", far[0], "relative"),
            ("gradient_norm_distance", far[1], "relative"),
        ):
            table.append({"metric": metric, "value": value, "unit": unit, "system": system, "case": case})
    if not chosen.tiny:
        save("loss_parity", table, device=torch.cuda.get_device_name(0))


if __name__ == "__main__":
    main()
