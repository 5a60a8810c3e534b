"""What training images are taught: limits of numbers in training, numbers left out, and labels shared near a limit.

Everything that is scored keeps the limits of the schema: only the training part of a split has other labels and fewer
images, and what was changed is counted and kept with the run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.dataset import View
from maskprep.labels import Attribute, Schema
from masktrain.config.images import DataConfig
from masktrain.config.settings import nearest
from masktrain.data.folds import Split

_INTERVAL = re.compile(r"(-?\d+(?:\.\d+)?)(?:-|\.\.)(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Bands:
    """What training does differently for some attributes.

    Args:
        bins: attribute -> limits in place of the schema's, as many of them.
        drops: attribute -> intervals of numbers not trained on, both ends too.
        margins: attribute -> distance from a limit within which numbers are not trained on: from ``limit - margin`` up
            to, but without, ``limit + margin``.
        soft: attribute -> standard deviation of the error that a number is taken to have; its label is then shared
            between the classes that the true number may belong to.
    """

    bins: dict[str, tuple[float, ...]]
    drops: dict[str, tuple[tuple[float, float], ...]]
    margins: dict[str, float]
    soft: dict[str, float] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.bins or self.drops or self.margins or self.soft)


def parse(data: DataConfig, schema: Schema) -> Bands:
    """The settings of ``data`` that are about numbers in training, checked against a schema.

    Each is ``attribute=values``, several separated by semicolons.

    Raises:
        UsageError: no such form, an attribute that is no number, or a wrong number of limits.
    """
    bins: dict[str, tuple[float, ...]] = {}
    for name, text in _parts("train_bins", data.train_bins, schema):
        attribute = schema[name]
        limits = tuple(_number("train_bins", part) for part in text.split(","))
        if len(limits) != len(attribute.bins):
            raise UsageError(
                f"data.train_bins: {name} has {len(attribute.classes)} classes ({', '.join(attribute.classes)}), so it"
                f" takes {len(attribute.bins)} limits, not {len(limits)}."
            )
        bins[name] = Attribute(name, attribute.classes, limits).bins  # which must increase
    drops: dict[str, tuple[tuple[float, float], ...]] = {}
    for name, text in _parts("drop_intervals", data.drop_intervals, schema):
        drops[name] = tuple(_interval(part.strip()) for part in text.split(","))
    margins, soft = (
        {name: _positive(key, text) for name, text in _parts(key, getattr(data, key), schema)}
        for key in ("label_margin", "soft_labels")
    )
    return Bands(bins, drops, margins, soft)


def truths(view: View, split: Split, data: DataConfig) -> tuple[Split, NDArray[np.float32], dict[str, Any], Bands]:
    """What the training images of a split are taught: relabelled, thinned out and shared as the settings say.

    The held-out part of the split stays as it is.

    Returns:
        The split less the images that are not trained on; shares of the joint classes of each training image, float32
        [n, C]; what was changed: bins, dropped (reason -> images), relabelled and shared (images), empty without any
        such settings; and the settings.

    Raises:
        UsageError: see :func:`parse`.
        UserError: a class has no training image left.
    """
    bands, table, schema = parse(data, view.schema), view.table, view.schema
    plain = table["label"].iloc[split.train].to_numpy(dtype=np.int64)
    if not bands:
        return split, np.eye(schema.num_classes, dtype=np.float32)[plain], {}, bands
    reason = np.full(len(plain), None, dtype=object)
    labels = plain.copy()
    for name in sorted({*bands.bins, *bands.drops, *bands.margins}):
        numbers = _numbers(view, split.train, name)
        limits = bands.bins.get(name, schema[name].bins)
        for low, high in bands.drops.get(name, ()):
            reason[(numbers >= low) & (numbers <= high)] = f"{name} {low:g}-{high:g}, in training only"
        for limit in limits if name in bands.margins else ():
            margin = bands.margins[name]
            inside = (numbers >= limit - margin) & (numbers < limit + margin)
            reason[inside] = f"{name} within {margin:g} of {limit:g}, in training only"
        if name in bands.bins:
            labels = _relabelled(schema, name, limits, labels, numbers)
    kept = pd.isna(reason)
    _check_classes(schema, labels, kept, {*bands.bins, *bands.drops, *bands.margins})
    counts = {str(k): int(n) for k, n in pd.Series(reason[~kept]).value_counts().sort_index().items()}
    left = dataclasses.replace(split, train=split.train[kept], left_out={**split.left_out, **counts})
    record = {
        "bins": {name: list(limits) for name, limits in bands.bins.items()},
        "dropped": counts,
        "relabelled": int((labels[kept] != plain[kept]).sum()),
    }
    truth = np.eye(schema.num_classes, dtype=np.float32)[labels[kept]]
    if bands.soft:
        truth = shared_labels(view, left.train, truth, bands)
        record["shared"] = int((truth.max(1) < 0.99).sum())
    return left, truth, record, bands


def shared_labels(view: View, rows: NDArray[np.int64], truth: NDArray[np.float32], bands: Bands) -> NDArray[np.float32]:
    """Shares of the joint classes of some rows, float32 [n, C], as if their numbers had a normal error.

    Whole numbers, such as years of age, are taken for the middle of their unit, so that 59 and 60 are as far from 60.
    Images whose number is not known keep their label.

    Args:
        truth: their labels as shares, float32 [n, C].
    """
    schema = view.schema
    cube = truth.astype(np.float64).reshape(len(rows), *schema.sizes)
    for name, error in bands.soft.items():
        axis = 1 + schema.joint.index(name)
        numbers = _known(view, rows, name)
        known = np.isfinite(numbers)
        whole = bool((numbers[known] == np.round(numbers[known])).all())
        limits = np.array(bands.bins.get(name, schema[name].bins))
        z = (np.where(known, numbers, 0.0)[:, None] + 0.5 * whole - limits) / error
        above = np.vectorize(math.erf)(z / math.sqrt(2)) / 2 + 0.5
        ends = np.concatenate([np.ones((len(rows), 1)), above, np.zeros((len(rows), 1))], 1)
        shape = [len(limits) + 1 if a == axis else 1 for a in range(1, cube.ndim)]
        shares = (ends[:, :-1] - ends[:, 1:]).reshape(len(rows), *shape)
        soft = cube.sum(axis, keepdims=True) * shares
        cube = np.where(known.reshape(-1, *[1] * (cube.ndim - 1)), soft, cube)
    joint: NDArray[np.float32] = cube.reshape(len(rows), -1).astype(np.float32)
    return joint


def numbers_of(view: View, rows: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.float32] | None:
    """Numbers of some attributes of some rows, float32 [n, names], NaN where one is not known; None for no names.

    Raises:
        UserError: not one number of an attribute is known.
    """
    if not names:
        return None
    return np.stack([_known(view, rows, name).astype(np.float32) for name in names], 1)


def numeric_attributes(view: View, rows: NDArray[np.int64]) -> list[str]:
    """The attributes whose classes are bins of a number, and of which some rows tell more numbers than classes."""
    found = []
    for name in view.schema.joint:
        if bins := view.schema[name].bins:
            numbers = _without_ends(_numbers(view, rows, name), bins)
            if len(np.unique(numbers[np.isfinite(numbers)])) > len(bins) + 1:
                found.append(name)
    return found


def numbers_in(values: pd.Series[Any], limits: Sequence[float]) -> NDArray[np.float64]:
    """A column of numbers [n], NaN for what is none and for an outermost class that has the same one everywhere."""
    return _without_ends(pd.to_numeric(values, errors="coerce").to_numpy(np.float64), limits)


def numbers_behind(table: pd.DataFrame, schema: Schema) -> dict[str, NDArray[np.float64]]:
    """Attribute -> the numbers behind its classes in a table of images [n], for those of which some are known."""
    found = {n: numbers_in(table[n], schema[n].bins) for n in schema.joint if schema[n].bins and n in table}
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _numbers(view: View, rows: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = pd.to_numeric(view.table[name].iloc[rows], errors="coerce").to_numpy(np.float64)
    return numbers


def _without_ends(numbers: NDArray[np.float64], bins: Sequence[float]) -> NDArray[np.float64]:
    """NaN for the numbers of an outermost class that has the same one everywhere: 60 then means 60 or more."""
    for inside in (numbers < bins[0], numbers >= bins[-1]):
        values = numbers[inside]
        if len(values) > 1 and values.min() == values.max():
            numbers = np.where(inside, np.nan, numbers)
    return numbers


def _known(view: View, rows: NDArray[np.int64], name: str) -> NDArray[np.float64]:
    """The numbers of an attribute [n], NaN where one is not known, but never all of them."""
    numbers = _without_ends(_numbers(view, rows, name), view.schema[name].bins)
    if len(numbers) and not np.isfinite(numbers).any():
        raise UserError(
            f"No training image's {name} is known as a number, only its class.",
            "Use --target ordinal or heads, and no data.soft_labels.",
        )
    return numbers


def _relabelled(
    schema: Schema, name: str, limits: tuple[float, ...], labels: NDArray[np.int64], numbers: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Joint labels [n] with one attribute cut at other limits."""
    attribute = Attribute(name, schema[name].classes, limits)
    indices = np.array(np.unravel_index(labels, schema.sizes))
    place = schema.joint.index(name)
    cut = [attribute.index(number) for number in numbers]
    indices[place] = [k if new is None else new for k, new in zip(indices[place], cut, strict=True)]
    joint: NDArray[np.int64] = np.ravel_multi_index(tuple(indices), schema.sizes).astype(np.int64)
    return joint


