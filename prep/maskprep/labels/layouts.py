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

from maskprep.base import fold, nfc, some
from maskprep.errors import UsageError, UserError
from maskprep.labels import boxes, columns
from maskprep.labels.columns import SPLIT_OF, UNLABELLED
from maskprep.labels.lists import Listing, listings, match, read_list
from maskprep.labels.schema import MASK_SCHEMA, RESERVED, Attribute, Schema

LAYOUTS = ("auto", "boostcamp", "folders", "csv", "boxes", "flat")

PERSON_FOLDER = re.compile(
    r"(?P<person>\d+(?:-\d+)?)_(?P<gender>male|female|unknown)_(?P<race>[^_]+)_(?P<age>\d+|unknown)", re.IGNORECASE
)
"""Folder of one person in the boostcamp set, such as ``000001_female_Asian_45`` or ``001498-1_male_Asian_23``."""

CLASS = "class"
"""Name of the one attribute of a layout that does not name its own."""

YEAR = re.compile(r"(19|20)\d\d")


@dataclass(frozen=True)
class SourceSettings:
    """The ``source`` section of maskprep.yaml.

    Args:
        layout: one of LAYOUTS; ``auto`` looks at the folder and says what it found.
        csv: CSV or XLSX file of the ``csv`` layout, relative to the photo folder.
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
        origins: attribute, ``person`` or ``split`` -> where it is from, in words.
        unused: columns that became no label -> why; they are kept in images.parquet.
        refused: attribute -> cells that mean none of its classes, counted.
        lists: the files besides photos that were read, relative to the photo folder.
    """

    layout: str
    table: pd.DataFrame
    schema: Schema
    notes: tuple[str, ...] = ()
    origins: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, int]] = field(default_factory=dict)
    lists: tuple[str, ...] = ()


def describe(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    """Person, split and labels of every image below ``root``.

    Raises:
        UserError: a table is missing, unreadable or contradicts itself.
    """
    found, notes = ([], []) if settings.csv else listings(root, images)
    annotated = boxes.Annotations()
    if settings.layout in ("auto", "boxes") and not settings.csv and not _corners(found):
        annotated = boxes.read(root, images)
    layout = settings.layout if settings.layout != "auto" else _detect(root, images, settings, found)
    if settings.layout == "auto" and layout != "boostcamp" and annotated.boxes:
        layout = "boxes"
    if layout == "boxes":
        described = _boxes(root, images, schema, annotated, found)
    elif layout == "csv":
        listing = _listing(root, images, settings, found)
        described = _csv(root, images, settings, schema, listing)
        notes = [note for note in notes if not note.startswith(f"'{listing.path.name}'")]
    else:
        described = {"boostcamp": _boostcamp, "folders": _folders, "flat": _flat}[layout](root, images, schema)
    if settings.layout == "auto" and layout in ("folders", "flat") and len(found) > 1:
        several = f"Several tables name photos ({some([one.path.name for one in found])}) and none is used; "
        notes.append(several + "name one in maskprep.yaml: source.csv.")
    if layout not in ("boxes", "boostcamp"):
        notes += annotated.notes
    described = dataclasses.replace(described, notes=(*described.notes, *(notes if layout != "boostcamp" else ())))
    if settings.person is not None:
        pattern = re.compile(settings.person)
        described.table["person"] = pd.Series([_person(pattern, image) for image in images], dtype="str")
        described.origins["person"] = f"pattern {settings.person} in the path"
    return described


def _corners(found: Sequence[Listing]) -> Listing | None:
    """The one table that has the corners of boxes."""
    with_boxes = [one for one in found if boxes.corner_columns(list(one.frame.columns))]
    return with_boxes[0] if len(with_boxes) == 1 else None


def _detect(root: Path, images: Sequence[str], settings: SourceSettings, found: Sequence[Listing]) -> str:
    """boostcamp by its person folders or eval/info.csv, boxes or csv by a table of photos, folders by two or
    more subfolders with photos, else flat (photos without labels)."""
    paths = [PurePosixPath(image) for image in images]
    if any(PERSON_FOLDER.fullmatch(path.parent.name) for path in paths) or (
        any((root / folder / "info.csv").is_file() for folder in ("eval", "."))
        and any(path.parent.name == "images" for path in paths)
    ):
        return "boostcamp"
    if not settings.csv and _corners(found):
        return "boxes"
    if settings.csv or len(found) == 1:
        return "csv"
    classes = {name for name in _class_folders(images) if name}
    return "folders" if len(classes) >= 2 and not _years(classes) else "flat"


def _years(names: set[str]) -> bool:
    """Whether folders are called after years: photos sorted by date, not by class."""
    return all(YEAR.fullmatch(name) for name in names)


def _table(images: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"person": pd.Series([None] * len(images), dtype="str"), "split": [_split(PurePosixPath(i)) for i in images]}
    )


def _split(path: PurePosixPath) -> str:
    """Split by the folders' names; a training folder within another split's is training data."""
    found = {SPLIT_OF[name] for part in path.parts[:-1] if (name := part.lower()) in SPLIT_OF}
    return "train" if "train" in found or not found else min(found, key=["eval", "test", "val"].index)


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


