"""Photos that are there twice, as the same file or nearly the same picture, and people who have two numbers.

A copy that lies in train and in eval, or under two people, makes a score a lie: the model has seen the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.photos.phash import close_pairs, words
from maskprep.store.stage import Recipe, Report, Tables, TableStage
from maskprep.store.tables import fingerprint

VERSION = 1

NEAR = 8
"""Photos whose hashes differ in at most this many of 256 bits are nearly the same.

Of 720 changed copies of 120 photos (JPEG quality 50, half size, 1.3 times the size, brightness, contrast and colours,
PNG) 98 % lie within 8; the others are the much brighter ones, up to 18. Different photos begin at 46 between people
(1.27 million pairs of portraits with drawn masks) and at 16 within one sitting; in the built-in sample, which has one
portrait for everybody, at 10. A copy whose edges were cut by 3 % is some 40 bits away, and not found. See
benchmarks/duplicates.py.
"""

MOST_PAIRS = 64
"""In larger groups of photos that look the same, each is paired with the first of them only."""

TABLE = pa.schema(
    [
        ("image_a", pa.string()),
        ("image_b", pa.string()),
        ("kind", pa.string()),
        ("distance", pa.int64()),
        ("same_person", pa.bool_()),
        ("split_a", pa.string()),
        ("split_b", pa.string()),
    ]
)
"""duplicates.parquet: kind exact (the same bytes, distance 0) or near (distance in bits); image_a before image_b."""


def assemble(images: pd.DataFrame, people: Sequence[str | None], limit: int = NEAR) -> pa.Table:
    """duplicates.parquet: every pair of photos that are the same or nearly so, sorted.

    Args:
        images: images.parquet: image, content, phash, split and error. Photos with an error have no pair: empty files
            are all alike.
        people: the person of each image (labels.parquet); two images without one are not of the same person.
        limit: most bits in which two photos that are near differ; negative for exact copies only.
    """
    usable = np.flatnonzero(images["error"].isna().to_numpy())
    order = usable[np.argsort(images["image"].to_numpy()[usable].astype(str), kind="stable")]
    content = images["content"].to_numpy()[order]
    pairs = dict.fromkeys(_alike(content), ("exact", 0))
    if limit >= 0 and "phash" in images:
        hashes = images["phash"].to_numpy()[order]
        seen = np.array([i for i, value in enumerate(hashes) if isinstance(value, str)], dtype=np.int64)
        for a, b, distance in _near(hashes[seen], limit):
            pairs.setdefault((int(seen[a]), int(seen[b])), ("near", distance))
    names, split = images["image"].to_numpy()[order], images["split"].to_numpy()[order]
    who = [people[i] for i in order]
    rows = [
        (names[a], names[b], kind, distance, who[a] is not None and who[a] == who[b], split[a], split[b])
        for (a, b), (kind, distance) in sorted(pairs.items())
    ]
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in TABLE]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, TABLE, strict=True)], schema=TABLE)


def _alike(values: NDArray[Any]) -> list[tuple[int, int]]:
    """Pairs of positions with equal values; of large groups, each with the first."""
    groups: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        groups.setdefault(value, []).append(i)
    pairs: list[tuple[int, int]] = []
    for group in groups.values():
        firsts = group[:1] if len(group) > MOST_PAIRS else group
        pairs.extend((a, b) for a in firsts for b in group if a < b)
    return pairs


def _near(hashes: NDArray[Any], limit: int) -> list[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most ``limit`` bits, and in how many."""
    distinct, which = np.unique(hashes.astype(str), return_inverse=True)
    members: list[list[int]] = [[] for _ in distinct]
    for position, group in enumerate(which.tolist()):
        members[group].append(position)
    pairs = [(a, b, 0) for a, b in _alike(which)]
    for g, h, distance in close_pairs(words(distinct.tolist()), limit).tolist():
        many = len(members[g]) * len(members[h]) > MOST_PAIRS**2
        left, right = (members[g][:1], members[h][:1]) if many else (members[g], members[h])
        pairs.extend((min(a, b), max(a, b), distance) for a in left for b in right)
    return pairs


def crossing(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs that are in two splits, or in training under two people (or under nobody known).

    Two photos for evaluation cross nothing: who is on them is not known.
    """
    splits = pairs["split_a"] != pairs["split_b"]
    both_train = (pairs["split_a"] == "train") & (pairs["split_b"] == "train")
    return pairs[splits | (both_train & ~pairs["same_person"])]


def same_ids(people: Iterable[str | None]) -> list[tuple[str, ...]]:
    """People whose numbers are the same but for a suffix, such as 003397 and 003397-1, or for leading zeros.

    Such numbers are given where a number was found twice: to one person photographed twice, or to two.

    Returns:
        Groups of two and more, each sorted.
    """
    groups: dict[str, set[str]] = {}
    for person in people:
        if person is not None and (match := _NUMBER.fullmatch(person)):
            groups.setdefault(match.group(1).lstrip("0"), set()).add(person)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


_NUMBER = re.compile(r"(\d+)(?:[-_ ]\d+)?")


def shared_ids(images: Sequence[str], people: Sequence[str | None]) -> dict[str, list[str]]:
    """People whose photos lie in several folders named after them, such as 003397_male_Asian_25 and
    003397_female_Asian_40: one number for two people, or one person with two labels.

    Returns:
        Person -> names of the folders.
    """
    folders: dict[str, set[str]] = {}
    for image, person in zip(images, people, strict=True):
        folder = PurePosixPath(image).parent.name
        if person is not None and re.split("[_ ]", folder)[0] == person:
            folders.setdefault(person, set()).add(folder)
    return {person: sorted(found) for person, found in sorted(folders.items()) if len(found) > 1}


def notes(pairs: pd.DataFrame, images: Sequence[str], people: Sequence[str | None]) -> list[str]:
    """Sentences about what may leak, for the user."""
    said = []
    if count := len(crossing(pairs)):
        said.append(f"{count} pairs of photos are (nearly) the same across people or splits; see maskprep duplicates.")
    if same := same_ids(people):
        said.append(f"{len(same)} numbers differ only in a suffix: {'; '.join(', '.join(g) for g in same[:3])}.")
    for person, folders in list(shared_ids(images, people).items())[:3]:
        said.append(f"Person {person} has {len(folders)} folders: {', '.join(folders)}; a fix can rename one.")
    return said


@dataclass(frozen=True)
class Duplicates(TableStage):
    """duplicates.parquet: pairs of photos that are the same or nearly so."""

    name: ClassVar[str] = "duplicates"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels")
    file: ClassVar[str] = "duplicates.parquet"

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, {"near": NEAR})

    def _people(self, tables: Tables) -> list[str | None]:
        return [p if isinstance(p, str) else None for p in tables.table("labels")["person"]]

    def made_from(self, tables: Tables) -> str:
        """Of the labels, only who is on each photo counts."""
        return fingerprint(self.recipe.to_dict(), tables.mark("images"), self._people(tables))

    def build(self, tables: Tables, report: Report) -> pa.Table:
        images, people = tables.table("images"), self._people(tables)
        report.progress.start(self.name, len(images))
        table = assemble(images, people)
        report.progress.advance(len(images))
        report.notes += notes(table.to_pandas(), list(images["image"]), people)
        return table
