"""Hard photos made from portraits with known faces: who finds the subject?

    python benchmarks/faces.py PORTRAITS [--people 30] [--cases fill,quarter] [--workers 2] [--matte u2netp]
                               [--street FOLDER BOXES.csv] [--closeups FOLDER]

PORTRAITS is in the boostcamp layout (train/images/<person>/<photo>) with truth/faces.json beside train/, a list of
{"file": "<person>/<photo>", "main": [x0, y0, x1, y1], "others": [...]}. Every case is written to a temporary folder
and goes through `maskprep crop` as a user's photos would; the detectors alone see the same files. A hit is a chosen box
with an IoU of at least 0.3 with the subject's (both clipped to the photo), wrong is any other box, lost is none.
With --matte the choice is made once more with mattes of the whole photos.

Real photos beside the made-up ones: --street takes photos and a CSV with the columns file, xmin, ymin, xmax, ymax of
every labelled face. "dominant" are those whose largest face has at least twice the area of the next and 12 % of the
photo's height: a hit is that face. "any face" are all of them: a hit is some labelled face. --closeups takes photos of
one face each, without boxes: a hit is any box.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

import maskprep as api
from maskprep.faces.detectors import DETECTORS, Detection, reduce_for_detection, rescale
from maskprep.faces.face import Box, iou
from maskprep.photos.decode import PhotoError, Pixels, load
from maskprep.weights.fetch import locate


@dataclass
class Portrait:
    """A photo and the subject's box in it."""

    pixels: Pixels
    box: Box


Case = Callable[[Portrait, np.random.Generator, Portrait], Portrait]
"""Makes a hard photo; the last argument is somebody else without a mask."""


def clip(box: Box, pixels: Pixels) -> Box:
    height, width = pixels.shape[:2]
    x0, x1 = np.clip((box[0], box[2]), 0, width)
    y0, y1 = np.clip((box[1], box[3]), 0, height)
    return (float(x0), float(y0), float(x1), float(y1))


def cut(portrait: Portrait, window: Box) -> Portrait:
    """A part of a photo."""
    x0, y0, x1, y1 = (round(v) for v in clip(window, portrait.pixels))
    pixels = np.ascontiguousarray(portrait.pixels[y0:y1, x0:x1])
    b = portrait.box
    return Portrait(pixels, clip((b[0] - x0, b[1] - y0, b[2] - x0, b[3] - y0), pixels))


