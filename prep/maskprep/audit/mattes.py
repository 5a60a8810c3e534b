"""Checks of the mattes, on the table that the stage ``rembg`` keeps beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp


def _mattes(c: Context) -> Iterator[tuple[Any, str, str]]:
    """Every matte's row, its view as a text ends with it, and what it covers in words.

    Raises:
        NotRunError: there are no mattes.
    """
    if not c.mattes:
        raise NotRunError("no view has mattes; make them with: maskprep rembg")
    for view, table in c.mattes.items():
        rows: Iterator[Any] = table.itertuples(index=False)
        for row in rows:
            yield row, f" (view '{view}')", f"the matte covers {row.coverage:.0%} of the crop"


@check("The matte removes the whole person.")
def matte_empty(c: Context) -> Iterable[Hit]:
    """Status empty, or hardly any coverage."""
    for row, view, covers in _mattes(c):
        empty = row.status == "empty"
        severity = 0.95 if empty else ramp(row.coverage, 0.15, 0.02, 0.4, 0.9)
        yield row.image, severity, ("the matte is empty" if empty else covers) + view


@check("The matte removes no background.")
def matte_full(c: Context) -> Iterable[Hit]:
    """Status full, or nearly all covered."""
    for row, view, covers in _mattes(c):
        full = row.status == "full"
        severity = 0.9 if full else ramp(row.coverage, 0.97, 1.0, 0.4, 0.85)
        yield row.image, severity, ("the matte covers the whole crop" if full else covers) + view


@check("The matte cuts into the face.")
def matte_face(c: Context) -> Iterable[Hit]:
    """Share of the face that the matte keeps."""
    for row, view, _ in _mattes(c):
        missed, share = row.status == "face_missed", f"{row.face_coverage:.0%} of the face"
        severity = 0.95 if missed else ramp(row.face_coverage, 0.95, 0.5, 0.3, 0.9)
        text = f"the model saw {share}; a soft ellipse was put in its place" if missed else f"the matte keeps {share}"
        yield row.image, severity, text + view


@check("The matte is in pieces: it has holes, or parts of the background are left.")
def matte_pieces(c: Context) -> Iterable[Hit]:
    """Number of separate parts."""
    for row, view, _ in _mattes(c):
        yield row.image, ramp(row.components, 3, 10, 0.3, 0.7), f"the matte is in {row.components:.0f} pieces{view}"


@check("Background is left along the crop's border.")
def matte_border(c: Context) -> Iterable[Hit]:
    """Share of the crop's border that the matte keeps: a subject touches the lower one, background all four."""
    for row, view, _ in _mattes(c):
        text = f"the matte reaches {row.border_share:.0%} of the border{view}"
        yield row.image, ramp(row.border_share, 0.7, 1.0, 0.3, 0.75), text


@check("The whole matte is soft: the model did not separate the subject from the background.")
def matte_unsure(c: Context) -> Iterable[Hit]:
    """Status low_contrast."""
    for row, view, _ in _mattes(c):
        if row.status == "low_contrast":
            yield row.image, 0.5, f"the model separated subject and background poorly{view}"
