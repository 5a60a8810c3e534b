"""Commands that find what went wrong and let a person decide: audit, review, decisions."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import Command, command

if TYPE_CHECKING:
    from maskprep.audit import Audit, DecisionState, Score

FORMATS = ("table", "csv", "json")

Predictions = Annotated[
    list[Path] | None,
    typer.Option("--predictions", "-p", help="oof.parquet of a run, or the run's folder; may be given several times."),
]


@command("workers", "engine", "quiet")
def audit(
    command: Command,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[OOF]...", help="Further oof.parquet files, after --predictions.")
    ] = None,
    predictions: Predictions = None,
    top: Annotated[int, typer.Option(min=0, help="How many images the table shows.")] = 20,
    form: Annotated[str, typer.Option("--format", help="On standard output: table, csv or json.")] = "table",
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK[:SEVERITY]",
            help="Exit with status 3 when this check, kind of checks or any finds something (severity 0.5).",
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write audit/report.html.")] = True,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Plant known faults in a copy and print how many are found.")
    ] = False,
) -> None:
    """Find misdetected faces, bad crops and mattes, suspicious labels and leaks; write audit/report.html."""
    from maskprep.audit import FailOn, run_self_test, write_report
    from maskprep.base import UsageError
    from maskprep.cli import console as show

    if form not in FORMATS:
        raise UsageError(f"Unknown format '{form}'.", f"Known formats: {', '.join(FORMATS)}.")
    if more and not predictions:
        raise UsageError(f"'{more[0]}' is one argument too many.", "Predictions are given with --predictions.")
    limits = [FailOn.parse(text) for text in fail_on or []]
    session, files = command.session, [*(predictions or []), *(more or [])]

    def work() -> tuple[Audit, Path | None]:
        made = session.audit(files)
        return made, write_report(made, session.progress) if report and not self_test else None

    made, page = command.run(work)[0]
    if self_test:
        scores = run_self_test(made, session.progress)
        if form == "table":
            _print_scores(scores)
        else:
            typer.echo(json.dumps([vars(score) for score in scores], indent=1))
        return
    if form == "table":
        _print_findings(made, top)
        if page is not None:
            typer.echo(f"report   {page}\ndecide   maskprep review {shlex.quote(str(session.cache.root))}")
    else:
        typer.echo(made.open.csv() if form == "csv" else made.open.json(), nl=False)
    reached = [(limit, n) for limit in limits if (n := len(limit.reached(made.open.findings)))]
    for limit, n in reached:
        show.err.print(f"--fail-on {limit.name}:{limit.severity:g}: {n} findings")
    if reached:
        raise typer.Exit(3)
    command.end()


@command("workers", "engine", "quiet")
def review(
    command: Command,
    predictions: Predictions = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    by: Annotated[
        str | None, typer.Option(help="Name under which decisions are kept.", show_default="your login")
    ] = None,
) -> None:
    """Serve the report to this machine's browser; decisions go straight into decisions.csv."""
    from maskprep.audit import open_review, serve, write_report
    from maskprep.cli import console as show

    session = command.session
    with command.bars():
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


@command(config=False)
def decisions(
    command: Command,
    merge: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Take in the decisions of another decisions.csv.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="Where the two files differ: ours, theirs or newer.", show_default="stop")
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only those that no longer hold; status 3 if any.")] = False,
) -> None:
    """List and check the decisions of decisions.csv; merge two people's."""
    from maskprep.audit import decision_states
    from maskprep.base import UsageError, UserError
    from maskprep.cli import console as show
    from maskprep.store import decisions as file
    from maskprep.store import read_table

    if prefer is not None and merge is None:
        raise UsageError("--prefer goes with --merge.")
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
                f"{len(together.conflicts)} conflicts; nothing was merged.", "Say whose holds with --prefer."
            )
        file.replace(path, together.added)
        typer.echo(f"{_counted(len(together.added), 'decision')} taken from '{merge}'")
    states = decision_states(file.read_decisions(path), session.subjects(), read_table(session.cache.labels))
    if stale:
        states = [each for each in states if each.state == "stale"]
    _print_decisions(states)
    if stale and states:
        raise typer.Exit(3)


