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

import numpy as np
import pandas as pd

from maskprep.audit.context import Context
from maskprep.audit.examine import Audit
from maskprep.audit.findings import CHECKS, KINDS
from maskprep.base import Progress, write_atomic
from maskprep.dataset import open_view
from maskprep.faces import Subjects
from maskprep.store import login

THUMBS = "thumbs"
THUMB_SIDE, THUMB_QUALITY = 160, 82
"""Longer side of a card's picture, pixels, and its JPEG quality."""

SCRIPTS = ("data", "decisions", "filters", "grid", "detail", "overview", "keys")
"""The parts of the page's script, in order."""


def write_report(audit: Audit, progress: Progress) -> Path:
    """Write audit/report.html, and the pictures beside it that are not there yet. Returns the page."""
    path = audit.folder / "report.html"
    write_atomic(path, render(page_data(audit, progress)).encode())
    return path


def render(data: Mapping[str, Any]) -> str:
    """The page as HTML. The data are JSON in which no character can end the element they stand in."""
    style, script = _asset("page.css"), "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)};"
        " img-src 'self' file: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()  # a name may hold half a surrogate pair
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = _asset("page.html").replace("__POLICY__", html.escape(policy))
    return page.replace("__STYLE__", style).replace("__SCRIPT__", script).replace("__DATA__", text)


def _asset(name: str) -> str:
    return (resources.files("maskprep.audit") / "report" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write_thumbs(audit: Audit, progress: Progress) -> dict[str, str]:
    """Small JPEGs of the crops of the view ``face``, else of the first one, in audit/thumbs. They are named by the
    crop's key, so that only new crops are written. Returns image -> name."""
    from PIL import Image

    names = audit.cache.views()
    if not names:
        return {}
    folder = audit.folder / THUMBS
    view = open_view(audit.cache.root, "face" if "face" in names else names[0])
    keys = [f"{key[:2]}/{key}" for key in view.table["key"]]
    there = {f"{p.parent.name}/{p.stem}" for p in folder.glob("*/*.jpg")}
    missing = [row for row, key in enumerate(keys) if key not in there]
    scale = min(1.0, THUMB_SIDE / max(view.size))
    size = (max(1, round(view.size[1] * scale)), max(1, round(view.size[0] * scale)))
    progress.start("thumbs", len(missing))
    for start in range(0, len(missing), 64):
        rows = missing[start : start + 64]
        for row, pixels in zip(rows, view.gather(rows), strict=True):
            path = folder / f"{keys[row]}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(pixels)
            picture = picture if scale == 1 else picture.resize(size, Image.Resampling.BOX)
            picture.save(path.with_suffix(".tmp"), format="JPEG", quality=THUMB_QUALITY)
            path.with_suffix(".tmp").replace(path)  # no fsync: what is lost can be made again
        progress.advance(len(rows))
    for stale in there.difference(keys):
        (folder / f"{stale}.jpg").unlink(missing_ok=True)
    return dict(zip(view.table["image"], keys, strict=True))


def page_data(audit: Audit, progress: Progress) -> dict[str, Any]:
    """What the page shows, column by column; all numbers finite, all keys plain. Its pictures are written."""
    c, cache, thumbs = audit.context, audit.cache.root.resolve(), write_thumbs(audit, progress)
    images = c.images["image"].tolist()
    number = {image: i for i, image in enumerate(images)}
    checks = {name: i for i, name in enumerate(CHECKS)}
    people = sorted(c.people)
    order = {person: i for i, person in enumerate(people)}
    boxes = [_box(row) for row in c.subjects[["x0", "y0", "x1", "y1"]].to_numpy()]
    states = [(each.decision.row, each.state, each.why) for each in audit.decisions if each.state != "replaced"]
    return {
        "id": hashlib.sha256(os.fspath(cache).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "name": cache.name,
        "source": os.fspath(audit.photos.root),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "serve": False,
        "by": login(),
        "root": _relative(audit.photos.root, audit.folder.resolve()),
        "kinds": list(KINDS),
        "checks": [
            {"name": n, "kind": check.kind, "about": check.about, "not_run": audit.outcome.not_run.get(n, "")}
            for n, check in CHECKS.items()
        ],
        "people": people,
        "classes": list(c.schema.class_names),
        "attributes": {a.name: list(a.classes) for a in c.schema.attributes},
        "numbers": [a.name for a in c.schema.attributes if a.bins],
        "order": list(c.schema.names),
        "path": images,
        "content": c.images["content"].fillna("").tolist(),
        "error": [v.replace("_", " ") for v in c.images["error"].fillna("")],
        "width": c.images["width"].fillna(0).astype(int).tolist(),
        "height": c.images["height"].fillna(0).astype(int).tolist(),
        "split": c.images["split"].fillna("train").tolist(),
        "person": [order.get(c.person_of.get(image, ""), -1) for image in images],
        "status": c.subjects["status"].tolist(),
        "label": c.labels["label"].fillna(-1).astype(int).tolist(),
        "values": {a.name: _texts(c, a.name) for a in c.schema.attributes},
        "box": boxes,
        "auto": automatic_boxes(c, boxes),
        "faces": [_faces(c, image) for image in images],
        "thumb": [thumbs.get(image, "") for image in images],
        "findings": [[number[f.image], checks[f.check], f.severity, f.detail] for f in audit.outcome.findings],
        "decisions": [row for row, _, _ in states],
        "states": states,
    }


def automatic_boxes(c: Context, boxes: list[list[float] | None]) -> list[list[float] | None]:
    """The box that was chosen without a decision, which is what a new decision expects to find."""
    decided = c.subjects["status"].isin(["decided", "dropped"]).tolist()
    if not any(decided):
        return boxes
    chooser = Subjects(c.images, c.faces, c.choose)
    rows = zip(c.images["image"], boxes, decided, strict=True)
    return [_box(chooser.automatic(image).box) if anew else box for image, box, anew in rows]


def _faces(c: Context, image: str) -> list[list[float]]:
    """Every face, the likeliest subject first: number, x0, y0, x1, y1, mark, probability of a face."""
    candidates = c.samples[image].candidates if image in c.samples else ()
    return [
        [k.face.faces[0], *(round(v, 1) for v in k.face.box), round(k.mark, 3), round(k.face.evidence, 3)]
        for k in candidates
    ]


def _box(corners: Any) -> list[float] | None:
    return None if corners is None or np.isnan(corners).any() else [round(float(v), 1) for v in corners]


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
