"""Characters are made equal, nothing else is touched, and doing it twice changes nothing."""

from __future__ import annotations

from collections import Counter
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.corpus.normalise import normalise
from rewarm.corpus.recipe import Normalise


def clean(text: str, unicode: str = "NFC") -> str:
    return normalise(text, Normalise(unicode=unicode), Counter())


@pytest.mark.parametrize(
    ("raw", "wanted", "kind"),
    [
        ("một\r\nhai\rba\u2028bốn\x0cnăm", "một\nhai\nba\nbốn\nnăm", "line_ends"),
        ("giá\u00a0100\u202f000", "giá 100 000", "no_break_spaces"),
        ("Vi\u200bệt\u00ad Na\ufeffm \u202anghĩa\u202c", "Việt Nam nghĩa", "invisible"),
        ("chữ\x00 và\x07 số\x85", "chữ và số", "control"),
        ("cuối dòng  \t\nhết ", "cuối dòng\nhết", "trailing_spaces"),
        ("đoạn một\n\n\n\nđoạn hai", "đoạn một\n\nđoạn hai", "blank_lines"),
        (normalize("NFD", "Tiếng Việt"), "Tiếng Việt", "nfc"),
    ],
)
def test_each_kind_of_dirt_goes_and_is_counted(raw, wanted, kind):
    """The report says what was changed; a kind that is not counted cannot be noticed."""
    counts: Counter[str] = Counter()
    assert normalise(raw, Normalise(), counts) == wanted
    assert counts[kind] > 0 and set(counts) == {kind}


def test_joiners_stay_where_a_script_needs_them_and_go_elsewhere():
    """Persian writes U+200C inside words, emoji are glued by U+200D; in Latin text both are left over from a web page."""
    assert clean("می\u200cخواهم") == "می\u200cخواهم"
    assert clean("gia đình 👨\u200d👩\u200d👧") == "gia đình 👨\u200d👩\u200d👧"
    assert clean("thương\u200c mại\u200d, お\u200c茶") == "thương mại, お茶"


def test_the_ideographic_space_stays_inside_a_line():
    assert clean("春は\u3000あけぼの\u3000\n") == "春は\u3000あけぼの"


def test_keep_leaves_decomposed_letters_alone():
    """`normalise.unicode` has an effect."""
    raw = normalize("NFD", "Tiếng Việt")
    assert clean(raw, "keep") == raw != clean(raw)


DIRT = st.text(st.sampled_from("aế e\u0301بb 0\n\r\t\x00\x0b\x85\u00a0\u00ad\u200b\u200c\u200d\u200e\u2028\u3000\ufeffか漢👩"), max_size=30)


@given(DIRT)
def test_cleaning_twice_is_cleaning_once(text):
    """Otherwise a corpus that is read back would get other hashes."""
    once = clean(text)
    assert clean(once) == once


@given(DIRT | st.text(max_size=40))
def test_the_letters_survive(text):
    """Only white space and what nobody sees may change."""

    def letters(some: str) -> list[str]:
        return [c for c in normalize("NFD", some) if c.isalnum()]

    assert letters(clean(text)) == letters(text)
