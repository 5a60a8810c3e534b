"""The application, the options that commands share, and the run of a command over a session."""

from __future__ import annotations

import inspect
import shlex
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import lazy_loader  # type: ignore[import-untyped]
import typer

from maskprep.base import VERSION, panelled

if TYPE_CHECKING:
    from maskprep.base import Progress
    from maskprep.cli import console

    show = console
    from maskprep.pipeline import Session
else:
    show = lazy_loader.load("maskprep.cli.console", suppress_warning=True)

T = TypeVar("T")

PANELS = {
    "From photos to crops": ("sample", "run", "index", "crop", "rembg", "stats"),
    "Look": ("status", "verify", "sheet", "faces", "explain", "duplicates"),
    "Clean": ("audit", "review", "decide", "relabel"),
    "Use": ("export",),
    "This machine": ("doctor", "weights"),
}
"""Commands in the order of the work."""

app = typer.Typer(
    cls=panelled(PANELS),
    help="Find the right face in every photo, clean the labels, cache the crops. Every command takes a folder of "
    "photos or a cache and first brings up to date what it needs. Photos are never changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the time to show it
    context_settings={"help_option_names": ["-h", "--help"]},
)

Force = Annotated[bool, typer.Option("--force", help="With --out: overwrite an existing file.")]
Layout = Annotated[
    str | None,
    typer.Option(
        help="Where labels come from: boostcamp, folders, csv, boxes or flat.", show_default="as before, or recognised"
    ),
]

SOURCE = typer.Argument(metavar="PHOTOS|CACHE", help="A folder of photos, or a cache made from one.")
OPENS: dict[str, tuple[Any, Any]] = {
    "cache": (
        Path | None,
        typer.Option("--cache", help="Folder of the cache.", show_default="cache/<name of the photo folder>"),
    ),
    "config": (
        Path | None,
        typer.Option("--config", help="Settings file.", show_default="maskprep.yaml in the photo folder"),
    ),
}
WORKS: dict[str, tuple[Any, Any]] = {
    "workers": (int | None, typer.Option("--workers", "-j", help="Number of processes.", show_default="one per core")),
    "engine": (str, typer.Option("--engine", help="How the work is run: processes, or serial in one process.")),
    "strict": (bool, typer.Option("--strict", help="Exit with status 3 if a photo has an error.")),
    "quiet": (bool, typer.Option("--quiet", "-q", help="Show no progress and no notes.")),
}
Quiet = Annotated[bool, WORKS["quiet"][1]]
DEFAULTS = {"engine": "processes", "strict": False, "quiet": False}


@dataclass
class Command:
    """One command over a session.

    Args:
        source: a photo folder or a cache.
        options: those that open the session.
        strict: whether photos with errors give the exit status 3.
        quiet: no progress and no notes.
    """

    name: str
    source: Path
    options: dict[str, Any]
    strict: bool
    quiet: bool

    @cached_property
    def session(self) -> Session:
        """The cache and its photos."""
        from maskprep.pipeline import Session

        return Session(self.source, **self.options)

    def next(self, name: str) -> str:
        """Another command on the same cache, as one types it."""
        return f"maskprep {name} {shlex.quote(str(self.options['cache'] or self.source))}"

    @contextmanager
    def bars(self) -> Iterator[Progress]:
        """Progress for the work of the session."""
        with show.bars(self.quiet) as bars:
            self.session.report.progress = bars
            yield bars

    def bring(self, work: Callable[[], object], then: Callable[[Session], None] | None = None) -> None:
        """Bring the cache up to date, and print what came of it."""
        from maskprep.store import read_table

        _, seconds = self.run(work)
        session = self.session
        show.summary(session, seconds)
        if then is not None:
            then(session)
        errors = set(read_table(session.cache.images, ["image", "error"]).dropna()["image"]) | session.failed.keys()
        if self.strict and (errors or session.unlisted):
            raise typer.Exit(3)
        if session.failed:
            raise typer.Exit(1)

    def run(self, work: Callable[[], T], log: bool = True) -> tuple[T, float]:
        """Do some work with progress, add its line to log.jsonl, and print the notes. Returns the seconds, too."""
        started = time.perf_counter()
        with self.bars():
            made = work()
        seconds = time.perf_counter() - started
        if log:
            self.session.log(self.name, seconds)
        if not self.quiet:
            show.notes(self.session)
        return made, seconds

    def end(self) -> None:
        """End a command that printed no summary: what failed this time is printed, with exit status 1."""
        if self.session.failed:
            show.err.print(f"failed: {show.failed(self.session)}", markup=False)
            raise typer.Exit(1)


def command(
    *shared: str, source: Any = SOURCE, config: bool = True, strict: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command over a session. To its own options come its source, ``--cache`` and ``--config``.

    Args:
        shared: which of WORKS it has, too.
        source: its argument, where it is not the common one.
        config: whether it has ``--config``.
        strict: help of ``--strict``, where it is not the common one.
    """
    options = {name: spec for name, spec in OPENS.items() if config or name != "config"}
    options |= {name: WORKS[name] for name in shared}
    if strict:
        options["strict"] = (bool, typer.Option("--strict", help=strict))

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        own = [
            p.replace(kind=kind, annotation=hints[p.name])
            for p in list(inspect.signature(function).parameters.values())[1:]
        ]
        first = inspect.Parameter("source", kind, annotation=Annotated[Path, source])
        added = [
            inspect.Parameter(name, kind, default=DEFAULTS.get(name), annotation=Annotated[hint, option])
            for name, (hint, option) in options.items()
        ]

        def call(**values: Any) -> None:
            common = {name: values.pop(name) for name in options}
            strict, quiet = (common.pop(name, False) for name in ("strict", "quiet"))
            function(Command(function.__name__, values.pop("source"), common, strict, quiet), **values)

        call.__name__, call.__doc__ = function.__name__, function.__doc__
        call.__signature__ = inspect.Signature([first, *own, *added])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in (first, *own, *added)}
        app.command(function.__name__)(call)
        return function

    return register


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maskprep {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
