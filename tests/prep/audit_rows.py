"""Made-up tables for the checks: photos of 100x100 pixels with one face in the middle, unless said otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from maskprep.audit.context import Context
from maskprep.crops.geometry import TEMPLATE
from maskprep.faces.detectors import DETECTORS
from maskprep.faces.face import SURELY
from maskprep.labels.schema import MASK_SCHEMA, Schema

BOX = (30.0, 30.0, 70.0, 80.0)
FIELDS = ("image", "person", "split", "content", "error", "detail", "format", "orientation", "width", "height")


def points_in(box: tuple[float, ...], turn: float = 0.0) -> np.ndarray:
    """Four keypoints where a face of this box has them, turned by some degrees."""
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    return TEMPLATE * (box[3] - box[1]) @ np.array([[cos, sin], [-sin, cos]]) + middle


def photo(image: str, **more: Any) -> dict[str, Any]:
    """One photo. ``box`` is the subject's, ``faces`` all boxes (default: the subject's), ``points`` its keypoints."""
    row: dict[str, Any] = {
        "image": image, "person": None, "split": "train", "content": f"c-{image}", "error": None, "detail": None,
        "format": "JPEG", "orientation": 1, "width": 100, "height": 100, "status": "ok", "reason": None, "box": BOX,
        "scores": None, "mask": None, "gender": None, "age": None, "light": 0.5, "low": 0.2, "high": 0.8, "chroma": 0.3,
        "detail_value": 0.2, "fine": 0.1, "quality": 90.0, "patch": None, "excluded": None,
    }  # fmt: skip
    row |= more
    if "faces" not in row:
        row["faces"] = [row["box"]] if row["box"] is not None and row["error"] is None else []
    if "points" not in row:
        row["points"] = None if row["box"] is None else points_in(row["box"])
    return row


def context(rows: list[dict[str, Any]], schema: Schema = MASK_SCHEMA, **more: Any) -> Context:
    """The tables of some photos; every face is seen by the one detector there is, with a high score."""
    images = pd.DataFrame({name: [row[name] for row in rows] for name in FIELDS})
    subjects, faces, measures = [], [], []
    for row in rows:
        corners = row["box"] or (np.nan,) * 4
        points = None if row["points"] is None else np.ravel(row["points"])
        subjects.append((row["image"], row["status"], row["reason"], *corners, points))
        for number, box in enumerate(row["faces"]):
            score = row["scores"][number] if row["scores"] else 0.99
            seen = np.ravel(np.vstack([points_in(box), points_in(box)[3:]]))
            sure = DETECTORS["yunet"].probability(score)
            known = (score, *box, seen, 0.5, np.nan, sure, sure >= SURELY)
            faces.append((row["image"], number, number, "yunet", "as_is", *known))
        if row["error"] is None:
            values = (row[k] for k in ("light", "low", "high", "chroma", "detail_value", "fine", "quality"))
            measures.append((row["image"], *values))
    labels = pd.DataFrame({name: [row[name] for row in rows] for name in ("image", "person", "excluded")})
    for name in schema.names:
        labels[name] = [row.get(name) for row in rows]
    labels["label"] = [schema.label({name: row.get(name) for name in schema.names}) for row in rows]
    patches = [
        np.full((48, 48, 3), 128, np.uint8) if r["patch"] is None else r["patch"] for r in rows if r["error"] is None
    ]
    box_names = ("x0", "y0", "x1", "y1")
    return Context(
        images,
        pd.DataFrame(
            faces,
            columns=[
                "image",
                "face",
                "group",
                "detector",
                "rung",
                "score",
                *box_names,
                "keypoints",
                "sharpness",
                "matte",
                "evidence",
                "confirmed",
            ],
        ),
        pd.DataFrame(subjects, columns=["image", "status", "reason", *box_names, "keypoints"]),
        labels,
        schema,
        **more,
        measures=pd.DataFrame(
            measures, columns=["image", "light", "low", "high", "chroma", "detail", "fine", "quality"]
        ),
        patches=np.array(patches, np.uint8).reshape(-1, 48, 48, 3),
    )


def severities(c: Context, name: str) -> dict[str, float]:
    """image -> severity of one check."""
    from maskprep.audit import examine  # noqa: F401  (registers all checks)
    from maskprep.audit.findings import CHECKS, run_checks

    return {f.image: f.severity for f in run_checks(c, [CHECKS[name]]).findings}
