"""What memory the counting and merging of texts will take, told before it is taken.

Memory goes with the number of different words, and that depends on the language far more than on megabytes: Vietnamese syllables repeat,
Chinese has a new word in every sentence. So a sample is cut into words, and their growth is drawn on (Heaps' law: words ~ text ^ beta).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids
from rewarm.vocab.text import lines_of

SAMPLE_BYTES = 200_000
PROGRAM, PER_BYTE, PER_WORD, PER_WORD_AND_GROUP, PER_TOKEN = 240e6, 3.5, 380, 8, 90
"""Bytes of peak memory: for program and base, a byte of text, a different word, its count in one group, a token of a different word.
Fitted to runs over 69 MB of Vietnamese and English (0.68 GB) and 92 MB with Chinese, Japanese and Korean (1.7 GB)."""


@dataclass(frozen=True)
class Growth:
    """How many words a text has, judged by a sample."""

    bytes: int
    words: float
    tokens: float
    """Old tokens of the different words."""


def growth_of(pieces: Sequence[str], base: Base) -> Growth:
    """From about SAMPLE_BYTES of this text, taken evenly."""
    total = sum(len(piece.encode(errors="surrogatepass")) for piece in pieces)
    if not total:
        return Growth(0, 0.0, 0.0)
    share = min(1.0, SAMPLE_BYTES / total)
    lines = [line for i, line in enumerate(lines_of(pieces)) if int((i + 1) * share) > int(i * share)] or list(lines_of(pieces))[:1]
    words: set[str] = set()
    size = half = half_words = 0
    for i, line in enumerate(lines):
        if not half and i >= len(lines) // 2 and size:
            half, half_words = size, len(words)
        words.update(base.pretokens(line))
        size += len(line.encode(errors="surrogatepass"))
    beta = math.log(len(words) / half_words) / math.log(size / half) if half_words and size > half else 1.0
    found = len(words) * (total / size) ** min(1.0, max(0.5, beta))
    tokens = sum(map(len, encode_ids(base.bare, sorted(words)))) / max(1, len(words))
    return Growth(total, found, found * tokens)


def needed(groups: Iterable[Growth]) -> int:
    """Bytes of peak memory for these groups of text together."""
    groups = list(groups)
    words = sum(group.words for group in groups)
    text, tokens = sum(group.bytes for group in groups), sum(group.tokens for group in groups)
    return int(PROGRAM + PER_BYTE * text + words * (PER_WORD + PER_WORD_AND_GROUP * 2 * len(groups)) + PER_TOKEN * tokens)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this machine, or the container, has left; None where the system does not tell."""
    found = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        pass
    try:
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used = int((cgroup / "memory.current").read_text()) - int(stat.get("inactive_file", 0))  # the system gives those up when asked
        found.append(int((cgroup / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def check_memory(texts: Mapping[str, Sequence[str]], base: Base, free: int | None) -> str:
    """What it will take, for people. UserError with what would fit if that is more than is free."""
    groups = [growth_of(pieces, base) for pieces in texts.values()]
    need = needed(groups)
    said = f"memory: about {need / 1e9:.1f} GB for {sum(g.bytes for g in groups) / 1e6:,.0f} MB of text"
    if free is None:
        return said
    if need > free:
        share = max(0.0, (free - PROGRAM) / (need - PROGRAM))
        largest = max(g.bytes for g in groups) / 1e6
        raise UserError(
            f"{said}; {free / 1e9:.1f} GB are free",
            where="vocab.sample_mb",
            fix=f"set vocab.sample_mb: {max(1, int(0.9 * share * largest))}, or give the process more memory",
        )
    return f"{said}, {free / 1e9:.1f} GB are free"
