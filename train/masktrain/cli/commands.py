"""The commands about runs: each calls the function of the same name and prints what it returns."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from maskprep.base import UsageError
from masktrain.cli.options import (
    Answers,
    BatchSize,
    Cache,
    Device,
    Folds,
    Force,
    PersonMean,
    RunArgument,
    Split,
    Tta,
    TtaMean,
    View,
    spoken,
)

NEEDS_RUN = ("view", "probe", "batch_size", "device", "tta", "tta_mean", "person_mean")
"""Options of ``evaluate`` that say how a run looks at crops."""


def evaluate(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE.csv", help="Folder of the run, or a CSV file of anyone's predictions."),
    ],
    cache: Cache,
    answers: Answers = None,
    split: Split = None,
    view: View = None,
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
    batch_size: BatchSize = 64,
    device: Device = "auto",
    tta: Tta = None,
    tta_mean: TtaMean = "probability",
    person_mean: PersonMean = None,
) -> None:
    """Score a run, or a file of predictions: macro-F1 with its interval over people, each attribute, each class."""
    from masktrain.cli import tables
    from masktrain.runs import predictions

    shared = {"split": split, "answers": answers, "against": against, "baselines": baselines, "by": by}
    if predictions.is_csv(run):
        from masktrain.score import report as scoring

        if given := [name for name in NEEDS_RUN if name in spoken(context)]:
            names = ", ".join("--" + n.replace("_", "-") for n in given)
            raise UsageError(f"{names} cannot be given with a file of predictions: no model looks at crops.")
        report = scoring.score_file(run, cache, **shared)  # type: ignore[arg-type]
    else:
        from masktrain.answer import evaluate as evaluating

        looks = {name: context.params[name] for name in NEEDS_RUN}
        report = evaluating.evaluate(run, cache, **shared, **looks)  # type: ignore[arg-type]
    tables.evaluated(report)
    if not predictions.is_csv(run):
        asked = {"--split": split, "--answers": answers, "--view": view}
        given = [str(part) for option, value in asked.items() if value is not None for part in (option, value)]
        tables.next_command("masktrain", "explain", run, cache, *given)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders that hold runs.")],
    on: Annotated[
        str, typer.Option(help="val (the people held out), or eval (as masktrain evaluate --split eval has kept).")
    ] = "val",
    out: Annotated[Path | None, typer.Option(help="Write the table to this .html or .md file, too.")] = None,
) -> None:
    """Show runs beside each other: scores, each paired with the best, and the settings in which they differ."""
    from masktrain.cli import tables
    from masktrain.pages import compare as comparing

    made = comparing.compare(runs, on)
    tables.comparison(made)
    if out is not None:
        from masktrain.pages import standings

        print(f"written {standings.write(made, out)}")


def report(
    given: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run, and its cache if that moved; or several, or folders of runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="For several runs: the .html or .md file to write. [default: standings.html]"),
    ] = None,
) -> None:
    """Of one run report.html: curves, classes, confusions, errors. Of several one page, ranked, with intervals."""
    from masktrain.pages import compare as comparing
    from masktrain.pages import report as reporting
    from masktrain.pages import standings
    from masktrain.train.checkpoint import SIDECAR

    caches = [path for path in given if (path / "dataset.json").is_file()]
    folders = [path for path in given if path not in caches]
    whole = len(folders) == 1 and (folders[0] / SIDECAR).is_file() and out is None
    if whole and len(caches) <= 1:
        print(f"written {reporting.report(folders[0], caches[0] if caches else None)}")
        return
    if caches:
        raise UsageError(f"{caches[0]} is a cache; a page over several runs needs none.")
    found = comparing.compare(folders)
    if found.unfinished:
        print(f"not finished, so not ranked: {', '.join(found.unfinished)}")
    print(f"written {standings.write(found, out or Path(standings.FILE))}")


def explain(
    run: RunArgument,
    cache: Cache,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: RUN/explain]")] = None,
    method: Annotated[str, typer.Option(help="Class activation map: gradcam or layercam.")] = "gradcam",
    split: Split = None,
    answers: Answers = None,
    view: View = None,
    also: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Count the answers of this run too: wrong in k of n.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Images shown of each pair of classes.")] = 8,
    sure: Annotated[
        float, typer.Option(help="A label at least this probably wrong is doubtful; drafted where two answers agree.")
    ] = 0.9,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Show errors with maps of where the model looked, photos and audit findings, and draft decisions on labels."""
    from masktrain.pages import explain as explaining

    done = explaining.explain(
        run,
        cache,
        out,
        method=method,
        split=split,
        answers=answers,
        view=view,
        also=also or (),
        most=most,
        sure=sure,
        device=device,
        force=force,
    )
    print(f"{done.wrong} of {done.images} images are answered wrongly")
    if done.background is not None:
        beside, area = done.background
        print(f"attention beside the subject {beside:.0%}, where {area:.0%} of the crop is beside it")
    print(f"look    {done.folder / explaining.FILE}")
    if done.unknown:
        print(
            f"labels  of {', '.join(done.unknown)} are not doubted: the run is not good enough there on held-out people"
        )
    if done.doubtful > done.drafted:
        alone = done.doubtful - done.drafted
        print(f"doubt   {alone} labels more, where no second run agrees (--also RUN); they are listed on the page")
    if done.expected is None:
        print("decide  nothing is drafted")
        return
    right = f"about {done.expected:.0%} of them right as far as the model can tell"
    print(f"decide  {done.drafted} drafted decisions in {done.draft}, {right}; take out what is wrong, then:")
    print(f"        maskprep decisions {shlex.quote(str(cache))} --merge {shlex.quote(str(done.draft))}")
    print(f"        maskprep review {shlex.quote(str(cache))}")


