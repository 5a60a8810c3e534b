"""The commands around a fit: ground rules, what there is to choose from, and the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.base import UsageError, wrapped
from masktrain.cli.options import PLUGIN, PROTOCOL, SETTINGS, Device, given_settings
from masktrain.config.config import describe, keys, named


def init(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache to train on.")],
    out: Annotated[Path | None, typer.Option(help="The file to write. [default: CACHE/protocol.yaml]")] = None,
    view: Annotated[str | None, typer.Option(help="The only view that fits may use. [default: any]")] = None,
    select: Annotated[
        str, typer.Option(help="Score by which the best epoch is chosen; see masktrain settings select.by.")
    ] = "macro_f1",
    folds: Annotated[
        int,
        typer.Option(min=2, help="Number of folds of the people; a CSV file of them is written beside the protocol."),
    ] = 5,
    split_seed: Annotated[int, typer.Option(min=0, help="Number of the random split.")] = 0,
    folds_file: Annotated[Path | None, typer.Option(help="A CSV file of folds, in place of new ones.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="A seed that may be used; repeatable. [default: any]")
    ] = None,
    note: Annotated[
        str, typer.Option("--note", "--hypothesis", help="Note for the protocol: what the project is to find out.")
    ] = "",
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Also score a linear probe on frozen features (seconds).")
    ] = True,
) -> None:
    """Write the protocol that all fits on a cache follow: folds, criterion, seeds, view; and print the baselines."""
    from masktrain.cli import tables
    from masktrain.study import protocol

    made = protocol.init(
        cache,
        out,
        view=view,
        select=select,
        count=folds,
        split_seed=split_seed,
        folds_file=folds_file,
        seeds=seed or (),
        note=note,
        probe=probe,
    )
    for line in protocol.lines(made):
        print(wrapped(line, 8))
    named = () if out is None else ("--protocol", out)
    tables.next_command("masktrain", "fit", cache, *named, "--dry-run", "--sheet", "samples.png")


def folds() -> None:
    """Part of init now."""
    raise UsageError(
        "masktrain folds is now part of masktrain init.",
        "masktrain init CACHE --folds 5; with --out FILE.yaml at another place. fit --folds-file takes them as before.",
    )


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="timm's names, or globs such as 'resnet*'.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure speed and memory on this machine, at the native size, with random weights."
        ),
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Add the scores of your own runs in this folder.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at once while measuring. [default: as many as a fit takes]")
    ] = None,
    device: Device = "auto",
) -> None:
    """List models with parameters, native size, weights, licence, and measured speed and memory; by default some of
    each family and when to use it."""
    from masktrain.cli import tables
    from masktrain.study import models as known

    scored = known.own_scores(runs) if runs is not None else None
    tables.models(known.choose(names or (), tuple(scored or ())), scored, measure, device, batch_size)


def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the recipes that come with masktrain, or show one with all that it sets."""
    from masktrain.cli import tables
    from masktrain.config import recipes as known

    if name is None:
        tables.recipes([known.recipe(each) for each in known.names()])
        return
    print(known.text(name), end="")
    if (space := known.recipe(name).space) is not None:
        print(f"\n# space.yaml, for masktrain sweep\n{space.read_text(encoding='utf-8')}", end="")


def settings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY|SECTION]...", help="Only these, such as loss or optim.lr.")
    ] = None,
) -> None:
    """List every setting with its default, its help and, where there is one, its source."""
    for key in dict.fromkeys(key for name in names for key in named(name)) if names else keys():
        about = describe(key)
        default = about.default if not isinstance(about.default, tuple) else ",".join(map(str, about.default))
        print(f"{key} = {'none' if default is None else default}")
        source = about.metadata["source"]
        print(wrapped(f"    {about.metadata['help']}" + (f" ({source})" if source else ""), 4))


def sweep(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache to train on.")],
    space: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPACE.yaml",
            help="File of fixed settings and ranges of the others.",
            show_default="the space of --recipe",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep. [default: runs/sweep-SPACE]")] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of fits, including those of earlier calls.",
            show_default="20, of a grid all combinations",
        ),
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Start no trial that would end after this time.")] = None,
    folds: Annotated[
        str | None,
        typer.Option(help="'all' scores each trial on everyone, by all folds (data.val_ratio says how many)."),
    ] = None,
    kind: Annotated[str, typer.Option(help="tpe (learns from the trials before), random or grid.")] = "tpe",
    prune: Annotated[
        str,
        typer.Option(
            help="Which trials are stopped: median (below the median of the others at the same epoch), halving (all"
            " but the best third after 1, 3, 9, ... epochs) or none."
        ),
    ] = "median",
    recipe: Annotated[str | None, typer.Option(help="Recipe to start from.")] = None,
    settings: Annotated[list[str] | None, SETTINGS] = None,
    protocol: Annotated[Path | None, PROTOCOL] = None,
    plugin: Annotated[list[str] | None, PLUGIN] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the proposed settings.")] = 0,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes, started by Ray (pip install 'maskprep[ray]')."),
    ] = 1,
) -> None:
    """Search good settings: many fits within a number of trials or hours. The same command resumes a sweep that was
    stopped; started several times, it fits several trials at once."""
    from masktrain.cli import show, tables
    from masktrain.config import recipes as recipes_of
    from masktrain.study import protocol as ruling
    from masktrain.study import space as spaces
    from masktrain.study import sweep as sweeping
    from masktrain.study import views

    if folds not in (None, "all"):
        raise UsageError(f"--folds is 'all' or not given, not '{folds}'.")
    base = given_settings(None, settings, plugin)
    if space is None and (recipe is None or (space := recipes_of.recipe(recipe).space) is None):
        raise UsageError("Which space? Give a SPACE.yaml, or a recipe that has one: t2-ldam-cyclic.")
    varied = spaces.read(space)
    if recipe is not None:
        with show.bars() as bars:
            base = views.recipe(cache, recipe, varied.fixed | base, progress=show.PrintedFit(), bars=bars)
        base = {key: value for key, value in base.items() if key not in {v.key for v in varied.varied}}
    done = sweeping.sweep(
        cache,
        varied,
        out or Path("runs") / f"sweep-{space.stem}",
        base=ruling.of_sweep(cache, base, varied, protocol),
        trials=trials,
        hours=hours,
        folds=folds is not None,
        kind=kind,
        prune=prune,
        seed=seed,
        workers=workers,
        progress=show.PrintedFit(),
        each=tables.trial,
    )
    tables.swept(done)
