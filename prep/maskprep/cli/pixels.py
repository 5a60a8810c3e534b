"""Commands about the background of crops and photos: rembg, export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import WORKS, Command, command, show

if TYPE_CHECKING:
    from maskprep.pipeline import Session

OPENED_BY = {
    "fiftyone": "fiftyone datasets create --name NAME --dataset-dir {} --type fiftyone.types.FiftyOneDataset",
    "atlas": "embedding-atlas {}/atlas.parquet --image image --x x --y y --neighbors neighbors",
}


@command("quiet", config=False)
def export(
    command: Command,
    out: Annotated[Path, typer.Option(help="New folder to write to.")],
    format: Annotated[
        str, typer.Option("--format", help="folder, csv, hf (Parquet), webdataset (tar), fiftyone or atlas.")
    ] = "folder",
    by: Annotated[
        str,
        typer.Option(help="With --format folder: source (the folders of the photos) or class (a folder per class)."),
    ] = "source",
    image_format: Annotated[str, typer.Option(help="png or jpg.")] = "png",
    background: Annotated[
        str, typer.Option(help="original, transparent, mean, colour, blur or random; all but the first need mattes.")
    ] = "original",
    colour: Annotated[
        str, typer.Option(help="With --background colour: #rrggbb, r,g,b or the name of a colour.")
    ] = "grey",
    seed: Annotated[int, typer.Option(min=0, help="With --background random: which ones.")] = 0,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="the only view, or face")] = None,
    split: Annotated[str | None, typer.Option(help="Only train or eval.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that is not empty.")] = False,
) -> None:
    """Write crops and labels in formats that other tools read."""
    from maskprep.base import counted
    from maskprep.dataset import RECORD, Settings, export_view

    settings = Settings(format, by, image_format, background, colour, seed, split)
    with command.bars() as bars:
        made = export_view(command.session.cache.root, out, settings, view=view, force=force, progress=bars)
    verb = "has" if made.missing == 1 else "have"
    without = f", {counted(made.missing, 'photo')} {verb} no crop" if made.missing else ""
    crops, files = counted(made.crops, "crop"), counted(made.files, "file")
    typer.echo(f"{made.folder}: {crops}, {files} written now{without}")
    show.kept(made.kept, RECORD)
    if format in OPENED_BY:
        show.next_command(OPENED_BY[format].format(shlex.quote(str(made.folder))))


PHOTO = typer.Argument(metavar="PHOTOS|CACHE", help="A folder of photos, or a cache; with --out also one photo.")


@command(*WORKS, source=PHOTO)
def rembg(
    command: Command,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write cut-outs of the whole photos to this folder (of one photo: to this PNG) without making a cache."
        ),
    ] = None,
    view: Annotated[str | None, typer.Option(help="Which crops.", show_default="all views")] = None,
    model: Annotated[
        str | None, typer.Option(help="person, selfie, u2netp, ... or the path of an ONNX file.", show_default="person")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="What the model sees: crop, or photo (the whole one).", show_default="crop")
    ] = None,
    refine: Annotated[
        str | None, typer.Option(help="Refine the edges: none, guided or closed-form.", show_default="none")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="onnxruntime or openvino (faster on Intel processors).", show_default="onnxruntime"),
    ] = None,
    providers: Annotated[
        str | None, typer.Option(help="Devices that onnxruntime may use, such as cuda,cpu.", show_default="cpu")
    ] = None,
    mask: Annotated[bool, typer.Option("--mask", help="With --out: write the mattes in place of cut-outs.")] = False,
    background: Annotated[
        str | None,
        typer.Option(
            help="With --out: transparent, #rrggbb, r,g,b or the name of a colour.", show_default="transparent"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --out: overwrite existing files.")] = False,
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
            raise UsageError(
                f"'{source}' is one photo, and a cache is made of a folder.",
                "Name the file for its cut-out: --out x.png",
            )
        asked = {"model": model, "on": on, "refine": refine, "runtime": runtime, "providers": named}

        def mattes(session: Session) -> None:
            show.mattes(session)
            show.next_command(command.next("audit"))

        command.bring(lambda: command.session.rembg(view, **asked), mattes)  # type: ignore[arg-type]
        return
    if view is not None or on is not None or given["cache"] is not None or given["config"] is not None:
        raise UsageError(
            "--view, --on, --cache and --config are about crops in a cache and cannot be given with --out."
        )
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
