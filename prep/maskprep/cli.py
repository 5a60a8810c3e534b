"""The command ``maskprep``: parsing and printing only. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskprep import __version__

if TYPE_CHECKING:
    from maskprep.job import Job
    from maskprep.progress import Progress

app = typer.Typer(
    help="Find the right face, clean the labels, cache the crops. Every command takes a folder of photos or a cache "
    "and brings what it needs up to date first; photos are never written to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the time to show it
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[Path, typer.Argument(metavar="PHOTOS|CACHE", help="A folder of photos, or a cache made from one.")]
CacheDir = Annotated[
    Path | None,
    typer.Option("--cache", help="Where the cache is kept.", show_default="cache/<name of the photo folder>"),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file.", show_default="maskprep.yaml in the photo folder")
]
Workers = Annotated[int | None, typer.Option("--workers", "-j", help="Processes.", show_default="one per core")]
Engine = Annotated[str, typer.Option("--engine", help="How work is spread: processes or serial.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 3 when some photos have errors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def _bring(
    name: str, work: Callable[[Progress], Job], strict: bool, quiet: bool, then: Callable[[Job], None] | None = None
) -> None:
    """Run one command that brings a cache up to date, and print what came of it."""
    from maskprep import pipeline, show
    from maskprep.store.tables import read_table

    started = time.perf_counter()
    progress: AbstractContextManager[Any] = show.bars(quiet)
    with progress as bars:
        job = work(bars)
    seconds = time.perf_counter() - started
    pipeline.write_log(job, name, seconds)
    if not quiet:
        show.notes(job)
    show.summary(job, seconds)
    if then is not None:
        then(job)
    errors = int(read_table(job.cache.images, ["error"])["error"].notna().sum()) + job.unreadable
    if strict and errors:
        raise typer.Exit(3)


@app.command()
def index(
    source: Source,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """List, hash and decode every photo once; recognise the folder layout (images.parquet)."""
    from maskprep import api

    _bring(
        "index",
        lambda bars: api.index(source, cache, config, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
    )


@app.command()
def crop(
    source: Source,
    view: Annotated[str, typer.Option(help="Name of this set of crops; several share one detection.")] = "face",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the crop in pixels.", show_default="224x224")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Added on each side, relative to the face's longer side.", show_default="0.15")
    ] = None,
    align: Annotated[
        str | None, typer.Option(help="none, eyes (level) or similarity (fit keypoints).", show_default="none")
    ] = None,
    crop: Annotated[
        str | None, typer.Option("--crop", help="face, or as baselines: centre, none.", show_default="face")
    ] = None,
    border: Annotated[
        str | None, typer.Option(help="Beyond the photo: reflect, replicate, constant or blur.", show_default="reflect")
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
    from maskprep import api
    from maskprep.pixels.crops import parse_size

    names = None if detectors is None else tuple(name.strip() for name in detectors.split(",") if name.strip())
    shape = None if size is None else parse_size(size)
    _bring(
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
    """Mean and standard deviation of the crops, per view and split (stats.json)."""
    import json

    from maskprep import api, show

    _bring(
        "stats",
        lambda bars: api.stats(source, cache, config, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
        lambda job: show.statistics(json.loads(job.cache.stats.read_text(encoding="utf-8"))),
    )


@app.command()
def run(
    source: Source,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Bring every stage and every view up to date."""
    from maskprep import api

    _bring(
        "run",
        lambda bars: api.run(source, cache, config, workers=workers, engine=engine, progress=bars),
        strict,
        quiet,
    )


@app.command()
def status(source: Source, cache: CacheDir = None, config: ConfigFile = None) -> None:
    """Show every table, counts per status, sizes, and what is out of date and why."""
    from maskprep import show
    from maskprep.job import open_job
    from maskprep.status import survey

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
    from maskprep.job import open_job
    from maskprep.status import explain as explain_image

    typer.echo("\n".join(explain_image(open_job(source, cache, config), image)))


