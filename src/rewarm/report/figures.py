"""How numbers and foreign text are written on the page, the same in tables, sentences and plots."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
JOINED = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that no line ends there."""
_SHOWN_AS_CODES = frozenset(
    [*range(0x200E, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0x00AD, 0x061C, 0x180E, 0x200B, 0xFEFF, *range(0xFFF9, 0xFFFC)]
)
"""Characters that turn, hide or break other text: directions, separators, invisible ones."""


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None: files hold null or "nan" where a step was left out."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def count(value: Any) -> str:
    """`50,599`."""
    found = number(value)
    return NOT_MEASURED if found is None else f"{found:,.0f}"


def digits(value: Any, places: int = 3) -> str:
    """`1.019`; a minus is a real minus."""
    found = number(value)
    return NOT_MEASURED if found is None else f"{found:,.{places}f}".replace("-", MINUS)


def signed(value: Any, places: int = 4) -> str:
    """`+0.0046`, `-0.3769` with a real minus; a zero has no sign."""
    found = number(value)
    if found is None:
        return NOT_MEASURED
    text = f"{found:+,.{places}f}"
    return text[1:] if not text.strip("+-0.,") else text.replace("-", MINUS)


def percent(share: Any, places: int = 1, sign: bool = False) -> str:
    """`27.0 %` from 0.27."""
    found = number(share)
    if found is None:
        return NOT_MEASURED
    return (signed(100 * found, places) if sign else digits(100 * found, places)) + f"{JOINED}%"


def megabytes(size: Any) -> str:
    """`2.32 MB`, `21.8 KB`: a million or a thousand bytes."""
    found = number(size)
    if found is None:
        return NOT_MEASURED
    return f"{found / 1e6:,.2f}{JOINED}MB" if found >= 1e5 else f"{found / 1e3:,.1f}{JOINED}KB"


def duration(seconds: Any) -> str:
    """`94 seconds`, `5.0 minutes`, `3.2 hours`."""
    found = number(seconds)
    if found is None:
        return NOT_MEASURED
    if found < 100:
        return f"{found:.0f} seconds" if found >= 10 else f"{found:.1f} seconds"
    return f"{found / 60:.1f} minutes" if found < 7200 else f"{found / 3600:.1f} hours"


def several(amount: int, one: str, many: str | None = None) -> str:
    """`1 document`, `16 documents`."""
    return f"{amount:,} {one if amount == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def cut(text: str, most: int) -> str:
    """At most `most` characters of a text, with a sign where it was cut."""
    return text if len(text) <= most else text[:most] + "…"


def visible(value: Any) -> str:
    """Text in which nothing hides: control, direction and invisible characters and lone surrogates become `<U+202E>`.

    Newline and tab stay; so do the joiners that emoji and Indic scripts need. It is still to be escaped for HTML.
    """
    text = str(value).replace("\r\n", "\n")
    return "".join(f"<U+{ord(c):04X}>" if _hides(c) else c for c in text)


def _hides(character: str) -> bool:
    if character in "\n\t" or " " <= character <= "~":
        return False
    code = ord(character)
    return code in _SHOWN_AS_CODES or 0xE0000 <= code <= 0xE007F or unicodedata.category(character) in ("Cc", "Cs")
