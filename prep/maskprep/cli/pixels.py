"""Commands about the background of crops and photos: rembg, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import CacheDir, ConfigFile, Engine, Quiet, Source, Strict, Workers, app, bring


@app.command()
def rembg(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="Only write cut-outs of all photos to this folder, without a cache.")
    ] = None,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="all views")] = None,
    model: Annotated[
        str | None, typer.Option(help="u2netp, u2net, selfie, ... or the path of an ONNX file.", show_default="u2netp")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Look at the crop, or at the whole photo.", show_default="crop")
    ] = None,
    refine: Annotated[str | None, typer.Option(help="Edges: none, guided or closed-form.", show_default="none")] = None,
    mask: Annotated[bool, typer.Option("--mask", help="With --out: the mattes instead of cut-outs.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --out: replace files that are there.")] = False,
    cache: CacheDir = None,
    config: ConfigFile = None,
    workers: Workers = None,
    engine: Engine = "processes",
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Separate the subject from the background: a soft matte per crop, kept in the cache; or cut-outs of a folder."""
    from maskprep import api, show
    from maskprep.errors import UsageError

    if out is not None:
        if view is not None or on is not None or cache is not None or config is not None:
            raise UsageError("With --out there are no crops: --view, --on, --cache and --config do not apply.")
        with show.bars(quiet) as bars:
            made = api.cutouts(
                source,
                out,
                model=model or "u2netp",
                refinement=refine or "none",
                kind="mask" if mask else "cutout",
                force=force,
                workers=workers,
                engine=engine,
                progress=bars,
            )
        show.cutouts(made)
        if made.failed:
            raise typer.Exit(1)
        return
    if mask or force:
        raise UsageError("--mask and --force need --out.")
    bring(
        "rembg",
        lambda bars: api.rembg(
            source,
            cache,
            config,
            view=view,
            model=model,
            on=on,
            refine=refine,
            workers=workers,
            engine=engine,
            progress=bars,
        ),
        strict,
        quiet,
        show.mattes,
    )
