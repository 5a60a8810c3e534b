"""Out-of-fold predictions: what a run answered about people it was not trained on (oof.parquet)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit import OOF, predictions
from maskprep.base import UsageError, UserError


@dataclass(frozen=True)
class HeldOut:
    """Predictions on images of people that whoever made them was not trained on, sorted by image.

    Args:
        images: names [n].
        people: [n].
        labels: joint labels int64 [n].
        probabilities: float64 [n, C].
    """

    images: NDArray[np.object_]
    people: NDArray[np.object_]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: NDArray[Any]) -> HeldOut:
        """Some of the rows, by number or by mask."""
        return HeldOut(self.images[chosen], self.people[chosen], self.labels[chosen], self.probabilities[chosen])


def read(run: Path) -> HeldOut:
    """The out-of-fold predictions of a run or an ensemble.

    Raises:
        UsageError: it has none.
        UserError: they cannot be read, or do not say who is in the pictures and the cache is gone.
    """
    file = run / OOF
    if not file.is_file():
        raise UsageError(f"{run} has no {OOF}: it has no predictions on held-out people.")
    try:
        table = pd.read_parquet(file)
        columns = sorted((c for c in table if str(c).startswith("p_")), key=lambda c: int(str(c)[2:]))
        if "person" not in table:
            table = _with_people(table, run)
        table = table.sort_values("image", ignore_index=True)
        held = HeldOut(
            table["image"].to_numpy(dtype=object),
            table["person"].astype(str).to_numpy(dtype=object),
            table["label"].to_numpy(dtype=np.int64),
            table[columns].to_numpy(dtype=np.float64),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file} cannot be used: {what}.", "Train the run again: masktrain fit CACHE") from error
    predictions.check(file, held.labels, held.probabilities)
    if not len(held):
        raise UserError(f"{file} has no rows.", "Train the run again: masktrain fit CACHE")
    return held


def to_frame(held: HeldOut) -> pd.DataFrame:
    """The table kept in oof.parquet."""
    frame = pd.DataFrame({"image": held.images, "person": held.people, "label": held.labels})
    names = [f"p_{k}" for k in range(held.probabilities.shape[1])]
    return pd.concat([frame, pd.DataFrame(held.probabilities.astype(np.float32), columns=names)], axis=1)


def _with_people(table: pd.DataFrame, run: Path) -> pd.DataFrame:
    """Early runs did not write who is in the pictures: the cache knows."""
    from maskprep.dataset import open_view
    from masktrain.runs import folder as runs

    data = runs.read_data(run)
    if not (Path(data["cache"]) / "dataset.json").is_file():
        raise UserError(f"{run / OOF} does not name people, and the cache {data['cache']} is gone.")
    person = open_view(Path(data["cache"]), data["view"]).table.set_index("image")["person"]
    return table.assign(person=person.loc[table["image"]].to_numpy())
