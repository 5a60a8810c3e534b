"""Some of the images, by the class they have in an attribute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """The images of some classes of an attribute: ``mask=incorrect|normal``."""

    attribute: str
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.attribute}={'|'.join(self.classes)}"
