"""Commands that find what went wrong and let a person rule: audit, review, decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskprep.cli.common import Command, command

if TYPE_CHECKING:
    from maskprep.audit.examine import Audit
    from maskprep.pipeline.session import Session

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
    from maskprep.audit import listing
    from maskprep.audit.findings import parse_threshold
    from maskprep.audit.page import write_report
    from maskprep.cli import console as show
    from maskprep.errors import UsageError

    if form not in listing.FORMATS:
        raise UsageError(f"Unknown format '{form}'.", f"Known formats: {', '.join(listing.FORMATS)}.")
    if more and not predictions:
        raise UsageError(f"'{more[0]}' is one argument too many.", "Predictions are given with --predictions.")
    thresholds = [parse_threshold(text) for text in fail_on or []]
    session, files = command.session, [*(predictions or []), *(more or [])]

    def work() -> tuple[Audit, Path | None]:
        found = session.audit(files)
        return found, write_report(session, found) if report and not self_test else None

    found, page = command.run(work)[0]
    if self_test:
        _self_test(session, found, form)
        return
    if form == "table":
        listing.print_overview(show.out, found, top)
        if page is not None:
            typer.echo(f"report   {page}\nrule     maskprep review {listing.shown(session.cache.root)}")
    else:
        text = listing.findings_csv(found.open) if form == "csv" else listing.findings_json(found.open) + "\n"
        typer.echo(text, nl=False)
    failed = {t: sum(1 for _ in t.met(found.open.findings)) for t in thresholds}
    for threshold, count in failed.items():
        if count:
            show.err.print(f"--fail-on {threshold.name}:{threshold.severity:g}: {count} findings")
    if any(failed.values()):
        raise typer.Exit(3)
    command.end()


def _self_test(session: Session, found: Audit, form: str) -> None:
    import json

    from maskprep.audit.selftest import print_scores, run_self_test
    from maskprep.cli import console as show

    scores = run_self_test(session, found)
    if form == "table":
        print_scores(show.out, scores)
    else:
        typer.echo(json.dumps([vars(score) for score in scores], indent=1))


@command("workers", "engine", "quiet")
def review(
    command: Command,
    predictions: Predictions = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    by: Annotated[
        str | None, typer.Option(help="Name under which rulings are kept.", show_default="your login")
    ] = None,
) -> None:
    """Serve the report to this machine's browser; rulings go straight into decisions.csv."""
    from maskprep.audit.page import write_report
    from maskprep.audit.server import serve
    from maskprep.cli import console as show

    session = command.session
    with command.bars():
        found = session.audit(predictions or [])
        write_report(session, found)
    if not command.quiet:
        show.notes(session)

    def ready(url: str) -> None:
        typer.echo(
            f"{url}\nRulings go to {session.cache.decisions}. Stop with Ctrl-C, then: maskprep run {session.cache.root}"
        )
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    serve(session, found, port, ready, by)


@command(config=False)
def decisions(
    command: Command,
    merge: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Take in the rulings of another decisions.csv.")
    ] = None,
    prefer: Annotated[
        str | None, typer.Option(help="Where both ruled differently: ours, theirs or newer.", show_default="stop")
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only those that no longer hold; status 3 if any.")] = False,
) -> None:
    """List and check the rulings of decisions.csv; merge two people's."""
    from maskprep.audit import listing, rulings
    from maskprep.cli import console as show
    from maskprep.errors import UsageError, UserError
    from maskprep.faces.decisions import read_decisions
    from maskprep.store.tables import read_table

    if prefer is not None and merge is None:
        raise UsageError("--prefer goes with --merge.")
    session = command.session
    if merge is not None:
        if not merge.is_file():
            raise UsageError(f"There is no file '{merge}'.")
        together = rulings.merge(read_decisions(session.cache.decisions), read_decisions(merge), prefer)
        for our, their in together.conflicts:
            said = [f"{d.verdict} {d.value}".strip() + (f" by {d.by}" if d.by else "") for d in (our, their)]
            text = f"conflict on '{our.image}': ours {said[0]}, theirs {said[1]}"
            show.err.print(listing.printable(text), markup=False)
        if together.conflicts and prefer is None:
            raise UserError(
                f"{len(together.conflicts)} conflicts; nothing was merged.", "Say whose holds with --prefer."
            )
        rulings.replace_topics(session.cache.decisions, together.added)
        typer.echo(f"{len(together.added)} rulings taken from '{merge}'")
    found = rulings.states(
        read_decisions(session.cache.decisions), session.subjects(), read_table(session.cache.labels)
    )
    if stale:
        found = [each for each in found if each.state == "stale"]
    listing.print_rulings(show.out, found)
    if stale and found:
        raise typer.Exit(3)