def _boostcamp(root: Path, images: Sequence[str], schema: Schema | None) -> Described:
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
        row: dict[str, Any] = {k: None if v.lower() == "unknown" else v for k, v in folder.groupdict().items()}
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
    place = "train.csv" if listed else "folder names"
    origins = {"person": place, "gender": place, "age": place, "mask": "file names", "split": "folders"}
    lists = ("train/train.csv", "train.csv", "eval/info.csv")
    unused = {"race": "no label of the schema"}
    return Described("boostcamp", table, schema or MASK_SCHEMA, tuple(notes), origins, unused, lists=lists)


def _train_csv(root: Path) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Folder name -> person, gender, race, age as train.csv says, where there is one."""
    for path in (root / "train" / "train.csv", root / "train.csv"):
        if path.is_file():
            frame = read_list(path)
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


def _class_folders(images: Sequence[str]) -> list[str | None]:
    """The class folder of every image: the first that is neither around all photos, nor a split, nor ``images``."""
    parts = [PurePosixPath(image).parts[:-1] for image in images]
    around = 0  # folders that hold everything, as the archives of data sets have them
    while all(len(p) > around + 1 for p in parts) and len({p[around] for p in parts}) == 1:
        around += 1
    classes = []
    for folders in (list(p[around:]) for p in parts):
        while folders and (folders[0].lower() in SPLIT_OF or (folders[0].lower() == "images" and len(folders) > 1)):
            folders = folders[1:]
        classes.append(folders[0] if folders and folders[0] != UNLABELLED else None)
    return classes


def _folders(root: Path, images: Sequence[str], schema: Schema | None) -> Described:
    table = _table(images)
    name = schema.names[0] if schema and len(schema.names) == 1 else CLASS
    table[name] = pd.Series(_class_folders(images), dtype="str")
    origins = {name: "folders", "split": "folders"}
    loose = int(table[name].isna().sum())
    notes = (f"{loose} photos lie outside a class folder and have no label.",) if loose else ()
    return Described("folders", table, schema or _schema_of(table, name), notes, origins)


def _flat(root: Path, images: Sequence[str], schema: Schema | None) -> Described:
    names = {name for name in _class_folders(images) if name}
    notes = []
    if len(names) >= 2 and _years(names):
        notes.append(f"The folders {some(sorted(names))} are years, not classes; layout folders takes them as classes.")
    return Described("flat", _table(images), schema or Schema(()), tuple(notes), {"split": "folders"})


# ---------------------------------------------------------------- table of paths


def _listing(root: Path, images: Sequence[str], settings: SourceSettings, found: Sequence[Listing]) -> Listing:
    """The table to use, and its column with the photos' names."""
    if settings.csv is None:
        if len(found) == 1 and "path" not in settings.columns:
            return found[0]
        if not found:
            raise UserError(f"No table in '{root}' names the photos.", "Name it in maskprep.yaml: source.csv")
        if len(found) > 1:
            names = some([one.path.name for one in found])
            raise UserError(f"Several tables in '{root}' name the photos: {names}.", "Name one: source.csv")
    path = root / settings.csv if settings.csv else found[0].path
    frame = read_list(path)
    column = settings.columns.get("path") or columns.find(list(frame.columns), "path")
    if column is None:
        raise UsageError(f"{path.name} has no column with paths; name it as source.columns.path.", _has(frame))
    return Listing(path, frame, column)


def _has(frame: pd.DataFrame) -> str:
    return f"It has: {', '.join(frame.columns)}."


def _csv(
    root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None, listing: Listing
) -> Described:
    path, frame = listing.path, listing.frame
    free = [name for name in frame.columns if name != listing.column]
    for ours, name in settings.columns.items():
        if name not in frame.columns:
            raise UsageError(f"{path.name} has no column '{name}' (source.columns.{ours}).", _has(frame))

    def column(ours: str) -> str | None:
        return settings.columns.get(ours) or columns.find(free, ours)

    notes: list[str] = []
    schema = schema or _csv_schema(frame, free, settings.columns, notes, path.name)
    wanted = {name: column(name) for name in ("person", "split", *schema.names)}
    if missing := [name for name in schema.names if wanted[name] is None]:
        raise UsageError(f"{path.name} has no column for: {', '.join(missing)}.", _has(frame))
    used = {listing.column, *wanted.values()}
    taken = RESERVED | {*wanted}
    others = {f"csv_{name}" if name in taken else name: name for name in frame.columns if name not in used}
    rows, said = match(root, path, frame, listing.column, images)
    listed = (
        frame.reset_index(drop=True).reindex(rows).reset_index(drop=True)
    )  # a photo without a row (-1) gets empty cells
    table = _table(images)
    refused: dict[str, dict[str, int]] = {}
    for ours, name in {**{k: v for k, v in wanted.items() if v is not None}, **others}.items():
        cells = listed[name].where(listed[name].notna(), table[ours]) if ours == "split" else listed[name]
        if ours in schema.names:
            cells, strange = columns.understand(schema[ours], cells)
            if strange:
                refused[ours] = dict(strange.most_common())
        table[ours] = cells
    splits = [str(value).strip().lower() for value in table["split"]]
    if strange_splits := sorted({*splits} - SPLIT_OF.keys()):
        known = "; ".join(f"{split}: {', '.join(names)}" for split, names in columns.SPLITS.items())
        raise UserError(f"{path.name} has an unknown split: {some(strange_splits)}.", f"Known are {known}.")
    table["split"] = [SPLIT_OF[value] for value in splits]
    origins = {ours: f"column {name}" for ours, name in wanted.items() if name is not None}
    unused = dict.fromkeys(others.values(), "no label; kept as a column")
    return Described(
        "csv", table, schema, (*notes, *said), {"split": "folders", **origins}, unused, refused, (path.name,)
    )


