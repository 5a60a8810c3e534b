"""Photos that are there twice, as the same file or nearly the same picture, and people who have two numbers.

A copy that lies in train and in eval, or under two people, makes a score a lie: the model has seen the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.base import UsageError, counted
from maskprep.labels.columns import positions
from maskprep.photos import distances, near_groups, words
from maskprep.store import (
    Cache,
    Decision,
    Recipe,
    Report,
    Tables,
    TableStage,
    allowed_pairs,
    fingerprint,
    read_decisions,
    read_table,
)

VERSION = 1

NEAR = 8
"""Photos whose hashes differ in at most this many of 256 bits are nearly the same.

Of 720 changed copies of 120 photos (JPEG quality 50, half size, 1.3 times the size, brightness, contrast and colours,
PNG) 98 % lie within 8; the others are the much brighter ones, up to 18. Different photos begin at 46 between people
(1.27 million pairs of portraits with drawn masks) and at 16 within one sitting; in the built-in sample, which has one
portrait for everybody, at 10. A copy whose edges were cut by 3 % is some 40 bits away, and not found. See
benchmarks/duplicates.py.
"""

LARGEST = 64
"""In larger groups of photos that look the same, each is paired with the first of them, where it is near that one, or
with another that connects it with the group."""

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
    """duplicates.parquet: pairs of photos that are the same or nearly so, sorted; see LARGEST for how many of a group.

    Args:
        images: images.parquet. Photos with an error have no pair: empty files are all alike.
        people: the person of each image; two images without one are not of the same person.
        limit: most bits in which two photos that are near differ; negative for exact copies only.
    """
    usable = np.flatnonzero(images["error"].isna().to_numpy())
    order = usable[np.argsort(images["image"].to_numpy()[usable].astype(str), kind="stable")]
    pairs: dict[tuple[int, int], tuple[str, int]] = {}
    if limit >= 0 and "phash" in images:
        hashes = images["phash"].to_numpy()[order]
        seen = np.array([i for i, value in enumerate(hashes) if isinstance(value, str)], dtype=np.int64)
        pairs = {(int(seen[a]), int(seen[b])): ("near", bits) for a, b, bits in _near(hashes[seen].astype(str), limit)}
    for same in positions(images["content"].to_numpy()[order].tolist()).values():
        for first in same[:1] if len(same) > LARGEST else same:
            pairs |= {(first, other): ("exact", 0) for other in same if first < other}
    names, split = images["image"].to_numpy()[order], images["split"].to_numpy()[order]
    who = [people[i] for i in order]
    rows = [
        (names[a], names[b], kind, bits, who[a] is not None and who[a] == who[b], split[a], split[b])
        for (a, b), (kind, bits) in sorted(pairs.items())
    ]
    return pa.Table.from_pylist([dict(zip(TABLE.names, row, strict=True)) for row in rows], schema=TABLE)


def _near(hashes: NDArray[Any], limit: int) -> Iterator[tuple[int, int, int]]:
    """Pairs of positions whose hashes differ in at most ``limit`` bits, and in how many bits: all of a group of up to
    LARGEST; of a larger one at most two for each photo, which connect it."""
    distinct, sources, which = np.unique(hashes, return_index=True, return_inverse=True)
    group, links = near_groups(distinct.tolist(), limit)
    table = words(distinct.tolist())
    close = np.ones(len(distinct), bool)  # to the first photo of its group; where it is small, all are compared
    for members in positions(group[which].tolist()).values():
        for i, a in enumerate(members[:1] if len(members) > LARGEST else members):
            others = np.array(members[i + 1 :], dtype=np.int64)
            bits = distances(table[which[others]], table[which[a]])
            yield from ((a, b, d) for b, d in zip(others.tolist(), bits.tolist(), strict=True) if d <= limit)
            if len(members) > LARGEST:
                close[which[others]] = bits <= limit
    copies = np.flatnonzero(~close[which] & (sources[which] != np.arange(len(hashes))))
    yield from ((int(sources[which[b]]), b, 0) for b in copies.tolist())
    for g, h in links:
        if not (close[g] and close[h]):
            a, b = sorted((int(sources[g]), int(sources[h])))
            yield a, b, int(distances(table[g], table[h]))


def crossing(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs that are in two splits, or in training under two people (or under nobody known).

    Two photos for evaluation cross nothing: who is on them is not known.
    """
    splits = pairs["split_a"] != pairs["split_b"]
    both_train = (pairs["split_a"] == "train") & (pairs["split_b"] == "train")
    return pairs[splits | (both_train & ~pairs["same_person"])]


def same_ids(people: Iterable[str | None]) -> list[tuple[str, ...]]:
    """People whose numbers are the same but for a suffix, such as 003397 and 003397-1, or for leading zeros: groups of
    two and more, each sorted. Such numbers are given to one person photographed twice, or to two.
    """
    groups: dict[str, set[str]] = {}
    for person in people:
        if person is not None and (match := re.fullmatch(r"(\d+)(?:[-_ ]\d+)?", person)):
            groups.setdefault(match.group(1).lstrip("0"), set()).add(person)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def shared_ids(images: Sequence[str], people: Sequence[str | None]) -> dict[str, list[str]]:
    """Person -> names of the folders, for people with several folders named after them, such as 003397_male_Asian_25
    and 003397_female_Asian_40: one number for two people, or one person with two labels.
    """
    folders: dict[str, set[str]] = {}
    for image, person in zip(images, people, strict=True):
        folder = PurePosixPath(image).parent.name
        if person is not None and re.split("[_ ]", folder)[0] == person:
            folders.setdefault(person, set()).add(folder)
    return {person: sorted(found) for person, found in sorted(folders.items()) if len(found) > 1}


