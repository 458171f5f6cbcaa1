"""Claim: rows that start as the length-weighted mean of their parts cost old text at most 0.015 bits a byte; no other start learns faster.

Systems  the methods of `vocab.init`, and the base before the extension
Method   one extension of the base by 8,000 Vietnamese tokens (train/vi_* counted, train/en_* protected); only the new rows differ. Bits a
         byte of heldout/vi_wiki and heldout/en_wikitext2_valid right after it; with --train also after 200 steps of 8,192 tokens (3/4 new
         text, rows of 1,024, new rows at 8 times the rate, the engine's other defaults), for seeds 0, 1, 2: the same rows in the same order
         for every method
Fair     one tokenizer, one protocol, one prefix. A CPU scores the first --bytes of each text (documents by their hash), a GPU all of it:
         the case says how many, and only equal ones compare
Output   benchmarks/results/init.json: bits_per_byte, system = method, case = text, step, seed, bytes. A run keeps the rows of other cases
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import FOLDER, processor, save

if TYPE_CHECKING:
    from rewarm.evaluate.measure import Measurement

METHODS = ("length_mean", "fvt", "focus", "mean")
TEXTS = {"vi_wiki": "new", "en_wikitext2_valid": "old"}


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    new_tokens: int = 8_000
    steps: int = 200
    step_tokens: int = 8_192
    row_tokens: int = 1_024
    seeds: tuple[int, ...] = (0, 1, 2)


TINY = Size(new_tokens=200, steps=3, step_tokens=512, row_tokens=128, seeds=(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="model folder: the demo's, runs/demo/base-*/model")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and heldout/")
    parser.add_argument("--out", type=Path, required=True, help="work folder; a second call goes on from what it holds")
    parser.add_argument("--bytes", type=int, default=None, help="of each held-out text; default 40,000 on a CPU, all on a GPU")
    parser.add_argument("--train", action="store_true", help="also train from each start")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal in a minute: invented weights, little text, nothing saved")
    chosen = parser.parse_args()
    import torch

    cuda = torch.cuda.is_available()
    size = TINY if chosen.tiny else Size()
    chosen.out.mkdir(parents=True, exist_ok=True)
    data, base = (small(chosen.data, chosen.base, chosen.out)) if chosen.tiny else (chosen.data, chosen.base)
    limit = chosen.bytes or (4_000 if chosen.tiny else 10_000_000 if cuda else 40_000)
    vocab = extended(base, data, chosen.out / "vocab", size)
    starts = {method: started(base, data, vocab, method, chosen.out / "starts" / method) for method in METHODS}
    bench = Bench(base, data, vocab, starts, chosen.out, size, limit)
    device = torch.cuda.get_device_name(0) if cuda else processor()
    for rows in chain([bench.before()], bench.trained() if chosen.train else []):
        for row in rows:
            print(f"{row['system']:12} {row['case']} {row['value']:.4f}")
        if not chosen.tiny:
            save("init", merged(rows, device), device=device)


def merged(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """These rows and those of other cases that are there already; each says which device it was measured on."""
    file = FOLDER / "init.json"
    old = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    mine = {(row["system"], json.dumps(row["case"])) for row in rows}
    return [row for row in old if (row["system"], json.dumps(row["case"])) not in mine] + [{**row, "device": device} for row in rows]


def extended(base: Path, data: Path, out: Path, size: Size) -> Path:
    """The folder of the extension, made now or before."""
    from rewarm.console import Console
    from rewarm.vocab.recipe import VocabRecipe
    from rewarm.vocab.stage import extend

    targets, protect = sorted(data.glob("train/vi_*.parquet")), sorted(data.glob("train/en_*.parquet"))
    extend(base, {"vi": targets}, protect, out, VocabRecipe(extend=True, size=size.new_tokens, check_bits=False), reporter=Console())
    return out


def started(base: Path, data: Path, vocab: Path, method: Any, out: Path) -> Path:
    """A model folder with the extension's tokenizer, and rows that start with this method."""
    if (out / "config.json").is_file():
        return out
    from tokenizers import Tokenizer

    from rewarm.vocab.base import open_base
    from rewarm.vocab.extension import Extension, NewToken
    from rewarm.vocab.initialise import plan_start
    from rewarm.vocab.recipe import VocabRecipe
    from rewarm.vocab.rows import extend_model
    from rewarm.vocab.text import sample_pieces

    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(vocab / "model", part, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    record = json.loads((vocab / "extension.json").read_text(encoding="utf-8"))
    tokens = [
        NewToken(t["id"], t["surface"]["str"].encode() if "str" in t["surface"] else bytes.fromhex(t["surface"]["hex"]), tuple(t["parts"]))
        for t in record["tokens"]
    ]
    old, cfg = open_base(base), VocabRecipe(init=method)
    extension = Extension(record["first_new_id"], tuple(tokens), ())
    texts = {"vi": sample_pieces(sorted(data.glob("train/vi_*.parquet")), 100_000_000, 0.05, 0.0, 0).counted} if method == "focus" else {}
    start = plan_start(old, extension, cfg, Tokenizer.from_file(str(part / "tokenizer.json")), texts)
    extend_model(old, extension, part, cfg, start)
    part.rename(out)
    return out


@dataclass(frozen=True)
class Bench:
    """Measures and trains the starts."""

    base: Path
    data: Path
    vocab: Path
    starts: dict[str, Path]
    out: Path
    size: Size
    limit: int

    def measurement(self) -> Measurement:
        from rewarm.console import Console
        from rewarm.evaluate.documents import TextRef
        from rewarm.evaluate.measure import Measurement
        from rewarm.evaluate.recipe import EvaluateRecipe

        texts = [TextRef(name, role, self.data / "heldout" / f"{name}.jsonl") for name, role in TEXTS.items()]  # type: ignore[arg-type]
        cfg, cache = EvaluateRecipe(dtype="fp32"), self.out / "cache"
        return Measurement(cfg, self.base, list(self.starts.values()), texts, self.out, Console(), limit=self.limit, cache=cache)

    def scored(self, measure: Measurement, name: str, folder: Path, step: int | str, seed: int) -> list[dict[str, Any]]:
        """Rows of one model."""
        from rewarm.evaluate.bits import bits_per_byte

        with measure.model(folder) as lazy:
            scores = measure.score(f"{name} {step} {seed}", folder, lazy)
        return [
            {
                "metric": "bits_per_byte", "value": round(bits_per_byte(one), 6), "unit": "bits/byte", "system": name,
                "case": {"text": text, "step": step, "seed": seed, "bytes": sum(len(t.encode()) for t in measure.documents[text].texts)},
            }
            for text, one in scores.items()
        ]  # fmt: skip

    def before(self) -> list[dict[str, Any]]:
        """The base, and every start right after the extension."""
        measure = self.measurement()
        rows = self.scored(measure, "base", self.base, "base", 0)
        for method, folder in self.starts.items():
            rows += self.scored(measure, method, folder, "extended", 0)
        return rows

    def trained(self) -> Iterator[list[dict[str, Any]]]:
        """Every start after the steps, seed after seed. The texts are tokenised and packed once."""
        from rewarm.console import Console
        from rewarm.tokens.loader import batch
        from rewarm.tokens.mixture import open_mixture
        from rewarm.tokens.recipe import MixtureRecipe, TokensRecipe
        from rewarm.tokens.stage import TokenSource, rows_stage, tokenize_stage
        from rewarm.train.recipe import TrainRecipe
        from rewarm.train.stage import train_stage

        size, tokens, packed = self.size, self.out / "tokens", self.out / "rows"
        found = [(role, sorted(self.data.glob(f"train/{language}_*.parquet"))) for role, language in (("new", "vi"), ("replay", "en"))]
        sources = [TokenSource(file.stem, role, (file,)) for role, files in found for file in files]
        cfg = TokensRecipe(row_tokens=size.row_tokens)
        tokenize_stage(cfg, self.vocab / "model", sources, tokens, Console())
        rows_stage(cfg, tokens, packed, Console())
        record = json.loads((self.vocab / "extension.json").read_text(encoding="utf-8"))
        measure = self.measurement()
        for seed in size.seeds:
            rows: list[dict[str, Any]] = []
            mixture = open_mixture(tokens, packed, MixtureRecipe(replay=0.25), size.step_tokens // size.row_tokens, seed)
            recipe = TrainRecipe(step_tokens=size.step_tokens, probe_every="off", compile=False, checkpoint_steps=10**6, seed=seed)
            for method, start in self.starts.items():
                run = self.out / "trained" / f"{method}-{seed}"
                train_stage(
                    recipe, start, mixture, partial(batch, mixture), (record["first_new_id"], record["true_vocab"]), record["true_vocab"],
                    None, [], run, Console(), steps=size.steps,
                )  # fmt: skip
                rows += self.scored(measure, method, run / "model", size.steps, seed)
            yield rows


def small(data: Path, base: Path, out: Path) -> tuple[Path, Path]:
    """(data, base) of the rehearsal: the first documents of each text, and two invented layers under the base's tokenizer."""
    import pyarrow.parquet as pq
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for file in sorted(data.glob("train/vi_*.parquet")) + sorted(data.glob("train/en_*.parquet")):
        (out / "data" / "train").mkdir(parents=True, exist_ok=True)
        pq.write_table(pq.read_table(file).slice(0, 120), out / "data" / "train" / file.name)
    shutil.copytree(data / "heldout", out / "data" / "heldout", dirs_exist_ok=True, copy_function=shutil.copyfile)
    if not (out / "base").is_dir():
        shutil.copytree(base, out / "base.part", ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        config = AutoConfig.from_pretrained(base)
        config.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32})
        config.num_key_value_heads = 1
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(out / "base.part")
        (out / "base.part").rename(out / "base")
    return out / "data", out / "base"


if __name__ == "__main__":
    main()
