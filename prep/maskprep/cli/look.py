"""Commands that show what a cache holds: status, explain, faces, sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import Command, Force, command


@command()
def status(command: Command) -> None:
    """Show every table, counts per status, sizes, and what is out of date and why."""
    from maskprep.cli import console as show
    from maskprep.pipeline.explain import survey

    show.status(str(command.session.cache.root), survey(command.session))


@command()
def explain(
    command: Command,
    image: Annotated[str, typer.Argument(help="Name of the image, or the end of its path.")],
) -> None:
    """Say why one image is as it is: its file, faces, subject, labels, and which stages are current."""
    from maskprep.pipeline import explain

    typer.echo("\n".join(explain.explain(command.session, image)))


@command("workers", "quiet")
def faces(
    command: Command,
    image: Annotated[str | None, typer.Argument(help="One image; none for a sheet of those worth a look.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="faces[-<image>].png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Photos on the sheet.")] = 24,
    force: Force = False,
) -> None:
    """Draw all boxes, rungs, scores and the choice on a photo, or on a sheet of the unclear ones."""
    from maskprep.cli import console as show
    from maskprep.faces.drawing import draw_faces

    session = command.session
    with command.bars():
        session.detect()
    show.wrote(draw_faces(session.cache, session.folder, session.subjects(), image, out, count, force))
    command.end()


@command(config=False)
def sheet(
    command: Command,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="the only view, or face")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="sheet-<view>.png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Crops per row.")] = 12,
    seed: Annotated[int, typer.Option(help="Which crops are drawn.")] = 0,
    force: Force = False,
) -> None:
    """Draw a contact sheet of the crops, a row per class and one per unusual status."""
    from maskprep.cli import console as show
    from maskprep.dataset.sheet import draw_sheet

    root = command.session.cache.root
    show.wrote(draw_sheet(root, view, out, count=count, seed=seed, force=force))
