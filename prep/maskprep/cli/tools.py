"""Commands beside the cache: sample photos, model files, and the state of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import Quiet, app, show


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
    from maskprep.sample import write_sample

    with show.bars(quiet) as bars:
        made = write_sample(
            folder,
            people=people,
            eval_people=eval_people,
            portraits=portraits,
            labels=labels,
            seed=seed,
            faults=faults,
            progress=bars,
        )
    show.sample(made)


@app.command()
def weights(
    names: Annotated[list[str] | None, typer.Argument(help="Model files; all when none is named.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the named files.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Fetch every file.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read the files anew and check their hashes.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the named files from the weights folder.")] = False,
) -> None:
    """List the model files; fetch, verify or remove them."""
    from maskprep.base import UsageError, UserError
    from maskprep.weights import fetch as files

    if fetch + every + verify + remove > 1:
        raise UsageError("Give one of --fetch, --all, --verify and --remove.")
    if (fetch or remove) and not names:
        raise UsageError("Name the files, for example: maskprep weights --fetch yunet", "Or fetch all: --all")
    chosen = [files.find(name).name for name in names or files.REGISTRY]
    problems: list[str] = []
    for name in chosen if fetch or every else ():
        try:
            files.locate(name)
        except UserError as problem:  # the others are fetched first
            problems.append(str(problem))
    if problems:
        raise UserError("\n".join(problems))
    if remove:
        for name in chosen:
            typer.echo(f"{name}: {'removed' if files.remove(name) else 'was not there'}")
        return
    rows = [files.status(name, anew=verify) for name in chosen]
    show.weights(rows)
    typer.echo(f"folder: {files.folder()}")
    if verify and any(row.status == "wrong" for row in rows):
        raise typer.Exit(1)


@app.command()
def doctor(
    caches: Annotated[
        Path | None, typer.Option("--cache", help="Where caches are to be kept.", show_default="cache")
    ] = None,
) -> None:
    """Say whether this machine can do the work, and what to do where it cannot (exit status 1)."""
    import shutil
    import textwrap

    from maskprep.cli import doctor as looking

    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    found = []
    for each in looking.examine(caches or Path("cache")):
        found.append(each)
        label = f"{marks[each.state]}  {each.what:21}  "
        width = max(shutil.get_terminal_size().columns - len(label), 20)
        said = textwrap.wrap(each.found, width, break_long_words=False, break_on_hyphens=False)
        typer.echo(label + f"\n{'':{len(label)}}".join(said))
        if each.do:  # in one piece, to be copied
            typer.echo(f"{'':{len(label)}}→ {each.do}")
    if not looking.works(found):
        typer.echo("Photos cannot be prepared here before what is marked BAD is mended.", err=True)
        raise typer.Exit(1)
    typer.echo("Photos can be prepared here.")
