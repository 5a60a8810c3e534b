"""Commands that show what a cache holds: status, explain, faces, sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import CacheDir, ConfigFile, Quiet, Source, Workers, app, end

Force = Annotated[bool, typer.Option("--force", help="With --out: write over any file that is there.")]


@app.command()
def status(source: Source, cache: CacheDir = None, config: ConfigFile = None) -> None:
    """Show every table, counts per status, sizes, and what is out of date and why."""
    from maskprep.cli import console as show
    from maskprep.pipeline.job import open_job
    from maskprep.pipeline.status import survey

    job = open_job(source, cache, config)
    show.status(str(job.cache.root), survey(job))


@app.command()
def explain(
    source: Source,
    image: Annotated[str, typer.Argument(help="Name of the image, or the end of its path.")],
    cache: CacheDir = None,
    config: ConfigFile = None,
) -> None:
    """Say why one image is as it is: its file, faces, subject, labels, and which stages are current."""
    from maskprep.pipeline.job import open_job
    from maskprep.pipeline.status import explain as explain_image

    typer.echo("\n".join(explain_image(open_job(source, cache, config), image)))


@app.command()
def faces(
    source: Source,
    image: Annotated[str | None, typer.Argument(help="One image; none for a sheet of those worth a look.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="faces[-<image>].png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Photos on the sheet.")] = 24,
    force: Force = False,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Draw all boxes, rungs, scores and the choice on a photo, or on a sheet of the unclear ones."""
    from maskprep.cli import console as show
    from maskprep.faces.drawing import draw_faces
    from maskprep.pipeline import api

    with show.bars(quiet) as bars:
        job = api.detect(source, cache, config, workers=workers, progress=bars)
    typer.echo(f"wrote {draw_faces(job, image, out, count, force)}")
    end(job)


@app.command()
def sheet(
    source: Source,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="the only view, or face")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="sheet-<view>.png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Crops per row.")] = 12,
    seed: Annotated[int, typer.Option(help="Which crops are drawn.")] = 0,
    force: Force = False,
    cache: CacheDir = None,
) -> None:
    """Draw a contact sheet of the crops, a row per class and one per unusual status."""
    from maskprep.dataset.sheet import draw_sheet
    from maskprep.pipeline.job import open_job

    job = open_job(source, cache)
    typer.echo(f"wrote {draw_sheet(job.cache.root, view, out, count=count, seed=seed, force=force)}")
