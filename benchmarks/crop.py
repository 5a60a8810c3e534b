"""What `maskprep crop` costs beside plain loops over the same files: processor time, and photos per second.

    python benchmarks/crop.py PHOTOS [--limit 600] [--rounds 2] [--enlarge 4000] [--beside CHECKOUT]

- loop: decode each photo once, run YuNet and both BlazeFaces once; nothing is chosen, cut or written
- maskprep crop: index, detection, choice, crops and every table, from nothing, in one process
- --enlarge: the photos are first enlarged to this many pixels on their longer side (4000: 12 megapixels)
- --beside: the same command of another checkout of this repository, in turns with this one

The ratio is the loop's processor time by that of `maskprep crop`: 1 is as quick as the loop. Processor time includes
starting the detectors once. Photos per second are wall time, with 1 and 2 workers, and once more with another margin.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

import maskprep as api
from maskprep.faces.detectors import DETECTORS
from maskprep.photos.decode import PhotoError, load
from maskprep.photos.folder import walk
from maskprep.weights.fetch import locate

TIMED = """
import sys, time
from pathlib import Path
import maskprep as api
photos, cache = map(Path, sys.argv[1:])
start = time.process_time()
api.crop(photos, cache, engine="serial")
print("seconds", time.process_time() - start)
"""


def processor_seconds(checkout: Path, photos: Path, cache: Path) -> float:
    """Processor time of one `crop` by the code of a checkout, in a process of its own."""
    code = os.pathsep.join(str(checkout / half) for half in ("prep", "train"))
    command = [sys.executable, "-c", TIMED, str(photos), str(cache)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": code}, capture_output=True, text=True, check=True)
    return float(done.stdout.split("seconds")[1])


def loop_seconds(photos: list[Path]) -> float:
    """Processor time of decoding and three detectors, started here."""
    start = time.process_time()
    with contextlib.ExitStack() as stack:
        names = [name for name in DETECTORS if name != "centerface"]
        finds = [stack.enter_context(DETECTORS[n].open(locate(DETECTORS[n].weight), 0.3)) for n in names]
        for path in photos:
            with contextlib.suppress(PhotoError):
                pixels = load(path)
                for find in finds:
                    find(pixels)
    return time.process_time() - start


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--enlarge", type=int, help="pixels of the longer side")
    parser.add_argument("--beside", type=Path, help="another checkout of this repository")
    options = parser.parse_args()
    files = [options.photos / file.image for file in walk(options.photos).files][: options.limit]
    checkouts = {"maskprep crop": Path(__file__).parents[1]}
    if options.beside:
        checkouts[f"maskprep crop of {options.beside.name}"] = options.beside.resolve()
    cost: dict[str, float] = {}
    speed: dict[str, float] = {}

    def record(table: dict[str, float], name: str, taken: float) -> None:
        table[name] = min(taken, table.get(name, taken))

    with tempfile.TemporaryDirectory() as name:
        folder, copies = Path(name), list[Path]()
        for path in files:
            copy = folder / "photos" / path.relative_to(options.photos)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if options.enlarge:
                photo = Image.open(path).convert("RGB")
                factor = options.enlarge / max(photo.size)
                size = (round(photo.width * factor), round(photo.height * factor))
                copy = copy.with_suffix(".jpg")
                photo.resize(size, Image.Resampling.LANCZOS).save(copy, quality=90)
            else:
                shutil.copy2(path, copy)
            copies.append(copy)
        for n in range(options.rounds):
            record(cost, "loop: decode, YuNet, both BlazeFaces", loop_seconds(copies))
            for what, checkout in checkouts.items():
                record(cost, what, processor_seconds(checkout, folder / "photos", folder / f"{n}-{checkout.name}"))
            for workers in (1, 2):
                cache = folder / f"cache-{n}-{workers}"
                work = lambda c=cache, w=workers: api.crop(folder / "photos", c, workers=w)  # noqa: E731
                record(speed, f"maskprep crop, {workers} workers", seconds(work))
            record(speed, "maskprep crop, other margin", seconds(lambda c=cache: api.crop(c, margin=0.4, workers=2)))
        faces = pd.read_parquet(cache / "faces.parquet")
    base = cost["loop: decode, YuNet, both BlazeFaces"]
    print(f"{len(files)} photos, best of {options.rounds}\n\n| what | processor ms a photo | ratio |\n|---|---:|---:|")
    for what, taken in cost.items():
        print(f"| {what} | {1000 * taken / len(files):.1f} | {base / taken:.2f} |")
    print("\n| what | photos per second |\n|---|---:|")
    for what, taken in speed.items():
        print(f"| {what} | {len(files) / taken:.1f} |")
    one, two = (speed[f"maskprep crop, {n} workers"] for n in (1, 2))
    print(f"\n2 workers are {one / two:.2f} times as fast as 1")
    detected = faces.groupby("rung")["image"].nunique() / len(files)
    print("share of photos with a detection on each rung: " + ", ".join(f"{r} {s:.3f}" for r, s in detected.items()))


if __name__ == "__main__":
    main()
