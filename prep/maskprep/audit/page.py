"""The report: one HTML file that opens from disk, and beside it small files of the crops that load when seen."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit.context import Context
from maskprep.audit.examine import Audit
from maskprep.audit.findings import CHECKS, KINDS
from maskprep.audit.model import joint, pooled
from maskprep.audit.thumbs import THUMBS, write_thumbs
from maskprep.base import Progress, write_atomic
from maskprep.dataset import appearance
from maskprep.faces import Subjects
from maskprep.store import login

SCRIPTS = (
    *("data", "decisions", "filters", "address", "grid", "photo", "copies", "detail", "labels"),
    *("sample", "overview", "map", "keys"),
)
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


def page_data(audit: Audit, progress: Progress) -> dict[str, Any]:
    """What the page shows, column by column; all numbers finite, all keys plain. Its pictures are written."""
    c, cache = audit.context, audit.cache.root.resolve()
    thumbs = write_thumbs(audit.cache, audit.folder / THUMBS, progress)
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
        "limits": {a.name: list(a.bins) for a in c.schema.attributes if a.bins},
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
        "thumb": [thumbs.crops.get(image, "") for image in images],
        "matte": [thumbs.mattes.get(image, "") for image in images],
        "transform": [_numbers(thumbs.transforms.get(image)) for image in images],
        "crop": thumbs.size,
        "copies": _copies(c, number),
        "predicted": _predicted(c, images),
        **_appearance(c, images),
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


def _numbers(values: Any) -> list[float] | None:
    return None if values is None else [round(float(v), 4) for v in np.ravel(values)]


def _copies(c: Context, number: Mapping[str, int]) -> list[tuple[int, int, str, int]]:
    """The pairs of photos that are alike and that nobody has allowed: both numbers, kind, distance in bits."""
    if c.duplicates is None:
        return []
    columns = (c.duplicates[name].tolist() for name in ("image_a", "image_b", "kind", "distance"))
    return [(number[a], number[b], kind, int(bits)) for a, b, kind, bits in zip(*columns, strict=True)]


def _predicted(c: Context, images: Sequence[str]) -> dict[str, list[int]]:
    """For each attribute, and for the joint class as ``""``: the likeliest class by the mean of all runs, -1 for an
    image without label or prediction. Empty without predictions."""
    if not c.predictions:
        return {}
    truth, rows = c.once(joint)
    tables = {name: pooled(c, name)[1] for name in c.schema.joint} if len(truth) else {}
    tables[""] = rows.groupby(level=0).mean()
    likeliest = {name: dict(zip(t.index, t.idxmax(axis=1).astype(int), strict=True)) for name, t in tables.items()}
    return {name: [int(classes.get(image, -1)) for image in images] for name, classes in likeliest.items() if classes}


def _appearance(c: Context, images: Sequence[str]) -> dict[str, Any]:
    """``vectors``: what each face looks like, int8 [n, ``dimensions``]; -128 in the first place for a photo that was
    not measured. ``map``: the first two components as uint16 [n, 2]. Both base64 of little-endian numbers."""
    values = appearance(c.patches)
    if values.shape[1] < 2:
        return {"dimensions": 0, "vectors": "", "map": ""}
    row = {image: i for i, image in enumerate(c.measures["image"])}
    at = np.array([row.get(image, -1) for image in images])
    scale = 127 / max(1e-9, float(np.percentile(np.abs(values), 99.5)))
    vectors = np.clip(np.rint(values * scale), -127, 127).astype(np.int8)[at]
    vectors[at < 0] = 0
    vectors[at < 0, 0] = -128
    low, high = np.percentile(values[:, :2], (0.5, 99.5), axis=0)
    place = np.clip((values[:, :2] - low) / np.maximum(1e-9, high - low), 0, 1)
    return {
        "dimensions": vectors.shape[1],
        "vectors": _base64(vectors),
        "map": _base64(np.rint(place * 65535).astype("<u2")[at]),
    }


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


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
