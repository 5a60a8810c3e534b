"""Commands that show what a cache holds: status, verify, explain, faces, sheet."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import Command, Force, command, show


@command()
def status(command: Command) -> None:
    """Show every stage with its rows, counts per status, sizes, and what is out of date and why."""
    from maskprep.pipeline import survey

    made = survey(command.session)
    show.status(str(command.session.cache.root), made)
    if any(stage.missing for stage in made.stages):
        show.next_command(command.next("run"))


@command("quiet", config=False)
def verify(
    command: Command,
    keep: Annotated[bool, typer.Option("--keep", help="Only list damaged files; delete nothing.")] = False,
) -> None:
    """Compare all tables and pixels of a cache with their checksums; delete damaged files.

    The photos are not needed. Exit status 1 if a file is damaged; maskprep run makes it again.
    """
    from maskprep.base import UserError, counted
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
        report = check(cache, tables, bars)
        if not keep:
            discard(report)
    for path, what in report.damaged.items():
        show.err.print(f"damaged   {path.relative_to(cache.root)}: {what}", markup=False)
    numbers = ((report.tables, "table"), (report.crops, "crop"), (report.mattes, "matte"))
    typer.echo(f"verified  {', '.join(counted(number, noun) for number, noun in numbers)}")
    if report.damaged:
        verb = ("is", "was") if len(report.damaged) == 1 else ("are", "were")
        deleted = "" if keep else f" and {verb[1]} deleted"
        show.err.print(f"{counted(len(report.damaged), 'file')} {verb[0]} damaged{deleted}.")
        show.err.print(f"Make them again with: maskprep run {cache.root}", markup=False)
        raise typer.Exit(1)


@command()
def explain(
    command: Command,
    image: Annotated[str, typer.Argument(help="Name of the photo, or the end of its path.")],
) -> None:
    """Show all that is known of one photo: its file, faces, the chosen face and why, labels, and stages."""
    from maskprep.base import wrapped
    from maskprep.pipeline import explain

    typer.echo("\n".join(wrapped(line, 10) for line in explain.explain(command.session, image)))


@command("workers", "engine", "quiet")
def faces(
    command: Command,
    image: Annotated[str | None, typer.Argument(help="One photo; without it a sheet of the unclear ones.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="faces[-<image>].png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Photos on the sheet.")] = 24,
    force: Force = False,
) -> None:
    """Draw all faces with their scores and the chosen one on a photo, or on a sheet of the unclear ones."""
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
    seed: Annotated[int, typer.Option(help="Which crops are shown.")] = 0,
    force: Force = False,
) -> None:
    """Draw a contact sheet of the crops, with a row for each class and each unusual status."""
    from maskprep.dataset import draw_sheet

    root = command.session.cache.root
    show.wrote(draw_sheet(root, view, out, count=count, seed=seed, force=force))
