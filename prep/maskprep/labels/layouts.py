"""Folder layouts: who is on a photo, in which split, with which labels, as far as names and CSV files tell.

No photo is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from maskprep.base import BOX_COLUMNS, UsageError, UserError, counted, fold, nfc, some
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
        independent: no two photos are of one person, so that none needs to be known.

    Raises:
        UsageError: an unknown layout or a broken expression.
    """

    layout: str = "auto"
    csv: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    person: str | None = None
    independent: bool = False

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


@dataclass
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
    origins: dict[str, str] = field(default_factory=lambda: {"split": "folders"})
    unused: dict[str, str] = field(default_factory=dict)
    refused: dict[str, dict[str, int]] = field(default_factory=dict)
    lists: tuple[str, ...] = ()


def describe(root: Path, images: Sequence[str], settings: SourceSettings, schema: Schema | None) -> Described:
    """Person, split and labels of every image below ``root``.

    The layout ``auto`` is the first that fits: boostcamp by its person folders or eval/info.csv; boxes by annotation
    files or a table of boxes; csv by a table of photos; folders by two or more folders with photos; else flat.

    Raises:
        UserError: a table is missing, unreadable or contradicts itself.
    """
    found, notes = ([], []) if settings.csv else listings(root, images)
    with_boxes = [listing for listing in found if boxes.corner_columns(listing.frame)]
    listing = with_boxes[0] if len(with_boxes) == 1 else None
    classes = _class_folders(images)
    distinct = {name for name in classes if name}
    years = len(distinct) >= 2 and all(YEAR.fullmatch(name) for name in distinct)  # photos by date, not by class
    layout = settings.layout
    if layout == "auto" and _is_boostcamp(root, images):
        layout = "boostcamp"
    annotated = boxes.Annotations()
    if layout in ("auto", "boxes") and not settings.csv:
        annotated = boxes.read_table(root, images, listing) if listing else boxes.read_files(root, images)
    if layout == "auto":
        if annotated.boxes or listing:
            layout = "boxes"
        elif settings.csv or len(found) == 1:
            layout = "csv"
        else:
            layout = "folders" if len(distinct) >= 2 and not years else "flat"
            if found:
                several = f"Several tables name photos ({some([one.path.name for one in found])}) and none is used; "
                notes.append(several + "name one in maskprep.yaml: source.csv.")
    table = pd.DataFrame({"person": pd.Series([None] * len(images), dtype="str"), "split": [_split(i) for i in images]})
    described = Described(layout, table, schema or Schema(()))
    own: list[str] = []
    if layout == "boostcamp":
        own, notes = _boostcamp(described, root, images, schema), []
    elif layout == "boxes":
        own = _boxes(described, root, images, schema, annotated)
    elif layout == "csv":
        own = _csv(described, root, images, schema, settings, found)
    elif layout == "folders":
        own = _folders(described, classes, schema)
    elif years:
        own = [
            f"The folders {some(sorted(distinct))} are taken for years, not "
            "classes. If they are classes: --layout folders"
        ]
    described.notes = (*own, *notes, *(annotated.notes if layout != "boxes" else ()))
    if settings.person is not None:
        matches = (re.search(settings.person, image) for image in images)
        people = [m and (m["person"] if "person" in m.re.groupindex else m[1]) for m in matches]
        table["person"] = pd.Series(people, dtype="str")
        described.origins["person"] = f"pattern {settings.person} in the path"
    return described


def _split(image: str) -> str:
    """Split by the folders' names; a training folder within another split's is training data."""
    found = {SPLIT_OF[name] for part in PurePosixPath(image).parts[:-1] if (name := part.lower()) in SPLIT_OF}
    return "train" if "train" in found or not found else min(found, key=["eval", "test", "val"].index)


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


def _schema_of(values: pd.Series[Any], name: str) -> Schema:
    """One attribute with the values as classes, class 2 before class 10; none without values."""

    def natural(text: str) -> list[tuple[int, int, str]]:
        return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]

    spellings = {fold(str(value)): str(value).strip() for value in sorted(values.dropna(), key=str, reverse=True)}
    return Schema((Attribute(name, tuple(sorted(spellings.values(), key=natural))),) if spellings else ())


def _one_attribute(schema: Schema | None) -> str:
    """The column of a layout with one label."""
    return schema.names[0] if schema and len(schema.names) == 1 else CLASS


def _folders(described: Described, classes: list[Any], schema: Schema | None) -> list[str]:
    name = _one_attribute(schema)
    described.table[name] = pd.Series(classes, dtype="str")
    described.schema = schema or _schema_of(described.table[name], name)
    described.origins[name] = "folders"
    loose = int(described.table[name].isna().sum())
    return [f"{counted(loose, 'photo')} outside the class folders without a label."] if loose else []


