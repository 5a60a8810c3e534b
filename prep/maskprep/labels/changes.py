"""Applying fixes to labels as found: what each changes, which are refused and why.

All fixes see the labels as the source has them, never each other's results: the order of files and rows does not
matter, and applying them twice is applying them once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from maskprep.base import fold, nearest, nfc
from maskprep.errors import UsageError, UserError
from maskprep.labels.fixes import ANY, PERSON, Fix
from maskprep.labels.schema import Attribute, Schema

OUTCOMES = ("applied", "already", "overruled", "refused", "absent")
"""What came of a fix: labels changed, they say so already, a stronger fix says otherwise, the labels are not as it
expects (nothing of it is applied), no image is selected."""


@dataclass(frozen=True)
class Change:
    """One label of one image, or its person, before and after, and the fix that did it."""

    old: Any
    new: Any
    fix: Fix


@dataclass(frozen=True)
class Outcome:
    """What came of one fix.

    Args:
        fix: the fix.
        status: one of OUTCOMES.
        images: how many images it selects, or changes where it was applied.
        detail: why it was refused, or by what it is overruled.
    """

    fix: Fix
    status: str
    images: int
    detail: str = ""


@dataclass(frozen=True)
class Changes:
    """What a set of fixes makes of the labels of a data set.

    Args:
        values: image -> field (an attribute, or ``person``) -> its change.
        dropped: image -> the fix that excludes it.
        outcomes: one per fix, in order.
    """

    values: Mapping[str, Mapping[str, Change]] = field(default_factory=dict)
    dropped: Mapping[str, Fix] = field(default_factory=dict)
    outcomes: Sequence[Outcome] = ()


@dataclass
class _Claim:
    """What one fix says about one field of one image: the value it is to have; ``changes`` when it has another."""

    fix: Fix
    number: int
    new: Any
    changes: bool


class Table:
    """images.parquet as fixes see it.

    Args:
        images: images.parquet.
        schema: what is classified.
    """

    def __init__(self, images: pd.DataFrame, schema: Schema) -> None:
        self.schema = schema
        self.columns = {str(name): _plain(images[name]) for name in images.columns}
        for name in (*schema.names, PERSON):
            self.columns.setdefault(name, [None] * len(images))
        self.images: list[str] = [str(image) for image in self.columns["image"]]
        self._parts = [PurePosixPath(nfc(image)).parts for image in self.images]
        self._people: dict[str, list[int]] = {}
        self._numbers: dict[str, list[int]] = {}
        for row, person in enumerate(self.columns[PERSON]):
            if person is not None:
                self._people.setdefault(nfc(str(person)), []).append(row)
                self._numbers.setdefault(nfc(str(person)).lstrip("0"), []).append(row)
        self._contents: dict[str, list[int]] = {}
        for row, content in enumerate(self.columns.get("content", [])):
            self._contents.setdefault(str(content), []).append(row)

    def attribute(self, fix: Fix) -> Attribute:
        """The attribute that a fix is about.

        Raises:
            UsageError: the schema has none of that name, naming the nearest.
        """
        if fix.field not in self.schema.names:
            raise UsageError(
                f"{fix.place}: there is no label '{fix.field}'.{nearest(fix.field, self.schema.names)}",
                f"Known: {', '.join(self.schema.names) or 'none, the photos have no labels'}.",
            )
        return self.schema[fix.field]

    def select(self, fix: Fix, pattern: str) -> list[int]:
        """Rows of the images that a fix selects, with ``pattern`` in the place of its image.

        Raises:
            UsageError: a column that the table does not have.
        """
        for name, _ in fix.where:
            if name not in self.columns:
                raise UsageError(
                    f"{fix.place}: there is no column '{name}'.{nearest(name, self.columns)}",
                    f"Known: {', '.join(self.columns)}.",
                )
        rows: Iterable[int] = range(len(self.images))
        if fix.content:
            rows = self._contents.get(fix.content, [])
            if named := [row for row in rows if self.images[row] == fix.image]:
                return named  # of several copies, the one that was ruled on
            return list(rows)
        if fix.person:
            person = nfc(fix.person)
            rows = self._people.get(person) or (
                self._numbers.get(person.lstrip("0"), []) if person[:1].isdigit() else []
            )
        if pattern:
            parts = PurePosixPath(nfc(pattern.replace("\\", "/"))).parts
            rows = [row for row in rows if _ends_in(self._parts[row], parts)]
        return [row for row in rows if all(_same(self.columns[name][row], value) for name, value in fix.where)]


def apply(images: pd.DataFrame, schema: Schema, fixes: Sequence[Fix]) -> Changes:
    """What fixes make of the labels as found.

    A fix whose labels are neither as it expects nor as it wants them is refused as a whole and reported. Fixes of a
    higher level (see :data:`maskprep.labels.fixes.PRESET`) overrule lower ones.

    Args:
        images: images.parquet.
        schema: what is classified.
        fixes: in any order.

    Raises:
        UsageError: a field, value or column that does not exist.
        UserError: two fixes of one level say different things about one image.
    """
    table = Table(images, schema)
    claims: dict[tuple[int, str], list[_Claim]] = {}
    dropped: dict[str, Fix] = {}
    outcomes: list[Outcome] = []
    for number, fix in enumerate(fixes):
        rows = table.select(fix, fix.image)
        said = [] if fix.operation == "drop" else _check_values(table, fix)
        if not rows:
            outcomes.append(Outcome(fix, "absent", 0, "it selects no image"))
            continue
        if fix.operation == "drop":
            outcomes.append(_drop(table, fix, rows, dropped))
            continue
        wanted = [(row, *said[0]) for row in rows]
        if fix.operation == "swap":
            others = table.select(fix, fix.other)
            if len(rows) != 1 or len(others) != 1 or rows == others:
                detail = f"it must select two images, not {len(rows)} and {len(others)}"
                outcomes.append(Outcome(fix, "refused", len({*rows, *others}), detail))
                continue
            wanted += [(row, *said[1]) for row in others]
        outcome, made = _judge(table, fix, number, wanted)
        outcomes.append(outcome)
        name = PERSON if fix.operation == "rename" else fix.field
        for row, claim in made:
            claims.setdefault((row, name), []).append(claim)
    values, beaten = _settle(table, claims)
    for number, winner in beaten.items():
        was = outcomes[number]
        if not any(c.fix is was.fix for changes in values.values() for c in changes.values()):
            outcomes[number] = Outcome(was.fix, "overruled", was.images, f"{winner.place} says otherwise")
    return Changes(values, dropped, outcomes)


def _check_values(table: Table, fix: Fix) -> list[tuple[str, str]]:
    """The (expected, new) of a fix's images: one pair, two for a swap. Refuses values that no label can have."""
    if fix.operation == "rename":
        return [(fix.expected or fix.person, fix.new)]
    attribute = table.attribute(fix)
    for text in (fix.expected, fix.new):
        _check_value(fix, attribute, text)
    if fix.new == ANY:
        raise UsageError(f"{fix.place}: the new value cannot be '{ANY}'.")
    pairs = [(fix.expected, fix.new)]
    return [*pairs, (fix.new, fix.expected)] if fix.operation == "swap" else pairs


