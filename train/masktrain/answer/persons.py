"""Answers about a person's photos together: who is asked about is the same person in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError
from maskprep.labels import Schema
from masktrain.config.settings import nearest


def attributes(given: str | None, schema: Schema) -> tuple[str, ...]:
    """The attributes of a list with commas; none for nothing.

    Raises:
        UsageError: a name that is no attribute of the joint label.
    """
    names = tuple(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))
    for name in names:
        if name not in schema.joint:
            near = nearest(name, schema.joint)
            raise UsageError(
                f"--person-mean: there is no attribute '{name}'; there is {', '.join(schema.joint)}.",
                f"Did you mean '{near[0]}'?" if near else "",
            )
    return names


def mean_over_photos(
    schema: Schema,
    people: Sequence[str] | NDArray[np.object_],
    probabilities: NDArray[np.floating],
    numbers: Mapping[str, NDArray[np.float64]],
    names: Sequence[str],
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float64]]]:
    """Give all photos of a person the mean probabilities of some attributes, and the mean of their numbers.

    What the photos say of the other attributes stays: the joint probabilities are multiplied by the ratio of the new
    to the old probabilities of each attribute, and scaled to add up to 1.

    Args:
        people: who is on each photo [n].
        probabilities: of the joint classes [n, C].
        numbers: attribute -> the numbers that are answered [n].
        names: attributes that do not change from photo to photo.

    Returns:
        Probabilities [n, C] and numbers [n].
    """
    who = pd.Series(list(people), dtype=object)
    table = np.asarray(probabilities, dtype=np.float64).reshape(-1, *schema.sizes)
    numbers = dict(numbers)
    ratio = np.ones_like(table)
    for name in names:
        axis = 1 + schema.joint.index(name)
        others = tuple(a for a in range(1, table.ndim) if a != axis)
        own = table.sum(axis=others, keepdims=True)
        flat = pd.DataFrame(own.reshape(len(who), -1))
        shared = flat.groupby(who).transform("mean").to_numpy().reshape(own.shape)
        ratio *= shared / np.maximum(own, 1e-12)
        if name in numbers:
            numbers[name] = pd.Series(numbers[name]).groupby(who).transform("mean").to_numpy()
    made = (table * ratio).reshape(len(who), -1)
    return (made / np.maximum(made.sum(1, keepdims=True), 1e-300)).astype(np.float32), numbers
