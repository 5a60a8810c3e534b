"""Commands that ask what was trained: score it, or let it answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Tta = Annotated[
    str | None,
    typer.Option(help="none, mirror, shifts or mirror+shifts: what is averaged. [default: as the run was validated]"),
]
TtaMean = Annotated[str, typer.Option(help="What --tta averages: probability or logit.")]


NEEDS_RUN = ("view", "probe", "batch_size", "device", "tta", "tta_mean")
"""Options of ``evaluate`` that say how a run looks at crops."""


def evaluate(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE.csv", help="Folder of the run, or a CSV file of anyone's predictions."),
    ],
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache with the images to score.")],
    answers: Annotated[
        Path | None, typer.Option(help="CSV with ImageID and ans (or label, or a column per attribute).")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, eval or val. [default: eval if it has labels, otherwise val]")
    ] = None,
    view: Annotated[str | None, typer.Option(help="View of the cache. [default: the run's]")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN|FILE.csv", help="Another one to compare with, paired over people.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Compare with the most frequent class, chance and (a run) a linear probe."),
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(help="Network of the linear probe. [default: the run's, or tf_efficientnet_lite0]"),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--slice", help="Column or attribute to slice by, or several as a*b. [default: status, mask*age]"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    tta: Tta = None,
    tta_mean: TtaMean = "probability",
) -> None:
    """Score a run, or a file of predictions: macro-F1 with its interval over people, each attribute, each class."""
    from masktrain.cli import show, show_runs
    from masktrain.runs import predictions

    if predictions.is_csv(run):
        from masktrain.score import report as scoring

        _without_run(context)
        report = scoring.score_file(
            run, cache, split=split, answers=answers, against=against, baselines=baselines, by=by
        )
    else:
        from masktrain.answer import evaluate as evaluating

        report = evaluating.evaluate(
            run,
            cache,
            split=split,
            answers=answers,
            view=view,
            against=against,
            baselines=baselines,
            probe=probe,
            by=by,
            batch_size=batch_size,
            device=device,
            tta=tta,
            tta_mean=tta_mean,
        )
    show.scores(f"{report.run} on {report.what}, {report.interval.people} people", report.scores, report.interval)
    show_runs.details(report)
    if report.without_crop:
        print(
            f"{len(report.without_crop)} without a crop, answered with the most frequent training class:"
            f" {', '.join(report.without_crop[:5])}{', ...' if len(report.without_crop) > 5 else ''}"
        )
    for warning in report.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"written {report.file}")


def _without_run(context: typer.Context) -> None:
    """Refuse what has no meaning for a file of predictions."""
    from maskprep.base import UsageError

    given = [n for n in NEEDS_RUN if getattr(context.get_parameter_source(n), "name", "") == "COMMANDLINE"]
    if given:
        names = ", ".join("--" + n.replace("_", "-") for n in given)
        raise UsageError(f"{names} cannot be given with a file of predictions: no model looks at crops.")


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run or ensemble, or an exported .onnx.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A photo, a folder of photos, or a cache; a list of photos (.csv, .txt, - for standard input);"
            " a video file, or the number of a camera.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The .csv, .parquet or .jsonl file to write; - for JSON lines on standard output.")
    ],
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Add each attribute with its probability, the face box and the status.")
    ] = False,
    draw: Annotated[
        Path | None, typer.Option(help="New folder for the photos with box and answer drawn on; for a video, a file.")
    ] = None,
    without_crop: Annotated[
        str, typer.Option(help="Answer for a photo without a crop: empty, or likeliest (most frequent in training).")
    ] = "empty",
    faces: Annotated[str, typer.Option(help="Of every frame: subject or all.")] = "subject",
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    split: Annotated[str | None, typer.Option(help="train or eval, for a cache. [default: all]")] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="View of the cache; of several, the mean. [default: the run's]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    tta: Tta = None,
    tta_mean: TtaMean = "probability",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare raw photos. [default: one per core]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file --out that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a photo has no answer.")] = False,
) -> None:
    """Write ImageID,ans for every photo or frame; photos are prepared as the training photos were."""
    from maskprep.base import missing_note
    from masktrain.answer import predict as predicting
    from masktrain.answer import sheet

    written = predicting.predict(
        run,
        source,
        out,
        proba=proba,
        details=details,
        draw=draw,
        without=without_crop,
        split=split,
        view=view or None,
        batch_size=batch_size,
        device=device,
        tta=tta,
        tta_mean=tta_mean,
        faces=faces,
        frames=frames,
        workers=workers,
        force=force,
    )
    said = sys.stderr if out == sheet.STDOUT else sys.stdout
    print(f"written {written.file}: {written.rows} pictures, {written.answered} with an answer", file=said)
    if draw is not None:
        print(f"written {draw}: {written.drawn} pictures", file=said)
    for warning in (*written.warnings, *filter(None, [missing_note()])):
        print(f"Warning: {warning}", file=sys.stderr)
    if lost := written.rows - written.answered:
        examples = [f"{name} ({why})" for name, why in list(written.unanswered.items())[:5]]
        more = ", ..." if lost > 5 else ""
        print(f"{lost} without an answer: {', '.join(examples)}{more}", file=sys.stderr)
        if strict:
            raise typer.Exit(3)


def register(app: typer.Typer) -> None:
    """Add the commands to masktrain's."""
    for command in (evaluate, predict):
        app.command()(command)