def same(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    return p


def fill(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    """The face fills the frame."""
    part = cut(p, p.box)
    size = (384, max(1, round(384 * part.pixels.shape[0] / part.pixels.shape[1])))
    scale = size[0] / part.pixels.shape[1]
    pixels = cv2.resize(part.pixels, size, interpolation=cv2.INTER_CUBIC)
    return Portrait(pixels, tuple(v * scale for v in part.box))  # type: ignore[arg-type]


def quarter(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    """The photo at a quarter of its size, somewhere in a canvas of twice its size."""
    height, width = p.pixels.shape[:2]
    small = cv2.resize(p.pixels, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    canvas = np.full((2 * height, 2 * width, 3), rng.integers(40, 216, 3), np.uint8)
    x, y = int(rng.integers(0, 2 * width - width // 4)), int(rng.integers(0, 2 * height - height // 4))
    canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
    b = [v / 4 for v in p.box]
    return Portrait(canvas, (b[0] + x, b[1] + y, b[2] + x, b[3] + y))


def turned(degrees: float) -> Case:
    def case(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
        height, width = p.pixels.shape[:2]
        angle = degrees * (1 if rng.random() < 0.5 else -1)
        cx, cy = (p.box[0] + p.box[2]) / 2, (p.box[1] + p.box[3]) / 2
        matrix = cv2.getRotationMatrix2D((cx, cy), angle, 1.0)  # about the face: its box stays where it is
        return Portrait(cv2.warpAffine(p.pixels, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), p.box)

    return case


def light(factor: float, offset: float) -> Case:
    def case(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
        return Portrait(np.clip(p.pixels * factor + offset, 0, 255).astype(np.uint8), p.box)

    return case


def jpeg15(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    buffer = io.BytesIO()
    Image.fromarray(p.pixels).save(buffer, "JPEG", quality=15)
    return Portrait(np.array(Image.open(buffer)), p.box)


def half(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    """The face is cut in half by the left, the right or the lower border."""
    height, width = p.pixels.shape[:2]
    cx, cy = (p.box[0] + p.box[2]) / 2, (p.box[1] + p.box[3]) / 2
    windows: list[Box] = [(cx, 0, width, height), (0, 0, cx, height), (0, 0, width, cy)]
    return cut(p, windows[int(rng.integers(3))])


def beside(p: Portrait, rng: np.random.Generator, other: Portrait) -> Portrait:
    """Somebody without a mask, of 0.5 to 0.9 times the subject's size, next to the subject."""
    side = np.sqrt((p.box[2] - p.box[0]) * (p.box[3] - p.box[1]))
    b = other.box
    scale = float(rng.uniform(0.5, 0.9) * side / np.sqrt((b[2] - b[0]) * (b[3] - b[1])))
    w, h = b[2] - b[0], b[3] - b[1]
    head = cut(other, (b[0] - 0.35 * w, b[1] - 0.4 * h, b[2] + 0.35 * w, b[3] + 0.25 * h)).pixels
    head = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = p.pixels.shape[:2]
    canvas = cv2.copyMakeBorder(p.pixels, 0, 0, head.shape[1], head.shape[1], cv2.BORDER_REPLICATE)
    box = (p.box[0] + head.shape[1], p.box[1], p.box[2] + head.shape[1], p.box[3])
    right = rng.random() < 0.5
    x = round(min(box[2] + 0.2 * side, canvas.shape[1] - head.shape[1])) if right else 0
    x = x if right else round(max(0, box[0] - 0.2 * side - head.shape[1]))
    y = int(np.clip(box[1] + rng.uniform(-0.3, 0.6) * side, 0, max(0, height - head.shape[0])))
    head = head[: height - y]
    canvas[y : y + head.shape[0], x : x + head.shape[1]] = head
    window = (x, 0, width + head.shape[1], height) if not right else (head.shape[1], 0, x + head.shape[1], height)
    return cut(Portrait(canvas, box), tuple(float(v) for v in window))  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "as it is": same,
    "fill": fill,
    "quarter": quarter,
    "turned 15": turned(15),
    "turned 30": turned(30),
    "dark": light(0.12, 0),
    "overexposed": light(2.2, 50),
    "jpeg 15": jpeg15,
    "half": half,
    "beside": beside,
}


def judge(found: Box | None, portrait: Portrait) -> str:
    if found is None:
        return "lost"
    return "hit" if iou(clip(found, portrait.pixels), clip(portrait.box, portrait.pixels)) >= 0.3 else "wrong"


def area(face: Detection) -> float:
    return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])


def rivals(stack: contextlib.ExitStack) -> dict[str, Callable[[Pixels], Box | None]]:
    """The detectors alone, by the largest face or by score."""
    found = {}
    for name, spec in DETECTORS.items():
        find = stack.enter_context(spec.open(locate(spec.weight), spec.threshold))

        def pick(pixels: Pixels, key: Callable[[Detection], float], find=find) -> Box | None:  # type: ignore[no-untyped-def]
            small, scale = reduce_for_detection(pixels)
            faces = find(small)
            return rescale(max(faces, key=key), 1 / scale).box if faces else None

        found[f"{name}, largest"] = lambda pixels, pick=pick: pick(pixels, area)
        if name == "yunet":
            found["yunet, by score"] = lambda pixels, pick=pick: pick(pixels, lambda face: face.score)
    return found


def read_portraits(folder: Path, people: int) -> dict[str, Portrait]:
    truth = {entry["file"]: tuple(entry["main"]) for entry in json.loads((folder / "truth/faces.json").read_text())}
    names = sorted({name.split("/")[0] for name in truth if not name.startswith("eval/")})
    chosen = {names[round(i)] for i in np.linspace(0, len(names) - 1, min(people, len(names)))}
    portraits = {}
    for name, box in sorted(truth.items()):
        if name.split("/")[0] in chosen:
            with contextlib.suppress(PhotoError):
                portraits[name] = Portrait(load(folder / "train/images" / name), box)
    return portraits


def read_street(folder: Path, boxes: Path) -> tuple[dict[str, Box], dict[str, list[Box]]]:
    """The dominant face of the photos that have one, and all labelled faces of all photos."""
    table = pd.read_csv(boxes)
    table["area"] = (table["xmax"] - table["xmin"]) * (table["ymax"] - table["ymin"])
    dominant: dict[str, Box] = {}
    everybody: dict[str, list[Box]] = {}
    for name, faces in table.sort_values("area", ascending=False).groupby("file", sort=True):
        corners = [tuple(float(v) for v in row) for row in faces[["xmin", "ymin", "xmax", "ymax"]].to_numpy()]
        everybody[str(name)] = corners  # type: ignore[assignment]
        areas = [*faces["area"], 0.0]
        if areas[0] >= 2 * areas[1] and corners[0][3] - corners[0][1] >= 0.12 * faces["height"].iloc[0]:
            dominant[str(name)] = corners[0]  # type: ignore[assignment]
    return dominant, everybody


def real_rows(
    folder: Path, others: dict[str, Callable[[Pixels], Box | None]], workers: int, street: Path | None
) -> list[dict[str, str]]:
    """The rows of a folder of real photos, with boxes (``street``) or without."""
    with tempfile.TemporaryDirectory() as cache:
        api.crop(folder, Path(cache) / "cache", workers=workers)
        subjects = pd.read_parquet(Path(cache) / "cache/subjects.parquet").set_index("image")
    found: dict[str, dict[str, Box | None]] = {name: {} for name in (*others, "maskprep")}
    for image, row in subjects.iterrows():
        with contextlib.suppress(PhotoError):
            pixels = load(folder / str(image))
            for name, find in others.items():
                found[name][str(image)] = find(pixels)
            box = None if pd.isna(row["x0"]) else tuple(row[["x0", "y0", "x1", "y1"]])
            found["maskprep"][str(image)] = box
    if street is None:
        kinds = {"close-ups, a box": dict.fromkeys(found["maskprep"])}
    else:
        dominant, everybody = read_street(folder, street)
        kinds = {"street, dominant": {k: [b] for k, b in dominant.items()}, "street, any face": everybody}  # type: ignore[dict-item]
    rows = []
    for kind, truth in kinds.items():
        row = {"case": f"{kind} ({len(truth)})"}
        for name, boxes in found.items():
            verdicts = []
            for image, faces in truth.items():
                box = boxes.get(image)
                right = faces is None or any(box is not None and iou(box, face) >= 0.3 for face in faces)
                verdicts.append("lost" if box is None else "hit" if right else "wrong")
            row[name] = " / ".join(str(verdicts.count(k)) for k in ("hit", "wrong", "lost"))
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("portraits", type=Path)
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--matte", help="model of the mattes that help to choose")
    parser.add_argument("--street", type=Path, nargs=2, metavar=("FOLDER", "BOXES"), help="real photos with boxes")
    parser.add_argument("--closeups", type=Path, help="real photos of one face each")
    parser.add_argument("--keep", type=Path, help="write the photos and caches here and keep them")
    options = parser.parse_args()
    portraits = read_portraits(options.portraits, options.people)
    bare = [p for name, p in portraits.items() if name.split("/")[1].startswith("normal")]
    rows = []
    rungs = {}
    with contextlib.ExitStack() as stack:
        others = rivals(stack)
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.street:
            rows += real_rows(options.street[0], others, options.workers, options.street[1])
        if options.closeups:
            rows += real_rows(options.closeups, others, options.workers, None)
        for case in options.cases.split(","):
            made = {}
            tally: dict[str, list[str]] = {}
            root = folder / case.replace(" ", "-")
            for i, (name, portrait) in enumerate(portraits.items()):
                rng = np.random.default_rng([len(case), i])
                made[name] = CASES[case](portrait, rng, bare[int(rng.integers(len(bare)))])
                path = root / "photos/train/images" / Path(name).with_suffix(".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(made[name].pixels).save(path, compress_level=1)
                for rival, find in others.items():
                    tally.setdefault(rival, []).append(judge(find(made[name].pixels), made[name]))
            api.crop(root / "photos", root / "cache", workers=options.workers)
            caches = {"maskprep": root / "cache"}
            if options.matte:
                caches["maskprep, mattes"] = Path(shutil.copytree(root / "cache", root / "matted"))
                (root / "matte.yaml").write_text(f"matte: {{model: {options.matte}}}\nchoose: {{matte: true}}\n")
                api.crop(root / "matted", config=root / "matte.yaml", workers=options.workers)
            for ours, cache in caches.items():
                subjects = pd.read_parquet(cache / "subjects.parquet").set_index("image")
                for name, portrait in made.items():
                    row = subjects.loc[f"train/images/{Path(name).with_suffix('.png').as_posix()}"]
                    box = None if pd.isna(row["x0"]) else tuple(row[["x0", "y0", "x1", "y1"]])
                    tally.setdefault(ours, []).append(judge(box, portrait))
            faces = pd.read_parquet(root / "cache/faces.parquet")
            highest = faces.groupby("image")["rung"].unique()
            rungs[case] = {r: sum(r in set(seen) for seen in highest) / len(made) for r in faces["rung"].unique()}
            row = {"case": case}
            row |= {n: " / ".join(str(v.count(k)) for k in ("hit", "wrong", "lost")) for n, v in tally.items()}
            rows.append(row)
            print(row, flush=True)
    table = pd.DataFrame(rows)
    print(f"\n{len(portraits)} photos a case; hit / wrong / lost\n")
    print("| " + " | ".join(table.columns) + " |\n|" + "---|" * len(table.columns))
    for values in table.fillna("").itertuples(index=False):
        print("| " + " | ".join(values) + " |")
    print("\nshare of photos with a face from each rung:")
    for case, shares in rungs.items():
        print(f"{case:<12} " + ", ".join(f"{rung} {share:.2f}" for rung, share in shares.items()))


if __name__ == "__main__":
    main()
