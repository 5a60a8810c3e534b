"""What the pages share: jinja2 templates, tables, line charts, pictures. A page is one file and loads nothing else."""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import MADE_BY

INTERVAL, OVER_IMAGES = "95 % over people", "95 % over images"


@dataclass(frozen=True)
class Table:
    """A table with one bar for each row.

    Args:
        head: names of the columns.
        rows: cells; numbers stand on the right, floats with three decimals.
        bars: value and ends of its interval, as shares of the bar's width; after the column of the interval.
        links: addresses by row, for the second cell.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    bars: Sequence[tuple[float, float, float]] = ()
    links: Sequence[str | None] = ()

    def over(self, unit: str) -> Table:
        """The same without a column of people, where each image is a person of its own: ``unit`` is "images" then."""
        if unit == "people":
            return self
        kept = [i for i, name in enumerate(self.head) if name != "people"]
        head = [OVER_IMAGES if self.head[i] == INTERVAL else self.head[i] for i in kept]
        return replace(self, head=head, rows=[[row[i] for i in kept] for row in self.rows])


@dataclass(frozen=True)
class Chart:
    """Lines over the epochs; values that are not finite are left out.

    Args:
        lines: by name.
        foot: what is below the axis.
        others: lines without a name, in grey.
        low, high: the ends of the axis; by default of the values.
    """

    lines: Mapping[str, Sequence[float]]
    foot: str
    others: Sequence[Sequence[float]] = ()
    low: float | None = None
    high: float | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the axis."""
        known = [v for line in (*self.lines.values(), *self.others) for v in line if math.isfinite(v)] or [0.0, 1.0]
        return min(known) if self.low is None else self.low, max(known) if self.high is None else self.high


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("masktrain.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    made.globals |= {"made_by": MADE_BY, "intervals": (INTERVAL, OVER_IMAGES)}
    made.tests["finite"] = math.isfinite
    made.filters["markdown"] = _markdown
    made.filters["cell"] = lambda value: f"{value:.3f}" if isinstance(value, float) else str(value)
    return made


def _markdown(value: Any) -> Markup:
    """Text that Markdown shows as it is: no HTML, no table cells, no emphasis or links."""
    return Markup(re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(str(value), quote=False)).replace("\n", " "))


def render(template: str, **values: Any) -> str:
    """A page; what is filled in is escaped in HTML."""
    return _environment().get_template(template).render(values)


def picture(pixels: NDArray[np.uint8]) -> str:
    """A picture uint8 [h, w, 3] as the address of an ``<img>``, a JPEG in itself."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
