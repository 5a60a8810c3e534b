"""Checks of the mattes, on the table that the stage ``rembg`` keeps beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp


def _rows(c: Context) -> Iterator[tuple[str, Any]]:
    """(view, row) of every matte.

    Raises:
        NotRunError: there are no mattes.
    """
    if not c.mattes:
        raise NotRunError("no view has mattes; make them with: maskprep rembg")
    for view, table in c.mattes.items():
        for row in table.itertuples(index=False):
            yield view, row


def _each(c: Context, judge: Callable[[Any], tuple[float, str]]) -> Iterable[Hit]:
    for view, row in _rows(c):
        severity, text = judge(row)
        if severity:
            yield row.image, severity, f"{text} (view '{view}')"


@check("matte_empty", "mattes", "The matte leaves nothing of the person.")
def matte_empty(c: Context) -> Iterable[Hit]:
    """Status empty, or hardly any coverage."""
    return _each(
        c,
        lambda row: (
            (0.95, "the matte is empty")
            if row.status == "empty"
            else (ramp(row.coverage, 0.15, 0.02, 0.4, 0.9), f"the matte covers {row.coverage:.0%} of the crop")
        ),
    )


@check("matte_full", "mattes", "The matte removes nothing of the background.")
def matte_full(c: Context) -> Iterable[Hit]:
    """Status full, or nearly all covered."""
    return _each(
        c,
        lambda row: (
            (0.9, "the matte is the whole frame")
            if row.status == "full"
            else (ramp(row.coverage, 0.97, 1.0, 0.4, 0.85), f"the matte covers {row.coverage:.0%} of the crop")
        ),
    )


@check("matte_face", "mattes", "The matte cuts into the face.")
def matte_face(c: Context) -> Iterable[Hit]:
    """Share of the face that the matte keeps."""
    return _each(
        c,
        lambda row: (
            (0.95, f"the model saw {row.face_coverage:.0%} of the face; a soft ellipse was put in its place")
            if row.status == "face_missed"
            else (ramp(row.face_coverage, 0.95, 0.5, 0.3, 0.9), f"the matte keeps {row.face_coverage:.0%} of the face")
        ),
    )


@check("matte_pieces", "mattes", "The matte is in pieces: holes in the subject, or background left.")
def matte_pieces(c: Context) -> Iterable[Hit]:
    """Number of separate parts."""
    return _each(c, lambda row: (ramp(row.components, 3, 10, 0.3, 0.7), f"the matte is in {row.components:.0f} pieces"))


@check("matte_border", "mattes", "Background is left along the crop's border.")
def matte_border(c: Context) -> Iterable[Hit]:
    """Share of the crop's border that the matte keeps: a subject touches the lower one, background all four."""
    return _each(
        c,
        lambda row: (
            ramp(row.border_share, 0.7, 1.0, 0.3, 0.75),
            f"the matte reaches {row.border_share:.0%} of the border",
        ),
    )


@check("matte_unsure", "mattes", "The matte is soft throughout: the model could not tell subject from background.")
def matte_unsure(c: Context) -> Iterable[Hit]:
    """Status low_contrast."""
    text = "subject and background are told apart badly"
    return _each(c, lambda row: (0.5 if row.status == "low_contrast" else 0.0, text))
