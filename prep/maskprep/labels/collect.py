"""The fixes in force for a cache: its files, its preset and the rulings of decisions.csv, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskprep.base import some
from maskprep.labels.changes import Changes, Outcome
from maskprep.labels.fixes import ANY, PRESET, RULING, Fix, read_fixes, read_preset
from maskprep.store import Decision, read_decisions, relabels


def gather(files: Sequence[str], preset: str | None, min_agree: int, decisions: Path) -> list[Fix]:
    """Every fix in force.

    Args:
        files: CSV or YAML files of fixes.
        preset: a list of published label errors, or None.
        min_agree: use those of the preset that at least so many published lists agree on.
        decisions: decisions.csv, whose ``relabel`` rulings are fixes of single photos.

    Raises:
        UserError: a file cannot be read or is no file of fixes.
    """
    fixes = read_preset(preset, min_agree) if preset else []
    for file in files:
        fixes.extend(read_fixes(Path(file)))
    return [*fixes, *(_ruling(decision) for decision in relabels(read_decisions(decisions)))]


def notes(changes: Changes) -> list[str]:
    """Sentences about fixes that are not applied. People of a preset that this data set lacks are no news."""
    own = [o for o in changes.outcomes if o.fix.level != PRESET and o.status in ("refused", "absent")]
    published = [o for o in changes.outcomes if o.fix.level == PRESET and o.status == "refused"]
    said = [_say(outcome) for outcome in own]
    if published:
        examples = some([f"{o.fix.selection}: {o.detail}" for o in published])
        said.append(f"{published[0].fix.origin}: {len(published)} fixes not applied ({examples}).")
    return said


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
