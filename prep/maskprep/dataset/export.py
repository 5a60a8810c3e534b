"""Crops out of a cache, as other tools read them: image folders, CSV, Parquet as ``datasets`` has it, WebDataset,
FiftyOne, Embedding Atlas.

The same cache and settings give the same bytes. An export that was stopped goes on; one with other settings is never
mixed into it.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maskprep.base import (
    BACKGROUNDS,
    TRANSPARENT,
    Progress,
    Silent,
    UsageError,
    UserError,
    parse_colour,
    write_atomic,
    write_json,
    write_with,
)
from maskprep.crops import GROUND_KEPT, NOTHING_FOUND, Background, cut_out
from maskprep.dataset import explorers
from maskprep.dataset.view import View, open_view
from maskprep.labels import SPLIT_OF, SPLITS, UNLABELLED
from maskprep.photos import encode, result_names
from maskprep.store import fingerprint

FORMATS = ("folder", "csv", "hf", "webdataset", "fiftyone", "atlas")
IMAGE_FORMATS = ("png", "jpg")
RECORD, LABELS = "export.json", "labels.csv"
PICTURES = {"csv": "images", "fiftyone": "data"}
"""Folder of the pictures, where they have one of their own."""

VERSION = 2
SHARD = 1000
"""Samples in one Parquet or tar file."""

Advance = Callable[[int], None]
Samples = Iterator[tuple[str, dict[str, Any], bytes]]


@dataclass(frozen=True)
class Settings:
    """What an export holds.

    Args:
        format: one of FORMATS.
        by: for ``folder``: ``source`` mirrors the photos' tree, ``class`` makes a folder per class and split.
        image_format: png, or jpg (quality 95, full colour resolution).
        background: one of BACKGROUNDS, or ``transparent`` (png with alpha).
        colour: of the background ``colour``.
        seed: of random backgrounds.
        split: only one of :data:`maskprep.labels.columns.SPLITS`; None for all.

    Raises:
        UsageError: a value out of range, or values that do not go together.
    """

    format: str = "folder"
    by: str = "source"
    image_format: str = "png"
    background: str = "original"
    colour: str = "grey"
    seed: int = 0
    split: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, FORMATS),
            ("by", self.by, ("source", "class")),
            ("image-format", self.image_format, IMAGE_FORMATS),
            ("background", self.background, (*BACKGROUNDS, TRANSPARENT)),
            ("split", self.split, (None, *SPLITS)),
        ):
            if value not in known:
                near = ", ".join(str(k) for k in known if k is not None)
                raise UsageError(f"Unknown {name} '{value}'.", f"Known: {near}.")
        if self.background == TRANSPARENT and self.image_format == "jpg":
            raise UsageError("JPEG has no transparency.", "Choose --image-format png, or another --background.")
        if self.by != "source" and self.format != "folder":
            raise UsageError(f"--by {self.by} is for --format folder.")
        parse_colour(self.colour)


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, how many crops, how many files now, how many photos have no crop, and which crops
    keep their background although another was asked for (the photo -> the status of its matte)."""

    folder: Path
    crops: int
    files: int
    missing: int
    kept: dict[str, str] = field(default_factory=dict)