def _boxes(
    described: Described, root: Path, images: Sequence[str], schema: Schema | None, annotated: boxes.Annotations
) -> list[str]:
    if not annotated.boxes:
        raise UserError(
            f"'{root}' holds no boxes.", "Add Pascal VOC, COCO or YOLO files, or a table with a row per box."
        )
    own = annotated.table(images)
    described.table[[*BOX_COLUMNS, "boxes"]] = own[[*BOX_COLUMNS, "boxes"]]
    if own["class"].notna().any():
        name = _one_attribute(schema)
        described.table[name] = own["class"]
        described.origins[name] = f"the largest box, {annotated.kind}"
    described.schema = schema or _schema_of(own["class"], CLASS)
    described.lists = tuple(annotated.files)
    without = int((own["boxes"] == 0).sum())
    return annotated.notes + [f"{counted(without, 'photo')} without a box; there the faces are detected."] * bool(
        without
    )


# ---------------------------------------------------------------- boostcamp


def _is_boostcamp(root: Path, images: Sequence[str]) -> bool:
    folders = {PurePosixPath(image).parent.name for image in images}
    lists = any((root / folder / "info.csv").is_file() for folder in ("eval", "."))
    return any(map(PERSON_FOLDER.fullmatch, folders)) or (lists and "images" in folders)


def mask_state(name: str) -> str | None:
    """Mask state by the file name of the boostcamp set: mask1..mask5, incorrect_mask, normal."""
    stem = name.split(".", 1)[0].lower()
    states = {"incorrect_mask": "incorrect", "normal": "normal"}
    return states.get(stem, "wear" if re.fullmatch(r"mask\d*", stem) else None)


