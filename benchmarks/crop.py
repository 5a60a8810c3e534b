"""Photos per second of `maskprep crop`, from decoding to committed shards, beside plain loops over the same files.

    python benchmarks/crop.py PHOTOS [--limit 600] [--rounds 2]

- maskprep, 1 and 2 workers: all detectors, the choice, the crop, every table; the index is made before the clock starts
- MediaPipe loop and YuNet loop: decode, one detector, the largest face as a JPEG file
- floor: decode and one call of YuNet, nothing written
- other margin: maskprep once more with another margin; nothing is detected again
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from maskprep import api
from maskprep.faces.detectors import DETECTORS, Find, open_detectors
from maskprep.photos.decode import PhotoError, load
from maskprep.photos.walk import walk
from maskprep.store.weights import locate


def loop(photos: list[Path], find: Find, out: Path | None) -> None:
    """What people write: the largest face of each photo, enlarged a little, as a JPEG file."""
    for i, path in enumerate(photos):
        try:
            pixels = load(path)
        except PhotoError:
            continue
        faces = find(pixels)
        if out is None or not faces:
            continue
        box = max(faces, key=lambda f: (f.box[2] - f.box[0]) * (f.box[3] - f.box[1])).box
        margin = 0.35 * max(box[2] - box[0], box[3] - box[1])
        window = tuple(round(v) for v in (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin))
        crop = Image.fromarray(pixels).crop(window).resize((224, 224), Image.Resampling.BILINEAR)
        crop.save(out / f"{i}.jpg", quality=95)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found = [options.photos / file.image for file in walk(options.photos).files][: options.limit]
    best: dict[str, float] = {}

    def record(name: str, taken: float) -> None:
        best[name] = min(taken, best.get(name, taken))

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for path in found:
            copy = folder / "photos" / path.relative_to(options.photos)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        copies = [folder / "photos" / path.relative_to(options.photos) for path in found]
        mediapipe = stack.enter_context(open_detectors(["blazeface_full"], {"blazeface_full": 0.3}))
        yunet = stack.enter_context(DETECTORS["yunet"].open(locate("yunet"), 0.3))
        (folder / "out").mkdir()
        for round_number in range(options.rounds):
            for workers in (1, 2):
                cache = folder / f"cache-{round_number}-{workers}"
                api.index(folder / "photos", cache, workers=2)
                record(f"maskprep crop, {workers} workers", seconds(lambda c=cache, w=workers: api.crop(c, workers=w)))
            record("maskprep crop, other margin", seconds(lambda c=cache: api.crop(c, margin=0.4, workers=2)))
            record("MediaPipe loop, JPEG crops", seconds(lambda: loop(copies, mediapipe, folder / "out")))
            record("YuNet loop, JPEG crops", seconds(lambda: loop(copies, yunet, folder / "out")))
            record("floor: decode and YuNet", seconds(lambda: loop(copies, yunet, None)))
        faces = pd.read_parquet(cache / "faces.parquet")
    print(f"{len(found)} photos, best of {options.rounds}\n\n| what | photos per second |\n|---|---:|")
    for what, taken in best.items():
        print(f"| {what} | {len(found) / taken:.1f} |")
    one, two = (best[f"maskprep crop, {n} workers"] for n in (1, 2))
    print(f"\n2 workers are {one / two:.2f} times as fast as 1")
    climbed = faces.groupby("rung")["image"].nunique() / len(found)
    print("share of photos with a face from each rung: " + ", ".join(f"{r} {s:.3f}" for r, s in climbed.items()))


if __name__ == "__main__":
    main()