def export_view(
    cache: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    view: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write the crops of a view.

    Args:
        cache: the cache.
        out: a new or empty folder, or one in which the same export was begun.
        settings: what is written.
        view: which crops; the only view, or ``face``.
        force: write into a folder that holds something else, replacing files of the same names; those that an earlier
            export left and this one does not have are removed.
        progress: where progress is reported.

    Raises:
        UserError: the folder holds something else, the view has no mattes where they are needed, or there are no crops.
    """
    settings = settings or Settings()
    opened = open_view(cache, view)
    table = opened.table if settings.split is None else opened.table[opened.table["split"] == settings.split]
    if table.empty:
        where = f" in the split '{settings.split}'" if settings.split else ""
        raise UserError(f"View '{opened.name}' of {cache} has no crops{where}.")
    rows = table.index.to_numpy(dtype=np.int64)
    if settings.background != "original":
        opened.need_mattes(rows)
    earlier = _recorded(out)
    record = _record(opened, settings, rows)
    keep = _take(out, opened, record, force)
    stale = sorted(set(earlier.get("files", [])) - set(record["files"]))
    begun = {**record, "made_from": "", "files": [*record["files"], *stale]}
    write_json(out / RECORD, record if keep else begun)  # until all is replaced, nothing is known to be this export's
    for leftover in out.rglob(".tmp-*"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    bars = progress or Silent()
    bars.start("export", len(rows))
    writers: dict[str, Callable[..., int]] = {"folder": _folder, "csv": _csv, "fiftyone": _fiftyone, "atlas": _atlas}
    write: Callable[..., int] = writers.get(settings.format, _shards)
    files = write(opened, rows, out, settings, keep, bars.advance)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    write_json(out / RECORD, record)
    return Exported(out, len(rows), files, len(opened.missing), record["background_kept"])


def _record(view: View, settings: Settings, rows: Any) -> dict[str, Any]:
    """export.json: what the export is made from."""
    chosen = dataclasses.asdict(settings)
    made_from = fingerprint("export", VERSION, chosen, view.fingerprint(), view.mattes_fingerprint(), rows.tolist())
    kept = _kept(view, rows) if settings.background != "original" else {}
    about = {"view": view.name, "settings": chosen, "made_from": made_from, "background_kept": kept}
    return {**about, "files": files_of(view, rows, settings)}


def _kept(view: View, rows: Any) -> dict[str, str]:
    """The crops of some table rows whose mattes remove nothing: the photo -> the status of its matte."""
    statuses = zip(view.table["image"].iloc[rows], view.matte_statuses(rows), strict=True)
    return {image: status for image, status in statuses if status in GROUND_KEPT}


def _recorded(out: Path) -> dict[str, Any]:
    """What an earlier export has left about itself; nothing where there is none, or none that can be read."""
    try:
        found = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    files = found["files"] if isinstance(found.get("files"), list) else []
    inside = [f for f in files if isinstance(f, str) and f and not {"..", "/"} & set(PurePosixPath(f).parts)]
    return {**found, "files": inside}


def _take(out: Path, view: View, record: dict[str, Any], force: bool) -> bool:
    """Make sure that the folder may be written to. Returns whether files in it are this export's and can stay."""
    for home in (view.path, Path(view.dataset["source"]["root"])):
        if out.resolve().is_relative_to(home.resolve()):
            raise UsageError(f"The export '{out}' would lie inside '{home}'.", "Name another place with --out.")
        if home.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"'{home}' lies inside '{out}'.", "Name a folder of its own with --out.")
    begun = _recorded(out).get("made_from")
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file.", "Name a folder with --out.")
    if (begun == record["made_from"] and not force) or not out.is_dir() or not any(out.iterdir()):
        return True
    if not force:
        what = "an export with other settings or of other crops" if begun else "something else"
        raise UsageError(f"'{out}' holds {what}.", "Name a new folder with --out, or write over it with --force.")
    return False


# ---------------------------------------------------------------- pictures


def pictures(view: View, rows: Sequence[int], settings: Settings) -> Iterator[bytes]:
    """The encoded crops of some table rows, in order."""
    if settings.background in ("mean", "colour", "blur", "random"):
        colour = parse_colour(settings.colour)
        if settings.background == "mean":
            red, green, blue = (int(v) for v in np.rint(view.mean_std(np.arange(len(view)))[0] * 255))
            colour = (red, green, blue)
        view = view.before(Background(settings.background, colour, settings.seed, np.arange(len(view))))
    for row in rows:
        pixels = view.gather([row], epoch=0)[0]
        if settings.background == TRANSPARENT:
            found = view.matte_statuses([row])[0] not in NOTHING_FOUND
            alpha = view.gather_alpha([row])[0] if found else np.full(view.size, 255, np.uint8)
            pixels = cut_out(pixels, alpha)
        if settings.image_format == "png":
            yield encode(pixels)
        else:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, format="JPEG", quality=95, subsampling=0)
            yield stream.getvalue()


def _names(view: View, rows: Any, settings: Settings) -> list[str]:
    """File name of every crop: the photo's, with the suffix of the format."""
    names = result_names(view.table["image"].tolist(), f".{settings.image_format}")  # of all, so a split changes none
    return [names[image] for image in view.table["image"].iloc[rows]]


def _label_columns(view: View) -> list[str]:
    return ["person", "split", *view.schema.names, "label", "excluded", "status", "matte"]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (not isinstance(value, str) and pd.isna(value)):
        return None
    plain = value.item() if hasattr(value, "item") else value
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


# ---------------------------------------------------------------- formats


def files_of(view: View, rows: Any, settings: Settings) -> list[str]:
    """The files of an export, as paths in its folder."""
    beside = {"folder": [], "csv": [LABELS], "fiftyone": [explorers.SAMPLES, explorers.METADATA]}
    if settings.format in beside:
        return [*_picture_files(view, rows, settings), *beside[settings.format]]
    if settings.format == "atlas":
        return [explorers.ATLAS]
    return [_shard_file(view, settings.format, split, number, count) for split, number, count, _ in _parts(view, rows)]


