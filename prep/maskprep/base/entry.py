"""What both commands do around their work: errors for people instead of tracebacks, and a clean Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from maskprep.base.errors import EXTRAS, UserError, missing_extra

STOPPED = 130
"""Exit status of Ctrl-C."""


def run(app: Callable[[], object], interrupted: str, seconds: float | None = None) -> None:
    """Run a command; what goes wrong is said on standard error and ends the process with its exit status.

    Args:
        app: reads the command line and does the work.
        interrupted: what to say after Ctrl-C.
        seconds: that the process may go on after Ctrl-C, None for as long as it needs. With a limit all files must be
            written under temporary names, and a second Ctrl-C ends the process at once.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not stop the program
            stream.reconfigure(errors="backslashreplace")
    printed = threading.Event()
    try:
        with contextlib.nullcontext() if seconds is None else _end_in_time(interrupted, printed, seconds):
            app()
    except UserError as problem:
        _end(problem)
    except ModuleNotFoundError as problem:
        module = (problem.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        _end(missing_extra(module, EXTRAS[module]))
    except OSError as problem:
        _end(of_system(problem))
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != STOPPED:  # typer makes this code of Ctrl-C
            raise
        printed.set()
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(STOPPED)


@contextlib.contextmanager
def _end_in_time(interrupted: str, printed: threading.Event, seconds: float) -> Iterator[None]:
    """End the process so long after Ctrl-C, or at the second one, even in native code that lets no handler run.

    The interpreter writes the numbers of signals into a pipe as they come, and a thread reads them.

    Args:
        interrupted: what to say, unless it is ``printed`` already.
    """
    timers: list[threading.Timer] = []

    def end() -> None:
        for stream in (1, 2):
            if os.isatty(stream):
                os.write(stream, b"\x1b[?25h")  # a progress bar has hidden the cursor
        if not printed.is_set():
            os.write(2, f"\n{interrupted}\n".encode(errors="backslashreplace"))
        os._exit(STOPPED)

    def watch() -> None:
        while number := os.read(signals, 1):
            if number[0] == signal.SIGINT:
                if timers:
                    end()
                timers.append(threading.Timer(seconds, end))
                timers[0].daemon = True
                timers[0].start()

    signals, noted = os.pipe()
    os.set_blocking(noted, False)
    before = signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    stopped = False
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        stopped = isinstance(stop, KeyboardInterrupt) or stop.code == STOPPED
        raise
    finally:
        if not stopped:  # else what is left to do, as the end of other threads, counts as well
            signal.set_wakeup_fd(before)
            os.close(noted)
            watching.join()
            os.close(signals)


@contextlib.contextmanager
def hold_interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt in the function given and nowhere else in the block; a second one at once.

    Outside the main thread, and where Ctrl-C is ignored, nothing changes.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def raise_if_pressed() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield raise_if_pressed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_pressed
    finally:
        signal.signal(signal.SIGINT, before)
    raise_if_pressed()


def of_system(problem: OSError) -> UserError:
    """An error of the system (disk full, no permission, ...) as one for people, with the file where that is known."""
    file = problem.filename2 or problem.filename
    return UserError(f"{problem.strerror or problem}" + (f": '{file}'" if file else ""))


def _end(problem: UserError) -> None:
    """Print an error and what to do about it, and end with its exit status."""
    from rich.console import Console
    from rich.markup import escape

    err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    err.print(f"[red]Error:[/red] {escape(problem.message)}")
    if problem.hint:
        err.print(escape(problem.hint))
    sys.exit(problem.code)
