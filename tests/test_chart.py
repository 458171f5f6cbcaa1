"""The plan's picture of the rate: the same curve in block characters and in ASCII."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console as RichConsole

from rewarm.chart import chart
from rewarm.console import Console
from rewarm.plan_show import can_show_blocks
from rewarm.train.recipe import SCHEDULE_FIELDS, TrainRecipe
from rewarm.train.schedule import lr_factor


def test_a_line_down_to_zero_is_drawn_in_eighths():
    """The whole picture, read by eye: 17 eighths of two lines, a step each."""
    assert chart([x / 16 for x in range(16, -1, -1)], ("step 0", "step 16"), blocks=True, rows=2) == [
        "    1 │█▇▆▅▄▃▂▁",
        "  0.5 │█████████▇▆▅▄▃▂▁",
        "    0 └─────────────────",
        "       step 0    step 16",
    ]


def test_a_terminal_of_ascii_gets_the_same_picture_of_letters():
    """Boxes in place of a curve would be worse than none."""
    lines = chart([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], ("0", "end"), blocks=False, rows=2)
    assert lines == ["  6 |#:.", "  3 |####:.", "  0 +-------", "     0   end"]
    assert all(line.isascii() for line in lines)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=60), st.booleans(), st.integers(1, 12))
def test_a_higher_value_never_has_a_lower_column(values, blocks, rows):
    """Otherwise the picture would show a fall that is none; and a value above 0 is never drawn as 0."""
    lines = chart(values, ("", ""), blocks=blocks, rows=rows)
    wall, order = ("│", " ▁▂▃▄▅▆▇█") if blocks else ("|", " .:#")
    drawn = [line.split(wall)[1].ljust(len(values)) for line in lines[:rows]]
    height = [sum(order.index(line[x]) for line in drawn) for x in range(len(values))]
    pairs = sorted(zip(values, height, strict=True))
    assert [h for _, h in pairs] == sorted(height)
    assert all((h > 0) == (value > 0) for value, h in pairs)


@pytest.mark.parametrize("schedule", SCHEDULE_FIELDS)
def test_every_schedule_fits_into_eight_lines_of_sixty_columns(schedule):
    """With both axes ten lines, at most 72 columns wide: no terminal wraps them."""
    cfg = TrainRecipe(schedule=schedule)
    lines = chart([6e-4 * lr_factor(x * 299 // 59, cfg, 300) for x in range(60)], ("step 0", "step 299"), blocks=True)
    assert len(lines) == 10 and max(map(len, lines)) <= 72
    assert lines[0].startswith("  0.0006 │") and lines[4].startswith("  0.0003 │") and lines[8].startswith("       0 └")
    assert "█" in lines[0] and lines[9].endswith("step 299")


@pytest.mark.parametrize(
    ("encoding", "blocks"), [("utf-8", True), ("UTF8", True), ("ascii", False), ("iso-8859-1", False), ("cp1252", False)]
)
def test_blocks_are_only_for_terminals_that_know_them(encoding, blocks):
    """Elsewhere printing one would end the command with an error."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert can_show_blocks(Console(RichConsole(file=out))) is blocks
