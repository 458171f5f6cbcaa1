"""Bytes and the letters that stand for them in a byte-level vocabulary (the table that GPT-2 introduced)."""

from __future__ import annotations


def _byte_letters() -> dict[int, str]:
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {byte: chr(byte) for byte in plain}
    for n, byte in enumerate(b for b in range(256) if b not in letters):
        letters[byte] = chr(256 + n)
    return letters


LETTER_OF_BYTE = _byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}


def to_letters(surface: bytes) -> str:
    """The bytes as a byte-level vocabulary writes them: `" xin"` is `Ġxin`."""
    return "".join(LETTER_OF_BYTE[byte] for byte in surface)


def to_bytes(letters: str) -> bytes | None:
    """The bytes behind a byte-level string; None if a character of it stands for no byte (control tokens of some bases)."""
    try:
        return bytes(BYTE_OF_LETTER[letter] for letter in letters)
    except KeyError:
        return None
