"""Commands that find what went wrong and let a person decide: audit, review, decide."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import Command, command, show

if TYPE_CHECKING:
    from maskprep.audit import Audit

FORMATS = ("table", "csv", "json")

Predictions = Annotated[
    list[Path] | None,
    typer.Option("--predictions", "-p", help="Folder of a run, or its oof.parquet; repeatable."),
]


@command("workers", "engine", "quiet")
def audit(
    command: Command,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[OOF]...", help="More runs to read predictions from.")
    ] = None,
    predictions: Predictions = None,
    top: Annotated[int, typer.Option(min=0, help="How many images the table shows.")] = 20,
    form: Annotated[str, typer.Option("--format", help="On standard output: table, csv or json.")] = "table",
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK[:SEVERITY]",
            help="Exit with status 3 if this check, this kind of checks or any has a finding of that severity (0.5).",
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write audit/report.html.")] = True,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Add known faults to a copy of the data and print how many are found.")
    ] = False,
) -> None:
    """Find misdetected faces, bad crops and mattes, suspicious labels and leaks; write audit/report.html."""
    from maskprep.audit import FailOn, run_self_test, write_report
    from maskprep.base import UsageError, counted

    if form not in FORMATS:
        raise UsageError(f"Unknown format '{form}'.", f"Known formats: {', '.join(FORMATS)}.")
    if more and not predictions:
        raise UsageError(f"'{more[0]}' is an unexpected argument.", "Predictions are given with --predictions RUN.")
    limits = [FailOn.parse(text) for text in fail_on or []]
    session, files = command.session, [*(predictions or []), *(more or [])]

    def work() -> tuple[Audit, Path | None]:
        made = session.audit(files)
        return made, write_report(made, session.progress) if report and not self_test else None

    made, page = command.run(work)[0]
    if self_test:
        scores = run_self_test(made, session.progress)
        if form == "table":
            show.scores(scores)
        else:
            typer.echo(json.dumps([vars(score) for score in scores], indent=1))
        return
    if form == "table":
        show.findings(made, top)
        if page is not None:
            show.field("report", str(page))
            show.next_command(f"maskprep review {shlex.quote(str(session.cache.root))}")
    else:
        typer.echo(made.open.csv() if form == "csv" else made.open.json(), nl=False)
    reached = [(limit, n) for limit in limits if (n := len(limit.reached(made.open.findings)))]
    for limit, n in reached:
        show.err.print(f"--fail-on {limit.name}:{limit.severity:g}: {counted(n, 'finding')}")
    if reached:
        raise typer.Exit(3)
    command.end()


@command("workers", "engine", "quiet")
def review(
    command: Command,
    predictions: Predictions = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    by: Annotated[
        str | None, typer.Option(help="Name that is stored with each decision.", show_default="your login")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CLASS,...", help="What photos without labels are labelled with, as mask=worn,none."),
    ] = None,
) -> None:
    """Open the audit report in the browser to decide on photos; decisions are written to decisions.csv."""
    from maskprep.audit import open_review, serve, write_report

    session, named = command.session, parse_classes(classes or [])
    with command.bars():
        if named:
            session.name_classes(named)
        made = session.audit(predictions or [])
        write_report(made, session.progress)
        opened = open_review(made, session.progress, by)
    if not command.quiet:
        show.notes(session)

    def ready(url: str) -> None:
        typer.echo(
            f"{url}\nDecisions go to {session.cache.decisions}. "
            f"Stop with Ctrl-C, then: maskprep run {session.cache.root}"
        )
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    serve(opened, port, ready)


def parse_classes(texts: list[str]) -> dict[str, list[str]]:
    """Attribute -> classes, from texts such as ``mask=worn,none``.

    Raises:
        UsageError: a text that is none.
    """
    from maskprep.base import UsageError

    named = {}
    for text in texts:
        name, _, values = text.partition("=")
        classes = [value.strip() for value in values.split(",") if value.strip()]
        if not name.strip() or len(classes) < 2:
            raise UsageError(f"'{text}' names no classes.", "Write --classes NAME=CLASS,CLASS such as mask=worn,none.")
        named[name.strip()] = classes
    return named


VERDICT = typer.Argument(
    metavar="VERDICT",
    help="keep, drop, face NUMBER (see maskprep faces), box X0 Y0 X1 Y1 (photo pixels; write -- before a negative"
    " number) or relabel NAME=CLASS.",
)


@command("quiet")
def decide(
    command: Command,
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="Its name in the cache, the end of it, or its path.")
    ] = None,
    verdict: Annotated[list[str] | None, VERDICT] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    by: Annotated[
        str | None, typer.Option(help="Name under which the decision is kept.", show_default="your login")
    ] = None,
    merge: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Add the decisions of another decisions.csv.")
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option(
            help="Which decision is kept where the two files differ: ours, theirs or newer.",
            show_default="stop with an error",
        ),
    ] = None,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale",
            help="List only those that no longer apply, as the photo or its boxes changed; exit status 3 if any.",
        ),
    ] = False,
) -> None:
    """Decide on one photo; without one, list and check all decisions, or merge those of two people."""
    from maskprep.base import UsageError, printable

    if image is not None:
        if merge is not None or prefer is not None or stale:
            raise UsageError("--merge, --prefer and --stale are for all decisions; leave the photo out.")
        if not verdict:
            raise UsageError(f"What is to become of '{image}'?", "Add keep, drop, face, box or relabel.")
        word, value = verdict[0], " ".join(verdict[1:])
        made = command.run(lambda: command.session.decide(image, word, value, reason=reason, by=by))[0]
        typer.echo(printable(f"{made.image}: {made.verdict} {made.value}".strip()))
        show.next_command(command.next("run"))
        command.end()
        return
    if reason or by is not None:
        raise UsageError("--reason and --by go with a decision: name a photo and a verdict.")
    list_decisions(command, merge, prefer, stale)


def list_decisions(command: Command, merge: Path | None, prefer: str | None, stale: bool) -> None:
    """Merge another file, if there is one, and print all decisions or those that are stale."""
    from maskprep.audit import decision_states
    from maskprep.base import UsageError, UserError, counted, printable
    from maskprep.store import decisions as file
    from maskprep.store import read_table

    if prefer is not None and merge is None:
        raise UsageError("--prefer needs --merge.")
    session = command.session
    path = session.cache.decisions
    if merge is not None:
        if not merge.is_file():
            raise UsageError(f"There is no file '{merge}'.")
        together = file.merge(file.read_decisions(path), file.read_decisions(merge), prefer)
        for our, their in together.conflicts:
            ours, theirs = (f"{d.verdict} {d.value}".strip() + (f" by {d.by}" if d.by else "") for d in (our, their))
            show.err.print(printable(f"conflict on '{our.image}': ours {ours}, theirs {theirs}"), markup=False)
        if together.conflicts and prefer is None:
            raise UserError(
                f"{counted(len(together.conflicts), 'conflict')} between the two files; nothing was merged.",
                "Choose which decision is kept: --prefer ours, theirs or newer.",
            )
        file.replace(path, together.added)
        typer.echo(f"{counted(len(together.added), 'decision')} added from '{merge}'")
    states = decision_states(file.read_decisions(path), session.subjects(), read_table(session.cache.labels))
    if stale:
        states = [each for each in states if each.state == "stale"]
    show.decisions(states)
    if any(each.state == "pending" for each in states):
        show.next_command(command.next("run"))
    if stale and states:
        raise typer.Exit(3)
