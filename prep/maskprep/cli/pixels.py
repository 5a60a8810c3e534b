"""Commands about the background of crops and photos: rembg, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import WORKS, Command, command, show


@command("quiet", config=False)
def export(
    command: Command,
    out: Annotated[Path, typer.Option(help="New folder to write to.")],
    format: Annotated[str, typer.Option("--format", help="folder, csv, hf (Parquet) or webdataset (tar).")] = "folder",
    by: Annotated[str, typer.Option(help="For folder: mirror the source tree, or a folder per class.")] = "source",
    image_format: Annotated[str, typer.Option(help="png or jpg.")] = "png",
    background: Annotated[
        str, typer.Option(help="original, transparent, mean, colour, blur or random; all but the first need mattes.")
    ] = "original",
    colour: Annotated[str, typer.Option(help="For --background colour: #rrggbb, r,g,b or a name.")] = "grey",
    seed: Annotated[int, typer.Option(min=0, help="For --background random.")] = 0,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="the only view, or face")] = None,
    split: Annotated[str | None, typer.Option(help="Only train or eval.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something else.")] = False,
) -> None:
    """Write crops and labels in formats that other tools read."""
    from maskprep.dataset import RECORD, Settings, export_view

    settings = Settings(format, by, image_format, background, colour, seed, split)
    with command.bars() as bars:
        made = export_view(command.session.cache.root, out, settings, view=view, force=force, progress=bars)
    without = f", {made.missing} photos have no crop" if made.missing else ""
    typer.echo(f"{made.folder}: {made.crops} crops, {made.files} files written now{without}")
    show.kept(made.kept, RECORD)


PHOTO = typer.Argument(metavar="PHOTOS|CACHE", help="A folder of photos, or a cache; with --out also one photo.")


@command(*WORKS, source=PHOTO)
def rembg(
    command: Command,
    out: Annotated[
        Path | None,
        typer.Option(help="Only write cut-outs of all photos to this folder (of one photo: to this PNG), no cache."),
    ] = None,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="all views there are now")] = None,
    model: Annotated[
        str | None, typer.Option(help="person, selfie, u2netp, ... or the path of an ONNX file.", show_default="person")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Look at the crop, or at the whole photo.", show_default="crop")
    ] = None,
    refine: Annotated[str | None, typer.Option(help="Edges: none, guided or closed-form.", show_default="none")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="onnxruntime, or openvino (quicker).", show_default="onnxruntime")
    ] = None,
    providers: Annotated[
        str | None, typer.Option(help="What onnxruntime runs on, as in cuda,cpu.", show_default="cpu")
    ] = None,
    mask: Annotated[bool, typer.Option("--mask", help="With --out: the mattes instead of cut-outs.")] = False,
    background: Annotated[
        str | None, typer.Option(help="With --out: transparent, #rrggbb, r,g,b or a name.", show_default="transparent")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --out: replace files that are there.")] = False,
) -> None:
    """Separate the subject from the background: a soft matte per crop, kept in the cache; or cut-outs of a folder."""
    from maskprep.base import UsageError
    from maskprep.mattes import CutoutSettings, cut_folder, cut_photo

    source, given = command.source, command.options
    named = None if providers is None else [name.strip() for name in providers.split(",") if name.strip()]
    if out is None:
        if mask or force or background is not None:
            raise UsageError("--mask, --background and --force need --out.")
        if source.is_file():
            raise UsageError(f"'{source}' is one photo.", "Say where its cut-out is to be written, with --out x.png.")
        asked = {"model": model, "on": on, "refine": refine, "runtime": runtime, "providers": named}
        command.bring(lambda: command.session.rembg(view, **asked), show.mattes)  # type: ignore[arg-type]
        return
    if view is not None or on is not None or given["cache"] is not None or given["config"] is not None:
        raise UsageError("With --out there are no crops: --view, --on, --cache and --config do not apply.")
    settings = CutoutSettings(
        model or "person",
        refine or "none",
        runtime or "onnxruntime",
        tuple(named or ()),
        "mask" if mask else "cutout",
        background or "transparent",
    )
    if source.is_file():
        made = cut_photo(source, out, settings, force)
    else:
        with show.bars(command.quiet) as bars:
            made = cut_folder(
                source, out, settings, force, workers=given["workers"], engine=given["engine"], progress=bars
            )
    show.cutouts(made)
    if made.failed or (command.strict and made.unlisted):
        raise typer.Exit(3 if command.strict else 1)
