"""Decisions as they are made, and what became of each: applied, waiting for the next run, stale, or replaced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.base import Box, UsageError, nearest
from maskprep.faces import Subjects
from maskprep.labels import Schema
from maskprep.store import FACE_VERDICTS, Decision, holders, images_by_content, parse_box


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
    now = _label_text(value)
    if not _same(now, new) and decision.expected and not _same(now, expected):
        return "stale", f"{name} is '{now}' now, which is neither '{expected}' nor '{new}'"
    return "applied" if _same(now, new) else "pending", ""


def _label_text(value: Any) -> str:
    """A label as decisions.csv has it: numbers in full, empty for none."""
    return "" if pd.isna(value) else f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _same(one: str, other: str) -> bool:
    """Whether two labels are the same class, or the same number."""
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def decided_images(states: Iterable[DecisionState]) -> set[str]:
    """Images that need no further look: those with a decision that holds or will hold after the next run. That two
    photos are alike and may stay says nothing else about them."""
    return {
        image
        for each in states
        if each.state in ("applied", "pending") and each.decision.verdict != "allow_duplicate"
        for image in each.images
    }


MADE_HERE = (*FACE_VERDICTS, "relabel")
"""The verdicts of :func:`decide`."""


def decide(image: str, verdict: str, value: str, chooser: Subjects, labels: pd.DataFrame, schema: Schema) -> Decision:
    """A decision on an image as it is now: what is expected is what the program has chosen.

    Args:
        image: one of the cache's images.
        verdict: one of MADE_HERE.
        value: the number of a face, ``x0 y0 x1 y1`` in photo pixels, or ``attribute=class``; empty for keep and drop.
        chooser: of the cache.
        labels: labels.parquet.
        schema: what is classified.

    Raises:
        UsageError: no such verdict, a value that does not fit it, or a decision that is not possible on this image.
    """
    if verdict not in MADE_HERE:
        known = f"Known: {', '.join(MADE_HERE)}."
        raise UsageError(f"Unknown verdict '{verdict}'.{nearest(verdict, MADE_HERE)}", known)
    if verdict in ("keep", "drop") and value:
        raise UsageError(f"'{verdict}' takes no value, but '{value}' was given.")
    content = chooser.images.set_index("image")["content"].get(image)
    if not isinstance(content, str) or not content:
        raise UsageError(f"'{image}' could not be read, so there is nothing to decide on.")
    expected = _text(chooser.automatic(image).box)
    if verdict == "keep" and not expected:
        raise UsageError(f"No face was chosen on '{image}', so there is none to keep.", "Draw one: box x0 y0 x1 y1")
    if verdict == "face":
        value, expected = _face(image, value, chooser)
    elif verdict == "box":
        box = parse_box(value)
        if box is None:
            raise UsageError(f"'{value}' is no box.", "A box is four numbers in pixels of the photo: x0 y0 x1 y1")
        value = _text(box)
    elif verdict == "relabel":
        value, expected = _label(image, value, labels, schema)
    decision = Decision(content, image, verdict, value, expected)
    if verdict in FACE_VERDICTS and (why := chooser.apply(image, decision)[1]):
        raise UsageError(f"'{' '.join((verdict, value)).strip()}' is not possible on '{image}': {why}.")
    return decision


def _text(box: Box | None) -> str:
    return "" if box is None else " ".join(f"{v:.1f}" for v in box)


def _face(image: str, value: str, chooser: Subjects) -> tuple[str, str]:
    """Number and box of a face."""
    faces = {candidate.face.faces[0]: candidate.face for candidate in chooser.candidates(image)}
    if not (value.isascii() and value.isdigit() and int(value) in faces):
        known = f"It has: {', '.join(map(str, sorted(faces)))}." if faces else "No face was found on it."
        raise UsageError(f"'{image}' has no face '{value}'.", known)
    return str(int(value)), _text(faces[int(value)].box)


def _label(image: str, value: str, labels: pd.DataFrame, schema: Schema) -> tuple[str, str]:
    """``name=new`` and ``name=old``."""
    name, equals, new = (part.strip() for part in value.partition("="))
    attributes = {attribute.name: attribute for attribute in schema.attributes}
    if not (name and equals and new):
        raise UsageError(f"'{value}' is no new label.", "Write it as attribute=class, such as mask=worn.")
    if name not in attributes:
        known = f"Known: {', '.join(attributes)}." if attributes else "The cache has no labels."
        raise UsageError(f"There is no label '{name}'.{nearest(name, attributes)}", known)
    index = attributes[name].index(new)
    if index is None:
        raise UsageError(f"'{new}' is no value of '{name}'.", f"Known: {', '.join(attributes[name].classes)}.")
    now: Any = labels.set_index("image").at[image, name]
    old = _label_text(now)
    new = f"{float(new):.15g}" if attributes[name].bins else attributes[name].classes[index]
    return f"{name}={new}", f"{name}={old}" if old else ""
