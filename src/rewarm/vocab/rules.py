"""What a new token may look like, and the guard that keeps old text's tokens as they are.

Both judge one merge at a time: the rules by the bytes of its result, the guard by how often the pair stands in the two kinds of text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rewarm.vocab.recipe import Rules

Refusal = Callable[[bytes], str | None]


def refusal_of(rules: Rules, added_texts: list[str]) -> Refusal:
    """A function from a token's bytes to the name of the first rule that it breaks, or None."""
    reserved = {text[i:j] for text in added_texts for i in range(len(text)) for j in range(i + 1, len(text) + 1)}

    def refusal(surface: bytes) -> str | None:
        if len(surface) > rules.max_bytes:
            return "max_bytes"
        try:
            text = surface.decode()
        except UnicodeDecodeError:
            return "character" if rules.character and not _part_of_one_character(surface) else None
        if len(text) > rules.max_chars:
            return "max_chars"
        if text.isspace():
            return "white space"
        if rules.digits == "never" and any(c.isdecimal() for c in text):
            return "digits"
        return "added token" if text in reserved else None

    return refusal


def _part_of_one_character(surface: bytes) -> bool:
    """Whether these bytes, which are no whole characters, lie inside one character, with at most a space before it."""
    body = surface.removeprefix(b" ")
    if not body:
        return False
    tail = body[1:]
    if any(byte & 0xC0 != 0x80 for byte in tail):
        return False
    lead = body[0]
    if lead & 0xC0 == 0x80:
        return len(body) <= 3 and len(body) == len(surface)
    need = 1 if 0xC2 <= lead <= 0xDF else 2 if 0xE0 <= lead <= 0xEF else 3 if 0xF0 <= lead <= 0xF4 else 0
    return len(tail) < need


@dataclass(frozen=True)
class Guard:
    """Refuses a pair whose rate in protected text is above tau times its rate in target text, for good.

    Rates (occurrences a byte), so the sizes of the two texts do not matter. Whoever scales the target's counts must scale `target_bytes`
    alike, or there is no guard. Exact: whole numbers and a fraction, no rounding.
    """

    tau: Fraction | None
    """None: no guard."""
    target_bytes: int
    protected_bytes: int

    @classmethod
    def of(cls, tau: float | str, target_bytes: int, protected_bytes: int) -> Guard:
        return cls(None if tau == "off" or not protected_bytes else Fraction(str(tau)), target_bytes, protected_bytes)

    def refuses(self, target: int, protected: int) -> bool:
        """Whether a pair with these (weighted) counts is banned."""
        if self.tau is None:
            return False
        return protected * self.target_bytes * self.tau.denominator > self.tau.numerator * target * self.protected_bytes
