"""A stage for tests, in a module of its own so that worker processes can import it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from maskprep.store.pool import Compute, Output, Row


@dataclass(frozen=True)
class ToyStage:
    """Doubles ``n`` and paints it; a row may ask for trouble instead."""

    pixels: bool = True
    opened: str = ""
    columns: pa.Schema = field(default_factory=lambda: pa.schema([("value", pa.int64())]))

    @property
    def array_shape(self) -> tuple[int, ...] | None:
        return (2, 3) if self.pixels else None

    @contextlib.contextmanager
    def open(self) -> Iterator[Compute]:
        if self.opened:
            with (Path(self.opened) / "opened").open("a") as file:
                file.write(f"{os.getpid()}\n")
        try:
            yield self._compute
        finally:
            if self.opened:
                (Path(self.opened) / f"closed-{os.getpid()}").touch()

    def _compute(self, row: Row) -> Output | None:
        match row.get("do"):
            case "skip":
                return None
            case "die":
                os._exit(3)
            case "raise":
                raise RuntimeError("trouble")
            case "sleep":
                time.sleep(0.02)
        n = int(row["n"])
        return {"value": 2 * n}, np.full((2, 3), n, np.uint8) if self.pixels else None
