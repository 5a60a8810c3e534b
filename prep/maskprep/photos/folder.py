"""A folder of photos: opens the photo of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskprep.photos.decode import PhotoFile


@dataclass(frozen=True)
class PhotoFolder:
    """Opens the photo of an image.

    Args:
        root: the photo folder.
        max_megapixels: larger photos are not decoded.
    """

    root: Path
    max_megapixels: float

    def __call__(self, image: str) -> PhotoFile:
        return PhotoFile(self.root / image, self.max_megapixels)
