"""Claim: a run killed at any moment and started again ends with the weights, byte for byte, of a run that nobody disturbed.

Systems  rewarm
Method   `rewarm run` on a small real recipe (vocabulary extension, training with ten checkpoints and with probes, mixing back, evaluation,
         export; one process on the CPU). Once undisturbed, which also times the stages. Then, each in a run folder and a cache of its own:
         kill -9 of the whole process group at ten seeded random moments, in every stage at least once; SIGTERM and SIGINT after the first
         step of training and SIGTERM in the vocabulary, which must end with exit code 130, in training with a checkpoint of the step it
         tells. The same command is then run to its end. same_weights is 1 if the exported model.safetensors and tokenizer.json have the
         SHA-256 of the undisturbed run's
Needs    nothing; with REWARM_DATA set the text is Vietnamese statutes and English novels instead of generated words. Ten minutes
Output   benchmarks/results/kill.json; exit 1 if one run ends differently
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from results import save

STAGES = ("corpus", "vocab", "tokens", "rows", "train", "mixback", "evaluate", "export")
TARGETS = (*STAGES, "train", "evaluate")
"""Where the ten kills go: every stage, and the two longest once more."""
TRIES = 6
"""A stage of some milliseconds may be over before the kill reaches it; so often another moment is drawn."""
RECIPE = """\
name: kill
model: {base: base}
corpus:
  sources:
    - {name: vi, paths: [new.jsonl], role: new, languages: [vi], licence: unknown}
    - {name: en, paths: [old.jsonl], role: replay, languages: [en], licence: unknown}
  heldout: {share: 0.05, min_mb: 0.02, max_mb: 0.03}
vocab: {extend: true, size: 60, max_changed_lines: 0.1}
tokens: {row_tokens: 64}
train:
  {tokens: 51_200, step_tokens: 512, lr: 1e-3, device: cpu, precision: fp32, deterministic: true, checkpoint_steps: 10, probe_every: 25}
