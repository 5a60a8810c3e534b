"""A stage and photos for tests, in a module of its own so that worker processes can import them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from toy_work import trouble

from maskprep.photos.decode import PhotoFile
from maskprep.photos.folder import PhotoFolder
from maskprep.store.cache import Cache
from maskprep.store.shards import Pair
from maskprep.store.stage import Compute, Input, MapStage, Output, Recipe, Tables


@dataclass(frozen=True)
class Toy(MapStage[str | None]):
    """A row and a picture for every number of an image's name; the row's input says what trouble it makes."""

    wanted: tuple[Pair, ...] = ()
    trouble: Mapping[str, str] = field(default_factory=dict)
    pixels: bool = True
    rows_per_shard: int = 4  # type: ignore[misc]
    version: int = 1
    name: str = "toy"  # type: ignore[misc]
    follows: str = ""  # type: ignore[misc]
    needs: tuple[str, ...] = ()  # type: ignore[misc]
    columns = pa.schema([("value", pa.int64())])

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.version)

    @property
    def array_shape(self) -> tuple[int, ...] | None:
        return (2, 3) if self.pixels else None

    def folder(self, cache: Cache) -> Path:
        return cache.root / self.name

    def worker(self) -> Toy:
        return Toy(pixels=self.pixels, name=self.name, follows=self.follows, version=self.version)

    def other_inputs(self, tables: Tables) -> Any:
        return self.wanted

    def inputs(self, tables: Tables) -> list[Input[str | None]]:
        return [Input(image, key, self.trouble.get(image)) for image, key in self.wanted]

    def follow(self, image: str, row: dict[str, Any]) -> Input[str | None] | None:
        return None if row["value"] % 8 == 0 else Input(image, f"f{row['value'] // 2}", None)

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        def compute(photo: str, do: str | None) -> Output | None:
            trouble(do)
            if do == "skip":
                return None
            n = int(photo[:4]) % 251
            return {"value": 2 * n}, np.full((2, 3), n, np.uint8) if self.pixels else None

        yield compute


def photo(image: str) -> str:
    """A toy's photo is its name."""
    return image


class DeadlyFolder(PhotoFolder):
    """Opens photos; one of them kills whoever opens it."""

    def __call__(self, image: str) -> PhotoFile:
        if image == "007.jpg":
            os._exit(3)
        return super().__call__(image)
