"""What is classified: attributes, their classes or number bins, and the order that makes the joint label.

The schema is data. The mask schema gives 18 joint classes, ``6*mask + 3*gender + age``; a sketch data set with 500
folders gives one attribute with 500 classes; both run through the same code.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskprep.base import BOX_COLUMNS, UsageError, fold

RESERVED = frozenset(
    (
        *("image", "content", "bytes", "format", "width", "height", "orientation", "error", "detail", "phash"),
        *("colour_profile", *BOX_COLUMNS, "boxes"),
        *("person", "split", "status", "face", "reason", "excluded", "source", "key", "shard", "row", "label"),
        *("matte", "count", "fg_count", *(f"{f}{s}_{c}" for f in ("", "fg_") for s in ("sum", "sumsq") for c in "rgb")),
    )
)
"""Columns that the tables have already, so no attribute can have their name."""


@dataclass(frozen=True)
class Attribute:
    """One thing a photo is labelled with.

    Args:
        name: column name in the tables.
        classes: class names in index order. With ``bins`` they name the intervals.
        bins: increasing limits that cut a number into ``len(bins) + 1`` intervals, each limit belonging to the
            interval above it: ``(30, 60)`` gives <30, 30-59, >=60. Empty for an attribute given by name.

    Raises:
        UsageError: no or repeated classes, limits that do not increase, or a count of classes that does not fit them.
    """

    name: str
    classes: tuple[str, ...] = ()
    bins: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", tuple(float(limit) for limit in self.bins))
        if self.bins and not self.classes:
            object.__setattr__(self, "classes", bin_names(self.bins))
        if not self.classes:
            raise UsageError(f"Attribute '{self.name}' has neither classes nor bins.")
        if len({fold(name) for name in self.classes}) != len(self.classes):
            raise UsageError(f"Attribute '{self.name}' names a class twice: {', '.join(self.classes)}.")
        increasing = all(low < high for low, high in itertools.pairwise(self.bins))
        if not increasing or not all(map(math.isfinite, self.bins)):
            raise UsageError(f"The bins of '{self.name}' must increase: {list(self.bins)}.")
        if self.bins and len(self.classes) != len(self.bins) + 1:
            have = f"{len(self.bins)} bin limits and {len(self.classes)} class names"
            raise UsageError(f"Attribute '{self.name}' has {have}; {len(self.bins) + 1} names are needed.")

    def index(self, value: object) -> int | None:
        """Class index of a value as found in the data, or None when it is missing or no class of this attribute.

        Names are compared without case, outer blanks or Unicode composition; numbers are binned.
        """
        if value is None or value != value:  # NaN and NaT are unequal to themselves
            return None
        if self.bins:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                return None
            return bisect.bisect_right(self.bins, number) if math.isfinite(number) else None
        wanted = fold(str(value))
        return next((i for i, name in enumerate(self.classes) if fold(name) == wanted), None)


@dataclass(frozen=True)
class Schema:
    """The attributes and the order in which they make up the joint label (most significant first).

    Raises:
        UsageError: repeated attributes, or a joint order that names something else.
    """

    attributes: tuple[Attribute, ...]
    joint: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [a.name for a in self.attributes]
        if taken := [name for name in names if name in RESERVED]:
            raise UsageError(f"An attribute cannot be called '{taken[0]}': the tables have a column of that name.")
        if len(set(names)) != len(names):
            raise UsageError(f"The schema names an attribute twice: {', '.join(names)}.")
        if not self.joint:
            object.__setattr__(self, "joint", tuple(names))
        if unknown := sorted(set(self.joint) - set(names)):
            raise UsageError(f"The joint order names unknown attributes: {', '.join(unknown)}.")
        if len(set(self.joint)) != len(self.joint):
            raise UsageError(f"The joint order names an attribute twice: {', '.join(self.joint)}.")

    def __getitem__(self, name: str) -> Attribute:
        return next(a for a in self.attributes if a.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all attributes."""
        return tuple(a.name for a in self.attributes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of classes of each attribute of the joint label, in joint order."""
        return tuple(len(self[name].classes) for name in self.joint)

    @property
    def num_classes(self) -> int:
        """Number of joint classes (0 when there is nothing to classify)."""
        return math.prod(self.sizes) if self.joint else 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of every joint class, such as ``wear/male/<30``, in index order."""
        joined = map("/".join, itertools.product(*(self[name].classes for name in self.joint)))
        return tuple(joined) if self.joint else ()

    def encode(self, indices: Sequence[int | None]) -> int | None:
        """Joint label of one class index per attribute in joint order; None if any of them is missing."""
        label = 0
        for size, index in zip(self.sizes, indices, strict=True):
            if index is None:
                return None
            label = label * size + index
        return label if self.joint else None

    def decode(self, label: int) -> tuple[int, ...]:
        """Class index per attribute in joint order, the inverse of :meth:`encode`."""
        indices: list[int] = []
        for size in reversed(self.sizes):
            label, index = divmod(label, size)
            indices.append(index)
        return tuple(reversed(indices))

    def label(self, values: Mapping[str, object]) -> int | None:
        """Joint label of one image's attribute values."""
        return self.encode([self[name].index(values.get(name)) for name in self.joint])

    def to_dict(self) -> dict[str, Any]:
        """The form kept in dataset.json and maskprep.yaml."""
        attributes = {
            a.name: {**({"bins": list(a.bins)} if a.bins else {}), "classes": list(a.classes)} for a in self.attributes
        }
        return {"attributes": attributes, "joint": list(self.joint)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Read the form that :meth:`to_dict` writes (validated already for its keys)."""
        attributes = (
            Attribute(str(name), tuple(map(str, spec.get("classes", ()))), tuple(map(float, spec.get("bins", ()))))
            for name, spec in data["attributes"].items()
        )
        return cls(tuple(attributes), tuple(map(str, data.get("joint", ()))))


def bin_names(bins: Sequence[float]) -> tuple[str, ...]:
    """Readable names of the intervals between limits, with the usual inclusive form for whole numbers."""
    whole = all(float(b).is_integer() for b in bins)
    names = [f"<{bins[0]:g}"]
    for low, high in itertools.pairwise(bins):
        names.append(f"{low:g}-{high - 1:g}" if whole else f"{low:g}..{high:g}")
    return (*names, f">={bins[-1]:g}")


MASK_SCHEMA = Schema(
    (
        Attribute("mask", ("wear", "incorrect", "normal")),
        Attribute("gender", ("male", "female")),
        Attribute("age", bins=(30, 60)),
    )
)
"""The boostcamp mask task: 18 joint classes."""
