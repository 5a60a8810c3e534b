"""Commands that fill a cache: index, crop, stats, run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import CacheDir, ConfigFile, Engine, Layout, Quiet, Source, Strict, Workers, app, bring

if TYPE_CHECKING:
    from maskprep.pipeline.job import Job


@app.command()
def index(
    source: Source,
    cache: CacheDir = None,
    config: ConfigFile = None,
    layout: Layout = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """List, hash and decode every photo once; recognise the folder layout (images.parquet)."""
    from maskprep.cli import console as show
    from maskprep.pipeline import api

    bring(
        "index",
        lambda bars: api.index(source, cache, config, layout=layout, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
        lambda job: show.understood(job, f"maskprep run {source}"),
    )


@app.command()
def crop(
    source: Source,
    view: Annotated[str, typer.Option(help="Name of this set of crops; several share one detection.")] = "face",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the crop in pixels.", show_default="224x224")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Added on each side, relative to the face's longer side.", show_default="0.35")
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="none, eyes (level) or similarity (fit keypoints).", show_default="none")
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop", help="face; or without looking for faces: centre, none (the whole photo).", show_default="face"
        ),
    ] = None,
    border: Annotated[
        str | None,
        typer.Option(
            help="inside moves and shrinks a crop into the photo; beyond it, others invent: reflect, replicate, "
            "constant or blur.",
            show_default="inside",
        ),
    ] = None,
    zoom: Annotated[
        float | None,
        typer.Option(help="With --crop centre: how many times larger it shows the middle.", show_default="1"),
    ] = None,
    no_face: Annotated[
        str | None, typer.Option(help="A photo without a face: rescue, whole, drop or error.", show_default="rescue")
    ] = None,
    detectors: Annotated[
        str | None, typer.Option(help="Detectors, separated by commas.", show_default="all three")
    ] = None,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Find the faces, choose the subject of every photo, and cut the crops."""
    from maskprep.crops.geometry import parse_size
    from maskprep.pipeline import api

    names = None if detectors is None else tuple(name.strip() for name in detectors.split(",") if name.strip())
    shape = None if size is None else parse_size(size)
    bring(
        "crop",
        lambda bars: api.crop(
            source,
            cache,
            config,
            view=view,
            size=shape,
            margin=margin,
            align=align,
            crop=crop,
            border=border,
            zoom=zoom,
            no_face=no_face,
            detectors=names,
            workers=workers,
            engine=engine,
            progress=bars,
        ),
        strict,
        quiet,
    )


@app.command()
def stats(
    source: Source,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Mean and standard deviation per view and split, whole and foreground (stats.json), histograms and mean faces."""
    import json

    from maskprep.cli import console as show
    from maskprep.dataset.overview import draw_overview
    from maskprep.pipeline import api

    def tell(job: Job) -> None:
        show.statistics(json.loads(job.cache.stats.read_text(encoding="utf-8")))
        with show.bars(quiet) as bars:
            for view in job.cache.views():
                drawn = draw_overview(
                    job.cache.root, view, start=lambda n: bars.start("picture", n), advance=bars.advance
                )
                typer.echo(f"picture  {drawn}")

    bring(
        "stats",
        lambda bars: api.stats(source, cache, config, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
        tell,
    )


@app.command()
def run(
    source: Source,
    cache: CacheDir = None,
    config: ConfigFile = None,
    layout: Layout = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Bring every stage and every view up to date."""
    from maskprep.cli import console as show
    from maskprep.pipeline import api

    bring(
        "run",
        lambda bars: api.run(source, cache, config, layout=layout, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
        lambda job: show.understood(job, f"maskprep audit {source}"),
    )
