"""How far apart copies of a photo and different photos are, by the hash of the photo and of its crop, and how fast.

    python benchmarks/duplicates.py CACHE [--photos 120] [--view face]

Copies of some photos of the cache are written to a temporary folder and go through the program (YuNet alone), so that
the face of each copy is found anew, as it would be. Different photos are those of the cache.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

import maskprep as api
from maskprep.dataset.view import View, open_view
from maskprep.labels.duplicates import NEAR
from maskprep.photos.decode import load
from maskprep.photos.phash import BITS, distances, near_groups, perceptual_hash, words
from maskprep.pipeline.session import Session


def jpeg(photo: Image.Image, quality: int = 88) -> Image.Image:
    """A photo as it comes back from a JPEG file."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(photo: Image.Image, factor: float) -> Image.Image:
    """A photo in another size."""
    return photo.resize((int(photo.width * factor), int(photo.height * factor)))


def trimmed(photo: Image.Image) -> Image.Image:
    """A photo without its edges."""
    w, h = photo.size
    return photo.crop((int(w * 0.03), int(h * 0.02), w - int(w * 0.01), h - int(h * 0.03)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 50": lambda p: jpeg(p, 50),
    "half size": lambda p: jpeg(scaled(p, 0.5)),
    "1.3 times the size": lambda p: jpeg(scaled(p, 1.3)),
    "brightness 1.15": lambda p: jpeg(ImageEnhance.Brightness(p).enhance(1.15)),
    "contrast 0.85": lambda p: jpeg(ImageEnhance.Contrast(p).enhance(0.85)),
    "edges cut by 3 %": lambda p: jpeg(trimmed(p)),
}


def crop_hashes(view: View) -> dict[str, str | None]:
    """Image -> hash of its crop."""
    return {image: perceptual_hash(view.gather([row])[0]) for row, image in enumerate(view.table["image"])}


def apart(a: str | None, b: str | None) -> int:
    """Bits in which two hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count() if a and b else BITS


def quantiles(distances: Sequence[int]) -> str:
    """Distances in a line."""
    values = np.array(distances)
    middle, most = np.quantile(values, [0.5, 0.95])
    return f"median {middle:3.0f}  95 % {most:3.0f}  max {values.max():3d}  found {(values <= NEAR).mean():4.0%}"


def closest(hashes: dict[str, str | None], person: dict[str, object], split: dict[str, object]) -> str:
    """The smallest distance of different photos: of one person, of different people in training, across splits."""
    images = [image for image, value in sorted(hashes.items()) if value is not None]
    table = words([str(hashes[image]) for image in images])
    least = {"one person": BITS, "different people": BITS, "across splits": BITS}
    for row, first in enumerate(images[:-1]):
        for second, bits in zip(images[row + 1 :], distances(table[row + 1 :], table[row]).tolist(), strict=True):
            if split[first] != split[second]:
                kind = "across splits"
            elif split[first] == "eval":
                continue
            else:
                kind = "one person" if person[first] == person[second] else "different people"
            least[kind] = min(least[kind], bits)
    return ", ".join(f"{kind} {bits}" for kind, bits in least.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--view")
    given = parser.parse_args()
    job, view = Session(given.cache), open_view(given.cache, given.view)
    images = pd.read_parquet(given.cache / "images.parquet")
    images = images[images["error"].isna()]
    person = dict(zip(images["image"], images["person"], strict=True))
    split = dict(zip(images["image"], images["split"], strict=True))
    photos = dict(zip(images["image"], images["phash"], strict=True))
    print(f"different photos, least bits: by photo: {closest(photos, person, split)}")
    print(f"                              by crop:  {closest(crop_hashes(view), person, split)}")

    chosen = view.table["image"].iloc[:: max(1, len(view) // given.photos)].tolist()[: given.photos]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, image in enumerate(chosen):
            photo = Image.fromarray(load(job.path(image)))
            for k, change in enumerate((lambda p: p, *COPIES.values())):
                target = folder / "photos" / str(k) / f"{i:04d}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                change(photo).save(target, compress_level=1)
        settings = folder / "settings.yaml"
        settings.write_text("source: {layout: flat}\ndetect: {detectors: [yunet]}\n")
        api.run(folder / "photos", folder / "cache", settings)
        found = pd.read_parquet(folder / "cache/images.parquet")
        by_photo = dict(zip(found["image"], found["phash"], strict=True))
        by_crop = crop_hashes(open_view(folder / "cache"))
        for k, kind in enumerate(COPIES, start=1):
            for what, hashes in (("photo", by_photo), ("crop", by_crop)):
                names = [(f"0/{i:04d}.png", f"{k}/{i:04d}.png") for i in range(len(chosen))]
                bits = [apart(hashes[a], hashes[b]) for a, b in names if a in hashes and b in hashes]
                print(f"{kind:<20} {what:<6} {quantiles(bits)}")

    many = [np.random.default_rng(i).bytes(BITS // 8).hex() for i in range(20_000)]
    started = time.perf_counter()
    near_groups(many, NEAR)
    print(f"20,000 hashes compared with each other in {time.perf_counter() - started:.2f} s")
    pixels = load(job.path(chosen[0]))
    started = time.perf_counter()
    for _ in range(100):
        perceptual_hash(pixels)
    print(f"one hash of {pixels.shape[1]}x{pixels.shape[0]} in {(time.perf_counter() - started) * 10:.2f} ms")


if __name__ == "__main__":
    main()
