"""Folder layouts: who is on a photo, in which split, with which labels, as far as names and CSV files tell.

Everything here is a pure function of relative paths and CSV files; no photo is opened.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA, RESERVED, Attribute, Schema, fold
from maskprep.photos.listing import PATH_COLUMNS, find_csv, list_csvs, match, nfc, read_csv, some

LAYOUTS = ("auto", "boostcamp", "folders", "csv", "flat")

PERSON_FOLDER = re.compile(
    r"(?P<person>\d+(?:-\d+)?)_(?P<gender>male|female|unknown)_(?P<race>[^_]+)_(?P<age>\d+|unknown)", re.IGNORECASE
)
"""Folder of one person in the boostcamp set, such as ``000001_female_Asian_45`` or ``001498-1_male_Asian_23``."""

EVAL_FOLDERS = frozenset(("eval", "test", "val", "valid", "validation"))
TRAIN_FOLDERS = frozenset(("train", "training"))
PERSON_COLUMNS = ("person", "person_id", "subject", "identity", "id")
CLASS = "class"
"""Name of the one attribute of a layout that does not name its own."""

CLASS_COLUMNS = (CLASS, "label", "target", "ans", "category")


@dataclass(frozen=True)
class SourceSettings:
    """The ``source`` section of maskprep.yaml.

    Args:
        layout: one of LAYOUTS; ``auto`` looks at the folder and says what it found.
        csv: CSV file of the ``csv`` layout, relative to the photo folder.
        columns: our column name -> the CSV's (path, person, split, and every attribute).
        person: regular expression searched in the relative path; group ``person``, or the first group, is the person.

    Raises:
        UsageError: an unknown layout or a broken expression.
    """

    layout: str = "auto"
    csv: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    person: str | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"Unknown layout '{self.layout}'.", f"Known layouts: {', '.join(LAYOUTS)}.")
        if self.person is not None:
            try:
                pattern = re.compile(self.person)
            except re.error as error:
                raise UsageError(f"source.person is no valid regular expression: {error}.") from error
            if not pattern.groups:
                raise UsageError(f"source.person '{self.person}' has no group.", "Mark the person: (?P<person>...)")


@dataclass(frozen=True)
class Described:
    """What a layout says of the images.

    Args:
        layout: the layout used.
        table: one row per image, in order: person, split, and one column per label as found.
        schema: what is classified; the given one, or as the layout suggests.
        notes: sentences for the user, such as CSV rows without a file.
    """

    layout: str
    table: pd.DataFrame
    schema: Schema
    notes: tuple[str, ...] = ()


def describe(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    """Person, split and labels of every image below ``root``.

    Raises:
        UserError: a CSV file is missing, unreadable or contradicts itself.
    """
    layout = settings.layout if settings.layout != "auto" else detect_layout(root, images, settings)
    described = {"boostcamp": _boostcamp, "folders": _folders, "csv": _csv, "flat": _flat}[layout](
        root, images, settings, schema
    )
    if settings.layout == "auto" and layout in ("folders", "flat") and len(csvs := list_csvs(root)) > 1:
        several = f"Several CSV files name photos ({some([path.name for path in csvs])}) and none is used; "
        notes = (*described.notes, several + "name one in maskprep.yaml: source.csv.")
        described = dataclasses.replace(described, notes=notes)
    if settings.person is not None:
        pattern = re.compile(settings.person)
        described.table["person"] = pd.Series([_person(pattern, image) for image in images], dtype="str")
    return described


def detect_layout(root: Path, images: Sequence[str], settings: SourceSettings | None = None) -> str:
    """The layout of a folder: boostcamp by its person folders or eval/info.csv, csv by a table that names the
    photos, folders by two or more subfolders with photos, else flat (photos without labels)."""
    paths = [PurePosixPath(image) for image in images]
    if any(PERSON_FOLDER.fullmatch(path.parent.name) for path in paths) or (
        any((root / folder / "info.csv").is_file() for folder in ("eval", "."))
        and any(path.parent.name == "images" for path in paths)
    ):
        return "boostcamp"
    if (settings and settings.csv) or find_csv(root) is not None:
        return "csv"
    return "folders" if len({c for path in paths if (c := _class_folder(path))}) >= 2 else "flat"


def _table(images: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"person": pd.Series([None] * len(images), dtype="str"), "split": [_split(PurePosixPath(i)) for i in images]}
    )


def _split(path: PurePosixPath) -> str:
    folders = {part.lower() for part in path.parts[:-1]}
    return "eval" if folders & EVAL_FOLDERS and not folders & TRAIN_FOLDERS else "train"


def _person(pattern: re.Pattern[str], image: str) -> str | None:
    found = pattern.search(image)
    if found is None:
        return None
    return found.group("person") if "person" in pattern.groupindex else found.group(1)


# ---------------------------------------------------------------- boostcamp


def mask_state(name: str) -> str | None:
    """Mask state by the file name of the boostcamp set: mask1..mask5, incorrect_mask, normal."""
    stem = name.split(".", 1)[0].lower()
    if stem == "incorrect_mask":
        return "incorrect"
    if stem == "normal":
        return "normal"
    return "wear" if re.fullmatch(r"mask\d*", stem) else None


def _boostcamp(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    table = _table(images)
    listed, notes = _train_csv(root)
    rows: list[dict[str, Any]] = []
    disagree: list[str] = []
    for image in images:
        path = PurePosixPath(image)
        folder = PERSON_FOLDER.fullmatch(path.parent.name)
        if folder is None:
            rows.append({"person": None, "mask": None, "gender": None, "race": None, "age": None})
            continue
        row: dict[str, Any] = {k: _known(v) for k, v in folder.groupdict().items()}
        if said := listed.get(nfc(path.parent.name)):
            if any(said[k] and row[k] and str(said[k]).lower() != row[k].lower() for k in ("gender", "age")):
                disagree.append(path.parent.name)
            row.update({k: v for k, v in said.items() if v})
        row["gender"] = row["gender"].lower() if row["gender"] else None
        rows.append({**row, "mask": mask_state(path.name)})
    found = pd.DataFrame(rows, columns=["person", "mask", "gender", "race", "age"])
    years = pd.to_numeric(found["age"], errors="coerce")
    found["age"] = (years // 1).where(years.between(0, 1000)).astype("Int64")
    for column in ("person", "mask", "gender", "race"):
        found[column] = found[column].astype("str")
    table = table.assign(**{column: found[column] for column in found.columns})
    unnamed = int((found["mask"].isna() & found["person"].notna()).sum())
    if unnamed:
        notes.append(f"{unnamed} photos in person folders are not named mask1..5, incorrect_mask or normal.")
    if disagree:
        people = sorted(set(disagree))
        notes.append(
            f"train.csv and the folder name disagree for {len(people)} people ({some(people)}); train.csv is used."
        )
    return Described("boostcamp", table, schema or MASK_SCHEMA, tuple(notes))


def _known(value: str) -> str | None:
    return None if value.lower() == "unknown" else value


def _train_csv(root: Path) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Folder name -> person, gender, race, age as train.csv says, where there is one."""
    for path in (root / "train" / "train.csv", root / "train.csv"):
        if path.is_file():
            frame = read_csv(path)
            columns = {str(c).strip().lower(): c for c in frame.columns}
            if "path" not in columns:
                return {}, [f"{path.name} has no column 'path' and is not used."]
            keep = {"person": "id", "gender": "gender", "race": "race", "age": "age"}
            rows = {}
            for record in frame.to_dict("records"):
                values = {ours: record.get(columns.get(theirs, "")) for ours, theirs in keep.items()}
                rows[nfc(PurePosixPath(str(record[columns["path"]])).name)] = {
                    k: None if pd.isna(v) or str(v).lower() == "unknown" else str(v) for k, v in values.items()
                }
            return rows, []
    return {}, []


