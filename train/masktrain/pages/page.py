"""What the pages share: jinja2 templates, and the words of columns. A page is one file and loads nothing else."""

from __future__ import annotations

import functools
import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from maskprep.dataset import OVERVIEW
from maskprep.pages import Link, Table, document

INTERVAL, OVER_IMAGES = "95 % over people", "95 % over images"


def over(table: Table, unit: str) -> Table:
    """A table without its column of people, where each image is a person of its own: ``unit`` is "images" then."""
    if unit == "people":
        return table
    kept = [i for i, name in enumerate(table.head) if name != "people"]
    head = [OVER_IMAGES if table.head[i] == INTERVAL else table.head[i] for i in kept]
    after = OVER_IMAGES if table.after == INTERVAL else table.after
    return replace(table, head=head, rows=[[row[i] for i in kept] for row in table.rows], after=after)


@dataclass(frozen=True)
class Pages:
    """Addresses, from a folder, of pages that belong to its cache; empty where they are not there."""

    stats: str
    review: str
    folder: str
    """What the names of all images begin with, left out where they are named."""

    @classmethod
    def beside(cls, folder: Path, cache: Path, images: Sequence[str] = ()) -> Pages:
        """Those that have been made."""
        found = (cache / OVERVIEW, cache / "audit" / "report.html")
        near = [Path(os.path.relpath(f.resolve(), folder.resolve())).as_posix() if f.is_file() else "" for f in found]
        shared = os.path.commonpath([image.rpartition("/")[0] for image in images]) if images else ""
        return cls(quote(near[0]), quote(near[1]), f"{shared}/" if shared else "")

    def photo(self, image: str) -> str | Link:
        """Where a photo is reviewed; its name alone where there is no such page."""
        name = image.removeprefix(self.folder)
        return Link(name, f"{self.review}#image={quote(image)}") if self.review else name


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("masktrain.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"markdown": _markdown, "code": _code}
    return made


def _markdown(value: Any) -> Markup:
    """Text that Markdown shows as it is: no HTML, no table cells, no emphasis or links."""
    return Markup(re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(str(value), quote=False)).replace("\n", " "))


def _code(value: str) -> Markup:
    """Text in which what stands between backticks is code."""
    parts = enumerate(map(html.escape, value.split("`")))
    return Markup("".join(f"<code>{part}</code>" if number % 2 else part for number, part in parts))


def fill(template: str, **values: Any) -> str:
    """A template filled in; values are escaped in HTML, and tables and charts are drawn."""
    return _environment().get_template(template).render(values)


def render(title: str, template: str, head: str = "", **values: Any) -> str:
    """A page whose body is a template."""
    return document(title, fill(template, **values), head)
