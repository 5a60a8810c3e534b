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
        int | None, typer.Option(min=0, help="How many people to hold out.", show_default="a quarter of --people")
    ] = None,
    portraits: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|generated|auto",
            help="Folder of portraits; generated: 60 generated faces (CC0), both genders and all ages, fetched once (15"
            " MB); auto: these, or the default where they cannot be fetched.",
            show_default="one NASA portrait; mask labels only",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with file, person, gender, age of a folder of portraits.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same files.")] = 0,
    faults: Annotated[bool, typer.Option(help="Add broken files, as real data has.")] = True,
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
    names: Annotated[list[str] | None, typer.Argument(help="Names of model files; all by default.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download the named files.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Download every file.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read the files again and compare their hashes.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the named files from the weights folder.")] = False,
) -> None:
    """List the model files; download, verify or remove them."""
    from maskprep.base import UsageError, UserError
    from maskprep.weights import fetch as files

    if fetch + every + verify + remove > 1:
        raise UsageError("Only one of --fetch, --all, --verify and --remove can be given.")
    if (fetch or remove) and not names:
        raise UsageError(
            "--fetch and --remove need names of model files, for example: maskprep weights --fetch yunet",
            "To fetch all of them: maskprep weights --all",
        )
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
            typer.echo(f"{name}: {'removed' if files.remove(name) else 'not in the weights folder'}")
        return
    rows = [files.status(name, anew=verify) for name in chosen]
    show.weights(rows)
    typer.echo(f"folder: {files.folder()}")
    if verify and any(row.status == "wrong" for row in rows):
        raise typer.Exit(1)


@app.command()
def doctor(
    caches: Annotated[Path | None, typer.Option("--cache", help="Folder for caches.", show_default="cache")] = None,
) -> None:
    """Check whether maskprep and masktrain can run on this machine, and what to do if not (exit status 1)."""
    from maskprep.base import wrapped
    from maskprep.cli import doctor as machine

    marks = {"ok": "ok  ", "note": "note", "bad": "BAD "}
    findings = []
    for each in machine.examine(caches or Path("cache")):
        findings.append(each)
        label = f"{marks[each.state]}  {each.what:21}  "
        typer.echo(wrapped(label + each.text, len(label)))
        if each.do:  # in one line, to be copied
            typer.echo(f"{'':{len(label)}}→ {each.do}")
    if not machine.works(findings):
        typer.echo("maskprep cannot run here until the lines marked BAD are mended.", err=True)
        raise typer.Exit(1)
    typer.echo("maskprep can run on this machine.")
