"""When the state of a fit is kept: every so often, and when someone asks it to stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from maskprep.base import UserError

SHARE = 0.02
"""Snapshots take no more than this share of the time, however large the state and slow the disk."""

TOGETHER = 10
"""Chances between two questions whether another process was asked to stop."""


class Snapshots:
    """Keeps a state that is whole, and turns a request to stop into a clean end.

    Args:
        save: writes the state; what it writes must not depend on when it is called.
        seconds: between two snapshots, 0 for one at every chance.
        stopped: the error that ends the fit after a request to stop, made from its exit status.
        agree: makes of the signal that this process heard, 0 for none, one that all processes have; asked at every
            tenth chance, which comes to all of them alike. None for a single process.
    """

    def __init__(
        self,
        save: Callable[[], None],
        seconds: float,
        stopped: Callable[[int], UserError],
        agree: Callable[[int], int] | None = None,
    ) -> None:
        self._save, self._seconds, self._stopped, self._agree = save, seconds, stopped, agree
        self._chances = 0
        self._asked: int | None = None
        self._next = time.monotonic() + seconds

    def pause(self) -> None:
        """To be called wherever the state is whole.

        Raises:
            UserError: someone asked the fit to stop; the state is kept.
        """
        if asked := self._agreed():
            self._save()
            raise self._stopped(128 + asked)
        if (now := time.monotonic()) >= self._next:
            self._save()
            took = time.monotonic() - now
            self._next = now + took + max(self._seconds, took / SHARE if self._seconds else 0.0)

    def _agreed(self) -> int:
        if self._agree is None:
            return self._asked or 0
        self._chances += 1
        return self._agree(self._asked or 0) if self._chances % TOGETHER == 0 else 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear Ctrl-C and SIGTERM; the second one of a kind ends the process in its usual way."""
        if threading.current_thread() is not threading.main_thread():  # Python delivers signals to that one only
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
