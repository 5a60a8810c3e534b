"""The fixes in force for a cache: its files, its preset and the rulings of decisions.csv, and what they change."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maskprep.labels.changes import Changes, Outcome, apply
from maskprep.labels.fixes import ANY, PRESET, RULING, Fix, read_fixes, read_preset
from maskprep.labels.lists import some
from maskprep.labels.schema import Schema
from maskprep.pipeline.config import LabelSettings
from maskprep.store.decisions import Decision, read_decisions, relabels


def gather(settings: LabelSettings, decisions: Path) -> list[Fix]:
    """Every fix in force.

    Args:
        settings: the ``labels`` section.
        decisions: decisions.csv, whose ``relabel`` rulings are fixes of single photos.

    Raises:
        UserError: a file cannot be read or is no file of fixes.
    """
    fixes = read_preset(settings.preset, settings.min_agree) if settings.preset else []
    for file in settings.fixes:
        fixes.extend(read_fixes(Path(file)))
    return [*fixes, *(_ruling(decision) for decision in relabels(read_decisions(decisions)))]


def identity(fixes: Sequence[Fix]) -> list[Any]:
    """What labels depend on, for a fingerprint: the content of every fix, wherever its file lies."""
    return [dataclasses.asdict(fix) for fix in fixes]


def notes(changes: Changes) -> list[str]:
    """Sentences about fixes that are not applied. People of a preset that this data set lacks are no news."""
    own = [o for o in changes.outcomes if o.fix.level != PRESET and o.status in ("refused", "absent")]
    published = [o for o in changes.outcomes if o.fix.level == PRESET and o.status == "refused"]
    said = [_say(outcome) for outcome in own]
    if published:
        examples = some([f"{o.fix.selection}: {o.detail}" for o in published])
        said.append(f"{published[0].fix.origin}: {len(published)} fixes not applied ({examples}).")
    return said


def preview(images: pd.DataFrame, schema: Schema, settings: LabelSettings, decisions: Path) -> Changes:
    """What the fixes in force, or those that are to be, make of images.parquet; nothing is written."""
    return apply(images, schema, gather(settings, decisions))


def _say(outcome: Outcome) -> str:
    fix = outcome.fix
    if fix.level == RULING:
        what = f"the photo '{fix.image}' has changed or is not there" if outcome.status == "absent" else outcome.detail
        return f"{fix.place}: stale, {what}."
    return f"{fix.place}: not applied, {outcome.detail}."


def _ruling(decision: Decision) -> Fix:
    field, _, new = (part.strip() for part in decision.value.partition("="))
    expected = decision.expected.partition("=")[2].strip()
    return Fix(
        image=decision.image,
        field=field,
        expected=expected or ANY,
        new=new,
        reason=decision.reason,
        source=decision.by,
        content=decision.content,
        origin="decisions.csv",
        line=decision.line,
        level=RULING,
    )