def _boostcamp(described: Described, root: Path, images: Sequence[str], schema: Schema | None) -> list[str]:
    listed, notes = _train_csv(root)
    rows: list[dict[str, Any]] = []
    disagree: set[str] = set()
    for path in map(PurePosixPath, images):
        folder = PERSON_FOLDER.fullmatch(path.parent.name)
        if folder is None:
            rows.append({})
            continue
        row: dict[str, Any] = {k: None if v.lower() == "unknown" else v for k, v in folder.groupdict().items()}
        if found := listed.get(nfc(path.parent.name)):
            if any(found[k] and row[k] and str(found[k]).lower() != row[k].lower() for k in ("gender", "age")):
                disagree.add(path.parent.name)
            row |= {k: v for k, v in found.items() if v}
        row["gender"] = row["gender"].lower() if row["gender"] else None
        rows.append({**row, "mask": mask_state(path.name)})
    found_rows = pd.DataFrame(rows, columns=["person", "mask", "gender", "race", "age"])
    table = described.table
    for column in ("person", "mask", "gender", "race"):
        table[column] = found_rows[column].astype("str")
    years = pd.to_numeric(found_rows["age"], errors="coerce")
    table["age"] = (years // 1).where(years.between(0, 1000)).astype("Int64")
    if unnamed := int((table["mask"].isna() & table["person"].notna()).sum()):
        notes.append(
            f"{counted(unnamed, 'photo')} in person folders without a label: the "
            "name is not mask1..5, incorrect_mask or normal."
        )
    if disagree:
        who = f"{counted(len(disagree), 'person', 'people')} ({some(sorted(disagree))})"
        notes.append(f"train.csv and the folder name disagree for {who}; train.csv is used.")
    place = "train.csv" if listed else "folder names"
    described.schema = schema or MASK_SCHEMA
    described.origins |= {"person": place, "gender": place, "age": place, "mask": "file names"}
    described.unused["race"] = "no label of the schema"
    described.lists = ("train/train.csv", "train.csv", "eval/info.csv")
    return notes


def _train_csv(root: Path) -> tuple[dict[str, dict[str, str | None]], list[str]]:
    """Folder name -> person, gender, race, age as train.csv says, where there is one."""
    path = next((path for path in (root / "train/train.csv", root / "train.csv") if path.is_file()), None)
    if path is None:
        return {}, []
    frame = read_list(path)
    frame = frame.set_axis([str(name).lower() for name in frame.columns], axis=1)
    if "path" not in frame:
        return {}, [f"{path.name} has no column 'path' and is not used."]
    keep = {"person": "id", "gender": "gender", "race": "race", "age": "age"}
    rows = {}
    for record in frame.to_dict("records"):
        values = {ours: record.get(theirs) for ours, theirs in keep.items()}
        rows[nfc(PurePosixPath(str(record["path"])).name)] = {
            k: None if pd.isna(v) or str(v).lower() == "unknown" else str(v) for k, v in values.items()
        }
    return rows, []


# ---------------------------------------------------------------- table of paths


def _listing(root: Path, settings: SourceSettings, found: Sequence[Listing]) -> Listing:
    """The table to use, and its column with the photos' names."""
    if settings.csv is None:
        if not found:
            raise UserError(f"No table in '{root}' names the photos.", "Name it in maskprep.yaml: source.csv")
        if len(found) > 1:
            names = some([one.path.name for one in found])
            raise UserError(
                f"Several tables in '{root}' name the photos: {names}.", "Name one in maskprep.yaml: source.csv"
            )
        if "path" not in settings.columns:
            return found[0]
    path = root / settings.csv if settings.csv else found[0].path
    frame = read_list(path)
    column = settings.columns.get("path") or columns.find(list(frame.columns), "path")
    if column is None:
        raise UsageError(f"{path.name} has no column with paths; name it as source.columns.path.", _has(frame))
    return Listing(path, frame, column)


def _has(frame: pd.DataFrame) -> str:
    return f"It has: {', '.join(frame.columns)}."


def _csv(
    described: Described,
    root: Path,
    images: Sequence[str],
    schema: Schema | None,
    settings: SourceSettings,
    found: Sequence[Listing],
) -> list[str]:
    listing = _listing(root, settings, found)
    file, frame, table = listing.path.name, listing.frame, described.table
    free = [name for name in frame.columns if name != listing.column]
    for ours, name in settings.columns.items():
        if name not in frame.columns:
            raise UsageError(f"{file} has no column '{name}' (source.columns.{ours}).", _has(frame))
    notes: list[str] = []
    schema = schema or _csv_schema(frame, free, settings.columns, notes, file)
    wanted = {
        ours: settings.columns.get(ours) or columns.find(free, ours) for ours in ("person", "split", *schema.names)
    }
    if missing := [name for name in schema.names if wanted[name] is None]:
        raise UsageError(f"{file} has no column for: {', '.join(missing)}.", _has(frame))
    used = {listing.column, *wanted.values()}
    taken = RESERVED | {*wanted}
    others = {f"csv_{name}" if name in taken else name: name for name in frame.columns if name not in used}
    rows, said = match(root, listing, images)
    # a photo without a row (-1) gets empty cells
    listed = frame.reset_index(drop=True).reindex(rows).reset_index(drop=True)
    known = {ours: name for ours, name in wanted.items() if name is not None}
    for ours, name in (known | others).items():
        cells = listed[name].where(listed[name].notna(), table[ours]) if ours == "split" else listed[name]
        if ours in schema.names:
            cells, strange = columns.understand(schema[ours], cells)
            if strange:
                described.refused[ours] = dict(strange.most_common())
        table[ours] = cells
    splits = [str(value).strip().lower() for value in table["split"]]
    if strange_splits := sorted({*splits} - SPLIT_OF.keys()):
        names = "; ".join(f"{split}: {', '.join(names)}" for split, names in columns.SPLITS.items())
        raise UserError(f"{file} has an unknown split: {some(strange_splits)}.", f"Known are {names}.")
    table["split"] = [SPLIT_OF[value] for value in splits]
    described.schema = schema
    described.origins |= {ours: f"column {name}" for ours, name in known.items()}
    described.unused = dict.fromkeys(others.values(), "no label; kept as a column")
    described.lists = (file,)
    return [*notes, *said]


def _csv_schema(frame: pd.DataFrame, free: Sequence[str], given: dict[str, str], notes: list[str], file: str) -> Schema:
    """The column named as the class, else the mask attributes that the table has, else its one label column."""
    known = tuple(a for a in MASK_SCHEMA.attributes if a.name in given or columns.find(free, a.name))
    if known and CLASS not in given:
        return Schema(known)
    name = given.get(CLASS) or columns.find(free, CLASS)
    if name is not None and (CLASS in given or not columns.seems_a_number(frame[name])):
        return _schema_of(frame[name], CLASS)
    if name is not None:
        notes.append(
            f"Column '{name}' of {file} holds {frame[name].nunique()} different numbers and is not taken for classes. "
            f"For ages, write source: {{columns: {{age: {name}}}}} into maskprep.yaml; for classes, class: {name}."
        )
    elif free:
        notes.append(
            f"No column of {file} is known to hold labels. Name one in maskprep.yaml: source: "
            f"{{columns: {{class: COLUMN}}}}; it has: {some(free, 6)}."
        )
    return Schema(())
