"""Tables with a bar for each row, links, and pictures with lines of text below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskprep.pages.frame import text


@dataclass(frozen=True)
class Link:
    """Text that leads to an address."""

    text: str
    address: str

    def __str__(self) -> str:
        return self.text

    def __html__(self) -> str:
        return f'<a href="{text(self.address)}">{text(self.text)}</a>'


class Bar(NamedTuple):
    """A value from 0 to 1 and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """A table, in HTML by ``__html__``.

    Args:
        head: names of the columns.
        rows: cells; numbers stand on the right, floats with three decimals.
        bars: value and ends of its interval, as shares of the bar's width, by row.
        after: name of the column that the bars follow.
        colour: of the bars: blue, orange, green or violet.
        point: a point in place of a bar, where the scale does not begin at 0.
        wide: names of the columns that may break lines.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    bars: Sequence[tuple[float, float, float]] = ()
    after: str = ""
    colour: str = "blue"
    point: bool = False
    wide: Sequence[str] = ()

    def __html__(self) -> str:
        numeric = [bool(self.rows) and isinstance(value, int | float) for value in (self.rows or [self.head])[0]]
        head = "".join(
            f"<th{' class=n' if number else ''}>{text(name)}{'<th>' if self._barred(name) else ''}"
            for name, number in zip(self.head, numeric, strict=True)
        )
        rows = "\n".join(f"<tr>{self._row(number)}" for number in range(len(self.rows)))
        return f"<div class=scroll><table>\n<tr>{head}\n{rows}\n</table></div>"

    def _barred(self, name: str) -> bool:
        return bool(self.bars) and name == self.after

    def _row(self, number: int) -> str:
        cells = []
        for name, value in zip(self.head, self.rows[number], strict=True):
            kind = " class=n" if isinstance(value, int | float) else " class=wide" if name in self.wide else ""
            cells.append(f"<td{kind}>{f'{value:.3f}' if isinstance(value, float) else text(value)}")
            if self._barred(name):
                cells.append(f"<td>{_bar(Bar(*self.bars[number]), self.colour, self.point)}")
        return "".join(cells)


def _bar(bar: Bar, colour: str, point: bool) -> str:
    """150 pixels of a scale from 0 to 1: a bar or a point, and its interval as a line."""
    value, low, high = (150 * max(v, 0.0) for v in bar)
    shape = (
        f'<circle cx="{5 + value:.0f}" cy=6 r=4 fill=currentColor />'
        if point
        else f'<rect x=5 width="{value:.0f}" height=12 fill=currentColor opacity=0.5 />'
    )
    line = "currentColor" if point else "var(--ink)"
    return (
        f'<svg class={colour} width=160 height=12 role=img>{shape}<line x1="{5 + low:.0f}" x2="{5 + high:.0f}"'
        f' y1=6 y2=6 stroke="{line}" stroke-width=2 /></svg>'
    )


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side with lines of text below each: address of the picture, and the lines.

    Args:
        items: see above; a line may be a :class:`Link`.
    """

    items: Sequence[tuple[str, Sequence[object]]]

    def __html__(self) -> str:
        figures = (
            f'<figure><img src="{text(address)}" alt=""><figcaption>{"<br>".join(map(text, lines))}</figcaption>'
            "</figure>"
            for address, lines in self.items
        )
        return f"<div class=photos>{''.join(figures)}</div>"
