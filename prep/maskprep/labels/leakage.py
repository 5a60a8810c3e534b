"""Which photos may not be on two sides of a split: pairs that are alike, and people who may be one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from maskprep.errors import UsageError
from maskprep.labels.duplicates import assemble, crossing, same_ids, shared_ids
from maskprep.store import Cache, Decision, allowed_pairs, read_decisions, read_table


@dataclass(frozen=True)
class DuplicateReport:
    """What is there twice.

    Args:
        pairs: duplicates.parquet with the columns person_a, person_b (null where nobody is known), content_a,
            content_b, crossing (across people in training, or across splits) and allowed (a person decided that the
            pair does no harm).
        same_ids: people whose numbers differ only in a suffix.
        shared_ids: people whose photos lie in several folders named after them.
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
    people = [p if isinstance(p, str) else None for p in read_table(cache.labels, ["person"])["person"]]
    pairs = read_table(cache.duplicates) if distance is None else assemble(images, people, distance).to_pandas()
    person = dict(zip(images["image"], people, strict=True))
    content = dict(zip(images["image"], images["content"], strict=True))
    for side in ("a", "b"):
        who = [person.get(image) for image in pairs[f"image_{side}"]]
        pairs[f"person_{side}"] = pd.Series(who, index=pairs.index, dtype=object)
        pairs[f"content_{side}"] = [content.get(image) for image in pairs[f"image_{side}"]]
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
