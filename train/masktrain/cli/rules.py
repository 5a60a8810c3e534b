"""Commands and options about the ground rules of a project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskprep.base import UsageError
from masktrain.config.config import FitConfig

if TYPE_CHECKING:
    from masktrain.study.space import Space

PROTOCOL = typer.Option(
    metavar="FILE", help="Ground rules to keep to, see masktrain init. [default: protocol.yaml of the cache, if any]"
)


def init(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache that everyone is to train on.")],
    out: Annotated[Path | None, typer.Option(help="The file to write. [default: CACHE/protocol.yaml]")] = None,
    view: Annotated[
        str | None, typer.Option(help="The crops that are compared. [default: the only view, or 'face']")
    ] = None,
    select: Annotated[str, typer.Option(help="The score that decides; see masktrain settings select.by.")] = "macro_f1",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the people.")] = 5,
    split_seed: Annotated[int, typer.Option(min=0, help="Which split.")] = 0,
    folds_file: Annotated[Path | None, typer.Option(help="Folds that are there already; see masktrain folds.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="A seed that may be used; repeatable. [default: 0]")
    ] = None,
    note: Annotated[str, typer.Option("--note", "--hypothesis", help="What the project is to find out.")] = "",
) -> None:
    """Write the ground rules before the first fit: folds, criterion, seeds, view, and what must be beaten."""
    from masktrain.study import protocol

    made = protocol.init(
        cache,
        out,
        view=view,
        select=select,
        count=folds,
        split_seed=split_seed,
        folds_file=folds_file,
        seeds=seed or (0,),
        note=note,
    )
    for line in protocol.lines(made):
        print(line)
    named = "" if out is None else f" --protocol {out}"
    print(f"next    masktrain fit {cache}{named} --dry-run --sheet samples.png")


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """Settings given with --set, none of them one that only a protocol sets."""
    if own := sorted({"run.protocol", "run.deviates"} & set(given)):
        raise UsageError(f"{own[0]} is set by a protocol.", "Use --protocol FILE, or --deviate REASON.")
    return given


def ruled(cache: Path, given: dict[str, Any], named: Path | None, deviate: str) -> FitConfig:
    """The settings of a fit, by the protocol that counts; see :func:`masktrain.study.protocol.settings`."""
    from masktrain.study import protocol

    return protocol.settings(cache, given, named, deviate)


def swept(cache: Path, base: dict[str, Any], space: Space, named: Path | None) -> dict[str, Any]:
    """The fixed settings of a sweep with those that the protocol rules; what is ruled may not vary."""
    from masktrain.study import protocol

    rules = protocol.of(cache, named)
    if rules is None:
        return base
    varied = {v.key: "several values" for v in space.varied if v.key != "data.fold"}
    made = protocol.kept(space.fixed | base | varied, rules)
    return base | {k: v for k, v in made.items() if k in (*rules.rules, "run.seed", *protocol.OWN)}


def register(app: typer.Typer) -> None:
    """Add the command to masktrain's."""
    app.command()(init)
