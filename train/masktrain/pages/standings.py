"""One page over many run folders, ranked: how good, how sure, and in what they differ."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Sequence
from pathlib import Path

from maskprep.base import UsageError, write_with
from masktrain.pages.compare import NONE, Comparison, Row, differing
from masktrain.pages.report import STYLE
from masktrain.runs import folder as runs

FILE = "standings.html"
MARK = "<!-- masktrain standings -->"
FORMS = (".html", ".md")


def write(found: Comparison, out: Path) -> Path:
    """Write the page, HTML or Markdown by the end of its name. Links to the runs' own pages are relative.

    Raises:
        UsageError: another form, or a file that is not such a page.
    """
    if out.suffix.lower() not in FORMS:
        raise UsageError(f"{out} is neither HTML nor Markdown.", "End its name in .html or .md.")
    if out.exists() and (not out.is_file() or MARK not in out.read_text(encoding="utf-8", errors="replace")[:2000]):
        raise UsageError(f"{out} exists and is not such a page.", "Choose another --out.")
    runs.clear_of_photos([entry.folder for group in found.groups for entry in group], out)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = _html(found, out) if out.suffix.lower() == ".html" else _markdown(found)
    write_with(out, lambda part: part.write_text(text, encoding="utf-8"))
    return out


def _html(found: Comparison, out: Path) -> str:
    parts = [f"<!doctype html><meta charset=utf-8>{MARK}<title>Runs</title><style>{STYLE}</style><h1>Runs</h1>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in found.warnings]
    for group in found.groups:
        first = group[0]
        low = min(e.interval.low for e in group)
        high = max(e.interval.high for e in group)
        parts.append(
            f"<h2>Scored on {len(first.table)} images of {first.interval.people} people</h2><div class=scroll>"
        )
        parts.append("<table><tr>" + "".join(f"<th>{html.escape(h)}" for h in _header(found)) + "<th>interval")
        for rank, entry in enumerate(group, 1):
            cells = [html.escape(cell) for cell in _cells(rank, entry, found)]
            own = entry.folder / "report.html"
            if own.is_file():
                link = Path(os.path.relpath(own.resolve(), out.resolve().parent)).as_posix()
                cells[1] = f'<a href="{html.escape(link)}">{cells[1]}</a>'
            parts.append("<tr>" + "".join(f"<td>{cell}" for cell in cells) + f"<td>{_bar(entry, low, high)}")
        parts.append("</table></div>")
        if rows := differing([{**e.settings, **e.computed} for e in group]):
            names = "".join(f"<th>{html.escape(e.name)}" for e in group)
            parts.append(f"<h2>In what they differ</h2><div class=scroll><table><tr><th>setting{names}")
            for key, values in rows.items():
                parts.append(f"<tr><td>{html.escape(key)}" + "".join(f"<td>{html.escape(v)}" for v in values))
            parts.append("</table></div>")
    if found.unfinished:
        parts.append(f"<p class=grey>Not finished, so not ranked: {html.escape(', '.join(found.unfinished))}.</p>")
    return "\n".join(parts) + "\n"


def _markdown(found: Comparison) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_plain, cells)) + " |"

    lines = [MARK, "# Runs", "", *map(_plain, found.warnings)]
    for group in found.groups:
        first, header = group[0], _header(found)
        lines += ["", f"## Scored on {len(first.table)} images of {first.interval.people} people", ""]
        lines += [line(header), line(["---"] * len(header))]
        lines += [line(_cells(rank, entry, found)) for rank, entry in enumerate(group, 1)]
        if rows := differing([{**e.settings, **e.computed} for e in group]):
            header = ["setting", *(e.name for e in group)]
            lines += ["", "### In what they differ", "", line(header), line(["---"] * len(header))]
            lines += [line([key, *values]) for key, values in rows.items()]
    if found.unfinished:
        lines += ["", f"Not finished, so not ranked: {_plain(', '.join(found.unfinished))}."]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no table cells, no emphasis or links."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", html.escape(text, quote=False)).replace("\n", " ")


def _header(found: Comparison) -> list[str]:
    each = [f"{name} macro-F1" for name in found.attributes] if len(found.attributes) > 1 else []
    return ["", "run", "model", "macro-F1", "95 % over people", "against the best", "accuracy", *each, "note"]


def _cells(rank: int, entry: Row, found: Comparison) -> list[str]:
    against = NONE
    if entry.against is not None:
        a = entry.against
        against = f"{a.difference:+.4f} ({a.low:+.4f} to {a.high:+.4f}, {a.verdict})"
    each = (
        [f"{entry.scores.attributes[n]['macro_f1']:.4f}" for n in found.attributes] if len(found.attributes) > 1 else []
    )
    interval = f"{entry.interval.low:.4f} to {entry.interval.high:.4f}"
    head = [str(rank), entry.name, entry.model, f"{entry.scores.macro_f1:.4f}", interval, against]
    return [*head, f"{entry.scores.accuracy:.4f}", *each, entry.note]


def _bar(entry: Row, low: float, high: float) -> str:
    scale = 180 / max(high - low, 1e-9)
    at = [(v - low) * scale + 5 for v in (entry.interval.low, entry.interval.high, entry.scores.macro_f1)]
    return (
        f'<svg width="190" height="12"><line x1="{at[0]:.0f}" x2="{at[1]:.0f}" y1="6" y2="6" stroke="#2f6db3"'
        f' stroke-width="2"/><circle cx="{at[2]:.0f}" cy="6" r="4" fill="#2f6db3"/></svg>'
    )
