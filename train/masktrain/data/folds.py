"""Who is trained on and who is held out. People are split, never pictures.

People who share a photo, or nearly the same photo, or whose numbers differ only in a suffix, stay on one side.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, counted, write_with
from maskprep.dataset import View
from maskprep.labels import Schema, open_duplicates, same_ids
from maskprep.store import COLUMNS, Cache, Decision, to_csv
from masktrain.config.images import DataConfig
from masktrain.data import tasks
from masktrain.data.names import listed, read_csv

VARYING_SHARE = 0.05
"""An attribute belongs to the person when it varies within fewer people than this (label errors do that)."""


@dataclass(frozen=True)
class Split:
    """Rows of a view's table to train and to validate on, in table order.

    Attributes:
        train, val: row numbers.
        hash: of every person with their side; equal means the same split.
        left_out: images of the view on neither side, counted by reason.
        linked: groups of people who had to stay on one side.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    hash: str
    left_out: dict[str, int]
    linked: tuple[tuple[str, ...], ...] = ()


def split(view: View, val_ratio: float, seed: int, *, fold: str = "", file: str | None = None) -> Split:
    """Hold out a share of the people, the classes in the same proportions on both sides.

    Args:
        val_ratio: wanted share; the split has ``round(1 / val_ratio)`` equal folds, of which the first is held out.
        seed: which split.
        fold: ``k/K`` to hold out the k-th of K folds instead.
        file: a CSV with the fold of every person instead of folds made here; of its name in the cache where it is
            not found, as caches move.

    Raises:
        UserError: fewer than two people with labelled crops, or than the folds that ``fold`` asks for, a photo that is
            also in the eval split, or a folds file that does not fit.
    """
    need_labels(view)
    usable, left_out = usable_rows(view)
    everything, schema = tasks.whole(view)
    table = everything.iloc[usable]
    pairs = copies(view)
    check_eval(view, table, pairs)
    linked = link_people(table, pairs)
    number, folds = _numbers(table, schema, val_ratio, seed, fold, _at(file, view), linked)
    which = numbered(fold)[0] if fold else 1
    if which > folds:
        raise UsageError(f"Fold {which} of {folds} does not exist.", "Folds are counted from 1: --fold 1/5.")
    held_out = table["person"].map(number).to_numpy() == which - 1
    made = Split(usable[~held_out], usable[held_out], _hash(table["person"], held_out), left_out, linked)
    check(view.table, made, pairs)
    return made


def copies(view: View) -> pd.DataFrame:
    """Pairs of photos that are (nearly) the same and not allowed by a decision: image_a, image_b, kind, distance.

    From duplicates.parquet, and by content where a cache has no such table.
    """
    cache = Cache(view.path)
    if cache.duplicates.is_file():
        pairs = open_duplicates(cache).pairs
        return pairs[~pairs["allowed"]].reset_index(drop=True)
    images = pd.concat([view.table, view.missing], ignore_index=True)
    images = images[images["content"].notna()]
    both = images.merge(images, on="content", suffixes=("_a", "_b"))
    both = both[both["image_a"] < both["image_b"]]
    return both.assign(kind="exact", distance=0, content_a=both["content"], content_b=both["content"])


