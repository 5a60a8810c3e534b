"""Options that several commands share, and what was given for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskprep.base import UsageError
from masktrain.config.config import assignments

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run or ensemble.")]
Cache = Annotated[Path, typer.Argument(metavar="CACHE", help="The cache with the images.")]
Answers = Annotated[Path | None, typer.Option(help="CSV with ImageID and ans (or label, or a column per attribute).")]
Split = Annotated[str | None, typer.Option(help="train, eval or val. [default: eval if it has labels, otherwise val]")]
View = Annotated[str | None, typer.Option(help="View of the cache. [default: the run's]")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Tta = Annotated[
    str | None,
    typer.Option(
        help="Average over variants of a crop: none, mirror, shifts or mirror+shifts. [default: as the run was scored]"
    ),
]
TtaMean = Annotated[str, typer.Option(help="What --tta averages: probability or logit.")]
PersonMean = Annotated[
    str | None,
    typer.Option(
        metavar="ATTRIBUTES",
        help="Attributes that a person has in all photos, as gender,age: their probabilities are averaged over each"
        " person's photos.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="With --out: overwrite an existing file.")]
Folds = Annotated[int, typer.Option(help="Seed of the folds of people for the scores.")]

PLUGIN = typer.Option(
    metavar="FILE.py|MODULE", help="Your own code that adds losses, recipes, schedules or ways of sampling; repeatable."
)
PROTOCOL = typer.Option(
    metavar="FILE", help="Protocol to follow, see masktrain init. [default: protocol.yaml of the cache, if any]"
)
SETTINGS = typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as loss.gamma=3; see masktrain settings.")


def spoken(context: typer.Context) -> set[str]:
    """The parameters that were given on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def given_settings(config: Path | None, settings: list[str] | None, plugin: list[str] | None) -> dict[str, Any]:
    """Flat settings of a file and ``--set``, the latter over the former; plugins are imported first.

    Raises:
        UsageError: a setting that is unknown, of the wrong type, or set by a protocol alone.
    """
    from masktrain.config import plugins, recipes

    loaded = {"run.plugins": list(plugins.load(plugin))} if plugin else {}
    values = recipes.read(config) if config is not None else {}
    single = assignments(settings or [])
    if own := sorted({"run.protocol", "run.deviates", "run.extended"} & set(single)):
        raise UsageError(
            f"{own[0]} cannot be set with --set.", "Use --protocol, --deviate, or --resume RUN --epochs N."
        )
    return values | single | loaded
