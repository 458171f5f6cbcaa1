"""One extension by one system, in a process of its own: `python vocab_systems.py '<job as JSON>'`; prints what it made as JSON.

rewarm        the stage that `rewarm vocab` runs, gate and rows included, at its defaults but for the size
add_tokens    the strings of rewarm's new tokens handed to `Tokenizer.add_tokens`
fresh_bpe     Hugging Face's BpeTrainer on the target text, its tokens and its own merges appended to the base's
score0        SentencePiece trained on the target text, its pieces appended to the base's `.model` with score 0 (SentencePiece bases only)
bpe_continue  the package of that name; no guard, so it reads no protected text

Each reads the text from disk inside its time and ends with its file written. Imports are not timed. Peers that take files get plain text
files, prepared before, one document after the other.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

STAGE = "vocab"
PEER_CPU_SECONDS = 600
"""A peer that needs more is ended, and its row says so: without a pre-tokenizer some take whole lines for words."""


class Clock:
    """Wall seconds, and CPU seconds of this process and its ended children, since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.cpu = self._cpu()

    @staticmethod
    def _cpu() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(r.ru_utime + r.ru_stime for r in both)

    def read(self) -> dict[str, float]:
        return {"seconds": round(time.perf_counter() - self.start, 2), "cpu_seconds": round(self._cpu() - self.cpu, 2)}


class Marks:
    """A reporter that notes when the tokenizer is written and its checks begin."""

    def __init__(self, clock: Clock) -> None:
        from rewarm.progress import Silent

        self.clock, self.silent = clock, Silent()
        self.lines, self.bar = self.silent.lines, self.silent.bar
        self.written: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)
        if "checking the tokenizer" in text and not self.written:
            self.written = self.clock.read()

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


def next_id(spec: dict[str, Any]) -> int:
    """First id that no token of this tokenizer.json has."""
    return 1 + max([*spec["model"]["vocab"].values(), *(t["id"] for t in spec.get("added_tokens") or [])])


