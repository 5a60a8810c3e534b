"""What a notebook shows of an object: a table with a sentence above it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence


def html_table(caption: str, rows: Sequence[Mapping[str, object]]) -> str:
    """A table in HTML, for ``_repr_html_``. Values are shown as they are, floats with four digits.

    Args:
        caption: one or more sentences; each line is a paragraph.
        rows: of the table, all with the keys of the first, which are the header.
    """
    lines = [f"<p>{html.escape(line)}</p>" for line in caption.splitlines()]
    if not rows:
        return "".join(lines)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    cells = ["".join(f"<td>{html.escape(_text(value))}</td>" for value in row.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    return "".join([*lines, f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"])


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
