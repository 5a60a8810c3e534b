"""Runs beside each other: how good they are on the same images, paired with the best one, and in what they differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskprep.base import UsageError, html_table
from masktrain.answer import members
from masktrain.combine import averages
from masktrain.config.config import hash_of
from masktrain.runs import folder as runs
from masktrain.runs import predictions
from masktrain.runs.predictions import Predictions
from masktrain.score import metrics, paired
from masktrain.train import checkpoint

NONE = "—"
LATEST = "last epoch, mean of last five"
CHOICE = (
    "macro-F1 is of the best epoch, chosen on these people (unless "
    "select.epoch=last); the scores beside it are not chosen"
)
ON = ("val", "eval")


@dataclass(frozen=True)
class Row:
    """One run, an ensemble, or a run of all folds, by its answers about people that it was not trained on.

    Args:
        name: its path below the folder that all runs have in common.
        model: timm's name, or what an ensemble is made of.
        note: what the run was to find out.
        table: its answers, scored with their interval over people.
        against: compared with the best run that was scored on the same images; None for that one.
        settings: by dotted name, ``computed`` with what, and ``defaults`` of its version.
        latest: macro-F1 of the last epoch and mean of the last five, which chose none; empty where nothing is known.
        same: equal for runs of the same settings on the same data.
    """

    name: str
    folder: Path
    model: str
    note: str
    table: Predictions
    scores: metrics.Scores
    interval: metrics.Interval
    against: paired.Paired | None
    settings: dict[str, Any]
    computed: dict[str, Any]
    defaults: dict[str, Any]
    latest: str
    same: str


@dataclass(frozen=True)
class Comparison:
    """Groups of runs scored on the same images, each best first; runs not finished or without weights; what a reader
    must know."""

    groups: list[list[Row]]
    unfinished: list[str]
    warnings: list[str]
    attributes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """For notebooks: all runs, each with its difference to the best on the same images."""
        rows = [
            {
                "run": row.name,
                "model": row.model,
                "macro-F1": row.scores.macro_f1,
                "95 % interval": row.interval.text(),
                "accuracy": row.scores.accuracy,
                "against the best": row.against.text if row.against else "",
            }
            for row in self.rows
        ]
        return html_table("\n".join(self.warnings), rows)

    @property
    def rows(self) -> list[Row]:
        """All runs, group by group."""
        return [row for group in self.groups for row in group]

    @property
    def differs(self) -> dict[str, list[str]]:
        """Settings in which the runs differ, see :func:`differing`."""
        return differing([row.settings for row in self.rows])

    @property
    def changed(self) -> dict[str, list[str]]:
        """Defaults that changed between the versions that the runs are of."""
        return differing([row.defaults for row in self.rows if row.defaults])


def compare(given: Sequence[Path], on: str = "val") -> Comparison:
    """Rank runs by macro-F1, each paired with the best that answered the same images. Their caches are not needed.

    Args:
        given: runs, or folders with runs anywhere below them.
        on: ``val``, the people that each held out; ``eval``, what ``masktrain evaluate --split eval`` has kept.

    Raises:
        UserError: there is no run with a score, or the runs tell different classes.
    """
    if on not in ON:
        raise UsageError(f"--on cannot be '{on}'.", f"Use {' or '.join(ON)}.")
    folders = find_runs(given)
    root = Path(os.path.commonpath([f.resolve().parent for f in folders]))
    done = [f for f in folders if (f / runs.OOF).is_file() and runs.finished(f) and _has_weights(f)]
    lost = [f for f in folders if (f / checkpoint.SIDECAR).is_file() and not _has_weights(f)]
    unfinished = [_name(f, root) + " (its weights are gone)" * (f in lost) for f in folders if f not in done]
    if not done:
        raise UsageError("None of these runs is finished.", f"Go on with one: masktrain fit --resume {folders[0]}")
    file = runs.OOF if on == "val" else _evaluated(done)
    tables = [(folder, predictions.read(folder, file)) for folder in done]
    schema = tables[0][1].schema
    if other := next((f for f, t in tables if t.schema != schema), None):
        raise UsageError(f"{done[0]} and {other} have different classes and cannot be ranked together.")
    together: dict[tuple[Any, ...], list[tuple[Path, Predictions]]] = {}
    for folder, table in tables:
        together.setdefault((tuple(table.images), tuple(table.labels.tolist())), []).append((folder, table))
    groups = sorted((_ranked(g, root, on) for g in together.values()), key=lambda g: (-len(g), -g[0].scores.macro_f1))
    return Comparison(groups, unfinished, _warnings(groups), schema.joint)


def find_runs(given: Sequence[Path]) -> list[Path]:
    """Runs, cross-validated runs and ensembles: the folders themselves, or those anywhere below them.

    The folds and members of one are not listed beside it.

    Raises:
        UsageError: none of the folders holds a run.
    """
    found: list[Path] = []
    for folder in given:
        found += [folder] if (folder / runs.CONFIG).is_file() else _below(folder)
    if not found:
        where = ", ".join(map(str, given))
        raise UsageError(f"There are no runs in {where}.", "Make one with: masktrain fit CACHE")
    return list({folder.resolve(): folder for folder in found}.values())


def differing(settings: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Settings in which runs differ: key → value of each run. What only some of them have at all does not count,
    except how ensembles are made."""
    known = sorted({key for each in settings for key in each})
    table = {key: [str(each.get(key, NONE)) for each in settings] for key in known}
    own = {key: set(values) - {NONE} for key, values in table.items()}
    return {k: v for k, v in table.items() if len(own[k]) > 1 or (k.startswith("ensemble.") and NONE in v)}


