"""Out-of-fold predictions of trained runs: read, checked against the data set, and averaged per attribute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UserError
from maskprep.labels import Schema

OOF = "oof.parquet"  # the name of the file in a run's folder

KNOWN = 0.9
"""Accuracy on held-out people from which on a model's doubts say something about labels; it must also err at most half
as often as the most frequent class does."""

MISLABELLED = 0.05
"""Largest share of wrong labels that is believed: what a model errs beyond it is its own."""


@dataclass(frozen=True)
class Predictions:
    """What one run predicted for images that it was not trained on.

    Args:
        name: of the file, for people.
        images: keys.
        labels: joint class that the run was told, int64 [n].
        probabilities: float64 [n, classes], rows sum to 1.
    """

    name: str
    images: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def read_predictions(path: Path, schema: Schema, known: set[str]) -> Predictions:
    """Read an oof.parquet (image, label, p_0 .. p_k); images that the cache does not list are left out.

    Args:
        path: the file, or the folder of a run.
        schema: what is classified.
        known: images of the cache.

    Raises:
        UserError: no such file, columns missing, another number of classes, or no image in common.
    """
    file = path / OOF if path.is_dir() else path
    try:
        table = pd.read_parquet(file)
    except FileNotFoundError as error:
        hint = f"masktrain fit writes {OOF} into its run."
        raise UserError(f"There are no predictions '{file}'.", hint) from error
    except (OSError, ValueError) as error:
        raise UserError(f"'{file}' cannot be read: {error}.", f"Give an {OOF}.") from error
    wanted = [f"p_{k}" for k in range(schema.num_classes)]
    absent = [c for c in ("image", "label", *wanted) if c not in table]
    extra = [c for c in table if str(c).startswith("p_") and c not in wanted]
    if absent or extra:
        what = f"has no column '{absent[0]}'" if absent else f"has more classes than the data set ({extra[0]})"
        raise UserError(
            f"'{file}' {what}; the data set has {schema.num_classes} classes.",
            "Give predictions of a run that was trained on a cache with these labels.",
        )
    table = table[table["image"].isin(known)].drop_duplicates("image").reset_index(drop=True)
    if table.empty:
        raise UserError(
            f"'{file}' has no image in common with the cache.",
            "Give predictions of a run that was trained on this data set.",
        )
    values = table[wanted].to_numpy(np.float64)
    labels = pd.to_numeric(table["label"], errors="coerce").to_numpy(np.float64)
    check(file, labels, values)
    shares = values / values.sum(axis=1, keepdims=True)
    return Predictions(str(file), tuple(table["image"]), labels.astype(np.int64), shares)


def check(file: Path, labels: NDArray[np.float64 | np.int64], values: NDArray[np.float64]) -> None:
    """Make sure that a file holds labels [n] and probabilities [n, classes].

    Raises:
        UserError: it does not.
    """
    is_one = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & np.isin(labels, range(values.shape[1]))
    if not is_one.all():
        raise UserError(
            f"'{file}' holds probabilities or a label that are none: row {int(is_one.argmin()) + 1} of {len(values)}.",
            "Train the run again: masktrain fit CACHE",
        )
    if (off := np.abs(values.sum(axis=1) - 1) > 0.05).any():
        row = int(off.argmax()) + 1
        raise UserError(f"'{file}', row {row}, does not add up to 1.", "The columns p_0 .. are probabilities.")


def mislabelled(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """The likeliest class other than each label's int64 [n], and how probable it is that the label is wrong and that
    class right float64 [n]; None where the model does not know the attribute well enough, see :data:`KNOWN`.

    A share r of the labels is taken to be wrong, evenly over the other classes. This share and the temperature of the
    probabilities are the likeliest together (on a grid); then Bayes' rule. A model that errs on the same images with
    full confidence cannot be told from wrong labels: that is what the agreement of several is for.

    Args:
        labels: classes of one attribute int64 [n].
        probabilities: of these classes by models that were not trained on the person [n, K].
    """
    count, classes = probabilities.shape
    own = np.arange(count)
    if not count or classes < 2:
        return None
    errors = float((probabilities.argmax(1) != labels).mean())
    if errors > min(1 - KNOWN, 0.5 * (1 - np.bincount(labels).max() / count)):
        return None
    logs = np.log(np.maximum(probabilities, 1e-12))
    best, found = -np.inf, (logs, 0.0)
    for temperature in np.geomspace(0.5, 12, 30):
        powers = np.exp((logs - logs.max(1, keepdims=True)) / temperature)
        table = powers / powers.sum(1, keepdims=True)
        right = table[own, labels]
        for share in MISLABELLED * np.array([0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0]):
            likely = np.log((1 - share) * right + share / (classes - 1) * (1 - right) + 1e-300).mean()
            if likely > best:
                best, found = likely, (table, float(share))
    table, share = found
    others = table.copy()
    others[own, labels] = -1.0
    other, right = others.argmax(1), table[own, labels]
    wrong = share / (classes - 1)
    return other, wrong * table[own, other] / ((1 - share) * right + wrong * (1 - right) + 1e-300)