def _check_value(fix: Fix, attribute: Attribute, text: str) -> None:
    if text != ANY and attribute.index(text) is None and _class(attribute, text) is None:
        known = ", ".join((*attribute.classes[:12], *["a number"] * bool(attribute.bins)))
        likely = nearest(text, attribute.classes)
        raise UsageError(f"{fix.place}: '{text}' is no {attribute.name}.{likely}", f"Known: {known}.")


def _drop(table: Table, fix: Fix, rows: list[int], dropped: dict[str, Fix]) -> Outcome:
    if fix.field:
        attribute = table.attribute(fix)
        _check_value(fix, attribute, fix.expected)
        for row in rows:
            if not _holds(attribute, table.columns[fix.field][row], fix.expected):
                return _refusal(table, fix, row, len(rows), fix.expected)
    for row in rows:
        dropped.setdefault(table.images[row], fix)
    return Outcome(fix, "applied", len(rows))


def _judge(
    table: Table, fix: Fix, number: int, wanted: Sequence[tuple[int, str, str]]
) -> tuple[Outcome, list[tuple[int, _Claim]]]:
    """Whether a fix holds, and what it says about each of its images (row, expected, new)."""
    name = PERSON if fix.operation == "rename" else fix.field
    attribute = None if name == PERSON else table.schema[name]
    made = []
    for row, expected, new in wanted:
        found = table.columns[name][row]
        already = _is(attribute, found, new)
        if not already and not _holds(attribute, found, expected):
            return _refusal(table, fix, row, len(wanted), expected), []
        made.append((row, _Claim(fix, number, _value(attribute, found, new), not already)))
    changed = sum(claim.changes for _, claim in made)
    return Outcome(fix, "applied" if changed else "already", changed or len(made)), made


