"""Runs beside each other: how good they are, and in which settings they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UsageError
from masktrain.config.config import hash_of, keys
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import metrics

MADE = ("ensemble.kind", "ensemble.members")
"""Settings that only what is made of other runs has."""


@dataclass(frozen=True)
class Row:
    """One run: its name, note, best epoch's scores, interval over people (None before the end), settings, and data.

    ``score`` of a cross-validated run is over everyone, each scored by the model that did not know them; that of an
    ensemble is over the people that its members held out.
    """

    run: str
    note: str
    score: dict[str, Any]
    interval: tuple[float, float] | None
    settings: dict[str, Any]
    defaults: dict[str, Any]
    folds: str
    same: str


@dataclass(frozen=True)
class Comparison:
    """Runs, best first; settings in which they differ, by key; defaults that changed between their versions."""

    rows: list[Row]
    differs: dict[str, list[Any]]
    changed: dict[str, list[Any]]
    warnings: list[str]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare runs.

    Raises:
        UsageError: a folder is no run with a finished epoch.
    """
    rows = sorted((_row(f) for f in folders), key=lambda r: -r.score["macro_f1"])
    missing = "—"

    def differing(values: list[dict[str, Any]]) -> dict[str, list[Any]]:
        known = [*keys(), *sorted({k for v in values for k in v} - set(keys()))]
        told = {key: [v[key] for v in values if key in v] for key in known}
        differ = (k for k, t in told.items() if any(v != t[0] for v in t) or (k in MADE and len(t) < len(values)))
        return {key: [v.get(key, missing) for v in values] for key in differ}

    warnings = []
    if len({r.folds for r in rows}) > 1:
        warnings.append("The runs were not scored on the same people; their scores cannot be compared as they are.")
    for i, row in enumerate(rows):
        if twin := next((r for r in rows[:i] if r.same == row.same), None):
            warnings.append(f"{row.run} and {twin.run} have the same settings and data: one run, done twice.")
    if len({r.settings.get("run.protocol", "") for r in rows}) > 1:
        warnings.append("The runs do not all keep to the same protocol.")
    warnings += [
        f"{row.run} deviates from its protocol: {said}" for row in rows for said in row.settings.get("run.deviates", ())
    ]
    return Comparison(
        rows, differing([r.settings for r in rows]), differing([r.defaults for r in rows if r.defaults]), warnings
    )


def _row(run: Path) -> Row:
    settings, env, records = _flat(runs.every_setting(run)), runs.read_environment(run), runs.read_metrics(run)
    if (run / runs.FOLDS).is_file():
        about = runs.read_folds(run)
        runs.members(run)
        score, interval, note = about["out_of_fold"], about["interval"], about.get("note", "")
    elif not records and (run / runs.OOF).is_file():
        settings, score, interval, note = *_made_of_runs(run), ""
    else:
        if not records:
            raise UsageError(f"{run} has no finished epoch yet.", f"Go on with it: masktrain fit --resume {run}")
        best = runs.best_epoch(run, records)
        result = runs.read_result(run) if runs.finished(run) else {}
        score, interval = result.get("best", best), result.get("interval")
        note = env.get("note", "")
    data = runs.read_data(run)
    return Row(
        run=run.name,
        note=note,
        score=score,
        interval=None if interval is None else (interval["low"], interval["high"]),
        settings=settings,
        defaults=_flat(env.get("defaults", {})),
        folds=str(sorted(data["people"]["val"] or data["people"]["train"])),
        same=f"{hash_of(settings)} {data['fingerprint']} {data['folds']}",
    )


def _made_of_runs(run: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What an ensemble or a soup is made of, its scores on the people that its members held out, and their interval."""
    from masktrain.answer import members
    from masktrain.combine import averages
    from masktrain.pages import standings

    if (run / members.FILE).is_file():
        settings = _flat(runs.read_settings(run))
    else:
        settings = _flat(runs.every_setting(run)) | dict(zip(MADE, ("soup", averages.read(run)), strict=True))
    held, schema = heldout.read(run), standings.schema_of(run)
    told = held.probabilities.argmax(1)
    interval = metrics.interval(held.labels, told, held.people.tolist(), schema.num_classes)
    return settings, metrics.score(held.labels, told, schema).to_dict(), dataclasses.asdict(interval)


def _flat(nested: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}
