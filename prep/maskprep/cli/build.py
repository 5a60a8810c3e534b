"""Commands that fill a cache: index, crop, stats, run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import WORKS, Command, Layout, command, show

if TYPE_CHECKING:
    from maskprep.pipeline import Session


@command(*WORKS)
def index(command: Command, layout: Layout = None) -> None:
    """List and read every photo; recognise the folder layout and its labels (images.parquet)."""
    command.bring(lambda: command.session.index(layout), lambda session: show.understood(session, command.next("run")))


@command(*WORKS)
def crop(
    command: Command,
    view: Annotated[
        str, typer.Option(help="Name of this set of crops; the faces are found once for all sets.")
    ] = "face",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the crop in pixels.", show_default="224x224")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Added on each side, relative to the face's longer side.", show_default="0.35")
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(
            help="Turn faces upright: none, eyes (the eyes level) or similarity (fit to five keypoints).",
            show_default="none",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop",
            help="What the crop shows: face, or without looking for faces: centre, none (the whole photo).",
            show_default="face",
        ),
    ] = None,
    border: Annotated[
        str | None,
        typer.Option(
            help="Where a crop would reach beyond the photo: inside moves and shrinks it; reflect, replicate, constant "
            "and blur fill what lies outside.",
            show_default="inside",
        ),
    ] = None,
    zoom: Annotated[
        float | None,
        typer.Option(help="With --crop centre: how many times the middle is enlarged.", show_default="1"),
    ] = None,
    no_face: Annotated[
        str | None,
        typer.Option(
            help="Photos without a face: rescue (box from other photos), whole, drop or error.", show_default="rescue"
        ),
    ] = None,
    detectors: Annotated[
        str | None, typer.Option(help="Detectors, separated by commas.", show_default="all four")
    ] = None,
) -> None:
    """Find the faces, choose the subject of every photo, and cut the crops."""
    from maskprep.crops import parse_size

    names = None if detectors is None else tuple(name.strip() for name in detectors.split(",") if name.strip())
    edits = {"margin": margin, "align": align, "crop": crop, "border": border, "zoom": zoom, "no_face": no_face}
    shape = None if size is None else parse_size(size)
    command.bring(
        lambda: command.session.crop(view, size=shape, detectors=names, **edits),  # type: ignore[arg-type]
        lambda session: show.next_command(f"{command.next('sheet')} --view {shlex.quote(view)}"),
    )


@command(*WORKS)
def stats(command: Command) -> None:
    """What the data hold, to look at before training (stats.html): classes, ages, people, sizes, backgrounds, mean
    faces; and mean and standard deviation per view and split, whole and foreground (stats.json)."""
    import json

    from maskprep.dataset import write_overview

    def report(session: Session) -> None:
        show.statistics(json.loads(session.cache.stats.read_text(encoding="utf-8")))
        with command.bars() as bars:
            page = write_overview(session.cache.root, start=lambda n: bars.start("page", n), advance=bars.advance)
        show.wrote(page, "look    ")

    command.bring(command.session.stats, report)


@command(*WORKS)
def run(command: Command, layout: Layout = None) -> None:
    """Bring every stage and every view up to date."""
    command.bring(lambda: command.session.run(layout), lambda session: show.understood(session, command.next("audit")))
