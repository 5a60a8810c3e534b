"""Commands that show what a cache holds: status, verify, explain, faces, sheet."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import Command, Force, command, show


@command()
def status(command: Command) -> None:
    """Show every table, counts per status, sizes, and what is out of date and why."""
    from maskprep.pipeline import survey

    show.status(str(command.session.cache.root), survey(command.session))


@command("quiet", config=False)
def verify(
    command: Command,
    keep: Annotated[bool, typer.Option("--keep", help="Only name what is damaged, delete nothing.")] = False,
) -> None:
    """Read all tables and pixels of a cache and compare them with their checksums; discard what is damaged.

    The photos need not be there. Exit status 1 when something is damaged; maskprep run makes it again.
    """
    from maskprep.base import UserError
    from maskprep.pipeline import discard
    from maskprep.pipeline import verify as check
    from maskprep.store import Cache, is_cache

    tables = None
    try:
        cache = command.session.cache
        tables = command.session.tables(audit=cache.rows("measure").is_dir())
    except UserError:  # the photos are elsewhere
        cache = Cache(command.source)
        if not is_cache(command.source):
            raise
    with show.bars(command.quiet) as bars, nullcontext() if keep else cache.lock():
        found = check(cache, tables, bars)
        if not keep:
            discard(found)
    for path, what in found.damaged.items():
        show.err.print(f"damaged   {path.relative_to(cache.root)}: {what}", markup=False)
    typer.echo(f"verified  {found.tables} tables, {found.crops} crops, {found.mattes} mattes")
    if found.damaged:
        show.err.print(f"{len(found.damaged)} files are damaged{'' if keep else ' and were deleted'}.")
        show.err.print(f"Make them again with: maskprep run {cache.root}", markup=False)
        raise typer.Exit(1)


@command()
def explain(
    command: Command,
    image: Annotated[str, typer.Argument(help="Name of the image, or the end of its path.")],
) -> None:
    """Say why one image is as it is: its file, faces, subject, labels, and which stages are current."""
    from maskprep.pipeline import explain

    typer.echo("\n".join(explain.explain(command.session, image)))


@command("workers", "engine", "quiet")
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
    from maskprep.faces import draw_faces

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
    from maskprep.dataset import draw_sheet

    root = command.session.cache.root
    show.wrote(draw_sheet(root, view, out, count=count, seed=seed, force=force))
