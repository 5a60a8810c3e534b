"""Charts and tables of the pages: what stands where, by hand, and that text stays text."""

from __future__ import annotations

import re

import pytest

from maskprep.pages.charts import BoxPlot, HeatMap, Histogram, LineChart, ticks
from maskprep.pages.frame import Html, document, style, text
from maskprep.pages.tables import Link, Pictures, Table


@pytest.mark.parametrize(
    "low, high, wanted",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.13, 0.52, [0.2, 0.3, 0.4, 0.5]), (18, 90, [20, 40, 60, 80]), (3, 3, [3])],
)
def test_ticks_are_round_numbers(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(wanted)


def test_curves_leave_out_what_is_not_finite() -> None:
    chart = LineChart({"a<b": [float("nan"), 1.0, float("inf")], "b": [2.0, 2.0, 3.0]}, "epoch")
    made = chart.__html__()
    assert "a&lt;b" in made and made.count("<polyline") == 1
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]+)"', made)[0].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert y0 == y1 > y2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert chart.range == (1, 3)
    assert "epoch 3\na&lt;b: none\nb: 3" in made  # under the pointer
    assert "<td>3<td>none<td>3" in made.partition("<details>")[2]  # and as a table
    assert "<circle" in LineChart({"a": [1.0]}, "").__html__() and "<svg" in LineChart({}, "").__html__()


def test_an_axis_has_its_numbers_where_they_are() -> None:
    made = LineChart({"a": [0.0, 1.0]}, "epoch").__html__()
    place = {float(v): float(y) for y, v in re.findall(r'y="([\d.]+)" text-anchor=end>([\d.]+)<', made)}
    assert set(place) == {0, 0.2, 0.4, 0.6, 0.8, 1} and place[0] - place[0.4] == pytest.approx(
        2 * (place[0] - place[0.2]), abs=0.2
    )
    line = [float(p.split(",")[1]) for p in re.findall(r'points="([^"]+)"', made)[0].split()]
    assert line == pytest.approx([place[0] - 4, place[1] - 4], abs=0.2)  # text stands 4 below its line


def test_bars_of_a_histogram_and_its_limits() -> None:
    made = Histogram([0, 1, 2, 3], [2, 4, 0], "age", [2], ["young", "old<"]).__html__()
    heights = [float(h) for h in re.findall(r'<rect class=(?:blue|orange) [^>]*height="([\d.]+)"', made)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2) and heights[2] == 0
    assert made.count("<line class=limit") == 1 and "old&lt;" in made and "<title>1 to 2: 4</title>" in made


def test_boxes_stand_at_their_percentiles() -> None:
    made = BoxPlot({"a": [0, 0.25, 0.5, 0.75, 1]}, "x").__html__()
    assert "a: 5 % below 0, 25 % below 0.25, 50 % below 0.5" in made
    left, right = map(float, re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1=12', made).groups())  # type: ignore[union-attr]
    middle = float(re.search(r'<line x1="([\d.]+)" x2="\1"[^>]*stroke-width=2', made)[1])  # type: ignore[index]
    assert middle == pytest.approx((left + right) / 2, abs=0.1)


def test_a_heat_map_shows_shares_of_the_row_and_counts_besides() -> None:
    made = HeatMap(["a", "c<"], ["a", "c<"], [[3, 1], [0, 0]]).__html__()
    assert '<td style="--v:75" title="a → a: 3 of 4 (75.0%)">75<small>3</small>' in made
    assert '<td class=off style="--v:25" title="a → c&lt;: 1 of 4 (25.0%)">25<small>1</small>' in made
    assert '<td class=off style="--v:0" title="c&lt; → a: 0 of 0 (0.0%)"><td' in made and "c<" not in made
    many = [str(k) for k in range(18)]
    assert "<small>" not in HeatMap(many, many, [[1] * 18] * 18).__html__()  # no room for two numbers
    counts = HeatMap(["a"], ["b"], [[7]], shares=False, right=False, notes={(0, 0): "2 people"}).__html__()
    assert 'style="--v:100" title="a, b: 7, 2 people">7' in counts


def test_bars_span_the_interval() -> None:
    table = Table(("a", "interval", "b"), [("x|<", "0 to 1", 0.25)], [(0.5, 0.2, 1.0)], "interval")
    made = table.__html__()
    assert 'width="75"' in made and 'x1="35" x2="155"' in made  # 150 pixels from 5
    assert re.search(r"<td>x\|&lt;<td>0 to 1<td><svg.*</svg><td class=n>0.250", made)
    assert 'width="0"' in Table(("a",), [("x",)], [(-0.1, -0.2, 0)], "a").__html__()


def test_text_stays_text() -> None:
    evil = "<script>\"'&"
    for made in (
        Table((evil,), [(evil,), (Link(evil, evil),)]).__html__(),
        Pictures([(evil, [evil])]).__html__(),
        HeatMap([evil], [evil], [[1]], evil).__html__(),
        LineChart({evil: [1.0]}, evil).__html__(),
        Histogram([0, 1], [1], evil, parts=[evil]).__html__(),
        BoxPlot({evil: [0, 0, 0, 0, 0]}, evil).__html__(),
        document(evil, ""),
    ):
        assert "<script" not in made and "&lt;script&gt;" in made
    assert text(Html("<b>")) == "<b>" and text("<b>") == "&lt;b&gt;"


def test_the_style_knows_dark_paper_and_phones_and_loads_nothing() -> None:
    for media in ("prefers-color-scheme: dark", "print", "max-width: 600px"):
        assert f"@media ({media})" in style() or f"@media {media}" in style()
    assert "url(" not in style() and "@import" not in style()