def _shard_file(view: View, format: str, split: str, number: int, count: int) -> str:
    if format == "hf":
        free = "test" not in set(view.table["split"])  # ``eval`` is the ``test`` of load_dataset, if that is free
        theirs = {"val": "validation", "eval": "test" if free else "eval"}
        return f"data/{theirs.get(split, split)}-{number:05d}-of-{count:05d}.parquet"
    return f"{split}-{number:06d}.tar"


def _picture_files(view: View, rows: Any, settings: Settings) -> list[str]:
    if settings.format in PICTURES:
        return [f"{PICTURES[settings.format]}/{name}" for name in _names(view, rows, settings)]
    if settings.by == "class":
        files = _class_files(view, f".{settings.image_format}")
        return [files[row] for row in rows.tolist()]
    return _names(view, rows, settings)


def _class_files(view: View, suffix: str) -> list[str]:
    """The file of every crop of the view in a folder per split and class: of all, so that a split changes none."""
    if not view.schema.class_names:
        raise UserError(f"{view.path} has no classes.", "Export by source instead.")
    folders = class_folders(view.schema.class_names)
    table = view.table
    homes = [
        (split, UNLABELLED if pd.isna(label) else folders[int(label)])
        for split, label in zip(table["split"], table["label"], strict=True)
    ]
    places = list(zip(table["image"], homes, strict=True))
    short, whole = [f"{s}/{f}/{_within(i, s, f)}" for i, (s, f) in places], [f"{s}/{f}/{i}" for i, (s, f) in places]
    stems = [str(PurePosixPath(name).with_suffix("")).casefold() for name in short]
    seen = Counter(stems)
    placed = [brief if seen[stem] == 1 else long for brief, stem, long in zip(short, stems, whole, strict=True)]
    placed = whole if len(set(placed)) < len(placed) else placed
    names = result_names(placed, suffix)
    return [names[name] for name in placed]


def _within(name: str, split: str, folder: str) -> str:
    """A file's name without the leading folders that say its split and class again."""
    parts = list(PurePosixPath(name).parts)
    while len(parts) > 1 and (SPLIT_OF.get(parts[0].lower()) == split or _as_folder(parts[0]) == folder):
        parts = parts[1:]
    return "/".join(parts)


def _as_folder(name: str) -> str:
    r"""A class as the name of a folder on any system.

    Its own text, with ``_`` for the characters / \ : * ? " < > | and without blanks and dots at its end. Intervals read
    ``under 30`` and ``from 60``: ``wear/male/<30`` becomes ``wear_male_under 30``.
    """
    words = re.sub(r"(^|/)>=(?=[\d.-])", r"\1from ", re.sub(r"(^|/)<(?=[\d.-])", r"\1under ", name))
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", words).rstrip(". ") or "_"


