"""The images that are asked about, with their true answers: from a cache's labels or from a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.dataset import View
from maskprep.labels import SPLITS, Schema
from maskprep.store import read_table
from masktrain.data import names as tables
from masktrain.runs.predictions import Predictions, read_csv


@dataclass(frozen=True)
class EvalSet:
    """Images whose answers are known, whether they have a crop or not.

    Attributes:
        images: one row for each, as in :class:`maskprep.dataset.View`, numbered from 0.
        truth: joint labels int64 [n].
        people: who is in them [n]; an answers file may say so itself.
        what: which images, in words without their number.
        split: the split that they are, None for those of an answers file.
    """

    images: pd.DataFrame
    truth: NDArray[np.int64]
    people: list[str]
    what: str
    split: str | None

    def __len__(self) -> int:
        return len(self.truth)

    def columns(self, cache: Path) -> dict[str, list[Any]]:
        """Everything that the cache's images.parquet and the rest say about the images, by column."""
        more = read_table(cache / "images.parquet").set_index("image").reindex(self.images["image"])
        found = {str(name): more[name].tolist() for name in more}
        return found | {str(name): self.images[name].tolist() for name in self.images}

    def called(self, what: str) -> EvalSet:
        """The same images in other words."""
        return replace(self, what=what)

    def answered_in(self, file: Path, known: Iterable[str], schema: Schema) -> Predictions:
        """What a CSV file answers to them; ``known`` are all images of the cache."""
        return read_csv(file, known, schema).of(self.images["image"], self.people, self.truth, self.what)

    def take(self, chosen: NDArray[np.bool_]) -> EvalSet:
        """Some of them."""
        people = [p for p, c in zip(self.people, chosen, strict=True) if c]
        images = self.images[chosen].reset_index(drop=True)
        return EvalSet(images, self.truth[chosen], people, self.what, self.split)


def ask(
    pictures: View, schema: Schema, data: dict[str, Any], answers: Path | None = None, split: str | None = None
) -> EvalSet:
    """The images of a cache that can be scored.

    Args:
        schema: what the run classifies; labels are always by these classes.
        data: data.json of the run.
        answers: CSV with names and answers; otherwise the cache's own labels count.
        split: ``train``, ``eval`` or ``val`` (the people the run held out). By default, with answers, all images;
            without, the labelled images of the split ``eval`` if there are any, otherwise ``val``.

    Raises:
        UserError: nothing to score, or names and answers that cannot be matched.
    """
    images = pd.concat([pictures.table, pictures.missing], ignore_index=True)
    if answers is not None:
        return _answered(images, answers, schema, data["people"]["val"], split)
    if pictures.schema != schema:
        raise UserError(
            f"The cache has other classes ({', '.join(pictures.schema.joint)}) than the run"
            f" ({', '.join(schema.joint)}).",
            "Give the answers with --answers.",
        )
    people = data["people"]["val"] if same_source(pictures, data) else None
    return _labelled(images, pictures.path, people, split)


def of_cache(
    cache: Path, schema: Schema, images: pd.DataFrame, people: Sequence[str], answers: Path | None, split: str | None
) -> EvalSet:
    """The images of a cache that can be scored without a run; see :func:`ask`.

    Args:
        images: every image of the cache, see :func:`maskprep.dataset.image_table`.
        people: those who are the split ``val``.
    """
    if answers is not None:
        return _answered(images, answers, schema, people, split)
    return _labelled(images, cache, people, split)


def report_name(cache: Path, images: EvalSet, answers: Path | None, split: str | None) -> str:
    """Name of the file for the scores of some images: other images of a cache have another.

    Args:
        answers, split: as given to :func:`ask`.
    """
    part = images.split or "-".join(["by", *([answers.stem] if answers else []), *([split] if split else [])])
    return re.sub(r'[\x00-\x1f\\:*?"<>|]', "_", f"eval-{cache.resolve().name}-{part}.json").strip()


def same_source(pictures: View, data: dict[str, Any]) -> bool:
    """Whether a cache was made from the photos that the run was trained on, so that person means the same person."""
    return pictures.fingerprint() == data["fingerprint"] or bool(pictures.dataset.get("source") == data["source"])


def _answered(images: pd.DataFrame, file: Path, schema: Schema, people: Sequence[str], split: str | None) -> EvalSet:
    """The images of an answers file with their labels and people (the file's own, if it names them)."""
    if split is not None:
        images = images[_in_split(images, split, people)]
    table = tables.read_csv(file)
    if not len(table):
        raise UserError(f"{file} has no rows.")
    truth = tables.labels(table, schema, file)
    found = tables.match(table[tables.name_column(table, file)].tolist(), images["image"], file)
    chosen = images.set_index("image", drop=False).loc[found].reset_index(drop=True)
    shown = chosen["person"].tolist()
    if "person" in table and (table["person"].str.strip() != "").all():
        shown = table["person"].tolist()
    return EvalSet(chosen, truth, shown, f"answered in {file.name}", None)


def _labelled(images: pd.DataFrame, cache: Path, people: Sequence[str] | None, split: str | None) -> EvalSet:
    """The images whose labels the cache knows; ``people`` are the split ``val``, None where they are not in it."""
    labelled = images[images["label"].notna() & images["excluded"].isna()]
    if split is None:
        split = next((s for s in ("eval", "test") if (labelled["split"] == s).any()), "val")
    chosen = labelled[_in_split(labelled, split, people or ())].reset_index(drop=True)
    if split == "val" and people is None and not len(chosen):
        raise UsageError(
            f"{cache} has no labels for the split 'eval', and its people are not those of the run.",
            "Give the answers with --answers, or choose --split train.",
        )
    if not len(chosen):
        raise UserError(f"{cache} has no labelled images in the split '{split}'.", "Give them with --answers.")
    name = "that the run held out" if split == "val" and people is not None else f"of the split '{split}'"
    return EvalSet(chosen, chosen["label"].to_numpy(dtype=np.int64), chosen["person"].tolist(), name, split)


def _in_split(images: pd.DataFrame, split: str, people: Sequence[str]) -> pd.Series[bool]:
    if split not in SPLITS:
        raise UsageError(f"There is no split '{split}'.", f"Choose one of {', '.join(SPLITS)}.")
    if split == "val" and people:
        return images["person"].isin(people) & (images["split"] == "train")
    return images["split"] == split
