"""What columns and cells of label lists usually mean: names of columns, spellings of values, names of splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from maskprep.base import fold
from maskprep.labels.schema import MASK_SCHEMA, Attribute

NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "file_path", "filepath", "image", "image_path", "image_name"),
        *("imageid", "image_id", "img", "img_path", "photo", "picture", "파일", "파일명", "경로", "이미지"),
    ),
    "person": (
        *("person", "person_id", "personid", "subject", "subject_id", "identity", "employee_id", "user_id"),
        *("participant", "patient_id", "id", "사람", "아이디"),
    ),
    "split": ("split", "set", "subset", "usage", "partition"),
    "mask": ("mask", "mask_state", "mask_status", "마스크"),
    "gender": ("gender", "sex", "성별"),
    "age": ("age", "years", "age_years", "나이", "연령"),
    "class": ("class", "label", "target", "ans", "category", "class_name", "classname"),
}
"""Our column -> names that lists give it, the likeliest first, as :func:`plain` writes them."""

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    "eval": ("eval", "evaluation"),
}
"""Split -> names of folders and cells."""

UNLABELLED = "unlabelled"
"""Class folder of photos without a label."""

SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

VALUES: dict[str, dict[str, str]] = {
    "gender": {
        **dict.fromkeys(("m", "man", "men", "boy", "남", "남자", "남성"), "male"),
        **dict.fromkeys(("f", "w", "woman", "women", "girl", "여", "여자", "여성"), "female"),
    },
    "mask": {
        **dict.fromkeys(("with_mask", "mask", "masked", "worn", "correct"), "wear"),
        **dict.fromkeys(
            ("mask_weared_incorrect", "mask_worn_incorrectly", "incorrect_mask", "wrong", "worn_wrongly"), "incorrect"
        ),
        **dict.fromkeys(("without_mask", "no_mask", "none", "unmasked", "bare"), "normal"),
    },
}
"""Spellings of the classes of the mask task's attributes, as :func:`plain` writes them."""

UNKNOWN = frozenset(("unknown", "unk", "n/a", "na", "nan", "null", "?", "-"))
"""Cells of those attributes that say that nothing is known."""

OLDEST = 120
"""Ages above this, and below 0, are mistakes."""


def plain(text: str) -> str:
    """A name in the form in which :data:`NAMES` and :data:`VALUES` are written: ``Image ID`` is ``image_id``."""
    return re.sub(r"[\s-]+", "_", fold(text))


def find(names: Sequence[str], ours: str) -> str | None:
    """The column that means ``ours``, by :data:`NAMES`; None without one."""
    theirs = {plain(name): name for name in reversed(names)}
    return next((theirs[name] for name in NAMES.get(ours, (ours,)) if name in theirs), None)


def understand(attribute: Attribute, column: pd.Series[Any]) -> tuple[pd.Series[Any], Counter[str]]:
    """The cells of an attribute of the mask task in its own words, missing where they only say that nothing is known;
    and those that mean none of its classes, counted. Other attributes are left as they are."""
    refused: Counter[str] = Counter()
    if attribute not in MASK_SCHEMA.attributes:
        return column, refused
    spellings = VALUES.get(attribute.name, {})
    values: list[str | None] = []
    for cell in column:
        found = "" if pd.isna(cell) else str(cell).strip()
        text: str | None = spellings.get(plain(found), found)
        unknown = plain(found) in UNKNOWN
        if unknown or attribute.index(text) is None or (attribute.bins and not 0 <= float(found) <= OLDEST):
            refused.update([found] if found else [])
            text = None if not found or unknown or attribute.bins else text
        values.append(text)
    return pd.Series(values, index=column.index, dtype="str"), refused


def seems_a_number(column: pd.Series[Any]) -> bool:
    """Whether a column holds measurements such as ages, not classes: many different whole numbers."""
    present = column.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    return bool(len(present) and numbers.notna().all() and present.nunique() > 20)


def cells(column: pd.Series[Any]) -> list[Any]:
    """A column as values, None where one is missing."""
    return [None if pd.isna(value) else value for value in column]


def positions(values: Iterable[Any]) -> dict[Any, list[int]]:
    """Value -> where it stands; missing ones (None) are left out."""
    found: dict[Any, list[int]] = {}
    for position, value in enumerate(values):
        if value is not None:
            found.setdefault(value, []).append(position)
    return found
