"""Proves that an exported folder is read the same way by others: transformers alone and tokenizers alone, each in a process of its own.

A folder counts only if another program reads it as we do. A fresh process sees what a user's sees: no class that we imported, no cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewarm.errors import MachineError

LINES = (
    "你好很高兴见到你",
    "こんにちは、初めまして！",
    "안녕하세요, 만나서 반갑습니다!",
    "Xin chào, rất vui được gặp bạn!",
    "Điều 1. Phạm vi điều chỉnh",
    "Người nào vi phạm thì bị phạt tiền từ 5.000.000 đồng đến 50.000.000 đồng hoặc phạt tù từ 06 tháng đến 03 năm.",
    "Chữ hoa: ĐƯỜNG PHỐ; dấu: hoà, hòa, khỏe, khoẻ; số: 1234567890.",
    "  Two blanks, a\ttab, a new line\nand 12,345.678 digits; l'été, naïve.",
    "👋🏽 emoji, 👩‍👩‍👧 joined ones, ﬁ ligature, ½, Ω",
)
"""Text in the scripts and with the odd signs that wrong exports change."""


@dataclass(frozen=True, slots=True)
class Findings:
    """lines: read. changed: those that do not come back from their ids as they were. continuation: after `prompt`. ends: ids that stop."""

    lines: int
    changed: tuple[str, ...]
    prompt: str
    continuation: str
    ends: tuple[int, ...]
    rows: int
    largest_id: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "changed": list(self.changed), "ends": list(self.ends)}


def check_hf(folder: Path, lines: tuple[str, ...] = LINES, prompt: str = "Điều 1.", tokens: int = 16) -> Findings:
    """Reads `folder` in two fresh processes. Raises MachineError, with what differs, if

    ids differ between the two, an id has no row, a weight is missing or left over, logits are not finite, nothing is generated, an end of
    generation_config.json does not arrive, or a tokenizer that has every byte does not give a line back exactly. Lines that another kind of
    tokenizer changes (it lower-cases, composes, or lacks bytes) are returned in `changed`.
    """
    asked = json.dumps({"lines": list(lines), "prompt": prompt, "tokens": tokens})
    alone, full = _ask(("tokenizers", "transformers"), folder, asked)
    for i, line in enumerate(lines):
        if alone["ids"][i] != full["ids"][i]:
            raise _wrong(folder, f"transformers and tokenizers read {line!r} as other ids:\n{full['ids'][i]}\n{alone['ids'][i]}")
        if alone["decoded"][i] != full["decoded"][i]:
            raise _wrong(folder, f"transformers and tokenizers write {line!r} otherwise:\n{full['decoded'][i]}\n{alone['decoded'][i]}")
    largest = max(max(ids, default=0) for ids in full["ids"])
    written = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id") or []
    problems = [
        (full["missing"], f"weights are missing: {', '.join(full['missing'][:3])}"),
        (full["unexpected"], f"weights belong to nothing: {', '.join(full['unexpected'][:3])}"),
        (largest >= full["rows"], f"id {largest:,} has no row: there are {full['rows']:,}"),
        (not full["finite"], "the logits are not finite"),
        (not full["tokens_written"], f"nothing is generated after {prompt!r}"),
        (set(written) != set(full["ends"]), f"ends are {full['ends']}, generation_config.json says {written}"),
        (not (alone["alone"] and full["alone"]), "the reading process had loaded more than it should"),
    ]
    for found, text in problems:
        if found:
            raise _wrong(folder, text)
    changed = tuple(line for line, back in zip(lines, alone["decoded"]) if back != line)
    if changed and _has_every_byte(folder):
        raise _wrong(folder, f"{changed[0]!r} comes back changed, although the tokenizer has every byte")
    return Findings(len(lines), changed, prompt, full["continuation"], tuple(full["ends"]), full["rows"], largest)


def _wrong(folder: Path, text: str) -> MachineError:
    return MachineError(
        f"the exported folder is not read as it should be: {text}", where=str(folder), fix="this is a fault of rewarm: report it"
    )


def _has_every_byte(folder: Path) -> bool:
    """Whether this is a byte-level BPE with all 256 bytes and no normaliser: then every text must survive."""
    from tokenizers import pre_tokenizers

    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if tree["model"].get("type") != "BPE" or tree.get("normalizer") or (tree.get("decoder") or {}).get("type") != "ByteLevel":
        return False
    return set(pre_tokenizers.ByteLevel.alphabet()) <= set(tree["model"]["vocab"])


def _ask(kinds: tuple[str, ...], folder: Path, asked: str) -> list[dict[str, Any]]:
    """probe.py's answers, each from a process that knows no hub, no rewarm and no path of ours (-P keeps this folder off sys.path)."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONIOENCODING": "utf-8"}

    def run(kind: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", str(Path(__file__).with_name("probe.py")), kind, str(folder)]
        return subprocess.run(command, input=asked, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)

    with ThreadPoolExecutor(len(kinds)) as threads:
        answers = []
        for kind, done in zip(kinds, list(threads.map(run, kinds))):
            if done.returncode != 0:
                last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no message"]
                raise _wrong(folder, f"{kind} alone cannot read it: {last[0]}")
            answers.append(json.loads(done.stdout))
    return answers
