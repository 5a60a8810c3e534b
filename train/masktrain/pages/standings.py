"""One page over many run folders, ranked: how good, how sure, and in what they differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, write_with
from masktrain.data.units import of_people, unit
from masktrain.pages import report
from masktrain.pages.compare import CHOICE, LATEST, NONE, Comparison, Row, differing
from masktrain.pages.page import INTERVAL, Table, render
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
    text = render(
        f"standings{out.suffix.lower()}.j2",
        title="Runs",
        mark=MARK,
        notes=[*found.warnings, *[f"{CHOICE}."] * any(row.latest for row in found.rows)],
        groups=[_group(group, found, out) for group in found.groups],
        unfinished=found.unfinished,
    )
    write_with(out, lambda part: part.write_text(text, encoding="utf-8"))
    return out


def _group(group: Sequence[Row], found: Comparison, out: Path) -> dict[str, Any]:
    """Its two tables, with bars on an axis from the lowest to the highest end of an interval."""
    low, high = min(e.interval.low for e in group), max(e.interval.high for e in group)
    ends = [(e.scores.macro_f1, e.interval.low, e.interval.high) for e in group]
    pages = [e.folder.resolve() / report.FILE for e in group]
    links = [Path(os.path.relpath(p, out.resolve().parent)).as_posix() if p.is_file() else None for p in pages]
    rows = [_cells(rank, entry, found) for rank, entry in enumerate(group, 1)]
    width = max(high - low, 1e-9)
    bars = [((v - low) / width, (a - low) / width, (b - low) / width) for v, a, b in ends]
    images, people = len(group[0].table), group[0].interval.people
    return {
        "what": of_people(images, people),
        "runs": Table(_header(found), rows, bars, links).over(unit(people, images)),
        "settings": Table(
            ("setting", *(e.name for e in group)),
            [(k, *v) for k, v in differing([{**e.settings, **e.computed} for e in group]).items()],
        ),
    }


def _header(found: Comparison) -> list[str]:
    each = [f"{name} macro-F1" for name in found.attributes] if len(found.attributes) > 1 else []
    return ["", "run", "model", "macro-F1", INTERVAL, LATEST, "against the best", "accuracy", *each, "note"]


def _cells(rank: int, entry: Row, found: Comparison) -> list[str]:
    against = NONE if entry.against is None else entry.against.text
    each = (
        [f"{entry.scores.attributes[n]['macro_f1']:.4f}" for n in found.attributes] if len(found.attributes) > 1 else []
    )
    head = [
        str(rank),
        entry.name,
        entry.model,
        f"{entry.scores.macro_f1:.4f}",
        entry.interval.text(),
        entry.latest,
        against,
    ]
    return [*head, f"{entry.scores.accuracy:.4f}", *each, entry.note]
