"""Work for tests of the pool, in a module of its own so that worker processes can import it, and soon."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class UnpicklableError(Exception):
    """Cannot be made again from its text."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)


def trouble(kind: str | None) -> None:
    """What may happen to a row."""
    match kind:
        case "die":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise RuntimeError("trouble")
        case "ConnectionResetError":
            raise ConnectionResetError("trouble")
        case "EOFError":
            raise EOFError("trouble")
        case "Unpicklable":
            raise UnpicklableError("trouble", 2)
        case "sleep":
            time.sleep(0.02)
        case "hang":
            time.sleep(3600)


@dataclass(frozen=True)
class ToyWork:
    """Doubles the numbers of a task; where ``do`` names a number, what it says happens to it.

    Stubborn work does dead rows all the same.
    """

    do: Mapping[int, str] = field(default_factory=dict)
    opened: str = ""
    fails: str = ""
    stubborn: bool = False

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[list[int], Callable[[int], None], Mapping[int, str]], list[Any]]]:
        trouble(self.fails)
        if self.opened:
            with Path(self.opened).open("a") as file:
                file.write(f"{os.getpid()}\n")

        def make(numbers: list[int], at: Callable[[int], None], dead: Mapping[int, str]) -> list[Any]:
            made: list[Any] = []
            for row, number in enumerate(numbers):
                if row in dead and not self.stubborn:
                    made.append(dead[row])
                    continue
                at(row)
                trouble(self.do.get(number))
                made.append(2 * number)
            return made

        yield make
