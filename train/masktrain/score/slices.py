"""Scores of parts of the images: by crop status, by source, by mask state and age, or by any column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError
from maskprep.labels import Schema
from masktrain.config.settings import nearest
from masktrain.score import metrics

TOGETHER = "*"


@dataclass(frozen=True)
class Slice:
    """One part of the images.

    Args:
        by: what they were parted by, such as ``status`` or ``mask*age``; ``value`` is this part's.
        images, people: how many.
        accuracy, low, high: with its 95 % interval over people.
        macro_f1: mean F1 over the classes that occur among the part's truths.
    """

    by: str
    value: str
    images: int
    people: int
    accuracy: float
    low: float
    high: float
    macro_f1: float

    @property
    def interval(self) -> str:
        """That of the accuracy, or that there are too few people."""
        return metrics.between(self.low, self.high, self.people, ".3f")


def default(schema: Schema, columns: Sequence[str]) -> list[str]:
    """What to part by where nothing is asked for: crop status and source where known, mask state and age."""
    wanted = [name for name in ("status", "source") if name in columns]
    pair = [name for name in ("mask", "age") if name in schema.joint]
    return [*wanted, TOGETHER.join(pair)] if len(pair) == 2 else wanted


def attributes(labels: NDArray[np.int64], schema: Schema) -> dict[str, NDArray[np.object_]]:
    """The class of each attribute [n] of joint labels."""
    parts = np.array([schema.decode(int(label)) for label in labels], dtype=np.int64).reshape(len(labels), -1)
    return {name: np.array(schema[name].classes, dtype=object)[parts[:, i]] for i, name in enumerate(schema.joint)}


def score(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    people: Sequence[str],
    schema: Schema,
    columns: Mapping[str, Sequence[Any]],
    by: Sequence[str],
) -> list[Slice]:
    """Scores of every part.

    Args:
        truth, predicted: joint labels [n].
        columns: values [n] of what is known about each image; the true attributes are known besides.
        by: names of columns or attributes, several together as ``a*b``.

    Raises:
        UsageError: a name that is neither.
    """
    known = {**columns, **attributes(truth, schema)}
    who = np.asarray(people, dtype=object)
    found = []
    for name in by:
        parts = [part.strip() for part in name.split(TOGETHER)]
        for part in parts:
            if part not in known:
                near = nearest(part, list(known))
                raise UsageError(
                    f"There is no column '{part}' to slice by.",
                    f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}.",
                )
        values = [
            " ".join("none" if v is None else str(v) for v in row)
            for row in zip(*(known[p] for p in parts), strict=True)
        ]
        joined = np.array(values, dtype=object)
        order = {c: k for part in parts for k, c in enumerate(schema[part].classes if part in schema.names else ())}
        rows = list(zip(*(known[p] for p in parts), strict=True))
        first = dict(zip(values, rows, strict=True))
        for value in sorted(first, key=lambda v: [(order.get(str(e), len(order)), str(e)) for e in first[v]]):
            inside = joined == value
            found.append(_one(name, value, truth[inside], predicted[inside], who[inside], schema.num_classes))
    return found


def _one(
    by: str,
    value: str,
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    who: NDArray[np.object_],
    n: int,
) -> Slice:
    matrix = metrics.confusion(truth, predicted, n)
    sure = metrics.share_interval(truth == predicted, who.tolist())
    return Slice(
        by,
        value,
        len(truth),
        sure.people,
        metrics.accuracy(matrix),
        sure.low,
        sure.high,
        metrics.macro_f1(matrix),
    )