def link_people(table: pd.DataFrame, pairs: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """Groups of people who must stay on one side, each sorted.

    Args:
        table: the images that are used.
        pairs: from :func:`copies`.
    """
    person = dict(zip(table["image"], table["person"], strict=True))
    known = zip(pairs["image_a"].map(person), pairs["image_b"].map(person), strict=True)
    links = [(a, b) for a, b in known if isinstance(a, str) and isinstance(b, str) and a != b]
    links += [(group[0], other) for group in same_ids(set(table["person"])) for other in group[1:]]
    return _joined(links)


def _joined(links: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Connected groups of two and more."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for a, b in links:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    groups: dict[str, list[str]] = {}
    for name in sorted(root):
        groups.setdefault(find(name), []).append(name)
    return tuple(tuple(group) for group in groups.values())


def count(view: View, config: DataConfig) -> int:
    """How many folds there are with some settings."""
    everything, schema = tasks.whole(view)
    table = everything.iloc[usable_rows(view)[0]]
    linked, file = link_people(table, copies(view)), _at(config.folds_file, view)
    return _numbers(table, schema, config.val_ratio, config.split_seed, config.fold, file, linked)[1]


def _at(file: str | None, view: View) -> str | None:
    """Where a folds file is: as named, or in the cache."""
    if file and not Path(file).is_file() and (view.path / Path(file).name).is_file():
        return str(view.path / Path(file).name)
    return file


def numbered(fold: str) -> tuple[int, int]:
    """k and K of ``k/K``.

    Raises:
        UsageError: it is something else.
    """
    k, _, of = fold.partition("/")
    if not (k.isdecimal() and of.isdecimal() and 1 <= int(k) <= int(of) and int(of) >= 2):
        raise UsageError(f"'{fold}' is no fold.", "Write which one of how many, such as 1/5.")
    return int(k), int(of)


def read_file(file: Path, people: Iterable[str]) -> dict[str, int]:
    """Fold of every person (numbered from 0 in the order of the folds' names), from a CSV with columns person and fold.

    Raises:
        UserError: columns or people are missing, a person is in two folds, or there is one fold only.
    """
    table = read_csv(file)
    if not {"person", "fold"} <= set(table.columns):
        raise UserError(f"{file} needs the columns person and fold.", f"It has: {', '.join(table.columns)}.")
    pairs = table[["person", "fold"]].drop_duplicates()
    if twice := sorted(pairs["person"][pairs["person"].duplicated()].tolist()):
        raise UserError(f"{file} puts people into two folds: {listed(twice)}.")
    if missing := sorted(set(people) - set(pairs["person"])):
        raise UserError(
            f"{file} has no fold for {counted(len(missing), 'person', 'people')}: {listed(missing)}.",
            "If persons were named since it was written, remove it and write new ground rules: masktrain init CACHE",
        )
    names = sorted(set(pairs["fold"]), key=lambda n: (len(n), n))
    if len(names) < 2:
        raise UserError(f"{file} has one fold only.")
    return {str(p): names.index(f) for p, f in zip(pairs["person"], pairs["fold"], strict=True)}


def write_file(view: View, folds: int, seed: int, out: Path) -> int:
    """Write a folds file for the people of a view, to use the same folds everywhere. Returns how many people.

    Raises:
        UserError: the file exists, or there are fewer people than folds.
    """
    Cache(view.path).clear_of_photos(out)
    if out.exists():
        raise UsageError(
            f"{out} already exists.", "Folds are not overwritten, as others may use them; choose another --out."
        )
    need_labels(view)
    table = view.table.iloc[usable_rows(view)[0]]
    number = fold_people(table, view.schema, folds, seed, link_people(table, copies(view)))
    _enough(number, folds)
    rows = pd.DataFrame(sorted((p, k + 1) for p, k in number.items()), columns=["person", "fold"])
    write_with(out, lambda part: rows.to_csv(part, index=False, lineterminator="\n"))
    return len(number)


def _numbers(
    table: pd.DataFrame,
    schema: Schema,
    val_ratio: float,
    seed: int,
    fold: str,
    file: str | None,
    linked: Sequence[Sequence[str]],
) -> tuple[dict[str, int], int]:
    """Fold number of every person, and how many folds there are."""
    if file:
        number = read_file(Path(file), table["person"])
        folds = 1 + max(number.values())
        if fold and numbered(fold)[1] != folds:
            raise UsageError(f"{file} has {folds} folds, not {numbered(fold)[1]}.")
        for group in linked:
            if len({number[person] for person in group}) > 1:
                raise UserError(
                    f"{file} puts {listed(group)} into different folds, who share photos or are one person.",
                    "Give them the same fold. See why with: maskprep duplicates CACHE",
                )
        return number, folds
    folds = numbered(fold)[1] if fold else max(2, round(1 / val_ratio))
    number = fold_people(table, schema, folds, seed, linked)
    if fold:
        _enough(number, folds)
    return number, 1 + max(number.values())


def _enough(number: dict[str, int], folds: int) -> None:
    """Refuse fewer folds than were asked for by their number.

    Raises:
        UserError: saying how many there can be.
    """
    if (made := 1 + max(number.values())) < folds:
        raise UserError(
            f"{folds} folds need at least as many people with labelled crops; there are {made}.",
            f"Ask for {counted(made, 'fold')} at most.",
        )


def usable_rows(view: View) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows that may be trained or validated on, and how many are left out for which reason."""
    table = view.table
    reason = pd.Series([None] * len(table), dtype=object)
    reason[table["label"].isna()] = "no label"
    reason[table["excluded"].notna()] = "excluded"
    for split in sorted({*table["split"]} - {"train"}):
        reason[table["split"] == split] = f"{split} split"
    left_out = {str(k): int(n) for k, n in reason.value_counts().items()}
    return np.flatnonzero(reason.isna().to_numpy()).astype(np.int64), left_out


def need_labels(view: View) -> None:
    """Refuse a cache whose photos have no labels at all.

    Raises:
        UserError: so it is, and how to give them.
    """
    if len(view) and view.table["label"].isna().all():
        source = view.dataset.get("source") or {}
        names = ", ".join(view.schema.joint)
        raise UserError(
            f"{view.path} has no labels ({names}); its photos are read in the layout '{source.get('layout', '')}'.",
            "Give them as class folders or as a table: source: {csv: labels.csv} in maskprep.yaml, then maskprep run.",
        )


def fold_people(
    table: pd.DataFrame, schema: Schema, folds: int, seed: int, linked: Sequence[Sequence[str]] = ()
) -> dict[str, int]:
    """Fold number of every person, stratified by what does not change from photo to photo (gender x age group).

    Depends on nothing but the people, their labels, the number of folds, the seed and who is linked.

    Args:
        linked: groups of people who get the same fold.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    first = {person: group[0] for group in linked for person in group}
    everyone = sorted(set(table["person"]))
    strata = person_strata(table.assign(person=[first.get(p, p) for p in table["person"]]), schema)
    people = np.array(sorted(strata))
    if len(people) < 2:
        shared = f" {len(everyone)} people share the same photos." if len(everyone) > 1 else ""
        raise UserError(
            f"A split needs at least two people with labelled crops; there are {len(people)}.{shared}",
            "See which with: maskprep duplicates CACHE"
            if shared
            else "See how many images have a label and a crop with: maskprep status CACHE",
        )
    folds = min(folds, len(people))
    counts = Counter(strata.values())
    # Strata smaller than the number of folds cannot be spread evenly: they share one.
    values = [strata[p] if counts[strata[p]] >= folds else "rare" for p in people]
    stratify = max(Counter(values).values()) >= folds
    maker = (StratifiedKFold if stratify else KFold)(folds, shuffle=True, random_state=seed)
    number = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "the least populated class": dealt with above
        for fold, (_, held_out) in enumerate(maker.split(people, values)):
            number.update(dict.fromkeys(people[held_out].tolist(), fold))
    return {person: number[first.get(person, person)] for person in everyone}


def person_strata(table: pd.DataFrame, schema: Schema) -> dict[str, str]:
    """Of each person, the most common combination of the attributes that belong to people rather than to photos."""
    indices = np.array([schema.decode(int(label)) for label in table["label"]], dtype=np.int64)
    people = table["person"].to_numpy()
    frame = pd.DataFrame(indices.reshape(len(table), len(schema.joint)), columns=list(schema.joint))
    varies = frame.groupby(people).nunique().gt(1).mean()
    names = [name for name in schema.joint if varies[name] < VARYING_SHARE] or list(schema.joint)
    combined = frame[names].astype(str).agg("/".join, axis=1)
    strata = {}
    for person, values in combined.groupby(people):
        counts = Counter(values)
        strata[str(person)] = min(counts, key=lambda v: (-counts[v], v))
    return strata


def check_eval(view: View, table: pd.DataFrame, pairs: pd.DataFrame) -> None:
    """Refuse to train on or choose by photos that are also in the eval split: its score would be a lie.

    Args:
        table: the images that are used.
        pairs: from :func:`copies`.

    Raises:
        UserError: naming the pairs, and how to drop or to allow them.
    """
    images = pd.concat([view.table, view.missing], ignore_index=True)
    judged = set(images["image"][(images["split"] != "train") & images["excluded"].isna()])
    used = set(table["image"])
    flipped = pairs.rename(columns=lambda c: f"{c[:-1]}{'ba'[c.endswith('_b')]}" if c.endswith(("_a", "_b")) else c)
    both = pd.concat([pairs, flipped], ignore_index=True)
    found = both[both["image_a"].isin(used) & both["image_b"].isin(judged)].sort_values(["image_a", "image_b"])
    if len(found):
        first = found.iloc[0]
        allow = Decision(first["content_a"], first["image_a"], "allow_duplicate", first["content_b"])
        raise UserError(
            f"{len(found)} training photos are identical or nearly identical to "
            f"photos of the eval split: {_listed(found)}.",
            "Drop one of each pair with a fix or a decision. If a pair is harmless, allow it with a"
            f" line in {Cache(view.path).decisions} ({','.join(COLUMNS)}):\n{to_csv([allow], header=False).strip()}",
        )


def _listed(pairs: pd.DataFrame, most: int = 5) -> str:
    said = [
        f"{pair['image_a']} = {pair['image_b']}"
        + (" (the same file)" if pair["kind"] == "exact" else f" ({pair['distance']} of 256 bits apart)")
        for pair in pairs.head(most).to_dict("records")
    ]
    return "; ".join(said) + (f"; and {len(pairs) - most} more" if len(pairs) > most else "")


def check(table: pd.DataFrame, made: Split, pairs: pd.DataFrame | None = None) -> None:
    """Refuse a split that shares a person or a photo between its sides; done every time one is used.

    Args:
        table: the view's table.
        made: the split.
        pairs: from :func:`copies`; None leaves only the people to be checked.

    Raises:
        UserError: naming who or what is on both sides.
    """
    train, val = table.iloc[made.train], table.iloc[made.val]
    if not len(train) or not len(val):
        raise UserError(f"The split has {len(train)} training and {len(val)} validation images.")
    if both := sorted(set(train["person"]) & set(val["person"])):
        raise UserError(f"The split is not person-disjoint: {', '.join(both[:5])} are on both sides.")
    if pairs is not None:
        sides = [pairs[f"image_{side}"].isin(train["image"]) for side in "ab"]
        held = [pairs[f"image_{side}"].isin(val["image"]) for side in "ab"]
        crossed = pairs[(sides[0] & held[1]) | (sides[1] & held[0])]
        if len(crossed):
            raise UserError(f"The split puts copies of a photo on both sides: {_listed(crossed)}.")


def _hash(people: pd.Series[Any], held_out: NDArray[np.bool_]) -> str:
    sides = sorted(set(zip(people, held_out.tolist(), strict=True)))
    return hashlib.sha256("".join(f"{p}\t{int(v)}\n" for p, v in sides).encode()).hexdigest()
