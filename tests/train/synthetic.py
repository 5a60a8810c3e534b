"""Writes small caches in the format of DESIGN 3, so that the trainer can be tested without the preprocessing.

A crop's label can be seen: the gender is the colour of the ground, the mask state is the height of a bright bar.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.labels.schema import Attribute, Schema

SCHEMA = Schema((Attribute("mask", ("wear", "incorrect", "normal")), Attribute("gender", ("male", "female"))))
STATES = ("wear", "wear", "wear", "incorrect", "normal")


def draw(mask: int, gender: int, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop uint8 [H, W, 3] whose label can be seen."""
    ground = np.array([(150, 70, 60), (60, 80, 150)][gender], dtype=np.float64)
    pixels = np.broadcast_to(ground, (*size, 3)) + rng.normal(0, 25, (*size, 3))
    top = int(size[0] * (0.1 + 0.3 * mask))
    pixels[top : top + size[0] // 5, size[1] // 6 : -(size[1] // 6)] += 90
    return np.asarray(pixels.clip(0, 255), dtype=np.uint8)


def write_cache(
    folder: Path,
    *,
    people: int = 30,
    size: tuple[int, int] = (32, 32),
    eval_people: int = 4,
    without_crop: int = 2,
    shards: int = 2,
    dead: int = 3,
    view: str = "face",
    named: bool = True,
    seed: int = 0,
) -> Path:
    """A cache of five photos per person, in shuffled rows of some shards.

    Args:
        eval_people: more people, of the split eval, without labels and nameless.
        without_crop: photos of the first person that have a row in images.parquet only.
        dead: rows of each shard that no longer count; black, of images that live elsewhere.
        named: whether people are known; otherwise person is null.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    crops: list[NDArray[np.uint8]] = []
    for p in range(people + eval_people):
        gender, held_out = p % 2, p >= people
        for k, state in enumerate(STATES):
            mask = SCHEMA["mask"].classes.index(state)
            name = f"eval/{p:04d}{k}.jpg" if held_out else f"train/{p:04d}_x/{state}{k}.jpg"
            rows.append(
                {
                    "image": name,
                    "content": f"c{p:04d}{k}",
                    "person": None if held_out or not named else f"{p:04d}",
                    "split": "eval" if held_out else "train",
                    "mask": None if held_out else state,
                    "gender": None if held_out else SCHEMA["gender"].classes[gender],
                    "label": None if held_out else 2 * mask + gender,
                    "truth": 2 * mask + gender,
                    "status": "ok",
                }
            )
            crops.append(draw(mask, gender, size, rng))
    images = pd.DataFrame(rows)
    images.loc[: without_crop - 1, "status"] = "unreadable"
    images["label"] = images["label"].astype("Int64")
    folder.mkdir(parents=True)
    write_json(folder / "dataset.json", dataset_of(SCHEMA.to_dict(), view))
    images[["image", "content", "person", "split"]].to_parquet(folder / "images.parquet")
    images[["image", "status"]].to_parquet(folder / "subjects.parquet")
    images["excluded"] = None
    images[["image", "person", "mask", "gender", "label", "excluded"]].to_parquet(folder / "labels.parquet")
    images[["image", "truth"]].to_csv(folder / "truth.csv", index=False)
    write_view(folder, view, images["image"].tolist()[without_crop:], crops[without_crop:], shards, dead, rng)
    return folder


def dataset_of(schema: object, view: str = "face") -> dict[str, object]:
    """dataset.json of a cache with one view."""
    source = {"root": "photos", "layout": "flat", "settings": {}, "schema_given": False, "config": None}
    settings = {"index": {}, "detect": {}, "choose": {}, "views": {view: {"margin": 0.25}}}
    return {"format": 1, "source": source, "schema": schema, "settings": settings}


def write_view(
    cache: Path,
    view: str,
    images: list[str],
    crops: list[NDArray[np.uint8]],
    shards: int,
    dead: int,
    rng: np.random.Generator,
) -> None:
    """The crops of some images in shuffled rows, with dead rows in between."""
    folder = cache / "views" / view
    folder.mkdir(parents=True)
    write_json(folder / "view.json", {"size": list(crops[0].shape[:2]), "margin": 0.25})
    live = []
    order = rng.permutation(len(images))
    for number, part in enumerate(np.array_split(order, shards)):
        stale = rng.choice(order, dead, replace=False)
        rows = [(images[i], f"key{i}", crops[i]) for i in part]
        rows += [(images[i], "stale", np.zeros_like(crops[i])) for i in stale]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        pixels = np.stack([c for *_, c in rows])
        np.save(folder / f"{number:05d}.npy", pixels)
        table = pd.DataFrame({"image": [r[0] for r in rows], "key": [r[1] for r in rows], "row": range(len(rows))})
        flat = pixels.reshape(len(rows), -1, 3).astype(np.int64)
        for c, channel in enumerate("rgb"):
            table[f"sum_{channel}"] = flat[:, :, c].sum(1)
            table[f"sumsq_{channel}"] = (flat[:, :, c] ** 2).sum(1)
        table["count"] = flat.shape[1]
        table["transform"] = [[1.0, 0, 0, 0, 1, 0]] * len(rows)
        table.to_parquet(folder / f"{number:05d}.parquet")
        live.append(table[table["key"] != "stale"][["image", "row"]].assign(shard=number))
    pd.concat(live).sort_values("image")[["image", "shard", "row"]].to_parquet(folder / "index.parquet", index=False)


def give_mattes(cache: Path, missing: int = 0) -> None:
    """Mattes in the format of the cache: the middle of every crop is the subject; the last ``missing`` have none."""
    folder = cache / "views/face"
    index = pd.read_parquet(folder / "index.parquet")
    found = []
    for number, rows in index.groupby("shard"):
        table = pd.read_parquet(folder / f"{number:05d}.parquet")
        pixels = np.load(folder / f"{number:05d}.npy")
        alpha = np.zeros(pixels.shape[:3], np.uint8)
        alpha[:, 4:-4, 6:-6] = 255
        np.save(folder / f"alpha-{number:05d}.npy", alpha)
        inside = pixels[:, 4:-4, 6:-6].reshape(len(pixels), -1, 3).astype(np.int64)
        for c, channel in enumerate("rgb"):
            table[f"fg_sum_{channel}"] = inside[:, :, c].sum(1)
            table[f"fg_sumsq_{channel}"] = (inside[:, :, c] ** 2).sum(1)
        table["fg_count"] = inside.shape[1]
        table.to_parquet(folder / f"{number:05d}.parquet")
        found.append(table.iloc[rows["row"]][["image", "key"]])
    mattes = pd.concat(found).sort_values("image").iloc[: len(index) - missing].assign(status="ok")
    mattes.to_parquet(folder / "mattes.parquet", index=False)


def write_json(file: Path, data: Any) -> None:
    """Write JSON."""
    file.write_text(json.dumps(data), encoding="utf-8")


def rewrite(file: Path, **columns: Any) -> None:
    """Set columns of a Parquet table."""
    pd.read_parquet(file).assign(**columns).to_parquet(file)
