"""What became of each decision: applied, waiting for the next run, stale, or replaced by a later one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.faces import Subjects
from maskprep.store import FACE_VERDICTS, Decision, holders, images_by_content


@dataclass(frozen=True)
class DecisionState:
    """A decision and what became of it.

    Args:
        decision: as in the file.
        images: the photos it concerns now; several for copies, none when the photo is gone.
        state: ``applied``, ``pending`` (the next run applies it), ``stale`` or ``replaced`` by a later one.
        why: in words, for a stale one.
    """

    decision: Decision
    images: tuple[str, ...]
    state: str
    why: str = ""


def decision_states(decisions: Sequence[Decision], chooser: Subjects, labels: pd.DataFrame) -> list[DecisionState]:
    """What became of each decision, in order; ``chooser`` was made with the same decisions."""
    contents = dict(zip(chooser.images["image"], chooser.images["content"], strict=True))
    by_content = images_by_content(contents)
    last = {d.topic: i for i, d in enumerate(decisions)}
    table = labels.set_index("image")
    states = []
    for i, decision in enumerate(decisions):
        images = holders(decision, by_content)
        state, why = "applied", ""
        if not images:
            why = (
                f"the photo '{decision.image}' "
                f"{'has changed' if decision.image in contents else 'is not in the photo folder'}"
            )
        elif last[decision.topic] != i:
            state = "replaced"
        elif decision.verdict == "relabel":
            state, why = _relabel_state(decision, table, images[0])
        elif decision.verdict in FACE_VERDICTS:
            before = len(chooser.stale)
            chooser.choose(images[0])
            why = chooser.stale[-1].partition("stale, ")[2] if len(chooser.stale) > before else ""
        states.append(DecisionState(decision, tuple(images), "stale" if why else state, why))
    return states


def _relabel_state(decision: Decision, labels: pd.DataFrame, image: str) -> tuple[str, str]:
    name, new, expected = decision.relabels, *(t.partition("=")[2].strip() for t in (decision.value, decision.expected))
    if name not in labels:
        return "stale", f"there is no label '{name}'"
    value: Any = labels.at[image, name]
    now = "" if pd.isna(value) else f"{value:g}" if isinstance(value, int | float) else str(value)
    if now != new and decision.expected and now != expected:
        return "stale", f"{name} is '{now}' now, which is neither '{expected}' nor '{new}'"
    return "applied" if now == new else "pending", ""


def decided_images(states: Iterable[DecisionState]) -> set[str]:
    """Images that need no further look: those with a decision that holds or will hold after the next run. That two
    photos are alike and may stay says nothing else about them."""
    return {
        image
        for each in states
        if each.state in ("applied", "pending") and each.decision.verdict != "allow_duplicate"
        for image in each.images
    }
