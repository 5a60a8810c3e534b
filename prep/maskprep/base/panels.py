"""Help that lists commands in the order of the work, under headings. Plain text: rich would double its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperGroup

LINES = 2
"""Lines that a command's sentence may fill."""


def panelled(panels: Mapping[str, Sequence[str]]) -> type[TyperGroup]:
    """A group of commands whose help has these headings, each with the names of its commands.

    A command that stands under no heading is listed last, so that none is ever hidden.
    """

    class Panelled(TyperGroup):
        """Lists commands by heading."""

        def list_commands(self, ctx: Any) -> list[str]:
            """All commands, in the order of the headings."""
            known = super().list_commands(ctx)
            order = [name for names in panels.values() for name in names]
            return [*(n for n in order if n in known), *(n for n in known if n not in order)]

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            """Write the headings and their commands."""
            found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            shown = {name: command for name, command in found if command is not None and not command.hidden}
            width = max(len(name) for name in shown)
            limit = LINES * (formatter.width - 6 - width) - 8
            rest = set(shown) - {name for names in panels.values() for name in names}
            for heading, names in {**panels, "More": sorted(rest)}.items():
                rows = [(f"{n:{width}}", shown[n].get_short_help_str(limit)) for n in names if n in shown]
                if rows:
                    with formatter.section(heading):
                        formatter.write_dl(rows)

    return Panelled
