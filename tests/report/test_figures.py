"""How numbers and foreign text are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.report import figures


@pytest.mark.parametrize(
    "written, expected",
    [
        (figures.count(50599), "50,599"),
        (figures.digits(1.01869), "1.019"),
        (figures.signed(-0.37693), "\N{MINUS SIGN}0.3769"),
        (figures.signed(0.00001), "0.0000"),
        (figures.signed(-0.00001), "0.0000"),
        (figures.percent(-0.27, sign=True), "\N{MINUS SIGN}27.0\N{NO-BREAK SPACE}%"),
        (figures.megabytes(2316062), "2.32\N{NO-BREAK SPACE}MB"),
        (figures.megabytes(21845), "21.8\N{NO-BREAK SPACE}KB"),
        (figures.duration(301.68), "5.0 minutes"),
        (figures.duration(9.96), "10.0 seconds"),
        (figures.duration(36000), "10.0 hours"),
        (figures.several(1, "document"), "1 document"),
        (figures.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_figures_are_written_for_people(written, expected):
    assert written == expected


@pytest.mark.parametrize("value", [None, "nan", math.nan, math.inf, True])
def test_what_is_no_number_is_said_to_be_not_measured(value):
    """A zero in its place would be read as a measurement."""
    for write in (figures.count, figures.digits, figures.signed, figures.percent, figures.megabytes, figures.duration):
        assert write(value) == "not measured"


@given(st.text(alphabet=st.characters()))
def test_visible_text_has_nothing_hidden_and_can_be_written(text):
    """Direction marks, controls and lone surrogates are spelled out; a second pass changes nothing."""
    shown = figures.visible(text)
    assert not set(shown) & {"\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\x7f", "\x85", "\ufeff"}
    shown.encode()
    assert figures.visible(shown) == shown


def test_plain_text_in_any_script_is_left_as_it_is():
    for text in ("Điều 1.\n\tPhạm vi", "人人生而自由", "न\u200dम\u200cस्ते", "👩\u200d🚀", "مرحبا", "e\u0301"):
        assert figures.visible(text) == text
