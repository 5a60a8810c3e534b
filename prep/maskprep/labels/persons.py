"""Whether it is known who is on the photos, and what their names suggest where nobody is known.

A split keeps the photos of a person on one side. A photo whose person is not known counts as a person of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.base import counted
from maskprep.labels.schema import Schema

ENOUGH = 0.9
"""Share of photos with a known person from which on the others are too few to change a score much."""
COVERED = 0.8
"""Share of the photos that a pattern must put beside another photo to be proposed."""
FEWEST = 5
"""Groups below which a pattern is not proposed."""
PATTERNS = (
    r"([^/]+)/[^/]+$",  # 0001/a.jpg
    r"(?:^|/)([A-Za-z]*\d+)[^\d/.][^/]*$",  # 0001_a.jpg, p12-mask.jpg
    r"([^/]+)[-_ ][^-_ /]+$",  # name-03.png
    r"(?:^|/)([^-_ /]+)[-_ ][^/]*$",  # name_mask_03.png
    r"(?:^|/)([^\d/]+)\d+\.[^/]*$",  # name03.png
)
"""Where names usually have the person, the surest first."""


@dataclass(frozen=True)
class Proposal:
    """A pattern for ``source.person``: how many people it finds, and two photos that it takes for one person's."""

    pattern: str
    people: int
    example: tuple[str, str]


def known(table: pd.DataFrame, source: Mapping[str, Any] | None) -> float:
    """Share of the images of the split train whose person is known; 1 where no two are of one person.

    Args:
        table: image, person (null or the image itself where it is not known), split.
        source: that of dataset.json; with ``source.independent`` nobody needs to be known.
    """
    learnt = table[table["split"].fillna("train") == "train"]
    if learnt.empty or ((source or {}).get("settings") or {}).get("independent"):
        return 1.0
    return float((learnt["person"].notna() & (learnt["person"] != learnt["image"])).mean())


def propose(images: Sequence[str], classes: int = 0) -> Proposal | None:
    """The first pattern that most photos share with another one; None where the names tell nothing.

    Args:
        images: paths.
        classes: of the largest attribute; so few groups or fewer are taken for classes, not for people.
    """
    for pattern in PATTERNS:
        found = [match and match[1] for match in (re.search(pattern, image) for image in images)]
        groups = Counter(name for name in found if name)
        shared, largest = sum(n for n in groups.values() if n > 1), max(groups.values(), default=0)
        if len(groups) >= max(classes + 1, FEWEST) and shared >= COVERED * len(images) and 2 * largest <= shared:
            name = next(name for name, n in groups.items() if n > 1)
            first, second, *_ = (image for image, own in zip(images, found, strict=True) if own == name)
            return Proposal(pattern, len(groups), (first, second))
    return None


def warning(known: float) -> str:
    """What unknown persons do to a split; empty where enough are known.

    Args:
        known: share of the photos whose person is known.
    """
    if known >= ENOUGH:
        return ""
    who = "No person is known: every" if not known else f"A person is known for {known:.0%} of the photos: every other"
    return (
        f"{who} photo counts as a person of its own, so photos of one person may stand on both sides of a split, and"
        " scores are too good."
    )


def doubts(table: pd.DataFrame, source: Mapping[str, Any] | None, schema: Schema) -> tuple[str, ...]:
    """The warning, and how to say who is who, for a table as of :func:`known`; nothing where enough is known, or there
    is nothing to learn."""
    if not schema.attributes or not (text := warning(known(table, source))):
        return ()
    images = table["image"][table["split"].fillna("train") == "train"].tolist()
    alone = "if no two photos are of one person, source: {independent: true}"
    if (made := propose(images, max(len(a.classes) for a in schema.attributes))) is None:
        return text, f"Say who is who in a CSV with the column person, or in maskprep.yaml by source.person; {alone}"
    one, other = made.example
    return text, (
        f"The names suggest {counted(made.people, 'person', 'people')} ({one} and {other} "
        "are one). If so, write into maskprep.yaml and run"
        f" again: source: {{person: '{made.pattern}'}}; {alone}"
    )
