"""A curve as text: filled columns of block characters, or of plain letters where a terminal knows no others."""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 8
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII = " .:#"


def chart(values: Sequence[float], ends: tuple[str, str], *, blocks: bool, rows: int = ROWS) -> list[str]:
    """The lines of a chart, a column a value, from 0 at the bottom to the largest value at the top, with labels on both axes.

    values: not negative. ends: labels of the first and the last column. blocks: eighths of a line, else thirds, in ASCII. A value above 0
    shows at least the smallest mark, so that 0 can be told from it.
    """
    marks = BLOCKS if blocks else ASCII
    parts = len(marks) - 1
    top = max(values, default=0.0)
    heights = [max(round(value / top * rows * parts), value > 0) if top > 0 else 0 for value in values]
    labels = {rows - 1: f"{top:.2g}", rows // 2 - 1: f"{top / 2:.2g}"}
    width = max(len(label) for label in [*labels.values(), "0"])
    wall, corner, floor = ("│", "└", "─") if blocks else ("|", "+", "-")
    lines = []
    for row in reversed(range(rows)):
        columns = "".join(marks[min(max(height - row * parts, 0), parts)] for height in heights)
        lines.append(f"  {labels.get(row, ''):>{width}} {wall}{columns}".rstrip())
    lines.append(f"  {'0':>{width}} {corner}{floor * len(values)}")
    first, last = ends
    lines.append(" " * (width + 4) + first + last.rjust(len(values) - len(first)))
    return lines
