"""Boxes in photos: x0, y0, x1, y1 in pixels of the upright photo."""

from __future__ import annotations

Box = tuple[float, float, float, float]

BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1")
"""Columns of images.parquet for the box that came with a photo; beside them, ``boxes`` counts how many came."""
