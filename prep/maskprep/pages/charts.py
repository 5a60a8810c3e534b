"""Charts as SVG with axes, and values to read where the pointer is; heat maps as tables that fit the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from maskprep.pages.frame import text
from maskprep.pages.tables import Table

WIDTH, HEIGHT = 480, 250
"""Of a chart in its own units; it is drawn as wide as its place, at most 1.15 times as large."""
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
"""Margins around the plot."""
COLOURS = ("blue", "orange", "green", "violet")
SHORT = 22
"""Characters of a name beside a box."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``, both in it."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


@dataclass(frozen=True)
class _Plot:
    """The frame of a chart: where values stand, its axes, and the text below them."""

    x: tuple[float, float]
    y: tuple[float, float]
    foot: str
    top: int = TOP
    height: int = HEIGHT
    whole: bool = False
    """Whether only whole numbers stand at the horizontal axis."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point."""
        (a, b), (low, high) = self.x, self.y
        across = (x - a) / ((b - a) or 1.0) * (WIDTH - LEFT - RIGHT)
        up = (y - low) / ((high - low) or 1.0) * (self.height - BOTTOM - self.top)
        return LEFT + across, self.height - BOTTOM - up

    def draw(self, inner: str, label: str) -> str:
        """The chart with its content."""
        parts, floor = [], self.height - BOTTOM
        for value in ticks(*self.y):
            y = self.at(self.x[0], value)[1]
            parts.append(f'<line class=grid x1={LEFT} x2={WIDTH - RIGHT} y1="{y:.1f}" y2="{y:.1f}" />')
            parts.append(f'<text x={LEFT - 5} y="{y + 4:.1f}" text-anchor=end>{value:g}</text>')
        for value in ticks(*self.x, 8):
            if not self.whole or float(value).is_integer():
                x = self.at(value, self.y[0])[0]
                parts.append(f'<line class=axis x1="{x:.1f}" x2="{x:.1f}" y1={floor} y2={floor + 4} />')
                parts.append(f'<text x="{x:.1f}" y={floor + 16} text-anchor=middle>{value:g}</text>')
        parts.append(f"<line class=axis x1={LEFT} x2={WIDTH - RIGHT} y1={floor} y2={floor} />")
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y={self.height - 3} text-anchor=middle>{text(self.foot)}</text>'
        )
        frame = f'<svg class=chart viewBox="0 0 {WIDTH} {self.height}" role=img aria-label="{text(label)}">'
        return f"{frame}{''.join(parts)}{inner}</svg>"

    def band(self, left: float, right: float, said: str) -> str:
        """A part of the width that says something where the pointer is over it."""
        a, b = self.at(left, 0)[0], self.at(right, 0)[0]
        high = self.height - BOTTOM - self.top
        return (
            f'<rect class=band x="{a:.1f}" y={self.top} width="{max(b - a, 1):.1f}" height={high}>'
            f"<title>{text(said)}</title></rect>"
        )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "none"


