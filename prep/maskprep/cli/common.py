"""The application, the options that commands share, and the run of a command that brings a cache up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskprep import __version__
from maskprep.base.panels import panelled

if TYPE_CHECKING:
    from maskprep.base.progress import Progress
    from maskprep.pipeline.job import Job

PANELS = {
    "From photos to crops": ("sample", "run", "index", "crop", "rembg", "stats"),
    "Look": ("status", "sheet", "faces", "explain", "duplicates"),
    "Mend": ("audit", "review", "decisions", "relabel"),
    "Hand on": ("export",),
    "This machine": ("doctor", "weights"),
}
"""Commands in the order of the work."""

app = typer.Typer(
    cls=panelled(PANELS),
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
Layout = Annotated[
    str | None,
    typer.Option(
        help="How labels are told: boostcamp, folders, csv, boxes or flat.", show_default="as before, or by looking"
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", "-j", help="Processes.", show_default="one per core")]
Engine = Annotated[str, typer.Option("--engine", help="How work is spread: processes or serial.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 3 when some photos have errors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def bring(
    name: str, work: Callable[[Progress], Job], strict: bool, quiet: bool, then: Callable[[Job], None] | None = None
) -> None:
    """Run one command that brings a cache up to date, and print what came of it."""
    from maskprep.cli import console as show
    from maskprep.pipeline import bring as pipeline
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
    errors = set(read_table(job.cache.images, ["image", "error"]).dropna()["image"]) | job.failed.keys()
    if strict and (errors or job.unlisted):
        raise typer.Exit(3)
    if job.failed:
        raise typer.Exit(1)


def end(job: Job) -> None:
    """End a command that printed no summary: what failed this time is said, with exit status 1."""
    from maskprep.cli import console as show

    if job.failed:
        show.err.print(f"failed: {show.failed(job)}", markup=False)
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
