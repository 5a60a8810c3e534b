"""One page over many run folders, ranked: how good, how sure, and in what they differ. Needs only the folders."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskprep.base import UsageError, write_with
from maskprep.labels import Schema
from masktrain.answer import members
from masktrain.pages.report import STYLE
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.runs.predictions import Predictions
from masktrain.score import metrics, paired
from masktrain.train import checkpoint

FILE = "standings.html"
MARK = "<!-- masktrain standings -->"
FORMS = (".html", ".md")
NONE = "—"


@dataclass(frozen=True)
class Entry:
    """One run, by its held-out predictions.

    Args:
        name: its path below the folder that all runs have in common.
        folder: of the run.
        model: timm's name, or what an ensemble is made of.
        note: what the run was to find out.
        held: its held-out predictions.
        scores: of these, with their interval over people.
        against: compared with the best run that was scored on the same people; None for that one.
        settings: by dotted name.
    """

    name: str
    folder: Path
    model: str
    note: str
    held: Predictions
    scores: metrics.Scores
    interval: metrics.Interval
    against: paired.Paired | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Standings:
    """Groups of runs scored on the same images, each best first; runs not finished; what a reader must know."""

    groups: list[list[Entry]]
    unfinished: list[str]
    notes: list[str]
    attributes: tuple[str, ...]


def find_runs(given: Sequence[Path]) -> list[Path]:
    """Runs, cross-validated runs and ensembles: the folders themselves, or those anywhere below them.

    The folds and members of one are not listed beside it.

    Raises:
        UsageError: a folder without runs.
    """
    found: list[Path] = []
    for folder in given:
        inside = [folder] if (folder / runs.CONFIG).is_file() else _below(folder)
        if not inside:
            raise UsageError(f"There are no runs in {folder}.", "Make one with: masktrain fit CACHE")
        found += inside
    return list({folder.resolve(): folder for folder in found}.values())


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []:
        found += [inner] if (inner / runs.CONFIG).is_file() else _below(inner)
    return found


def standings(given: Sequence[Path]) -> Standings:
    """Rank runs by macro-F1 on the people that they held out. Runs may lie anywhere; their caches are not needed.

    Raises:
        UserError: there is no run with a score, or the runs tell different classes.
    """
    folders = find_runs(given)
    root = Path(os.path.commonpath([f.resolve().parent for f in folders]))
    done = [f for f in folders if (f / runs.OOF).is_file() and runs.finished(f)]
    unfinished = [_name(f, root) for f in folders if f not in done]
    if not done:
        raise UsageError("None of these runs is finished.", f"Go on with one: masktrain fit --resume {folders[0]}")
    schemas = [schema_of(f) for f in done]
    if other := next((f for f, s in zip(done, schemas, strict=True) if s != schemas[0]), None):
        raise UsageError(f"{done[0]} and {other} tell different classes; they cannot be ranked together.")
    schema = schemas[0]
    together: dict[tuple[Any, ...], list[tuple[Path, Predictions]]] = {}
    for folder in done:
        held = heldout.read(folder)
        together.setdefault((tuple(held.images), tuple(held.labels.tolist())), []).append((folder, held))
    groups = [_ranked(group, schema, root) for group in together.values()]
    groups.sort(key=lambda g: (-len(g), -g[0].scores.macro_f1))
    notes = []
    if len(groups) > 1:
        notes.append(
            "The runs were not all scored on the same images with the same labels. Only runs in one table can be"
            " compared."
        )
    notes += _twins([entry for group in groups for entry in group])
    return Standings(groups, unfinished, notes, schema.joint)


def _ranked(group: Sequence[tuple[Path, Predictions]], schema: Schema, root: Path) -> list[Entry]:
    scored = [(f, h, metrics.score(h.labels, h.probabilities.argmax(1), schema)) for f, h in group]
    scored.sort(key=lambda item: (-item[2].macro_f1, str(item[0])))
    best = scored[0][1]
    entries = []
    for k, (folder, held, scores) in enumerate(scored):
        told, people = held.probabilities.argmax(1), held.people.tolist()
        against = None
        if k:
            against = paired.compare(held.labels, told, best.probabilities.argmax(1), people, schema.num_classes)
        env = runs.read_environment(folder)
        settings = _flat(runs.read_settings(folder)) | _computed(env)
        about = runs.read_folds(folder) if (folder / runs.FOLDS).is_file() else {}
        note = str(about.get("note") or env.get("note") or "")
        interval = metrics.interval(held.labels, told, people, schema.num_classes)
        entries.append(
            Entry(_name(folder, root), folder, _model(folder), note, held, scores, interval, against, settings)
        )
    return entries


def write(found: Standings, out: Path) -> Path:
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


def differing(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Settings in which runs differ: key → value of each run. What only some of them have at all does not count,
    except how ensembles are made."""
    known = sorted({key for e in entries for key in e.settings})
    table = {key: [str(e.settings.get(key, NONE)) for e in entries] for key in known}
    own = {key: set(values) - {NONE} for key, values in table.items()}
    return {k: v for k, v in table.items() if len(own[k]) > 1 or (k.startswith("ensemble.") and NONE in v)}