def ensemble(
    given: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Runs, or folders that hold runs; of one run alone its kept epochs."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the ensemble, new or empty; it is a run like any other.")],
    kind: Annotated[
        str,
        typer.Option(
            help="soft (mean), hard (votes; a tie goes to the higher mean probability), weighted, greedy, stack"
            " (logistic regression), or soup (mean of the weights)."
        ),
    ] = "soft",
    cache: Annotated[Path | None, typer.Option(help="For soup and kept epochs, where the cache is now.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="G", min=0, help="For greedy: billions of multiply-adds for an image that all may take."),
    ] = None,
    device: Device = "auto",
    seed: Folds = 0,
) -> None:
    """Make one run of several; scored on people that neither the runs nor what combines them has seen."""
    from masktrain.cli import tables
    from masktrain.combine import ensemble as combining

    tables.ensemble(combining.ensemble(given, out, kind=kind, cache=cache, seed=seed, budget=budget, device=device))


def compose(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="ATTRIBUTE=RUN...", help="Who answers what, such as mask=runs/a gender=runs/b age=runs/c."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the composition, new or empty; it is a run like any other.")],
    route: Annotated[
        str, typer.Option(help="soft (product), or hard: for the most probable class of the first part alone.")
    ] = "soft",
) -> None:
    """Put runs for parts of the label (fit --task, --where) together; scored on people that none of them has seen."""
    from masktrain.cli import tables
    from masktrain.combine import compose as composing

    tables.composed(composing.compose(given, out, route=route))


