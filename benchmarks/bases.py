"""The tokenizers that the vocabulary benchmark extends, and the peers it is compared with, out of packages on the index.

    python benchmarks/bases.py CACHE

writes CACHE/bases/<name>/ (a tokenizer in Hugging Face form and a model of width 8, so that every command works on the folder) and
CACHE/peers/ (packages that are imported by peers' processes only). Only pip touches the network; each file's sha256 is checked.

All six are real. SmolLM2 is the demo's base. The others are the vocabulary files that llama.cpp tests its tokenizers with, as the source
archive of `llama-cpp-python` carries them: GPT-2, Llama-3, Qwen2, Gemma 4 (byte pairs over characters, the pieces of Gemma 3) and Llama-2
(SentencePiece with its scores). The two `.model` files are rebuilt piece by piece, and must give the ids of the tokenizer.json. Beside each
file lie 46 unkind texts with the ids that the original tokenizer gives: a base that does not give them all is not used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from sp_files import bpe_merges, scores_of_merges, sentencepiece_model
from tokenizers import Tokenizer

ARCHIVE = ("llama-cpp-python", "0.3.36", ("832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",))
PEERS = (
    ("bpe-continue", "0.1.0", ("1d848f076cc2503645ecec080cd9b0e59dae5c97bdc6eb79b924adfa40ce89d8",)),
    ("fastokens", "0.3.5", ("e1cd218c61dacc3f30228c67a4d26d498076b6e9a5b30d89a09109ca06f1480a",)),
    (
        "gigabpe",
        "0.1.0",
        (
            "32958a5e0e54a267d1147eb18a5ff5507becd63cb0ef5b99520a674ac7f30130",  # CPython 3.11, 3.12, 3.13, Linux x86-64
            "450ed0697e9a3b68b6b9df21875fa8a48b9502e780193e6e6997e32d88b8224b",
            "85585e7ed344bff59e35f888f0ea17f0f4b4126a48a1d10bd03eafe1fdbc97e7",
        ),
    ),
    (
        "sentencepiece",
        "0.2.3",
        (
            "141dc0bef1e28a5cf7e41c8354ad6cc14525758278045286dcb5429b9906d39f",
            "cc3189b79c1ffda767f71b04238c27ac746f3b7abc263eab9a41c4cf46aee49e",
            "4d82f2a0f704f5d0cf027bc8cc5ad49e23c11a9cc0b5bd08ca51985917963bf5",
        ),
    ),
)
FILES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen": "qwen2", "gemma": "gemma-4", "llama2": "llama-spm"}
NAMES = ("smollm2", *FILES)
SENTENCEPIECE = ("gemma", "llama2")
SOURCES = {
    "smollm2": "The tokenizer of SmolLM2-135M-Instruct, from the demo's base: byte-level BPE, digits apart, 21 bytes missing.",
    "gpt2": "OpenAI's own pieces and merges: byte-level BPE, with `vocab.json` and `merges.txt`.",
    "llama3": "Meta's own: byte-level BPE with `ignore_merges`, 256 added tokens outside of the vocabulary.",
    "qwen": "Qwen2's own: byte-level BPE, NFC, digits apart, 151,936 rows for 151,646 tokens.",
    "gemma": "Gemma 4's own pieces and merges (the pieces are those of Gemma 3 but for control tokens): SentencePiece BPE without dummy "
    "prefix; `tokenizer.model` rebuilt with scores from the merges.",
    "llama2": "Llama-2's own pieces and scores: SentencePiece BPE with dummy prefix; `tokenizer.json` has every split of every piece.",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # token types of a GGUF file

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def fetch(package: tuple[str, str, tuple[str, ...]], into: Path) -> Path:
    """The package's file from the index, by pip; SystemExit if its sha256 is none of the pinned ones."""
    name, version, hashes = package
    into.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_")
    if not (found := sorted(into.glob(f"{stem}-{version}*"))):
        print(f"fetching {name} {version}")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", str(into)]
        subprocess.run([*command, f"{name}=={version}"], check=True)
        found = sorted(into.glob(f"{stem}-{version}*"))
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest not in hashes:
        raise SystemExit(f"{found[0].name} has sha256 {digest}, which is not a pinned one: the benchmark is not run with it")
    return found[0]


def peers(cache: Path) -> Path:
    """The folder of the unpacked peers; to be put on `sys.path` of a peer's process only."""
    folder = cache / "peers"
    for package in PEERS:
        if not any(folder.glob(f"{package[0].replace('-', '_')}-{package[1]}*")):
            with zipfile.ZipFile(fetch(package, cache / "packages")) as wheel:
                wheel.extractall(folder)
    return folder


def read_gguf(path: Path) -> dict[str, Any]:
    """Key -> value of the tokenizer's keys."""
    from gguf import GGUFReader

    return {key.removeprefix("tokenizer.ggml."): f.contents() for key, f in GGUFReader(path).fields.items() if key.startswith("tokenizer.")}


