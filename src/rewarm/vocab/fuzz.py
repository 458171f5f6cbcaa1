"""The text the gate encodes: real lines, all of Unicode, and short strings put together to be unkind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewarm.vocab.base import Base


@dataclass(frozen=True)
class GateTexts:
    """The text the gate encodes: held-out target text, and protected text that was set aside before counting."""

    target: list[str]
    protected: list[str]
    """Lines; empty where there is no protected text: invariant 4 is then not measured."""


def all_characters() -> list[str]:
    """The 1,112,064 Unicode code points that text can hold."""
    return [chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000]


def fuzz(texts: GateTexts, base: Base, seed: int, number: int) -> list[str]:
    """`number` short strings: pieces of the texts, random code points, blanks, digits, emoji, decomposed letters, added tokens."""
    rng = np.random.default_rng(seed)
    lines = [line for line in [*texts.target, *texts.protected] if line.strip()][:5_000] or ["Xin chào, rất vui được gặp bạn! 你好 안녕"]
    odd = [
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "0",
        "1234",
        "9.5%",
        "😀",
        "👩‍👩‍👧",
        "e\u0301",
        "ệ",
        "ệ",
        "한",
        "を",
        "中",
        "'s",
        "don't",
        "\u200b",
        "\u00a0",
    ]
    odd += [t["content"] for t in base.added[:50]]
    planes = [
        (0x20, 0x7F),
        (0xA0, 0x250),
        (0x370, 0x530),
        (0x600, 0x700),
        (0xE00, 0xE80),
        (0x1E00, 0x2000),
        (0x3040, 0x3100),
        (0x4E00, 0x9FFF),
    ]
    planes += [(0xAC00, 0xD7A3), (0x1F300, 0x1F700), (0x1, 0xD7FF), (0x10000, 0x10FFFF)]
    out = []
    for parts in rng.integers(1, 7, size=number):
        text = []
        for kind, a, b in rng.integers(0, 1 << 30, size=(parts, 3)).tolist():
            if kind % 3 == 0:
                line = lines[a % len(lines)]
                start = b % len(line)
                text.append(line[start : start + 1 + kind // 3 % 12])
            elif kind % 3 == 1:
                low, high = planes[a % len(planes)]
                text.append("".join(chr(low + (b * (i + 1)) % (high - low)) for i in range(1 + kind // 3 % 3)))
            else:
                text.append(odd[a % len(odd)])
        out.append("".join(c for c in "".join(text) if not 0xD800 <= ord(c) < 0xE000))
    return out
