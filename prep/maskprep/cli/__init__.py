"""The command ``maskprep``: parsing and printing only. Heavy imports happen inside the commands."""

from __future__ import annotations

from maskprep.base import entry
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
    """Entry point of the command."""
    entry.run(app, "Interrupted. Finished work is kept; run the same command to go on.", seconds=2)
