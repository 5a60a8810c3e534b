"""How long work tells how far it is. Stages report here; what is shown is up to the command."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one piece of work after another."""

    def start(self, name: str, total: int) -> None:
        """A piece of work with ``total`` steps begins; the one before has ended."""
        ...

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, steps: int = 1) -> None:
        """Nothing."""