def spec_of(name: str, meta: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json as the model's makers publish it: split, normalizer, notation of the merges, place of the added tokens."""
    tokens, kinds = meta["tokens"], meta["token_type"]
    merges = meta.get("merges")
    added = [i for i, k in enumerate(kinds) if k in (UNKNOWN, CONTROL, USER_DEFINED) and not tokens[i].startswith("[PAD")]
    inside = name in ("gpt2", "gemma", "llama2")
    padding = {i for i, t in enumerate(tokens) if t.startswith("[PAD") and kinds[i] == USER_DEFINED}
    vocab = {t: i for i, t in enumerate(tokens) if i not in padding and (inside or i not in added)}
    model: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": name == "llama3", "vocab": vocab, "merges": merges,
    }  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    normalizer, splits, decoder = None, level, dict(level)
    if name in ("llama3", "qwen"):
        pattern = _WORDS % ("{1,3}" if name == "llama3" else "")
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        splits = {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}
        normalizer = {"type": "NFC"} if name == "qwen" else None
    if name in SENTENCEPIECE:
        model |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        to_blank: dict[str, Any] = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
        to_mark: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        steps: list[dict[str, Any]] = [to_blank, {"type": "ByteFallback"}, {"type": "Fuse"}]
        if name == "gemma":
            model["merges"] = [m.split(" ", 1) for m in merges]
            normalizer = to_mark
            splits = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        else:
            model["merges"] = [f"{a} {b}" for a, b in bpe_merges(tokens, meta["scores"], kinds)]
            normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, to_mark]}
            splits = None
            steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        decoder = {"type": "Sequence", "decoders": steps}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags, "special": kinds[i] != USER_DEFINED} for i in added],
        "normalizer": normalizer, "pre_tokenizer": splits, "post_processor": None, "decoder": decoder, "model": model,
    }  # fmt: skip


def check(spec: dict[str, Any], inputs: Path) -> int:
    """How many of llama.cpp's texts were encoded to the published ids; SystemExit on the first that is not."""
    texts = inputs.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = [[int(i) for i in line.split()] for line in inputs.with_suffix(".out").read_text(encoding="utf-8").split("\n")]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    for text, ids in zip(texts, wanted):
        if (got := tokenizer.encode(text, add_special_tokens=False).ids) != ids:
            raise SystemExit(f"{inputs.name}: {text!r} gives {got}, expected {ids}")
    return len(texts)


def write_sentencepiece(folder: Path, name: str, meta: dict[str, Any], spec: dict[str, Any], inputs: Path, packages: Path) -> None:
    """tokenizer.model: its own scores for Llama-2, scores from the merges for Gemma; SystemExit if it gives other ids."""
    sys.path.append(str(packages))
    import sentencepiece

    tokens = meta["tokens"]
    scores = meta["scores"] if name == "llama2" else scores_of_merges(tokens, [(a, b) for a, b in spec["model"]["merges"]])
    unk, bos, eos = (meta[f"{key}_token_id"] for key in ("unknown", "bos", "eos"))
    model = sentencepiece_model(tokens, scores, meta["token_type"], name == "llama2", unk, bos, eos)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    for text in inputs.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n"):
        if "\0" not in text and processor.encode(text) != tokenizer.encode(text, add_special_tokens=False).ids:
            raise SystemExit(f"{name}: tokenizer.model and tokenizer.json differ on {text!r}")


def write_model(folder: Path, rows: int, settings: dict[str, Any]) -> None:
    """A model of width 8 beside the tokenizer: the benchmark measures tokenizers, but the commands want a whole folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, tie_word_embeddings=True
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **settings}, indent=2))


def build(name: str, archive: Path, out: Path) -> None:
    """One base folder from the source archive."""
    with tarfile.open(archive) as tar:
        stem = f"ggml-vocab-{FILES[name]}.gguf"
        wanted = [m for m in tar.getmembers() if Path(m.name).name in (stem, f"{stem}.inp", f"{stem}.out")]
        raw = out.with_name(f"{out.name}.raw")
        tar.extractall(raw, members=wanted, filter="data")
    source = next(raw.rglob(stem))
    meta = read_gguf(source)
    spec = spec_of(name, meta)
    texts = check(spec, source.with_name(f"{stem}.inp"))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=2), encoding="utf-8")
    if name == "gpt2":
        (part / "vocab.json").write_text(json.dumps(spec["model"]["vocab"], ensure_ascii=False), encoding="utf-8")
        (part / "merges.txt").write_text("\n".join(["#version: 0.2", *spec["model"]["merges"], ""]), encoding="utf-8")
    if name in SENTENCEPIECE:
        write_sentencepiece(part, name, meta, spec, source.with_name(f"{stem}.inp"), peers(out.parent.parent))
    ends = {key: meta["tokens"][meta[f"{part_of}_token_id"]] for key, part_of in (("bos_token", "bos"), ("eos_token", "eos"))}
    write_model(part, len(meta["tokens"]), ends)
    shutil.rmtree(raw)
    part.rename(out)
    print(f"{name}: {len(spec['model']['vocab']):,} pieces, {len(spec['added_tokens'])} added tokens; all {texts} test texts agree")


def smollm2(cache: Path, out: Path) -> None:
    """The demo's base, its model replaced by the small one."""
    from rewarm.demo.assets import fetch as demo_files
    from rewarm.model.gguf_base import convert_gguf
    from rewarm.progress import Silent

    whole = cache / "smollm2-model"
    convert_gguf(demo_files(None, Silent()).base, whole, Silent())
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(whole / "tokenizer.json", part / "tokenizer.json")
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    write_model(part, config["vocab_size"], {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    part.rename(out)
    print("smollm2: the demo's base")


def ensure(cache: Path, names: tuple[str, ...] = NAMES) -> dict[str, Path]:
    """Name -> folder of each base, made where it is not there yet."""
    folder = cache / "bases"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        out = folder / name
        if out.is_dir():
            continue
        if name == "smollm2":
            smollm2(cache, out)
        else:
            build(name, fetch(ARCHIVE, cache / "packages"), out)
    return {name: folder / name for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder to keep packages, bases and peers in")
    parser.add_argument("--bases", nargs="*", default=list(NAMES), choices=NAMES)
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    ensure(args.cache, tuple(args.bases))
    peers(args.cache)


if __name__ == "__main__":
    main()