def _check_classes(schema: Schema, labels: NDArray[np.int64], kept: NDArray[np.bool_], names: set[str]) -> None:
    for name in sorted(names):
        classes = np.unravel_index(labels, schema.sizes)[schema.joint.index(name)]
        if lost := sorted({*classes.tolist()} - {*classes[kept].tolist()}):
            raise UserError(
                f"No training image of {name} {schema[name].classes[lost[0]]} is left.",
                "Drop less with --drop-intervals and --label-margin, or move the limits with --train-bins.",
            )


def _parts(setting: str, text: str | None, schema: Schema) -> list[tuple[str, str]]:
    """``name=values; name=values`` as pairs, each name an attribute that is a number and part of the joint label."""
    known = [name for name in schema.joint if schema[name].bins]
    found: list[tuple[str, str]] = []
    for part in (text or "").split(";"):
        name, equals, values = (piece.strip() for piece in part.partition("="))
        if text is not None and not (name and equals and values):
            raise UsageError(f"data.{setting} must be attribute=values, not '{part.strip()}'.")
        if not name:
            continue
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                f"data.{setting}: '{name}' is not an attribute with bins of a "
                f"number; there is {', '.join(known) or 'none'}.",
                f"Did you mean '{near[0]}'?" if near else "",
            )
        if name in dict(found):
            raise UsageError(f"data.{setting} names {name} twice.")
        found.append((name, values))
    return found


def _number(setting: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"data.{setting}: '{text.strip()}' is no number.")
    return number


def _positive(setting: str, text: str) -> float:
    if (number := _number(setting, text)) <= 0:
        raise UsageError(f"data.{setting} must be above 0, not {text}.")
    return number


def _interval(text: str) -> tuple[float, float]:
    match = _INTERVAL.fullmatch(text)
    low, high = (float(match[1]), float(match[2])) if match else (1.0, 0.0)
    if low > high:
        raise UsageError(f"data.drop_intervals: '{text}' is no interval.", "Write it as 28-29.")
    return low, high