def notes(pairs: pd.DataFrame, images: Sequence[str], people: Sequence[str | None]) -> list[str]:
    """Sentences about what may leak, for the user."""
    sentences = []
    if count := len(crossing(pairs)):
        sentences.append(
            f"{counted(count, 'pair')} of identical or nearly identical photos, filed under different people or splits;"
            " list them with: maskprep duplicates CACHE"
        )
    for image, count in pairs["image_a"].value_counts().head(3).items():
        if count >= LARGEST:
            sentences.append(f"{count} photos are nearly identical to {image}; each is paired with it only.")
    if same := same_ids(people):
        groups = "; ".join(", ".join(group) for group in same[:3])
        sentences.append(f"{counted(len(same), 'group')} of people whose numbers differ only in a suffix: {groups}.")
    for person, folders in list(shared_ids(images, people).items())[:3]:
        sentences.append(
            f"Person {person} has {len(folders)} folders: {', '.join(folders)}; if they are two "
            "people, rename one with a fix (maskprep relabel)."
        )
    return sentences


@dataclass(frozen=True)
class Duplicates(TableStage):
    """duplicates.parquet: pairs of photos that are the same or nearly so."""

    name: ClassVar[str] = "duplicates"
    needs: ClassVar[tuple[str, ...]] = ("images", "labels")
    file: ClassVar[str] = "duplicates.parquet"

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, {"near": NEAR})

    def made_from(self, tables: Tables) -> str:
        """Of the labels, only who is on each photo counts."""
        return fingerprint(self.recipe.to_dict(), tables.mark("images"), _people(tables.table("labels")))

    def build(self, tables: Tables, report: Report) -> pa.Table:
        images, people = tables.table("images"), _people(tables.table("labels"))
        report.progress.start(self.name, len(images))
        table = assemble(images, people)
        report.progress.advance(len(images))
        report.notes += notes(table.to_pandas(), list(images["image"]), people)
        return table


def _people(labels: pd.DataFrame) -> list[str | None]:
    return [person if isinstance(person, str) else None for person in labels["person"]]


@dataclass(frozen=True)
class DuplicateReport:
    """What is there twice.

    Args:
        pairs: duplicates.parquet with the columns person_a, person_b (null where nobody is known), content_a,
            content_b, crossing (see :func:`crossing`) and allowed (a person decided that the pair does no harm).
        same_ids, shared_ids: see the functions.
        decisions: the file of decisions.
    """

    pairs: pd.DataFrame
    same_ids: list[tuple[str, ...]]
    shared_ids: dict[str, list[str]]
    decisions: Path


def open_duplicates(cache: Cache, distance: int | None = None) -> DuplicateReport:
    """Read duplicates.parquet, or find pairs at another distance.

    Raises:
        UserError: the cache has no such table, or decisions.csv cannot be read.
    """
    images = read_table(cache.images)
    people = _people(read_table(cache.labels, ["person"]))
    pairs = read_table(cache.duplicates) if distance is None else assemble(images, people, distance).to_pandas()
    facts = pd.DataFrame({"person": pd.Series(people, dtype=object), "content": images["content"]})
    facts.index = pd.Index(images["image"])
    for side in ("a", "b"):
        for name in ("person", "content"):
            values = facts[name].reindex(pairs[f"image_{side}"]).to_numpy()
            pairs[f"{name}_{side}"] = pd.Series(values, index=pairs.index, dtype=object)
    pairs["crossing"] = pairs.index.isin(crossing(pairs).index)
    allowed = allowed_pairs(read_decisions(cache.decisions))
    both = zip(pairs["content_a"], pairs["content_b"], strict=True)
    pairs["allowed"] = pd.Series([frozenset(pair) in allowed for pair in both], index=pairs.index, dtype=bool)
    return DuplicateReport(pairs, same_ids(people), shared_ids(list(images["image"]), people), cache.decisions)


def allow_pairs(found: DuplicateReport, image: str, reason: str = "", by: str = "", when: str = "") -> list[Decision]:
    """The decisions that allow the pairs of one photo across people or splits, less those that are there.

    Raises:
        UsageError: it has none.
    """
    pairs = found.pairs[found.pairs["crossing"]]
    decisions = []
    for mine, other in ("ab", "ba"):
        for pair in pairs[pairs[f"image_{mine}"] == image].to_dict("records"):
            texts = (str(pair[f"content_{mine}"]), image, "allow_duplicate", str(pair[f"content_{other}"]))
            decisions.append((bool(pair["allowed"]), Decision(*texts, reason=reason, by=by, when=when)))
    if not decisions:
        raise UsageError(
            f"'{image}' has no copy across people or splits.", "See which photos have with: maskprep duplicates CACHE"
        )
    return [decision for known, decision in decisions if not known]
