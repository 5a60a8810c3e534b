"""The command ``maskprep``: parsing and printing only. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys

import typer

from maskprep.cli import (  # noqa: F401  (importing a module registers its commands)
    build,
    labels,
    look,
    pixels,
    review,
    tools,
)
from maskprep.cli.common import app


def main() -> None:
    """Entry point: errors for people instead of tracebacks, and clean Ctrl-C."""
    from maskprep.errors import UserError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not stop the program
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as problem:
        from maskprep import show

        show.error(problem)
        sys.exit(problem.code)
    except OSError as problem:  # disk full, no permission, ...
        from maskprep import show

        named = f": '{problem.filename2 or problem.filename}'" if problem.filename else ""
        show.error(UserError(f"{problem.strerror or problem}{named}"))
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer makes this code of Ctrl-C
            raise
        typer.echo("\nInterrupted. Finished work is kept; run the same command to go on.", err=True)
        sys.exit(130)
