"""One page over many run folders, ranked: how good, how sure, and in what they differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from maskprep.base import UsageError, write_with
from maskprep.pages import Link, Table
from masktrain.data.units import of_people, unit
from masktrain.pages import report
from masktrain.pages.compare import CHOICE, LATEST, NONE, Comparison, Row, changes, differing, verdict
from masktrain.pages.page import INTERVAL, fill, over, render
from masktrain.runs import folder as runs

FILE = "standings.html"
MARK = "<!-- masktrain standings -->"
FORMS = (".html", ".md")
DIFFERS = "differs from the best in"


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
    values = {
        "notes": found.warnings,
        "chosen": CHOICE if any(row.latest for row in found.rows) else "",
        "groups": [_group(group, found, out) for group in found.groups],
        "unfinished": found.unfinished,
    }
    if out.suffix.lower() == ".md":
        text = fill("standings.md.j2", title="Runs", mark=MARK, **values)
    else:
        text = render("Runs", "standings.html.j2", MARK, **values)
    write_with(out, lambda part: part.write_text(text, encoding="utf-8"))
    return out


def _group(group: Sequence[Row], found: Comparison, out: Path) -> dict[str, Any]:
    """Its verdict and two tables, with points on an axis from the lowest to the highest end of an interval."""
    low, high = min(e.interval.low for e in group), max(e.interval.high for e in group)
    ends = [(e.scores.macro_f1, e.interval.low, e.interval.high) for e in group]
    rows = [_cells(rank, entry, group[0], found, _page(entry, out)) for rank, entry in enumerate(group, 1)]
    width = max(high - low, 1e-9)
    bars = [((v - low) / width, (a - low) / width, (b - low) / width) for v, a, b in ends]
    images, people = len(group[0].table), group[0].interval.people
    table = Table(_header(found), rows, bars, INTERVAL, point=True, wide=("note", DIFFERS, "minus the best"))
    differ = differing([{**e.settings, **e.computed} for e in group])
    head = ("setting", *(e.name for e in group))
    return {
        "what": of_people(images, people),
        "verdict": verdict(group),
        "runs": over(table, unit(people, images)),
        "settings": Table(head, [(k, *v) for k, v in differ.items()], wide=head[1:]),
    }


def _page(entry: Row, out: Path) -> str:
    """Address of a run's own page; empty where it has none."""
    page = entry.folder.resolve() / report.FILE
    return quote(Path(os.path.relpath(page, out.resolve().parent)).as_posix()) if page.is_file() else ""


def _header(found: Comparison) -> list[str]:
    each = [f"{name} macro-F1" for name in found.attributes] if len(found.attributes) > 1 else []
    return [
        "",
        "run",
        "macro-F1",
        INTERVAL,
        "minus the best",
        "verdict",
        DIFFERS,
        "accuracy",
        *each,
        LATEST,
        "model",
        "note",
    ]


def _cells(rank: int, entry: Row, best: Row, found: Comparison, page: str) -> list[object]:
    against, name = entry.against, Link(entry.name, page) if page else entry.name
    each = (
        [f"{entry.scores.attributes[n]['macro_f1']:.4f}" for n in found.attributes] if len(found.attributes) > 1 else []
    )
    return [
        *(str(rank), name, f"{entry.scores.macro_f1:.4f}", entry.interval.text()),
        *((NONE, "best") if against is None else (against.numbers, against.verdict)),
        *(
            "; ".join(changes(entry, best)),
            f"{entry.scores.accuracy:.4f}",
            *each,
            entry.latest,
            entry.model,
            entry.note,
        ),
    ]