def class_folders(classes: Sequence[str]) -> list[str]:
    """A folder for each class; a number ends those that would be alike without case, or called as what has no label."""
    taken, folders = {UNLABELLED}, []
    for name in classes:
        folder = _as_folder(name)
        tried = (f"{folder}{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
        folders.append(next(f for f in tried if f.casefold() not in taken))
        taken.add(folders[-1].casefold())
    return folders


def _number(value: Any) -> float | None:
    """A cell of an attribute that is a number; None where it is none."""
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def _folder(view: View, rows: Any, out: Path, settings: Settings, keep: bool, advance: Advance) -> int:
    paths = [out / name for name in _picture_files(view, rows, settings)]
    todo = [(row, path) for row, path in zip(rows.tolist(), paths, strict=True) if not (keep and path.is_file())]
    advance(len(paths) - len(todo))
    for (_, path), data in zip(todo, pictures(view, [row for row, _ in todo], settings), strict=True):
        write_atomic(path, data)
        advance(1)
    return len(todo)


def _csv(view: View, rows: Any, out: Path, settings: Settings, keep: bool, advance: Advance) -> int:
    files = _folder(view, rows, out, settings, keep, advance)
    columns = _label_columns(view)
    named = {c: [_plain(v) for v in view.table[c].iloc[rows]] for c in ("image", *columns)}
    if "class" not in columns:  # an attribute may be called so
        named["class"] = [None if label is None else view.schema.class_names[label] for label in named["label"]]
    table = pd.DataFrame({"path": _picture_files(view, rows, settings), **named}, dtype=object)
    write_atomic(out / LABELS, table.to_csv(index=False, lineterminator="\n").encode())
    return files + 1


def _fiftyone(view: View, rows: Any, out: Path, settings: Settings, keep: bool, advance: Advance) -> int:
    files = _folder(view, rows, out, settings, keep, advance)
    cells = (_cells(view, row) for row in rows.tolist())
    made = explorers.fiftyone_files(view, _picture_files(view, rows, settings), cells)
    for name, content in made.items():
        write_atomic(out / name, content)
    return files + len(made)


def _atlas(view: View, rows: Any, out: Path, settings: Settings, keep: bool, advance: Advance) -> int:
    path = out / explorers.ATLAS
    if keep and path.is_file():
        advance(len(rows))
        return 0
    names = dict(zip(rows.tolist(), _names(view, rows, settings), strict=True))
    samples = _samples(view, rows.tolist(), names, settings, advance)
    write_with(path, partial(explorers.write_atlas, view, rows.tolist(), samples))
    return 1


def _parts(view: View, rows: Any) -> Iterator[tuple[str, int, int, Any]]:
    """split, number and count of the file, and its rows."""
    splits = view.table["split"].iloc[rows]
    for split in sorted(set(splits), key=[*SPLITS].index):
        mine = rows[(splits == split).to_numpy()]
        pieces = np.array_split(mine, -(-len(mine) // SHARD))
        for number, piece in enumerate(pieces):
            yield split, number, len(pieces), piece


def _shards(view: View, rows: Any, out: Path, settings: Settings, keep: bool, advance: Advance) -> int:
    """Files of at most :data:`SHARD` samples of one split."""
    names = dict(zip(rows.tolist(), _names(view, rows, settings), strict=True))
    write = _write_parquet if settings.format == "hf" else _write_tar
    files = 0
    for split, number, count, piece in _parts(view, rows):
        path = out / _shard_file(view, settings.format, split, number, count)
        if keep and path.is_file():
            advance(len(piece))
            continue
        samples = _samples(view, piece.tolist(), names, settings, advance)
        write_with(path, partial(write, view, samples))
        files += 1
    return files


def _samples(view: View, rows: list[int], names: dict[int, str], settings: Settings, advance: Advance) -> Samples:
    """File name, cells and encoded picture of some table rows. Cells of an attribute of numbers are numbers or None."""
    for row, data in zip(rows, pictures(view, rows, settings), strict=True):
        yield names[row], _cells(view, row), data
        advance(1)


def _cells(view: View, row: int) -> dict[str, Any]:
    numbers, known = {a.name for a in view.schema.attributes if a.bins}, view.table.iloc[row]
    return {c: _plain(_number(known[c]) if c in numbers else known[c]) for c in ("image", *_label_columns(view))}


def _write_parquet(view: View, samples: Samples, path: Path) -> None:
    """A Parquet file that ``datasets.load_dataset`` reads as it is."""
    numbers = {a.name for a in view.schema.attributes if a.bins}
    kinds = {c: "float64" if c in numbers else "string" for c in _label_columns(view) if c not in ("label", "split")}
    classes = list(view.schema.class_names)
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    fields = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    if classes:
        features["label"] = {"names": classes, "_type": "ClassLabel"}
        fields["label"] = pa.int64()
    for name, kind in {"file": "string", **kinds}.items():
        features[name] = {"dtype": kind, "_type": "Value"}
        fields[name] = pa.type_for_alias(kind)
    made = []
    for name, cells, data in samples:
        texts = {c: v if v is None or c in numbers else str(v) for c, v in cells.items()}
        label = -1 if cells["label"] is None else cells["label"]  # as ``datasets`` marks what is unknown
        made.append({**texts, "image": {"bytes": data, "path": name}, "file": cells["image"], "label": label})
    about = json.dumps({"info": {"features": features}})
    table = pa.Table.from_pylist(made, pa.schema(list(fields.items()), metadata={"huggingface": about}))
    pq.write_table(table, path, compression="none", row_group_size=100)


def _write_tar(view: View, samples: Samples, path: Path) -> None:
    """WebDataset: per sample the picture, ``cls`` (the joint label, if known) and ``json``. Keys are the photos' paths.

    WebDataset ends a key at its first dot, so dots in names become ``%2E``.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, cells, data in samples:
            stem, _, suffix = name.rpartition(".")
            key = stem.replace("%", "%25").replace(".", "%2E")
            members = {suffix: data}
            if cells["label"] is not None:
                members["cls"] = str(cells["label"]).encode()
            members["json"] = json.dumps(cells, ensure_ascii=False, sort_keys=True).encode()
            for kind, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size, entry.mode = len(content), 0o644  # no time, owner or group: the same bytes anywhere
                archive.addfile(entry, io.BytesIO(content))