def _html(found: Standings, out: Path) -> str:
    parts = [f"<!doctype html><meta charset=utf-8>{MARK}<title>Runs</title><style>{STYLE}</style><h1>Runs</h1>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in found.notes]
    for group in found.groups:
        first = group[0]
        low = min(e.interval.low for e in group)
        high = max(e.interval.high for e in group)
        parts.append(f"<h2>Scored on {len(first.held)} images of {first.interval.people} people</h2><div class=scroll>")
        parts.append("<table><tr>" + "".join(f"<th>{html.escape(h)}" for h in _header(found)) + "<th>interval")
        for rank, entry in enumerate(group, 1):
            cells = [html.escape(cell) for cell in _cells(rank, entry, found)]
            own = entry.folder / "report.html"
            if own.is_file():
                link = Path(os.path.relpath(own.resolve(), out.resolve().parent)).as_posix()
                cells[1] = f'<a href="{html.escape(link)}">{cells[1]}</a>'
            parts.append("<tr>" + "".join(f"<td>{cell}" for cell in cells) + f"<td>{_bar(entry, low, high)}")
        parts.append("</table></div>")
        if rows := differing(group):
            names = "".join(f"<th>{html.escape(e.name)}" for e in group)
            parts.append(f"<h2>In what they differ</h2><div class=scroll><table><tr><th>setting{names}")
            for key, values in rows.items():
                parts.append(f"<tr><td>{html.escape(key)}" + "".join(f"<td>{html.escape(v)}" for v in values))
            parts.append("</table></div>")
    if found.unfinished:
        parts.append(f"<p class=grey>Not finished, so not ranked: {html.escape(', '.join(found.unfinished))}.</p>")
    return "\n".join(parts) + "\n"


def _markdown(found: Standings) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    lines = [MARK, "# Runs", "", *found.notes]
    for group in found.groups:
        first, header = group[0], _header(found)
        lines += ["", f"## Scored on {len(first.held)} images of {first.interval.people} people", ""]
        lines += [line(header), line(["---"] * len(header))]
        lines += [line(_cells(rank, entry, found)) for rank, entry in enumerate(group, 1)]
        if rows := differing(group):
            header = ["setting", *(e.name for e in group)]
            lines += ["", "### In what they differ", "", line(header), line(["---"] * len(header))]
            lines += [line([key, *values]) for key, values in rows.items()]
    if found.unfinished:
        lines += ["", f"Not finished, so not ranked: {', '.join(found.unfinished)}."]
    return "\n".join(lines) + "\n"


def _header(found: Standings) -> list[str]:
    each = [f"{name} macro-F1" for name in found.attributes] if len(found.attributes) > 1 else []
    return ["", "run", "model", "macro-F1", "95 % over people", "against the best", "accuracy", *each, "note"]


def _cells(rank: int, entry: Entry, found: Standings) -> list[str]:
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


def _bar(entry: Entry, low: float, high: float) -> str:
    scale = 180 / max(high - low, 1e-9)
    at = [(v - low) * scale + 5 for v in (entry.interval.low, entry.interval.high, entry.scores.macro_f1)]
    return (
        f'<svg width="190" height="12"><line x1="{at[0]:.0f}" x2="{at[1]:.0f}" y1="6" y2="6" stroke="#2f6db3"'
        f' stroke-width="2"/><circle cx="{at[2]:.0f}" cy="6" r="4" fill="#2f6db3"/></svg>'
    )


def _twins(entries: Sequence[Entry]) -> list[str]:
    """Sentences about runs that gave the very same answers."""
    notes = []
    for i, entry in enumerate(entries):
        for other in entries[:i]:
            if np.array_equal(entry.held.images, other.held.images) and np.array_equal(
                entry.held.probabilities, other.held.probabilities
            ):
                notes.append(f"{entry.name} and {other.name} give the very same probabilities: one run, listed twice.")
                break
    return notes


def schema_of(folder: Path) -> Schema:
    """What a run, an ensemble or a composition classifies."""
    whole = members.read(folder).get("schema") if (folder / members.FILE).is_file() else None
    return Schema.from_dict(whole) if whole else checkpoint.load_sidecar(_networks(folder)[0]).labels()


def _networks(folder: Path) -> list[Path]:
    """The run itself, or the members of an ensemble."""
    return members.folders(folder) if (folder / members.FILE).is_file() else [folder]


def _model(folder: Path) -> str:
    names = [checkpoint.load_sidecar(f).model for f in _networks(folder)]
    counted = ", ".join(f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names))
    return f"{members.read(folder)['kind']} of {counted}" if (folder / members.FILE).is_file() else counted


def _name(folder: Path, root: Path) -> str:
    return folder.resolve().relative_to(root).as_posix()


def _computed(env: dict[str, Any]) -> dict[str, Any]:
    """What a run was computed with, beside its settings."""
    git = env.get("git") or {}
    commit = f"{git['commit'][:10]}{' and changes' if git.get('changed') else ''}" if git else NONE
    packages = env.get("packages", {})
    told = {f"version of {name}": packages[name] for name in ("torch", "timm") if packages.get(name)}
    return {"commit of the code": commit, "device": env.get("device", NONE), **told} if env else {}


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