def _refusal(table: Table, fix: Fix, row: int, images: int, expected: str) -> Outcome:
    name = PERSON if fix.operation == "rename" else fix.field
    found = table.columns[name][row]
    detail = f"expected {name} {expected}, found {'none' if found is None else found} ({table.images[row]})"
    return Outcome(fix, "refused", images, detail)


def _settle(
    table: Table, claims: Mapping[tuple[int, str], Sequence[_Claim]]
) -> tuple[dict[str, dict[str, Change]], dict[int, Fix]]:
    """The change of every field that has one, and the overruled fixes, by number, with what overrules them."""
    values: dict[str, dict[str, Change]] = {}
    beaten: dict[int, Fix] = {}
    for (row, name), found in claims.items():
        top = max(claim.fix.level for claim in found)
        first = next(claim for claim in found if claim.fix.level == top)
        for claim in found:
            if claim.new == first.new:
                continue
            if claim.fix.level == top:
                raise UserError(
                    f"{first.fix.place} and {claim.fix.place} disagree about {name} of '{table.images[row]}':"
                    f" {first.new} or {claim.new}.",
                    "Keep one of them.",
                )
            beaten[claim.number] = first.fix
        if first.changes:
            values.setdefault(table.images[row], {})[name] = Change(table.columns[name][row], first.new, first.fix)
    return values, beaten


# ---------------------------------------------------------------- values


def _class(attribute: Attribute, text: str) -> int | None:
    """Index of a class by its name, for names and numbers alike."""
    return next((i for i, name in enumerate(attribute.classes) if fold(name) == fold(text)), None)


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _is(attribute: Attribute | None, found: object, text: str) -> bool:
    """Whether a value as found says what a fix's cell says: a name, a number, or the class of a number."""
    if found is None:
        return False
    if attribute is None:
        return nfc(str(found)) == nfc(text)
    if attribute.bins and _class(attribute, text) is None:
        return _number(found) == _number(text)
    index = attribute.index(found)
    return index is not None and index == _class(attribute, text)


def _holds(attribute: Attribute | None, found: object, expected: str) -> bool:
    if expected == ANY:
        return True
    if attribute is None and found is not None and expected[:1].isdigit():
        return nfc(str(found)).lstrip("0") == nfc(expected).lstrip("0")
    return _is(attribute, found, expected)


def _value(attribute: Attribute | None, found: object, text: str) -> Any:
    """A cell as the value that the label gets; of a class of numbers, the number nearest to the one found."""
    if attribute is None:
        return text
    index = _class(attribute, text)
    if not attribute.bins:
        assert index is not None  # checked
        return attribute.classes[index]
    number = _number(text if index is None else found)
    if index is not None:
        low = attribute.bins[index - 1] if index else -math.inf
        high = math.ceil(attribute.bins[index]) - 1 if index < len(attribute.bins) else math.inf
        if number is None:
            number = low if index else high
        number = float(max(low, min(number, high)))
    assert number is not None  # checked
    return int(number) if number.is_integer() else number


def _same(found: object, text: str) -> bool:
    """Whether a cell of images.parquet is the value of a ``where``; an empty value means an empty cell."""
    if found is None or not text:
        return found is None and not text
    numbers = _number(found), _number(text)
    return fold(str(found)) == fold(text) or (None not in numbers and numbers[0] == numbers[1])


def _ends_in(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path ends in a pattern, folder by folder."""
    tail = parts[-len(pattern) :]
    return len(tail) == len(pattern) and all(a == b or fnmatchcase(a, b) for a, b in zip(tail, pattern, strict=True))


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]
