"""Commands about labels and people: relabel, duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskprep.cli.common import Command, command, show


@command("workers", "engine", "quiet", strict="Exit with status 3 if a fix is not applied.")
def relabel(
    command: Command,
    fixes: Annotated[
        list[Path] | None,
        typer.Option("--fixes", help="CSV or YAML file of fixes; repeatable; 'none' removes those of earlier runs."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Published label errors: boostcamp; 'none' removes them.", show_default="none")
    ] = None,
    min_agree: Annotated[
        int | None,
        typer.Option(
            min=1, help="Use fixes of the preset that at least this many published lists agree on.", show_default="2"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Apply fixes to the labels: replaced, swapped or dropped labels, renamed people. The cache remembers them."""
    session = command.session
    files = None if fixes is None else [] if [str(file) for file in fixes] == ["none"] else fixes
    asked = {"fixes": files, "preset": preset, "min_agree": min_agree, "dry_run": dry_run}
    command.run(lambda: session.relabel(**asked), log=not dry_run)  # type: ignore[arg-type]
    show.changes(session.changes, dry_run)
    if command.strict and any(o.status == "refused" for o in session.changes.outcomes):
        raise typer.Exit(3)
    command.end()


@command("workers", "engine", "quiet")
def duplicates(
    command: Command,
    distance: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Near copies differ in at most this many bits of 256.", show_default="8"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE", help="Allow the pairs of this photo: they are no longer reported; repeatable."),
    ] = None,
    reason: Annotated[
        str, typer.Option(help="With --allow: why these pairs are allowed; stored in decisions.csv.")
    ] = "",
) -> None:
    """Find identical and near-identical photos, above all across people and splits, and people with two numbers."""
    with command.bars():
        report = command.session.duplicates(distance=distance, allow=allow or (), reason=reason)
    show.duplicates(report)
    if (report.pairs["crossing"] & ~report.pairs["allowed"]).any():
        show.next_command(command.next("review"))
