"""One interface to whatever was trained: what it sees, what it answers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.dataset import View, open_view
from maskprep.labels import Schema
from maskprep.store import Cache
from masktrain.answer.manual import Input, Manual
from masktrain.score.calibration import Calibration

Rows = NDArray[np.int64]
Sights = Mapping[str, tuple[View, Rows]]
"""For each input of a model, by name: where its crops are, and which rows [n] of that view's table."""


class Source(Protocol):
    """Networks that give probabilities float32 [n, C] for the images they are shown."""

    def __call__(self, sights: Sights, batch_size: int) -> NDArray[np.float32]:
        """Probabilities of the images, in the order of the rows."""
        ...


@dataclass(frozen=True)
class Predictor:
    """Something trained, with what must be known to use it; ``name`` is where it lies, for people."""

    manual: Manual
    source: Source
    calibration: Calibration = field(default_factory=Calibration)
    name: str = "The model"

    @property
    def schema(self) -> Schema:
        """What it classifies."""
        return self.manual.labels()

    def __call__(self, view: View, rows: Rows, batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities float32 [n, C] of some rows of a view's table, in their order.

        What looks at several kinds of crops finds the others in the same cache.

        Raises:
            UserError: the cache lacks crops that it needs, or a probability is no finite number.
        """
        if not len(rows):
            return np.zeros((0, len(self.manual.classes)), dtype=np.float32)
        first, *others = self.manual.inputs
        check_size(first, view)
        sights = {first.view: (first.of(view), rows)}
        for wanted in others:
            other = find_view(view.path, wanted)
            check_size(wanted, other)
            sights[wanted.view] = (wanted.of(other), same_images(view, rows, other))
        return self._answer(sights, batch_size)

    def of_crops(self, crops: Mapping[str, NDArray[np.uint8]], batch_size: int = 64) -> NDArray[np.float32]:
        """Probabilities float32 [n, C] of crops in memory: for each input by name uint8 [n, H, W, 3] RGB,
        before the background that the input has.

        Raises:
            UserError: a probability is no finite number.
        """
        sights = {i.view: memory(crops[i.view], i, self.schema) for i in self.manual.inputs}
        return self._answer(sights, batch_size)

    def _answer(self, sights: Sights, batch_size: int) -> NDArray[np.float32]:
        probabilities = self.calibration.temper(self.source(sights, batch_size))
        if wrong := int((~np.isfinite(probabilities).all(1)).sum()):
            raise UserError(
                f"{self.name} gives no finite probabilities for {wrong} of {len(probabilities)} crops: its weights or"
                " normalisation are damaged.",
                "Restore it from a copy, or train anew.",
            )
        return probabilities

    def decide(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class of each row [n]."""
        return self.calibration.decide(probabilities)


def find_view(cache: Path, wanted: Input) -> View:
    """The view of a cache with a model's kind of crops: by its name, otherwise by what it looks like.

    Raises:
        UsageError: the cache has no such view.
    """
    names = Cache(cache).views() if (cache / "dataset.json").is_file() else []
    if wanted.view in names:
        named = open_view(cache, wanted.view)
        if len(names) == 1 or wanted.fits(named.info):
            return named
    for name in names:
        if name != wanted.view and wanted.fits((other := open_view(cache, name)).info):
            return other
    return open_view(cache, wanted.view)  # for its error, or its warning that it was made otherwise


def check_size(wanted: Input, view: View) -> None:
    """Refuse crops of another size than those a model was trained on.

    Raises:
        UsageError: saying how to make such crops.
    """
    if tuple(view.size) != wanted.size:
        size = "x".join(map(str, wanted.size))
        raise UsageError(
            f"The model was trained on crops of {size}, view '{view.name}' of {view.path} has"
            f" {view.size[0]}x{view.size[1]}.",
            f"Make such a view with: maskprep crop {view.path} --size {size} --view NAME",
        )


def memory(crops: NDArray[np.uint8], wanted: Input, schema: Schema) -> tuple[View, Rows]:
    """Crops uint8 [n, H, W, 3] in memory as a view, with the rows of all of them.

    Raises:
        UsageError: they have another size than the input.
    """
    n = len(crops)
    table = pd.DataFrame({"image": [f"{i:06d}" for i in range(n)], "shard": 0, "row": range(n)})
    table["label"] = pd.array([pd.NA] * n, dtype="Int64")
    size = (int(crops.shape[1]), int(crops.shape[2]))
    view = View(wanted.view, Path("memory"), schema, table, table.iloc[:0], size, wanted.geometry, {}, {0: crops})
    check_size(wanted, view)
    return view, np.arange(n, dtype=np.int64)


def same_images(view: View, rows: Rows, other: View) -> Rows:
    """The rows of another view of the same cache that show the same images."""
    images = view.table["image"].iloc[rows]
    found = pd.Series(other.table.index, index=other.table["image"]).reindex(images)
    if found.isna().any():
        lost = images.to_numpy()[found.isna().to_numpy()]
        raise UserError(
            f"View '{other.name}' of {view.path} lacks {len(lost)} images that view '{view.name}' has: {lost[0]}, ...",
            f"Bring it up to date with: maskprep run {view.path}",
        )
    return found.to_numpy(dtype=np.int64)
