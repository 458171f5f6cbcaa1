"""Plots: marks lie where their numbers say, scales have round marks, and odd data still draws."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from rewarm.report.plots import WIDTH, Curve, Point, Whisker, interval_plot, line_plot, mark_text, scale, share_bar


def curve(values, kind="new"):
    points = [Point(x, y, f"at {x}: {y}") for x, y in values]
    return Curve("c", kind, 0, points, values)


@pytest.mark.parametrize("values", [[0.0, 1.0], [5.0], [0.0], [-0.0239, 0.0046, 0.0], [1e-9, 2e-9], [1e12, 3e12], [-3.0, -3.0]])
def test_a_scale_holds_its_values_and_has_round_marks(values):
    found = scale(values, 10, 110)
    for value in values:
        assert 10 <= found.at(value) <= 110
    assert 1 <= len(found.marks) <= 12
    for mark in found.marks:
        assert 10 - 1e-6 <= found.at(mark) <= 110 + 1e-6
        shown = float(mark_text(mark, found.marks).replace(",", ""))
        assert shown == pytest.approx(mark, abs=1e-9 * max(1.0, abs(mark)))


def test_marks_of_the_line_plot_are_where_the_numbers_say():
    """Equal distances in the data are equal distances on the page, and more is higher."""
    svg = str(line_plot("t", "d", [curve([(0, 1.0), (1, 2.0), (2, 3.0)])], "step", "bits"))
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle class="mark new" cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02) and y1 - y0 == pytest.approx(y2 - y1, abs=0.02)
    assert x0 < x1 < x2 <= WIDTH and y0 > y1 > y2 >= 0


def test_a_gap_breaks_the_line():
    broken = Curve("c", "new", 0, [Point(0, 1, "a"), Point(2, 1, "b")], [(0, 1.0), None, (2, 1.0)])
    path = re.search(r'<path class="line new n0" d="([^"]*)"', str(line_plot("t", "d", [broken], "x", "y")))[1]
    assert path.count("M") == 2 and "L" not in path


def test_kinds_differ_without_colour():
    """One reader in twelve sees no difference between some colours: new and old have other shapes."""
    svg = str(line_plot("t", "d", [curve([(0, 1.0)]), curve([(0, 2.0)], "old")], "x", "y"))
    assert svg.count("<circle") == 1 and svg.count("<rect") == 1


def test_an_interval_plot_shows_zero_and_a_change_without_interval():
    rows = [Whisker("a", "old", -0.01, -0.02, 0.005, "said a"), Whisker("b", "old", 0.03, None, None, "said b")]
    svg = str(interval_plot("t", "d", rows, "better", "worse"))
    assert svg.count('class="zero"') == 1 and svg.count('class="whisker old"') == 2
    assert len(re.findall(r'<path d="M', svg)) == 3, "one line and two ends, for the row that has an interval"
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', svg)[1])
    low, high = map(float, re.search(r'<path d="M([\d.]+) [\d.]+L([\d.]+) ', svg).groups())
    assert low < zero < high


def test_a_bar_is_divided_as_the_numbers_are():
    svg = str(share_bar("t", "d", [("kept", 3.0, "k"), ("dropped", 1.0, "d"), ("dropped", 0.0, "none")]))
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', svg)]
    assert widths == [WIDTH * 0.75 - 1, WIDTH * 0.25 - 1]


def test_nothing_to_draw_draws_nothing():
    assert line_plot("t", "d", [], "x", "y") == "" == interval_plot("t", "d", [], "b", "w") == share_bar("t", "d", [("kept", 0.0, "")])


def test_every_plot_is_well_formed_with_hostile_names():
    """One unescaped quote in a name would spill the rest of the page into an attribute."""
    name = '"><script>x</script>&\x00\u202e'
    drawn = [
        line_plot(name, name, [Curve(name, "new", 1, [Point(0, 1, name)], [(0, 1)])], "x", "y", [(name, 1.0)]),
        interval_plot(name, name, [Whisker(name, "old", 0.1, 0.0, 0.2, name)], "b", "w"),
        share_bar(name, name, [("kept", 1.0, name)]),
    ]
    for svg in drawn:
        tree = ElementTree.fromstring(str(svg))
        assert not [e for e in tree.iter() if "script" in e.tag]
        assert tree.get("aria-label").startswith('"><script>x</script>&<U+0000><U+202E>')