evaluate: {max_mb: 0.02, dtype: fp32, samples: 1, sample_tokens: 8}
"""
END = "<|endoftext|>"


def words(heads: str, tails: str) -> list[str]:
    return [head + tail for head in heads.split() for tail in tails.split()]


LANGUAGES = {
    "new": words("b c d đ g h l m n q t v x ch kh ng nh ph th tr", "á à ả ãi ạ ăn ấn ậy êu ọc ính ường ước iệt ông oà ĩa ếp ộng"),
    "old": words("b c d f g l m n p r s t w st tr pl", "ake ent ing old ore and est ill ock ear ay our ish"),
}


def generated(role: str, size: int) -> list[str]:
    """Documents of a few lines of made-up words, the first ones often, `size` bytes in all."""
    rng, known, texts = np.random.default_rng(list(LANGUAGES).index(role)), LANGUAGES[role], []
    while size > 0:
        lines = []
        for _ in range(rng.integers(2, 5)):
            picked = (rng.random(rng.integers(10, 22)) ** 2 * len(known)).astype(int)
            lines.append(" ".join(known[i] for i in picked).capitalize() + ".")
        texts.append("\n".join(lines))
        size -= len(texts[-1].encode())
    return texts


def real(folder: Path, role: str, size: int) -> list[str]:
    """The first documents of real text, `size` bytes in all."""
    import pyarrow.parquet as pq

    texts = []
    for text in pq.read_table(folder / "train" / f"{'vi_law' if role == 'new' else 'en_novels'}.parquet", columns=["text"])["text"]:
        texts.append(text.as_py())
        size -= len(texts[-1].encode())
        if size <= 0:
            break
    return texts


def write_house(folder: Path) -> str:
    """Texts, a Llama of two layers with a tokenizer trained on the old text, and the recipe. Returns which text it is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    data = os.environ.get("REWARM_DATA")
    for role, size in (("new", 400_000), ("old", 1_600_000)):
        texts = real(Path(data), role, size) if data else generated(role, size)
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (folder / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=[END], initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(texts[:300], trainer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save(str(folder / "base" / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return "Vietnamese statutes, English novels" if data else "generated words"


class Run:
    """One run folder with a cache of its own; `start` begins a process that goes on with it."""

    def __init__(self, house: Path, name: str) -> None:
        self.house, self.name, self.folder = house, name, house / "runs" / name

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rewarm.cli", "run", "recipe.yaml", "--out", str(self.folder)]
        env = {**os.environ, "REWARM_CACHE": str(self.house / "caches" / self.name), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with (self.house / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self.house, env=env, stdout=log, stderr=log, start_new_session=True)

    def stages(self) -> dict[str, bool]:
        """Stages begun, and whether each is finished."""
        if not self.folder.is_dir():
            return {}
        found = {path.name.rpartition("-")[0]: (path / "done.json").exists() for path in self.folder.iterdir() if path.is_dir()}
        return {stage: found[stage] for stage in STAGES if stage in found}

    def steps(self) -> int:
        """Steps that the training has told."""
        return sum(file.read_text().count("\n") for file in self.folder.glob("train-*/metrics.jsonl"))

    def saved(self) -> bool:
        """Whether the newest checkpoint is of the last step that was told."""
        return any(file.read_text().strip() == f"step-{self.steps()}" for file in self.folder.glob("train-*/checkpoints/LATEST"))

    def finish(self) -> float:
        """Runs to the end; seconds."""
        begun = time.perf_counter()
        code = self.start().wait(timeout=900)
        if code != 0:
            log = (self.house / f"{self.name}.log").read_text(encoding="utf-8", errors="replace")
            raise SystemExit(f"run {self.name} ended with exit code {code}:\n{log[-3000:]}")
        return time.perf_counter() - begun

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what was exported."""
        [model] = self.folder.glob("export-*/model")
        return {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in ("model.safetensors", "tokenizer.json")}


def undisturbed(run: Run) -> dict[str, float]:
    """Runs once to the end; seconds of every stage."""
    run.finish()
    return {stage: json.loads(next(run.folder.glob(f"{stage}-*/done.json")).read_text())["seconds"] for stage in STAGES}


@dataclass(frozen=True)
class Hit:
    stage: str
    after_s: float
    code: int
    step: int


def disturb(run: Run, stage: str, delay: float, number: signal.Signals) -> Hit:
    """Starts the run and signals its process group `delay` seconds after the stage has begun (a signal that asks: after training's first
    step); where that was, and the exit code."""
    process = run.start()
    while process.poll() is None and stage not in run.stages():
        time.sleep(0.001)
    begun = time.perf_counter()
    while process.poll() is None and number != signal.SIGKILL and stage == "train" and not run.steps():
        time.sleep(0.001)
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    after = time.perf_counter() - begun
    process.wait(timeout=300)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever it had started
    open_stages = [name for name, finished in run.stages().items() if not finished]
    return Hit(open_stages[-1] if open_stages else "none", round(after, 3), process.returncode, run.steps())


def disturbed(house: Path, name: str, stage: str, seconds: float, number: signal.Signals, rng: np.random.Generator) -> tuple[Run, Hit]:
    """A run that the signal hit in this stage: drawn anew, with a fresh folder, where the stage was over already."""
    for attempt in range(TRIES):
        run = Run(house, f"{name}-{attempt}")
        longest = seconds * (0.9 if number == signal.SIGKILL else 0.4) / (attempt + 1)
        hit = disturb(run, stage, float(rng.uniform(0, longest)), number)
        if hit.stage == stage:
            break
    return run, hit


def row(signal_name: str, hit: Hit, same: bool, again: float) -> dict[str, Any]:
    case: dict[str, Any] = {"signal": signal_name, "stage": hit.stage, "after_s": hit.after_s}
    if hit.stage == "train":
        case["step"] = hit.step
    return {"metric": "same_weights", "value": int(same), "unit": "1 = yes", "system": "rewarm", "case": case, "again_s": round(again, 1)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args().seed
    rng = np.random.default_rng(seed)
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory(prefix="rewarm-kill-") as folder:
        house = Path(folder)
        text = write_house(house)
        whole = Run(house, "whole")
        seconds = undisturbed(whole)
        expected = whole.hashes()
        print("undisturbed:", ", ".join(f"{stage} {s:.2f} s" for stage, s in seconds.items()), flush=True)
        jobs = [(stage, signal.SIGKILL) for stage in TARGETS]
        jobs += [("train", signal.SIGTERM), ("train", signal.SIGINT), ("vocab", signal.SIGTERM)]
        for i, (stage, number) in enumerate(jobs):
            run, hit = disturbed(house, f"{i}-{stage}", stage, seconds[stage], number, rng)
            clean = hit.code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
            if number != signal.SIGKILL and stage == "train":
                clean &= run.saved()
            again = run.finish()
            same = run.hashes() == expected
            wrong += not (same and clean and hit.stage == stage)
            rows.append(row(number.name, hit, same, again))
            told = f"{number.name:8} in {hit.stage:9} after {hit.after_s:6.3f} s, exit {hit.code:4}, again {again:5.1f} s"
            print(f"{told}: {'same weights' if same else 'OTHER WEIGHTS'}{'' if clean else ', NOT CLEAN'}", flush=True)
    save("kill", rows, text=text, seed=seed, sha256=expected, stage_seconds=seconds)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