def calibrate(
    run: RunArgument,
    thresholds: Annotated[
        str,
        typer.Option(
            help="Keep a decision threshold per class: when their gain is clear (above noise), always or never."
        ),
    ] = "clear",
    seed: Folds = 0,
) -> None:
    """Fit a temperature, and decision thresholds for macro-F1, on held-out people; the run uses them from then on."""
    from masktrain.cli import tables
    from masktrain.combine import calibrate as calibrating

    tables.calibrated(calibrating.calibrate(run, thresholds=thresholds, seed=seed))


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
        Path | None,
        typer.Option(
            help="The .csv, .parquet or .jsonl file to write; - for JSON lines on standard output. [default: print the"
            " answer for one photo]"
        ),
    ] = None,
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
    batch_size: BatchSize = 64,
    device: Device = "auto",
    tta: Tta = None,
    tta_mean: TtaMean = "probability",
    person_mean: PersonMean = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare raw photos. [default: one per core]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file --out that is there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a photo has no answer.")] = False,
) -> None:
    """Print the answer for a photo, or write those for many; photos are prepared as the training photos were."""
    from maskprep.base import missing_note
    from masktrain.answer import photos, video
    from masktrain.answer import predict as predicting
    from masktrain.answer.table import STDOUT

    if out is None and (source.is_dir() or photos.is_list(source) or video.is_video(source)):
        raise UsageError(f"{source} is not a single photo.", "Name the table to write: --out predictions.csv")
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
        person_mean=person_mean,
        faces=faces,
        frames=frames,
        workers=workers,
        force=force,
    )
    stream = sys.stderr if out == STDOUT else sys.stdout
    if written.table is not None and written.schema is not None:
        from masktrain.cli import tables

        row = written.table.iloc[0]
        tables.predicted(row, written.schema, *written.seen.get(row["ImageID"], (0, "")))
    else:
        print(f"written {written.file}: {written.rows} pictures, {written.answered} with an answer", file=stream)
    if draw is not None:
        print(f"written {draw}: {written.drawn} pictures", file=stream)
    for warning in (*written.warnings, *filter(None, [missing_note()])):
        print(f"Warning: {warning}", file=sys.stderr)
    if (lost := written.rows - written.answered) and written.table is None:
        examples = [f"{name} ({why})" for name, why in list(written.unanswered.items())[:5]]
        more = ", ..." if lost > 5 else ""
        print(f"{lost} without an answer: {', '.join(examples)}{more}", file=sys.stderr)
    if lost and strict:
        raise typer.Exit(3)


def export(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: RUN/export]")] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="onnx, pt2 or safetensors; may be repeated. [default: all]")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache with crops to compare on. [default: the run's own]")] = None,
    force: Force = False,
) -> None:
    """Write the model as ONNX, .pt2 and safetensors, each checked against the run on real crops, with a model card."""
    from masktrain.answer import export as exporting

    done = exporting.export(run, out, formats=tuple(format or exporting.FORMATS), cache=cache, force=force)
    for name, difference in done.differences.items():
        print(f"{name:12} largest probability difference {difference:.1e} on {done.crops} crops of {done.source}")
    print(f"written {', '.join(map(str, done.files))}")


def pack(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="The file to write.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="With what fit --resume needs too: the last checkpoint, weights of epochs.")
    ] = False,
    with_faces: Annotated[
        bool, typer.Option("--with-faces", help="With the pages that show photos, and drafts of decisions on them.")
    ] = False,
) -> None:
    """Write a run or an ensemble into one file, without code and photos, to use it at another place."""
    from masktrain.runs import archive as packing

    made = packing.pack(run, file, whole=whole, with_faces=with_faces)
    print(f"written {made.place}: {made.files} files of {made.name}, {made.size / 2**20:.1f} MiB")
    if made.faces:
        print(f"no faces: {', '.join(made.faces)} stay here, as they show photos; --with-faces packs them too")
    if made.left_out:
        print(f"left out {', '.join(made.left_out[:5])}{', ...' if len(made.left_out) > 5 else ''}")
    print(f"there   masktrain unpack {shlex.quote(str(file))}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What masktrain pack has written.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty. [default: runs/<its name>]")
    ] = None,
) -> None:
    """Make a run's folder of a packed file, after a look at what is in it; no code in it is ever run."""
    from masktrain.runs import archive as packing

    made = packing.unpack(file, out)
    print(f"written {made.place}: {made.files} files, {made.size / 2**20:.1f} MiB, each as it was packed")
    print(f"use     masktrain predict {shlex.quote(str(made.place))} PHOTO")


def demo(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run or ensemble, or an exported .onnx.")],
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    device: Device = "auto",
) -> None:
    """Serve a page: a photo or the camera in; faces, crop, matte, probabilities and attention out."""
    from masktrain.pages import demo as showing

    def ready(url: str) -> None:
        print(f"{url}\nStop with Ctrl-C.", flush=True)
        if host not in showing.LOCAL:
            print("Warning: everyone who has this address and can reach it can use the page.", file=sys.stderr)
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    showing.demo(run, host=host, port=port, device=device, ready=ready)
