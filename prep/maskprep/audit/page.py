"""The report: one HTML file that opens from disk, and beside it small files of the crops that load when seen."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from maskprep.audit.context import Context
from maskprep.audit.examine import FOLDER, Audit
from maskprep.audit.findings import CHECKS, KINDS
from maskprep.audit.rulings import fields, login
from maskprep.base.files import write_atomic
from maskprep.dataset.view import View, open_view
from maskprep.faces.decisions import COLUMNS, Decision
from maskprep.faces.subjects import Subjects
from maskprep.pipeline.job import Job

REPORT = "report.html"
THUMBS = "thumbs"
THUMB_SIDE = 160
"""Longer side of a card's picture, pixels."""

QUALITY = 82


def write_report(job: Job, audit: Audit) -> Path:
    """Write audit/report.html and the pictures beside it; pictures that are there already are kept.

    Returns:
        The page.
    """
    path = job.cache.root / FOLDER / REPORT
    thumbs = write_thumbs(job, path.parent / THUMBS)
    write_atomic(path, render(page_data(job, audit, thumbs)).encode())
    return path


def render(data: Mapping[str, Any]) -> str:
    """The page as HTML. The data are JSON in which no character can end the element they stand in."""
    parts = {name: _asset(f"page.{name}") for name in ("html", "css", "js")}
    policy = (
        f"default-src 'none'; script-src {_hash(parts['js'])}; style-src {_hash(parts['css'])};"
        " img-src 'self' file: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()  # a name may hold half a surrogate pair
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = parts["html"].replace("__POLICY__", html.escape(policy))
    page = page.replace("__STYLE__", parts["css"]).replace("__SCRIPT__", parts["js"])
    return page.replace("__DATA__", text)


def _asset(name: str) -> str:
    return (resources.files("maskprep.audit") / "report" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---------------------------------------------------------------- pictures


def thumb_view(job: Job) -> str | None:
    """The view whose crops the cards show: ``face``, else the first; None when there is none."""
    names = job.cache.views()
    return ("face" if "face" in names else names[0]) if names else None


def write_thumbs(job: Job, folder: Path) -> dict[str, str]:
    """Small JPEGs of the crops, named by the crop's key, so that only new crops are written. Returns image -> name."""
    name = thumb_view(job)
    if name is None:
        return {}
    view = open_view(job.cache.root, name)
    keys = {i: f"{key[:2]}/{key}" for i, key in enumerate(view.table["key"])}
    there = {f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*.jpg")}
    wanted = set(keys.values())
    missing = [i for i, key in keys.items() if key not in there]
    job.progress.start("thumbs", len(missing))
    for start in range(0, len(missing), 64):
        _write_some(view, missing[start : start + 64], keys, folder)
        job.progress.advance(len(missing[start : start + 64]))
    for stale in there - wanted:
        (folder / f"{stale}.jpg").unlink(missing_ok=True)
    return {image: keys[i] for i, image in enumerate(view.table["image"])}


def _write_some(view: View, rows: list[int], keys: Mapping[int, str], folder: Path) -> None:
    from PIL import Image

    scale = min(1.0, THUMB_SIDE / max(view.size))
    size = (max(1, round(view.size[1] * scale)), max(1, round(view.size[0] * scale)))
    for row, pixels in zip(rows, view.gather(rows), strict=True):
        path = folder / f"{keys[row]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        picture = Image.fromarray(pixels)
        (picture if scale == 1 else picture.resize(size, Image.Resampling.BOX)).save(
            temporary, format="JPEG", quality=QUALITY
        )
        temporary.replace(path)  # no fsync: what is lost can be made again


# ---------------------------------------------------------------- data


def page_data(job: Job, audit: Audit, thumbs: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows, column by column; all numbers finite, all keys plain."""
    c = audit.context
    images = c.images["image"].tolist()
    number = {image: i for i, image in enumerate(images)}
    checks = list(CHECKS)
    people = sorted(c.people)
    order = {person: i for i, person in enumerate(people)}
    folder = job.cache.root.resolve() / FOLDER
    subjects = c.subjects
    boxes = [_box(row) for row in zip(*(subjects[k] for k in ("x0", "y0", "x1", "y1")), strict=True)]
    return {
        "id": hashlib.sha256(os.fspath(job.cache.root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "name": job.cache.root.resolve().name,
        "source": os.fspath(job.root),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "serve": False,
        "by": login(),
        "root": _relative(job.root, folder),
        "kinds": list(KINDS),
        "checks": [
            {"name": n, "kind": CHECKS[n].kind, "about": CHECKS[n].about, "not_run": audit.outcome.not_run.get(n, "")}
            for n in checks
        ],
        "people": people,
        "classes": list(c.schema.class_names),
        "attributes": {a.name: list(a.classes) for a in c.schema.attributes},
        "numbers": [a.name for a in c.schema.attributes if a.bins],
        "order": list(c.schema.names),
        "path": images,
        "content": [v if isinstance(v, str) else "" for v in c.images["content"]],
        "error": [v.replace("_", " ") if isinstance(v, str) else "" for v in c.images["error"]],
        "width": _numbers(c.images["width"]),
        "height": _numbers(c.images["height"]),
        "split": [v if isinstance(v, str) else "train" for v in c.images["split"]],
        "person": [order.get(c.person_of.get(image, ""), -1) for image in images],
        "status": subjects["status"].tolist(),
        "label": [-1 if pd.isna(v) else int(v) for v in c.labels["label"]],
        "values": {a.name: _texts(c, a.name) for a in c.schema.attributes},
        "box": boxes,
        "auto": automatic_boxes(job, audit, boxes),
        "faces": [_faces(c, image) for image in images],
        "thumb": [thumbs.get(image, "") for image in images],
        "findings": [[number[f.image], checks.index(f.check), f.severity, f.detail] for f in audit.outcome.findings],
        "rulings": [ruling_row(each.decision) for each in audit.rulings if each.state != "replaced"],
        "states": [[ruling_row(e.decision), e.state, e.why] for e in audit.rulings if e.state != "replaced"],
    }


def ruling_row(decision: Decision) -> dict[str, str]:
    """A ruling as the page has it."""
    return dict(zip(COLUMNS, fields(decision), strict=True))


def automatic_boxes(job: Job, audit: Audit, boxes: list[list[float] | None]) -> list[list[float] | None]:
    """The box that was chosen without a ruling, which is what a new ruling expects to find."""
    c = audit.context
    ruled = set(c.subjects["image"][c.subjects["status"].isin(["decided", "dropped"])])
    if not ruled:
        return boxes
    chooser = Subjects(c.images, c.faces, job.config.choose)
    return [
        _box(chooser.automatic(image).box or ()) if image in ruled else box
        for image, box in zip(c.images["image"], boxes, strict=True)
    ]


def _faces(c: Context, image: str) -> list[list[float]]:
    """Every face, the likeliest subject first: number, x0, y0, x1, y1, mark, evidence."""
    if image not in c.scenes:
        return []
    found = []
    for candidate in c.scenes[image].candidates:
        corners = [round(v, 1) for v in candidate.face.box]
        found.append([candidate.face.faces[0], *corners, round(candidate.mark, 3), round(candidate.face.evidence, 3)])
    return found


def _box(values: Any) -> list[float] | None:
    corners = [float(v) for v in values if not pd.isna(v)]
    return [round(v, 1) for v in corners] if len(corners) == 4 else None


def _numbers(column: Any) -> list[int]:
    return [0 if pd.isna(v) else int(v) for v in column]


def _texts(c: Context, name: str) -> list[str | None]:
    if name not in c.labels:
        return [None] * len(c.labels)
    return [None if pd.isna(v) else f"{v:g}" if isinstance(v, int | float) else str(v) for v in c.labels[name]]


def _relative(root: Path, folder: Path) -> str:
    """Address of the photo folder as seen from the report: relative, so that both can be moved together."""
    try:
        return quote(Path(os.path.relpath(root, folder)).as_posix(), safe="/") + "/"
    except ValueError:  # another drive
        return root.as_uri() + "/"