@dataclass(frozen=True)
class LineChart:
    """Lines over numbered places such as epochs; values that are not finite are left out.

    Args:
        lines: by name, each with a value for every place.
        foot: what is below the horizontal axis, such as ``epoch``.
        others: lines in grey without names of their own, called ``others_are``.
        low, high: the ends of the vertical axis; by default round numbers around the values.
        first: number of the first place; ``step`` between them.
        table: whether the values stand below the chart, too, folded.
        colours: of the lines, in turn.
    """

    lines: Mapping[str, Sequence[float]]
    foot: str
    others: Sequence[Sequence[float]] = ()
    others_are: str = "the other classes"
    low: float | None = None
    high: float | None = None
    first: float = 1
    step: float = 1
    table: bool = True
    colours: Sequence[str] = COLOURS

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the vertical axis."""
        known = [v for line in (*self.lines.values(), *self.others) for v in line if math.isfinite(v)] or [0.0, 1.0]
        low, high = (min(known), max(known)) if max(known) > min(known) else (min(known) - 0.5, max(known) + 0.5)
        marks = ticks(low, high)
        step = marks[1] - marks[0] if len(marks) > 1 else high - low
        low = step * math.floor(low / step + 1e-9) if self.low is None else self.low
        return low, step * math.ceil(high / step - 1e-9) if self.high is None else self.high

    def __html__(self) -> str:
        count = max((len(line) for line in (*self.lines.values(), *self.others)), default=0)
        places = [self.first + self.step * k for k in range(count)] or [self.first]
        names = len(self.lines) + bool(self.others)
        plot = _Plot(
            (places[0], places[-1]),
            self.range,
            self.foot,
            TOP + 15 * names,
            HEIGHT + 15 * names,
            float(self.first).is_integer() and float(self.step).is_integer(),
        )
        parts = [self._line(plot, places, values, "grey", 1) for values in self.others]
        for number, (name, values) in enumerate(self.lines.items()):
            colour = self.colours[number % len(self.colours)]
            parts.append(self._line(plot, places, values, colour, 2))
            parts.append(_key(name, number, colour))
        if self.others:
            parts.append(_key(self.others_are, len(self.lines), "grey"))
        for k, place in enumerate(places if count else ()):
            told = [f"{name}: {_number(values[k])}" for name, values in self.lines.items() if k < len(values)]
            said = "\n".join([f"{self.foot} {place:g}", *told])
            parts.append(plot.band(max(place - self.step / 2, places[0]), min(place + self.step / 2, places[-1]), said))
        drawn = plot.draw("".join(parts), ", ".join(self.lines) or self.foot)
        return f"<figure class=plot>{drawn}{self._values(places) if self.table and count else ''}</figure>"

    def _line(self, plot: _Plot, places: Sequence[float], values: Sequence[float], colour: str, stroke: int) -> str:
        known = [(p, v) for p, v in zip(places, values, strict=False) if math.isfinite(v)]
        points = [plot.at(place, value) for place, value in known]
        drawn = f"<g class={colour}>"
        if len(points) > 1:
            along = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            drawn += f'<polyline points="{along}" fill=none stroke=currentColor stroke-width={stroke} />'
        if (stroke > 1 and len(points) <= 40) or len(points) == 1:
            drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r=2.5 fill=currentColor />' for x, y in points)
        return f"{drawn}</g>"

    def _values(self, places: Sequence[float]) -> str:
        columns = [(name, values) for name, values in self.lines.items()]
        rows = [
            (f"{place:g}", *(_number(values[k]) if k < len(values) else "" for _, values in columns))
            for k, place in enumerate(places)
        ]
        table = Table((self.foot, *(name for name, _ in columns)), rows)
        return f"<details><summary>values</summary>{table.__html__()}</details>"


def _key(name: str, number: int, colour: str) -> str:
    y = 12 + 15 * number
    mark = f"<rect class={colour} x={LEFT} y={y - 7} width=14 height=5 fill=currentColor />"
    return f"{mark}<text class=key x={LEFT + 20} y={y}>{text(name)}</text>"


@dataclass(frozen=True)
class Histogram:
    """How often numbers occur, with limits drawn in.

    Args:
        edges: of the bars, one more than ``counts``.
        counts: heights of the bars.
        foot: what is below the horizontal axis.
        limits: numbers with a vertical line.
        parts: names of what lies between the limits, written above it.
        said: of each bar, what it says under the pointer; its ends and count by default.
    """

    edges: Sequence[float]
    counts: Sequence[float]
    foot: str
    limits: Sequence[float] = ()
    parts: Sequence[str] = ()
    said: Sequence[str] = ()

    def __html__(self) -> str:
        high = max([*self.counts, 1])
        marks = ticks(0, high)
        high = high if marks[-1] >= high else marks[-1] + marks[1] - marks[0]
        plot = _Plot((self.edges[0], self.edges[-1]), (0, high), self.foot, TOP + 16 * bool(self.parts))
        drawn = []
        for k, count in enumerate(self.counts):
            a, y = plot.at(self.edges[k], count)
            b, floor = plot.at(self.edges[k + 1], 0)
            part = sum(limit <= self.edges[k] + 1e-9 for limit in self.limits)
            shape = f'x="{a + 0.5:.1f}" y="{y:.1f}" width="{max(b - a - 1, 0.5):.1f}" height="{floor - y:.1f}"'
            drawn.append(f"<rect class={COLOURS[part % len(COLOURS)]} {shape} fill=currentColor fill-opacity=0.75 />")
        for limit in self.limits:
            x, floor = plot.at(limit, 0)
            drawn.append(f'<line class=limit x1="{x:.1f}" x2="{x:.1f}" y1={plot.top} y2="{floor:.1f}" />')
        bounds = [self.edges[0], *self.limits, self.edges[-1]]
        for k, part_name in enumerate(self.parts):
            x = plot.at((min(max(bounds[k], bounds[0]), bounds[-1]) + min(bounds[k + 1], bounds[-1])) / 2, 0)[0]
            drawn.append(
                f'<text class="key {COLOURS[k % 4]}" x="{x:.1f}" y=14 text-anchor=middle>{text(part_name)}</text>'
            )
        for k, count in enumerate(self.counts):
            said = self.said[k] if self.said else f"{self.edges[k]:g} to {self.edges[k + 1]:g}: {count:g}"
            drawn.append(plot.band(self.edges[k], self.edges[k + 1], said))
        return f"<figure class=plot>{plot.draw(''.join(drawn), self.foot)}</figure>"


@dataclass(frozen=True)
class BoxPlot:
    """For each name the 5th, 25th, 50th, 75th and 95th percentile of some values, on one axis.

    Args:
        boxes: name -> five percentiles.
        foot: what is below the axis.
        low, high: its ends.
    """

    boxes: Mapping[str, Sequence[float]]
    foot: str
    low: float = 0.0
    high: float = 1.0

    def __html__(self) -> str:
        rows, left = len(self.boxes), 150
        height, scale = 24 * rows + BOTTOM + 6, (WIDTH - left - RIGHT) / (self.high - self.low)
        floor, parts = height - BOTTOM, []
        for value in ticks(self.low, self.high):
            x = left + (value - self.low) * scale
            parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1=0 y2={floor} />')
            parts.append(f'<text x="{x:.1f}" y={floor + 14} text-anchor=middle>{value:g}</text>')
        for number, (name, percentiles) in enumerate(self.boxes.items()):
            a, b, c, d, e = (left + (v - self.low) * scale for v in percentiles)
            y = 24 * number + 12
            short = name if len(name) <= SHORT else f"{name[: SHORT - 1]}…"
            said = ", ".join(f"{k} % below {v:.3g}" for k, v in zip((5, 25, 50, 75, 95), percentiles, strict=True))
            parts.append(
                f"<g class=blue><title>{text(name)}: {said}</title>"
                f"<rect x={left} y={y - 12} width={WIDTH - left - RIGHT} height=24 fill=transparent />"
                f'<line x1="{a:.1f}" x2="{e:.1f}" y1={y} y2={y} stroke=currentColor />'
                f'<rect x="{b:.1f}" y={y - 6} width="{max(d - b, 1):.1f}" height=12'
                " fill=currentColor fill-opacity=0.5 />"
                f'<line x1="{c:.1f}" x2="{c:.1f}" y1={y - 8} y2={y + 8} stroke="var(--ink)" stroke-width=2 /></g>'
                f"<text class=key x={left - 8} y={y + 4} text-anchor=end>{text(short)}</text>"
            )
        parts.append(
            f'<text x="{(left + WIDTH - RIGHT) / 2}" y={height - 3} text-anchor=middle>{text(self.foot)}</text>'
        )
        frame = f'<svg class=chart viewBox="0 0 {WIDTH} {height}" role=img aria-label="{text(self.foot)}">'
        return f"<figure class=plot>{frame}{''.join(parts)}</svg></figure>"


@dataclass(frozen=True)
class HeatMap:
    """Counts in rows and columns, as wide as the page at most.

    Args:
        rows, columns: names.
        counts: [rows, columns].
        corner: what is named by rows and columns.
        shares: whether a cell shows its percentage of the row, and its count under the pointer and, where there is
            room, below; else it shows its count, coloured by its share of the largest.
        right: whether the diagonal is what is wanted: it is blue, all else orange.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    corner: str = ""
    shares: bool = True
    right: bool = True
    notes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Further text of a cell under the pointer."""

    ROOM = 8
    """Columns up to which a cell has room for two numbers."""

    def __html__(self) -> str:
        count = len(self.columns)
        large, most = count <= self.ROOM, max([*(n for row in self.counts for n in row), 1])
        head = "".join(f"<th><span>{text(name)}</span>" for name in self.columns)
        rows = []
        for i, (name, values) in enumerate(zip(self.rows, self.counts, strict=True)):
            total, cells = sum(values), []
            for j, n in enumerate(values):
                share = n / max(total, 1)
                said = (
                    f"{name} → {self.columns[j]}: {n} of {total} ({share:.1%})"
                    if self.right
                    else f"{name}, {self.columns[j]}: {n}"
                )
                said += f", {self.notes[i, j]}" if (i, j) in self.notes else ""
                shown = f"{100 * share:.0f}" if self.shares else str(n)
                below = f"<small>{n}</small>" if self.shares and large and n else ""
                kind = " class=off" if self.right and i != j else ""
                depth = share if self.shares else n / most
                hidden = self.shares and not n
                cells.append(
                    f'<td{kind} style="--v:{100 * depth:.0f}" title="{text(said)}">{"" if hidden else shown}{below}'
                )
            rows.append(f'<tr><th title="{total}">{text(name)}{"".join(cells)}')
        kind = "heat large" if large else "heat"
        body = "\n".join(rows)
        return (
            f'<div class=fit><table class="{kind}" style="--k:{count}">\n<tr><th>{text(self.corner)}{head}\n{body}\n'
            "</table></div>"
        )