# ---------------------------------------------------------------- boxes


def _boxes(
    root: Path,
    images: Sequence[str],
    schema: Schema | None,
    annotated: boxes.Annotations,
    found: Sequence[Listing],
) -> Described:
    listing = None if annotated.boxes else _corners(found)
    if listing is not None:
        annotated = _boxes_of(root, images, listing)
    if not annotated.boxes:
        raise UserError(f"Nothing in '{root}' tells boxes.", "Pascal VOC, COCO and YOLO files are read, or a table.")
    table = _table(images)
    own = annotated.table(images)
    name = schema.names[0] if schema and len(schema.names) == 1 else CLASS
    labelled = own["class"].notna().any()
    for column in (*boxes.COLUMNS, "boxes"):
        table[column] = own[column]
    if labelled:
        table[name] = own["class"]
    without = int((own["boxes"] == 0).sum())
    notes = [*annotated.notes]
    if without:
        notes.append(f"{without} photos have no box; their faces are looked for.")
    origins = {"split": "folders"} | ({name: f"the largest box, {annotated.kind}"} if labelled else {})
    lists = tuple(annotated.files)
    return Described("boxes", table, schema or _schema_of(own, CLASS), tuple(notes), origins, lists=lists)


def _boxes_of(root: Path, images: Sequence[str], listing: Listing) -> boxes.Annotations:
    """The boxes of a table with one row per box."""
    corners = boxes.corner_columns(list(listing.frame.columns))
    assert corners is not None  # that is how it was told
    free = [name for name in listing.frame.columns if name not in (listing.column, *corners)]
    label = columns.find(free, CLASS)
    annotated = boxes.Annotations(kind=f"columns {', '.join(corners)}", files=[listing.path.name])
    photos = listing.frame[[listing.column]].drop_duplicates()
    rows, notes = match(root, listing.path, photos, listing.column, images)
    annotated.notes.extend(notes)
    groups = dict(list(listing.frame.groupby(listing.column, sort=False)))
    for image, row in zip(images, rows, strict=True):
        if row < 0:
            continue
        for record in groups[photos[listing.column].iloc[row]].to_dict("records"):
            cells = [pd.to_numeric(record[c], errors="coerce") for c in corners]
            if any(pd.isna(cell) for cell in cells):
                annotated.notes.append(f"{listing.path.name}: a box of '{image}' has no four numbers.")
                continue
            x0, y0, x1, y1 = (float(cell) for cell in cells)
            text = None if label is None or pd.isna(record[label]) else str(record[label])
            annotated.boxes.setdefault(image, []).append(boxes.Box((x0, y0, x1, y1), text))
    return annotated


def _csv_schema(frame: pd.DataFrame, free: Sequence[str], given: dict[str, str], notes: list[str], file: str) -> Schema:
    """The column named as the class, else the mask attributes that the table has, else its one label column."""
    known = tuple(a for a in MASK_SCHEMA.attributes if a.name in given or columns.find(free, a.name))
    if known and CLASS not in given:
        return Schema(known)
    name = given.get(CLASS) or columns.find(free, CLASS)
    if name is None:
        if free:
            notes.append(
                f"No column of {file} is known to hold labels. Name one in maskprep.yaml: source: "
                f"{{columns: {{class: COLUMN}}}}; it has: {some(free, 6)}."
            )
        return Schema(())
    if CLASS not in given and columns.seems_a_number(frame[name]):
        notes.append(
            f"Column '{name}' of {file} holds {frame[name].nunique()} different numbers and is not taken for classes. "
            f"For ages, write source: {{columns: {{age: {name}}}}} into maskprep.yaml; for classes, class: {name}."
        )
        return Schema(())
    return _schema_of(frame.assign(**{CLASS: frame[name]}), CLASS)


def _schema_of(table: pd.DataFrame, name: str) -> Schema:
    spellings = {fold(str(value)): str(value).strip() for value in sorted(table[name].dropna(), key=str, reverse=True)}
    classes = sorted(spellings.values(), key=_natural)
    return Schema((Attribute(name, tuple(classes)),)) if classes else Schema(())


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts class 2 before class 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]
