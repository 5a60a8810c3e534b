"""Commands about labels and people: relabel, duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import CacheDir, ConfigFile, Engine, Quiet, Source, Workers, app, end


@app.command()
def relabel(
    source: Source,
    fixes: Annotated[
        list[Path] | None,
        typer.Option("--fixes", help="CSV or YAML file of fixes; repeat for several; none forgets them."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Published label errors: boostcamp; none forgets them.", show_default="none")
    ] = None,
    min_agree: Annotated[
        int | None, typer.Option(min=1, help="Of the preset, use what so many lists agree on.", show_default="2")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 3 when a fix is not applied.")] = False,
    quiet: Quiet = False,
) -> None:
    """Apply fixes to the labels and remember them: wrong, swapped or dropped labels, renamed people."""
    import time

    from maskprep.cli import console as show
    from maskprep.pipeline import api
    from maskprep.pipeline import bring as pipeline

    files = None if fixes is None else [] if [str(file) for file in fixes] == ["none"] else fixes
    started = time.perf_counter()
    with show.bars(quiet) as bars:
        job = api.relabel(
            source,
            cache,
            config,
            fixes=files,
            preset=preset,
            min_agree=min_agree,
            dry_run=dry_run,
            workers=workers,
            engine=engine,
            progress=bars,
        )
    if not dry_run:
        pipeline.write_log(job, "relabel", time.perf_counter() - started)
    if not quiet:
        show.notes(job)
    show.changes(job.changes, dry_run)
    if strict and any(o.status == "refused" for o in job.changes.outcomes):
        raise typer.Exit(3)
    end(job)


@app.command()
def duplicates(
    source: Source,
    distance: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Most bits of 256 in which near copies differ.", show_default="8"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Let the pairs of this photo be: you have looked. May be repeated."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why they do no harm, kept with --allow.")] = "",
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    quiet: Quiet = False,
) -> None:
    """Find photos that are there twice, above all across people and splits, and people with two numbers."""
    from maskprep.cli import console as show
    from maskprep.pipeline import api

    with show.bars(quiet) as bars:
        found = api.duplicates(
            source,
            cache,
            config,
            distance=distance,
            allow=allow or (),
            reason=reason,
            workers=workers,
            engine=engine,
            progress=bars,
        )
    show.duplicates(found)
