"""Runs beside each other: how good they are, and in which settings they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.errors import UsageError
from masktrain import runs
from masktrain.config import hash_of, keys


@dataclass(frozen=True)
class Row:
    """One run: its name, note, best epoch's scores, interval over people (None before the end), settings, and data.

    ``score`` of a cross-validated run is over everyone, each scored by the model that did not know them.
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
        found = {key: [v.get(key, missing) for v in values] for key in known}
        return {key: each for key, each in found.items() if any(value != each[0] for value in each)}

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
    settings = runs.every_setting(run)
    if (run / runs.FOLDS).is_file():
        about = json.loads((run / runs.FOLDS).read_text(encoding="utf-8"))
        runs.members(run)
        score, interval, note = about["out_of_fold"], about["interval"], about["note"]
        env = _json(run / "fold-1" / runs.ENV)
    else:
        records = runs.read_metrics(run)
        if not records:
            raise UsageError(f"{run} has no finished epoch yet.", f"Go on with it: masktrain fit --resume {run}")
        env, result = _json(run / runs.ENV), _json(run / runs.RESULT)
        best = next(r for r in records if r["epoch"] == records[-1]["best_epoch"])
        score, interval = result.get("best", best), result.get("interval")
        note = env.get("note", "")
    data = runs.read_data(run)
    return Row(
        run=run.name,
        note=note,
        score=score,
        interval=None if interval is None else (interval["low"], interval["high"]),
        settings=_flat(settings),
        defaults=_flat(env.get("defaults", {})),
        folds=str(sorted(data["people"]["val"] or data["people"]["train"])),
        same=hash_of(settings) + data["fingerprint"] + data["folds"],
    )


def _flat(nested: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