def _has_weights(run: Path) -> bool:
    return (run / runs.ENSEMBLE).is_file() or (run / checkpoint.BEST).is_file()


def changes(row: Row, best: Row) -> list[str]:
    """Settings that a run has in another way than the best one: ``optim.lr 0.001 (best: 0.01)``."""
    table = differing([row.settings, best.settings])
    return [f"{key} {mine} (best: {theirs})" for key, (mine, theirs) in table.items() if mine != NONE]


def verdict(group: Sequence[Row], name: Callable[[Row], str] = lambda row: row.name) -> str:
    """Which run of a group is best, and whether the others differ from it by more than noise, in sentences.

    Args:
        name: what a run is called in them.
    """
    best, *others = group
    if not others:
        return f"{name(best)}: macro-F1 {best.scores.macro_f1:.4f}; nothing else was scored on these images."
    told = [f"{name(best)} is the best of {len(group)}: macro-F1 {best.scores.macro_f1:.4f}."]
    for said, words in (("within noise", "Within noise of it"), ("clearly worse", "Clearly worse")):
        if names := [
            f"{name(r)} ({r.against.difference:+.4f})" for r in others if r.against and r.against.verdict == said
        ]:
            told.append(f"{words}: {', '.join(names)}.")
    if any(r.against and r.against.people < metrics.FEW for r in others):
        told.append("Too few people are scored to say whether the others are worse.")
    return " ".join(told)


def _below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []:
        found += [inner] if (inner / runs.CONFIG).is_file() else _below(inner)
    return found


def _evaluated(folders: Sequence[Path]) -> str:
    """The one file of answers about the split eval that all runs have."""
    shared = set.intersection(*({p.name for p in f.glob("eval-*-eval.parquet")} for f in folders))
    if len(shared) != 1:
        what = "several caches" if shared else "one cache in common"
        said = "were evaluated on the split eval of" if shared else "were not all evaluated on the split eval of"
        raise UsageError(f"The runs {said} {what}.", "For each of them: masktrain evaluate RUN CACHE --split eval")
    return shared.pop()


def _ranked(group: Sequence[tuple[Path, Predictions]], root: Path, on: str) -> list[Row]:
    scored = [(f, t, metrics.score_table(t, {})) for f, t in group]
    scored.sort(key=lambda item: (-item[2].macro_f1, str(item[0])))
    best = scored[0][1].answers
    rows = []
    for k, (folder, table, scores) in enumerate(scored):
        env, data = runs.read_environment(folder), runs.read_data(folder)
        about = runs.read_folds(folder) if (folder / runs.FOLDS).is_file() else {}
        if (folder / averages.FILE).is_file():
            about_soup = {"ensemble.kind": "soup", "ensemble.members": averages.read(folder)}
        else:
            about_soup = {}
        settings = _flat(runs.read_settings(folder)) | about_soup
        rows.append(
            Row(
                name=_name(folder, root),
                folder=folder,
                model=_model(folder),
                note=str(about.get("note") or env.get("note") or ""),
                table=table,
                scores=scores,
                interval=metrics.interval(table.labels, table.answers, table.people.tolist(), table.schema.num_classes),
                against=paired.between(table, table.answers, best) if k else None,
                settings=settings,
                computed=_computed(env),
                defaults=_flat(env.get("defaults", {})),
                latest=_latest(folder) if on == "val" else "",
                same=f"{hash_of(settings)} {data['fingerprint']} {data.get('folds')}",
            )
        )
    return rows


def _warnings(groups: Sequence[Sequence[Row]]) -> list[str]:
    rows = [row for group in groups for row in group]
    found = []
    if len(groups) > 1:
        found.append(
            "The runs were not all scored on the same images with the same labels. Only runs in one table can be"
            " compared."
        )
    for i, row in enumerate(rows):
        for other in rows[:i]:
            if np.array_equal(row.table.images, other.table.images) and np.array_equal(
                row.table.probabilities, other.table.probabilities
            ):
                found.append(f"{row.name} and {other.name} give the same probabilities: they are copies of one run.")
            elif row.same == other.same:
                found.append(f"{row.name} and {other.name} have the same settings and data: one fit, done twice.")
            else:
                continue
            break
    if len({row.settings.get("run.protocol", "") for row in rows if "run.seed" in row.settings}) > 1:
        found.append("The runs do not all follow the same protocol.")
    found += [
        f"{row.name} deviates from its protocol: {said}"
        for row in rows
        for said in row.settings.get("run.deviates") or ()
    ]
    return found


def _model(folder: Path) -> str:
    made = (folder / members.FILE).is_file()
    names = [checkpoint.load_sidecar(f).model for f in (members.folders(folder) if made else [folder])]
    counted = ", ".join(f"{names.count(n)} x {n}" if names.count(n) > 1 else n for n in dict.fromkeys(names))
    return f"{members.read(folder)['kind']} of {counted}" if made else counted


def _latest(folder: Path) -> str:
    if not (records := runs.read_metrics(folder)):
        return ""
    return ", ".join(f"{scores['macro_f1']:.4f}" for scores in runs.latest(records).values())


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
