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

from maskprep.base import UsageError, UserError, counted, fold, nearest, nfc, some
from maskprep.labels.columns import cells, positions
from maskprep.labels.fixes import ANY, DECISION, PERSON, PRESET, Fix
from maskprep.labels.schema import Attribute, Schema


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
        status: ``applied``; ``already``, the labels say so; ``overruled`` by a fix of a higher level; ``refused``, the
            labels are not as it expects, and nothing of it is applied; ``absent``, it selects no image.
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

    def notes(self) -> list[str]:
        """Sentences about fixes that are not applied. People of a preset that this data set lacks are no news."""
        made, published = [], []
        for outcome in self.outcomes:
            fix, detail = outcome.fix, outcome.detail
            if outcome.status not in ("refused", "absent"):
                continue
            if fix.level == PRESET:
                published += [f"{fix.selection}: {detail}"] if outcome.status == "refused" else []
            elif fix.level == DECISION:
                gone = f"the photo '{fix.image}' has changed or is not there"
                made.append(f"{fix.place}: stale, {gone if outcome.status == 'absent' else detail}.")
            else:
                made.append(f"{fix.place}: not applied, {detail}.")
        if published:
            preset = next(outcome.fix.origin for outcome in self.outcomes if outcome.fix.level == PRESET)
            made.append(f"{preset}: {counted(len(published), 'fix', 'fixes')} not applied ({some(published)}).")
        return made


@dataclass
class _Claim:
    """What one fix says about one field of one image: the value it is to have; ``changes`` when it has another."""

    fix: Fix
    number: int
    new: Any
    changes: bool


class _Table:
    """images.parquet as fixes see it."""

    def __init__(self, images: pd.DataFrame, schema: Schema) -> None:
        self.schema = schema
        self.columns = {str(name): cells(images[name]) for name in images.columns}
        for name in (*schema.names, PERSON):
            self.columns.setdefault(name, [None] * len(images))
        self.images: list[str] = [str(image) for image in self.columns["image"]]
        self._parts = [PurePosixPath(nfc(image)).parts for image in self.images]
        people = [None if person is None else nfc(str(person)) for person in self.columns[PERSON]]
        self._people = positions(people)
        self._numbers = positions(None if person is None else person.lstrip("0") for person in people)
        self._contents = positions(self.columns.get("content", []))

    def attribute(self, fix: Fix) -> Attribute | None:
        """The attribute that a fix is about, None for the person, or where it is about the whole photo.

        Raises:
            UsageError: there is none of that name.
        """
        if fix.label in ("", PERSON):
            return None
        if fix.label not in self.schema.names:
            raise UsageError(
                f"{fix.place}: there is no label '{fix.label}'.{nearest(fix.label, self.schema.names)}",
                f"Known: {', '.join(self.schema.names) or 'none, the photos have no labels'}.",
            )
        return self.schema[fix.label]

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
        if fix.content:
            copies = self._contents.get(fix.content, [])
            return [row for row in copies if self.images[row] == fix.image] or copies  # the copy that was decided on
        rows: Iterable[int] = range(len(self.images))
        if person := nfc(fix.person):
            numbers = self._numbers.get(person.lstrip("0"), []) if person[:1].isdigit() else []
            rows = self._people.get(person) or numbers
        if pattern:
            parts = PurePosixPath(nfc(pattern.replace("\\", "/"))).parts
            rows = [row for row in rows if _ends_in(self._parts[row], parts)]
        return [row for row in rows if all(_same(self.columns[name][row], value) for name, value in fix.where)]


