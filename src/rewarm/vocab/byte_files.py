"""The older files of a byte-level BPE tokenizer: vocab.json and merges.txt, read and compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from rewarm.errors import UserError

VERSION_LINE = "#version"


def read_merges_txt(file: Path) -> list[str]:
    """Lines of a merges.txt. Only a line that says `#version` is no merge: a first line of `# #` is one."""
    lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    return lines[1:] if lines and lines[0].startswith(VERSION_LINE) else lines


def has_old_files(folder: Path) -> bool:
    """Whether the folder holds both."""
    return (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


def spec_of_old_files(folder: Path) -> dict[str, Any]:
    """A tokenizer.json for a folder that has only vocab.json and merges.txt, as GPT-2's class would read it."""
    settings = json.loads(p.read_text(encoding="utf-8")) if (p := folder / "tokenizer_config.json").is_file() else {}
    kind = settings.get("tokenizer_class", "GPT2Tokenizer")
    if kind.removesuffix("Fast") not in ("GPT2Tokenizer", "PreTrainedTokenizer"):
        raise UserError(
            f"{kind} with only vocab.json and merges.txt: its pre-tokenizer is not written in the folder",
            where=str(folder),
            fix="save it in the fast format first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    texts = {**{str(i): t for i, t in (settings.get("added_tokens_decoder") or {}).items()}}
    for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if content in vocab and str(vocab[content]) not in texts:
            texts[str(vocab[content])] = {"content": content, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": int(i), **flags, **t} for i, t in sorted(texts.items(), key=lambda item: int(item[0]))]
    space = bool(settings.get("add_prefix_space", False))
    level = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
        "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": read_merges_txt(folder / "merges.txt"),
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
        "post_processor": None, "decoder": copy.deepcopy(level), "model": model,
    }  # fmt: skip


def contradictions(folder: Path, spec: dict[str, Any]) -> list[str]:
    """Contradictions inside the base, said before work. The extension follows tokenizer.json in each case."""
    if not ((folder / "tokenizer.json").is_file() and has_old_files(folder)):
        return []
    out = []
    model = spec["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if read_merges_txt(folder / "merges.txt") != merges:
        out.append("merges.txt of the base differs from its tokenizer.json; both are rewritten from tokenizer.json")
    listed = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added = {t["content"]: t["id"] for t in spec.get("added_tokens") or []}
    if {**listed, **added} != {**model["vocab"], **added}:
        out.append("vocab.json of the base differs from its tokenizer.json; both are rewritten from tokenizer.json")
    return out