# ---------------------------------------------------------------- class per folder


def _class_folder(path: PurePosixPath) -> str | None:
    parts = list(path.parts[:-1])
    while parts and (
        parts[0].lower() in TRAIN_FOLDERS | EVAL_FOLDERS or (parts[0].lower() == "images" and len(parts) > 1)
    ):
        parts = parts[1:]
    return parts[0] if parts else None


def _folders(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    table = _table(images)
    classes = [_class_folder(PurePosixPath(image)) for image in images]
    name = schema.names[0] if schema and len(schema.names) == 1 else CLASS
    table[name] = pd.Series(classes, dtype="str")
    return Described("folders", table, schema or _schema_of(table, name), _loose(table[name]))


def _loose(column: pd.Series[Any]) -> tuple[str, ...]:
    loose = int(column.isna().sum())
    return (f"{loose} photos lie outside a class folder and have no label.",) if loose else ()


def _flat(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    return Described("flat", _table(images), schema or Schema(()))


# ---------------------------------------------------------------- table of paths


def _csv(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    path = root / settings.csv if settings.csv else find_csv(root)
    if path is None:
        raise UserError(f"No CSV file in '{root}' names the photos.", "Name it in maskprep.yaml: source.csv")
    frame = read_csv(path)
    has = f"It has: {', '.join(frame.columns)}."
    theirs = {name.strip().lower(): name for name in frame.columns}
    for ours, name in settings.columns.items():
        if name not in frame.columns:
            raise UsageError(f"{path.name} has no column '{name}' (source.columns.{ours}).", has)

    def column(ours: str, *others: str) -> str | None:
        return settings.columns.get(ours) or next((theirs[n] for n in (ours, *others) if n in theirs), None)

    path_column = column("path", *PATH_COLUMNS)
    if path_column is None:
        raise UsageError(f"{path.name} has no column with paths; name it as source.columns.path.", has)
    schema = schema or _csv_schema(frame, theirs, settings.columns)
    wanted = {"person": column("person", *PERSON_COLUMNS), "split": column("split")}
    wanted |= {name: column(name, name.lower(), *(CLASS_COLUMNS if name == CLASS else ())) for name in schema.names}
    if missing := [name for name in schema.names if wanted[name] is None]:
        raise UsageError(f"{path.name} has no column for: {', '.join(missing)}.", has)
    used = {path_column, *wanted.values()}
    taken = RESERVED | {*wanted}
    others = {f"csv_{name}" if name in taken else name: name for name in frame.columns if name not in used}
    rows, notes = match(root, path, frame, path_column, images)
    listed = frame.reindex(rows).reset_index(drop=True)  # a photo without a row (-1) gets empty cells
    table = _table(images)
    for ours, name in {**{k: v for k, v in wanted.items() if v is not None}, **others}.items():
        table[ours] = listed[name].where(listed[name].notna(), table[ours]) if ours == "split" else listed[name]
    splits = [str(value).lower() for value in table["split"]]
    if strange := sorted({*splits} - EVAL_FOLDERS - TRAIN_FOLDERS):
        raise UserError(
            f"{path.name} has an unknown split: {some(strange)}.",
            f"Known: {', '.join(sorted(TRAIN_FOLDERS))} for training; {', '.join(sorted(EVAL_FOLDERS))} held out.",
        )
    table["split"] = ["eval" if value in EVAL_FOLDERS else "train" for value in splits]
    return Described("csv", table, schema, notes)


def _csv_schema(frame: pd.DataFrame, theirs: dict[str, str], columns: dict[str, str]) -> Schema:
    """The column named as the class, else the mask attributes that the table has, else its one label column."""
    known = tuple(a for a in MASK_SCHEMA.attributes if a.name in theirs or a.name in columns)
    if known and CLASS not in columns:
        return Schema(known)
    name = columns.get(CLASS) or next((theirs[n] for n in CLASS_COLUMNS if n in theirs), None)
    return _schema_of(frame.assign(**{CLASS: frame[name]}), CLASS) if name else Schema(())


def _schema_of(table: pd.DataFrame, name: str) -> Schema:
    spellings = {fold(str(value)): str(value).strip() for value in sorted(table[name].dropna(), key=str, reverse=True)}
    classes = sorted(spellings.values(), key=_natural)
    return Schema((Attribute(name, tuple(classes)),)) if classes else Schema(())


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts class 2 before class 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]