def apply(images: pd.DataFrame, schema: Schema, fixes: Sequence[Fix]) -> Changes:
    """What fixes, in any order, make of the labels as found (images.parquet).

    A fix whose labels are neither as it expects nor as it wants them is refused as a whole and reported. Fixes of a
    higher level (see :data:`maskprep.labels.fixes.PRESET`) overrule lower ones.

    Raises:
        UsageError: a field, value or column that does not exist.
        UserError: two fixes of one level say different things about one image.
    """
    table = _Table(images, schema)
    claims: dict[tuple[int, str], list[_Claim]] = {}
    dropped: dict[str, Fix] = {}
    outcomes: list[Outcome] = []
    for number, fix in enumerate(fixes):
        outcome, own = _judge(table, fix, number)
        outcomes.append(outcome)
        for row, claim in own:
            if fix.operation == "drop":
                dropped.setdefault(table.images[row], fix)
            else:
                claims.setdefault((row, fix.label), []).append(claim)
    values, overruled = _settle(table, claims)
    for number, winner in overruled.items():
        was = outcomes[number]
        if not any(c.fix is was.fix for changes in values.values() for c in changes.values()):
            outcomes[number] = Outcome(was.fix, "overruled", was.images, f"{winner.place} sets another value")
    return Changes(values, dropped, outcomes)


def _judge(table: _Table, fix: Fix, number: int) -> tuple[Outcome, list[tuple[int, _Claim]]]:
    """Whether a fix holds, and what it says about each of its images (by row)."""
    rows = table.select(fix, fix.image)
    attribute = table.attribute(fix)
    expected = fix.expected or fix.person if fix.operation == "rename" else fix.expected or ANY
    if attribute is not None:
        for text in (expected, *[fix.new] * (fix.operation != "drop")):
            if text != ANY and attribute.index(text) is None and _class(attribute, text) is None:
                known = ", ".join((*attribute.classes[:12], *["a number"] * bool(attribute.bins)))
                likely = nearest(text, attribute.classes)
                raise UsageError(f"{fix.place}: '{text}' is no {attribute.name}.{likely}", f"Known: {known}.")
        if fix.new == ANY:
            raise UsageError(f"{fix.place}: the new value cannot be '{ANY}'.")
    if not rows:
        return Outcome(fix, "absent", 0, "it selects no image"), []
    wanted = [(row, expected, fix.new) for row in rows]
    if fix.operation == "swap":
        others = table.select(fix, fix.other)
        if len(rows) != 1 or len(others) != 1 or rows == others:
            detail = f"it must select two images, not {len(rows)} and {len(others)}"
            return Outcome(fix, "refused", len({*rows, *others}), detail), []
        wanted += [(row, fix.new, expected) for row in others]
    own = []
    for row, old, new in wanted:
        found = table.columns[fix.label][row] if fix.label else None
        already = fix.operation != "drop" and _is(attribute, found, new)
        if not already and not _holds(attribute, found, old):
            is_now = "none" if found is None else found
            detail = f"expected {fix.label} {old}, found {is_now} ({table.images[row]})"
            return Outcome(fix, "refused", len(wanted), detail), []
        value = None if fix.operation == "drop" else _value(attribute, found, new)
        own.append((row, _Claim(fix, number, value, not already)))
    changed = sum(claim.changes for _, claim in own)
    return Outcome(fix, "applied" if changed else "already", changed or len(own)), own


def _settle(
    table: _Table, claims: Mapping[tuple[int, str], Sequence[_Claim]]
) -> tuple[dict[str, dict[str, Change]], dict[int, Fix]]:
    """The change of every field that has one, and the overruled fixes, by number, with what overrules them."""
    values: dict[str, dict[str, Change]] = {}
    overruled: dict[int, Fix] = {}
    for (row, name), found in claims.items():
        first = max(found, key=lambda claim: claim.fix.level)
        for claim in found:
            if claim.new == first.new:
                continue
            if claim.fix.level == first.fix.level:
                raise UserError(
                    f"{first.fix.place} and {claim.fix.place} disagree about {name} of '{table.images[row]}':"
                    f" {first.new} or {claim.new}.",
                    "Keep one of them.",
                )
            overruled[claim.number] = first.fix
        if first.changes:
            values.setdefault(table.images[row], {})[name] = Change(table.columns[name][row], first.new, first.fix)
    return values, overruled


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
