"""What a fit tells while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masktrain.config.config import FitConfig


class Progress:
    """Progress of a fit that shows nothing; the base of those that do."""

    @contextmanager
    def running(
        self, run: Path, config: FitConfig, data: dict[str, Any], about: dict[str, Any], done: int, step: int
    ) -> Iterator[None]:
        """Around the training, from step ``step`` of the epoch after ``done`` on."""
        yield

    def say(self, text: str) -> None:
        """Something that is good to know."""

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """After a step (see :class:`masktrain.train.loop.Progress`)."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch."""
