"""What both commands do around their work: errors for people instead of tracebacks, and a clean Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable

from maskprep.errors import EXTRAS, UserError, missing_extra

STOPPED = 130
"""Exit status of Ctrl-C."""


def run(app: Callable[[], object], interrupted: str) -> None:
    """Run a command; what goes wrong is said on standard error and ends the process with its exit status.

    Args:
        app: reads the command line and does the work.
        interrupted: what to say after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not stop the program
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as problem:
        _say(problem)
        sys.exit(problem.code)
    except ModuleNotFoundError as problem:
        module = (problem.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        missing = missing_extra(module, EXTRAS[module])
        _say(missing)
        sys.exit(missing.code)
    except OSError as problem:
        _say(of_system(problem))
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != STOPPED:  # typer makes this code of Ctrl-C
            raise
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(STOPPED)


def of_system(problem: OSError) -> UserError:
    """An error of the system (disk full, no permission, ...) as one for people, with the file where that is known."""
    file = problem.filename2 or problem.filename
    return UserError(f"{problem.strerror or problem}" + (f": '{file}'" if file else ""))


def _say(problem: UserError) -> None:
    """Print an error and what to do about it."""
    from rich.console import Console
    from rich.markup import escape

    err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    err.print(f"[red]Error:[/red] {escape(problem.message)}")
    if problem.hint:
        err.print(escape(problem.hint))