@app.command()
def faces(
    source: Source,
    image: Annotated[str | None, typer.Argument(help="One image; none for a sheet of those worth a look.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="faces[-<image>].png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Photos on the sheet.")] = 24,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Draw all boxes, rungs, scores and the choice on a photo, or on a sheet of the unclear ones."""
    from maskprep import api, show
    from maskprep.drawing import draw_faces

    with show.bars(quiet) as bars:
        job = api.detect(source, cache, config, workers=workers, progress=bars)
    typer.echo(f"wrote {draw_faces(job, image, out, count)}")


@app.command()
def sheet(
    source: Source,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="the only view, or face")] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG to write.", show_default="sheet-<view>.png in the cache")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Crops per row.")] = 12,
    seed: Annotated[int, typer.Option(help="Which crops are drawn.")] = 0,
    cache: CacheDir = None,
) -> None:
    """Draw a contact sheet of the crops, a row per class and one per unusual status."""
    from maskprep.job import open_job
    from maskprep.sheet import draw_sheet

    job = open_job(source, cache)
    typer.echo(f"wrote {draw_sheet(job.cache.root, view, out, count=count, seed=seed)}")


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder to write to.")],
    people: Annotated[int, typer.Option(min=2, help="How many people for training.")] = 24,
    eval_people: Annotated[
        int | None, typer.Option(min=1, help="How many people to hold out.", show_default="a quarter of --people")
    ] = None,
    portraits: Annotated[
        Path | None, typer.Option(help="Folder of portraits.", show_default="one NASA portrait; mask labels only")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with file, person, gender, age of the portraits.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    faults: Annotated[bool, typer.Option(help="Plant broken files, as real data has.")] = True,
    quiet: Quiet = False,
) -> None:
    """Write a sample data set with drawn masks, in the layout of the boostcamp mask set."""
    from maskprep import show
    from maskprep.sample.writer import write_sample

    with show.bars(quiet) as bars:
        started = False

        def advance(done: int, total: int) -> None:
            nonlocal started
            if not started:
                bars.start("sample", total)
                started = True
            bars.advance(1)

        made = write_sample(
            folder,
            people=people,
            eval_people=eval_people,
            portraits=portraits,
            labels=labels,
            seed=seed,
            faults=faults,
            progress=advance,
        )
    show.sample(made)


@app.command()
def weights(
    names: Annotated[list[str] | None, typer.Argument(help="Model files; all when none is named.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the named files.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Fetch every file.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check the files' sha256.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the named files from the weights folder.")] = False,
) -> None:
    """List the model files; fetch, verify or remove them."""
    from maskprep import show
    from maskprep.errors import UsageError
    from maskprep.store import weights as registry

    if fetch + every + verify + remove > 1:
        raise UsageError("Give one of --fetch, --all, --verify and --remove.")
    if (fetch or remove) and not names:
        raise UsageError("Name the files, for example: maskprep weights --fetch yunet", "Or fetch all: --all")
    chosen = [registry.find(name).name for name in names] if names else list(registry.REGISTRY)
    if fetch or every:
        with show.err.status("fetching") as spinner:
            for name in chosen:
                spinner.update(f"fetching {name} ({show.size(registry.REGISTRY[name].size)})")
                registry.locate(name)
    if remove:
        for name in chosen:
            typer.echo(f"{name}: {'removed' if registry.remove(name) else 'was not there'}")
        return
    rows = [registry.verify(name) for name in chosen] if verify else registry.statuses()
    show.weights([row for row in rows if row.weight.name in chosen])
    typer.echo(f"folder: {registry.folder()}")
    if verify and any(row.status == "wrong" for row in rows):
        raise typer.Exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maskprep {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: errors for people instead of tracebacks, and clean Ctrl-C."""
    from maskprep.errors import UserError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not stop the program
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as problem:
        from maskprep import show

        show.error(problem)
        sys.exit(problem.code)
    except OSError as problem:  # disk full, no permission, ...
        from maskprep import show

        named = f": '{problem.filename2 or problem.filename}'" if problem.filename else ""
        show.error(UserError(f"{problem.strerror or problem}{named}"))
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer makes this code of Ctrl-C
            raise
        typer.echo("\nInterrupted. Finished work is kept; run the same command to go on.", err=True)
        sys.exit(130)