def _print_findings(made: Audit, top: int) -> None:
    """Counts per check, then the worst images with their reasons, sized to the terminal."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from maskprep.audit import CHECKS, LIKELY
    from maskprep.cli.console import out

    outcome = made.open
    width = max(60, min(out.width, 200))
    checks = Table(width=width)
    longest = max((len(f.check) for f in outcome.findings), default=5)
    checks.add_column("check", no_wrap=True, min_width=longest)
    for name in ("found", "likely"):
        checks.add_column(name, justify="right", no_wrap=True, min_width=6)
    room = width - longest - 2 * 6 - 13  # three spaces or lines for each column, and one line
    checks.add_column("what it looks for", no_wrap=True, overflow="ellipsis", max_width=room)
    total = Counter(f.check for f in outcome.findings)
    likely = Counter(f.check for f in outcome.findings if f.severity > LIKELY)
    for name in sorted(total, key=lambda n: (-likely[n], -total[n], n)):
        checks.add_row(name, str(total[name]), str(likely[name]), escape(CHECKS[name].about))
    if total:
        out.print(checks)
    images = outcome.images()
    if images and top:
        worst = Table(width=width)
        for name in ("", "severity"):
            worst.add_column(name, justify="right", no_wrap=True)
        worst.add_column("image", overflow="fold", max_width=max(24, width // 3))
        worst.add_column("why", overflow="fold")
        for i, image in enumerate(images[:top], 1):
            mine = [f for f in outcome.findings if f.image == image]
            why = "\n".join(f"{f.check}: {f.detail}" for f in mine[:3]) + ("\n..." if len(mine) > 3 else "")
            worst.add_row(str(i), f"{mine[0].severity:.2f}", Text(printable(image)), Text(printable(why, "\n")))
        out.print(worst)
    silent = len(CHECKS) - len(total) - len(outcome.not_run)
    out.print(
        f"{_counted(len(outcome.findings), 'finding')} on {len(images)} of"
        f" {_counted(len(made.context.images), 'image')}, {sum(likely.values())} likely (above {LIKELY:g});"
        f" {_counted(silent, 'check')} found nothing"
    )
    if made.decided:
        verb = "is" if len(made.decided) == 1 else "are"
        out.print(f"{_counted(len(made.decided), 'image')} {verb} decided and left out")
    for why in sorted(set(outcome.not_run.values())):
        names = ", ".join(name for name, reason in outcome.not_run.items() if reason == why)
        out.print(f"not run: {names}: {escape(why)}")


def _print_decisions(states: list[DecisionState]) -> None:
    """Every decision with what became of it, and their counts."""
    from rich.table import Table
    from rich.text import Text

    from maskprep.cli.console import out

    table = Table(width=max(60, min(out.width, 200)))
    for name in ("line", "state", "verdict", "image", "by", "why"):
        table.add_column(name, overflow="fold", no_wrap=name in ("line", "state"))
    for each in states:
        d = each.decision
        texts = (f"{d.verdict} {d.value}".strip(), d.image, d.by, each.why or d.reason)
        table.add_row(str(d.line), each.state, *(Text(printable(text)) for text in texts))
    if states:
        out.print(table)
    counts = sorted(Counter(each.state for each in states).items())
    out.print(_counted(len(states), "decision") + "".join(f", {n} {state}" for state, n in counts))


def _print_scores(scores: list[Score]) -> None:
    """How many of the planted faults of each kind were found."""
    from rich.table import Table

    from maskprep.cli.console import out

    table = Table()
    table.add_column("fault")
    for name in ("planted", "recall", "precision", "precision at k", "average precision", "recall at precision 0.8"):
        table.add_column(name, justify="right")
    table.add_column("found by")
    for each in scores:
        if each.not_run:
            table.add_row(each.fault, "-", *[""] * 5, f"not planted: {each.not_run}")
        else:
            numbers = (each.recall, each.precision, each.precision_at_k, each.average_precision, each.recall_at_80)
            table.add_row(each.fault, str(each.planted), *(f"{v:.2f}" for v in numbers), each.found_by)
    out.print(table)


def _counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(text: str, but: str = "") -> str:
    """A text without characters that move the cursor or break the line, save those of ``but``."""
    return "".join(ch if ch.isprintable() or ch in but else repr(ch)[1:-1] for ch in text)
