"""The command ``masktrain``: its commands in the order of the work, and its entry point."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from maskprep import __version__
from maskprep.base import entry, panelled
from masktrain.cli import commands, project
from masktrain.cli.fit import fit

PANELS = {
    "Before the first fit": ("init", "models", "recipes", "settings"),
    "Train": ("fit", "sweep"),
    "Look and compare": ("evaluate", "compare", "report", "explain"),
    "Make more of runs": ("ensemble", "compose", "calibrate"),
    "Use": ("predict", "export", "pack", "unpack", "demo"),
}
"""Commands in the order of the work."""

app = typer.Typer(
    cls=panelled(PANELS),
    help="Train on the crops that maskprep caches, score and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"masktrain {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(fit)
app.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(project.folds)
for name in (name for names in PANELS.values() for name in names if name != "fit"):
    app.command()(getattr(project, name, None) or getattr(commands, name))


def main() -> None:
    """Entry point: errors meant for people are printed, not traced."""
    # Before torch is loaded: threads that spin while they wait take the cores from each other and from everyone else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    entry.run(app, "Interrupted.")


if __name__ == "__main__":
    main()