def appended(spec: dict[str, Any], tokens: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """The base's tokenizer.json with tokens and merges behind its own; added tokens are folded in, or the library would renumber them."""
    vocab = dict(spec["model"]["vocab"])
    for token in spec.get("added_tokens") or []:
        vocab.setdefault(token["content"], token["id"])
    start = next_id(spec)
    vocab |= {token: start + i for i, token in enumerate(tokens)}
    old = spec["model"]["merges"]
    new = [list(m) for m in merges] if old and not isinstance(old[0], str) else [" ".join(m) for m in merges]
    return {**spec, "model": {**spec["model"], "vocab": vocab, "merges": [*old, *new]}}


def rewarm(job: dict[str, Any]) -> dict[str, Any]:
    from rewarm.errors import UserError
    from rewarm.vocab.recipe import VocabRecipe
    from rewarm.vocab.stage import vocab_stage

    cfg = VocabRecipe(extend=True, size=job["new"], **{"check_bits": False, **job.get("settings", {})})  # a model of width 8 and no use
    targets = {language: [Path(p) for p in paths] for language, paths in job["targets"].items()}
    out = Path(job["out"]) / job.get("stage", STAGE)  # beside it the cache of counts, which a fresh job folder does not have
    clock = Clock()
    marks = Marks(clock)
    try:
        vocab_stage(cfg, Path(job["base"]), targets, [Path(p) for p in job["protect"]], {}, None, out, marks)
    except UserError as error:
        return {**clock.read(), "refused": error.render()}
    return {**clock.read(), "written": marks.written, "file": str(out / "model" / "tokenizer.json"), "said": marks.lines}


def add_tokens(job: dict[str, Any]) -> dict[str, Any]:
    record = json.loads((Path(job["rewarm"]) / STAGE / "extension.json").read_text(encoding="utf-8"))
    strings = [t["surface"]["str"] for t in record["tokens"] if "str" in t["surface"]]
    clock = Clock()
    tokenizer = Tokenizer.from_file(str(Path(job["base"]) / "tokenizer.json"))
    added = tokenizer.add_tokens(strings)
    return {**save(tokenizer.to_str(), job, clock), "added": added, "no_text": len(record["tokens"]) - len(strings)}


def fresh_bpe(job: dict[str, Any]) -> dict[str, Any]:
    from tokenizers import models, pre_tokenizers, trainers

    spec = json.loads((Path(job["base"]) / "tokenizer.json").read_text(encoding="utf-8"))
    clock = Clock()
    base = Tokenizer.from_file(str(Path(job["base"]) / "tokenizer.json"))
    fresh = Tokenizer(models.BPE())
    if base.normalizer is not None:
        fresh.normalizer = base.normalizer
    by_bytes = "ByteLevel" in json.dumps(spec["pre_tokenizer"])
    fresh.pre_tokenizer = base.pre_tokenizer if by_bytes else pre_tokenizers.Metaspace(prepend_scheme="never")
    have, size = set(base.get_vocab(with_added_tokens=True)), job["new"] + 8_000
    while True:
        fresh.train(job["files"], trainers.BpeTrainer(vocab_size=size, show_progress=False))
        model = json.loads(fresh.to_str())["model"]
        order = sorted(model["vocab"], key=model["vocab"].__getitem__)
        new = [token for token in order if token not in have][: job["new"]]
        if len(new) == job["new"] or len(order) < size:
            break
        size += 8_000
    kept = have | set(new)
    known = {tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in spec["model"]["merges"]}
    pairs = [tuple(m) for m in model["merges"]]
    merges = [(a, b) for a, b in pairs if (a, b) not in known and a in kept and b in kept and a + b in kept]
    return save(json.dumps(appended(spec, new, merges), ensure_ascii=False), job, clock)


def score0(job: dict[str, Any]) -> dict[str, Any]:
    import sentencepiece
    from sp_files import number, piece_block, read_pieces

    raw = (Path(job["base"]) / "tokenizer.model").read_bytes()
    spec = json.loads((Path(job["base"]) / "tokenizer.json").read_text(encoding="utf-8"))
    have = set(spec["model"]["vocab"]) | {t["content"] for t in spec["added_tokens"]}
    clock = Clock()
    prefix = Path(job["out"]) / "target"
    size = job["new"] + 8_000
    while True:
        sentencepiece.SentencePieceTrainer.train(
            input=job["files"], model_prefix=str(prefix), model_type="bpe", vocab_size=size, character_coverage=0.9998,
            byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            max_sentence_length=1 << 20, hard_vocab_limit=False, num_threads=2, minloglevel=2,
        )  # fmt: skip
        pieces = read_pieces(prefix.with_suffix(".model").read_bytes())
        new = [piece for piece, kind in pieces if kind == 1 and piece not in have][: job["new"]]
        if len(new) == job["new"] or len(pieces) < size:
            break
        size += 8_000
    # A repeated field may follow others, and a second trainer_spec is merged into the first: appending bytes is enough.
    trainer = number(4, next_id(spec) + len(new))
    file = Path(job["out"]) / "tokenizer.model"
    file.write_bytes(raw + b"".join(piece_block(piece, 0.0, 1) for piece in new) + b"\x12" + bytes([len(trainer)]) + trainer)
    return {**clock.read(), "file": str(file)}


def bpe_continue(job: dict[str, Any]) -> dict[str, Any]:
    from bpe_continue import continue_training

    spec = json.loads((Path(job["base"]) / "tokenizer.json").read_text(encoding="utf-8"))
    have = len({*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])})
    clock = Clock()
    base = str(Path(job["base"]) / "tokenizer.json")
    extended = continue_training(base, files=job["files"], vocab_size=have + job["new"], show_progress=False)
    return save(extended.to_str(), job, clock)


def hf_trainer(job: dict[str, Any]) -> dict[str, Any]:
    """A fresh byte-level BPE by the tokenizers library."""
    from tokenizers import models, pre_tokenizers, trainers

    clock = Clock()
    fresh = Tokenizer(models.BPE())
    fresh.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fresh.train(job["files"], trainers.BpeTrainer(vocab_size=job["size"], initial_alphabet=alphabet, show_progress=False))
    return save(fresh.to_str(), job, clock)


def gigabpe(job: dict[str, Any]) -> dict[str, Any]:
    """A fresh byte-level BPE by the package gigabpe."""
    import gigabpe as peer

    clock = Clock()
    file = Path(job["out"]) / "tokenizer.json"
    peer.train_tokenizer(job["files"], vocab_size=job["size"], output=str(file), pretokenizer="bytelevel")
    return {**clock.read(), "file": str(file)}


def save(text: str, job: dict[str, Any], clock: Clock) -> dict[str, Any]:
    file = Path(job["out"]) / "tokenizer.json"
    file.write_text(text, encoding="utf-8")
    return {**clock.read(), "file": str(file)}


SYSTEMS = {f.__name__: f for f in (rewarm, add_tokens, fresh_bpe, score0, bpe_continue, hf_trainer, gigabpe)}


def main() -> None:
    job = json.loads(sys.argv[1])
    if job["system"] != "rewarm":
        sys.path.append(job["peers"])
        resource.setrlimit(resource.RLIMIT_CPU, (PEER_CPU_SECONDS, PEER_CPU_SECONDS))
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    try:
        made = SYSTEMS[job["system"]](job)
    except Exception as error:  # a peer that fails is a result
        if job["system"] == "rewarm":
            raise
        made = {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
    print(json.dumps({**made, "own_peak": own_peak()}))


def own_peak() -> int:
    """Most bytes that this process held; `ru_maxrss` will not do, it begins with what the parent held when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
