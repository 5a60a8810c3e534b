"""Which photos may not be on two sides of a split: pairs that are alike, and people who may be one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from maskprep.errors import UsageError
from maskprep.faces.decisions import DUPLICATE, Decision, read_decisions, waived
from maskprep.labels.duplicates import assemble, crossing, same_ids, shared_ids
from maskprep.store.cache import Cache
from maskprep.store.tables import read_table


@dataclass(frozen=True)
class Duplicates:
    """What is there twice.

    Args:
        pairs: duplicates.parquet with the columns person_a, person_b (null where nobody is known), content_a,
            content_b, crossing (across people in training, or across splits) and waived (ruled to be harmless).
        same_ids: people whose numbers differ only in a suffix.
        shared_ids: people whose photos lie in several folders named after them.
        decisions: where rulings are kept.
    """

    pairs: pd.DataFrame
    same_ids: list[tuple[str, ...]]
    shared_ids: dict[str, list[str]]
    decisions: Path


def open_duplicates(cache: Cache, distance: int | None = None) -> Duplicates:
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
    allowed = waived(read_decisions(cache.decisions))
    both = zip(pairs["content_a"], pairs["content_b"], strict=True)
    pairs["waived"] = pd.Series([frozenset(pair) in allowed for pair in both], index=pairs.index, dtype=bool)
    return Duplicates(pairs, same_ids(people), shared_ids(list(images["image"]), people), cache.decisions)


def waivers(found: Duplicates, image: str, reason: str = "", by: str = "", when: str = "") -> list[Decision]:
    """The rulings that let the pairs of one photo across people or splits be, less those that are there.

    Raises:
        UsageError: it has none.
    """
    pairs = found.pairs[found.pairs["crossing"]]
    made = []
    for mine, other in ("ab", "ba"):
        for pair in pairs[pairs[f"image_{mine}"] == image].to_dict("records"):
            value = f"{DUPLICATE}{pair[f'content_{other}']}"
            ruling = Decision(str(pair[f"content_{mine}"]), image, "keep", value, reason=reason, by=by, when=when)
            made.append((bool(pair["waived"]), ruling))
    if not made:
        raise UsageError(
            f"'{image}' has no copy across people or splits.", "See which photos have with: maskprep duplicates CACHE"
        )
    return [ruling for known, ruling in made if not known]


def waiver(content: str, image: str, other: str) -> str:
    """The line of decisions.csv that lets a pair be: of the photo ``image``, with the content of the other."""
    return f"{content},{image},keep,{DUPLICATE}{other},,,,"
