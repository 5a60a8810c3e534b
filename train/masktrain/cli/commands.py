"""The commands about runs: each calls the function of the same name and prints what it returns."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from maskprep.base import UsageError, counted, some
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
        typer.Option(
            help="With --baselines: network of the linear probe. [default: the run's, or tf_efficientnet_lite0]"
        ),
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
            raise UsageError(f"{names} cannot be given with a file of predictions, as no model is run.")
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
        str, typer.Option(help="val (the held-out people), or eval (as scored by masktrain evaluate --split eval).")
    ] = "val",
    out: Annotated[Path | None, typer.Option(help="Write the table to this .html or .md file, too.")] = None,
) -> None:
    """Compare runs: scores, the difference of each to the best, and the settings in which they differ."""
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
    """Write report.html of a run, of all folds or of an ensemble: what to do next, errors, curves; of several runs one
    ranked page."""
    from masktrain.pages import compare as comparing
    from masktrain.pages import report as reporting
    from masktrain.pages import standings
    from masktrain.runs.folder import CONFIG

    caches = [path for path in given if (path / "dataset.json").is_file()]
    folders = [path for path in given if path not in caches]
    whole = len(folders) == 1 and (folders[0] / CONFIG).is_file() and out is None
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
        list[Path] | None, typer.Option(metavar="RUN", help="Another run whose answers are counted, too; repeatable.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Images for each pair of classes.")] = 8,
    sure: Annotated[
        float,
        typer.Option(
            help="Probability from which a label counts as wrong; a decision is drafted where two networks agree."
        ),
    ] = 0.9,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Show errors with maps of where the model looked, photos and audit findings, and draft decisions on labels."""
    from masktrain.cli import tables
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
    print(f"{done.wrong} of {counted(done.images, 'image')} are classified wrongly")
    if done.background is not None:
        beside, area = done.background
        print(f"{beside:.0%} of the attention lies on the background, which is {area:.0%} of the crop")
    print(f"look    {done.folder / explaining.FILE}")
    if done.unknown:
        print(
            f"labels  of {', '.join(done.unknown)} are not checked: the run is not accurate enough on held-out people"
        )
    if done.doubtful > done.drafted:
        alone = done.doubtful - done.drafted
        print(
            f"doubt   {counted(alone, 'more label')} without a second run that agrees (--also RUN), listed on the page"
        )
    if done.expected is None:
        print("decide  no decisions are drafted")
        return
    right = f"by the model's own estimate about {done.expected:.0%} are right"
    print(f"decide  {counted(done.drafted, 'drafted decision')} in {done.draft},")
    print(f"        {right}; delete the wrong lines, then:")
    tables.next_command("maskprep", "decide", cache, "--merge", done.draft)


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
        typer.Option(
            metavar="G",
            min=0,
            help="With --kind greedy: at most this many billion multiply-adds per image for all members together.",
        ),
    ] = None,
    device: Device = "auto",
    seed: Folds = 0,
) -> None:
    """Combine several runs into one, scored on people that neither the runs nor the combination was fitted on."""
    from masktrain.cli import tables
    from masktrain.combine import ensemble as combining

    tables.ensemble(combining.ensemble(given, out, kind=kind, cache=cache, seed=seed, budget=budget, device=device))
    _look(out)


def compose(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="ATTRIBUTE=RUN...",
            help="Which run classifies which attribute, such as mask=runs/a gender=runs/b age=runs/c.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the composition, new or empty; it is a run like any other.")],
    route: Annotated[
        str, typer.Option(help="soft (product), or hard (only the part for the most probable class of the first part).")
    ] = "soft",
) -> None:
    """Combine runs for parts of the label (fit --task, --where), scored on people that none of them was trained on."""
    from masktrain.cli import tables
    from masktrain.combine import compose as composing

    tables.composed(composing.compose(given, out, route=route))
    _look(out)


def _look(run: Path) -> None:
    """Write the report of what was made of runs, where the cache with its images is still there."""
    from maskprep.store import is_cache
    from masktrain.pages import report as reporting
    from masktrain.runs import folder as runs

    if (run / runs.DATA).is_file() and is_cache(Path(runs.read_data(run)["cache"])):
        print(f"look    {reporting.report(run)}")


def calibrate(
    run: RunArgument,
    thresholds: Annotated[
        str,
        typer.Option(help="Keep decision thresholds per class: clear (if their gain is above noise), always or never."),
    ] = "clear",
    seed: Folds = 0,
) -> None:
    """Fit a temperature and decision thresholds for macro-F1 on held-out people; the run uses them from then on."""
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
    faces: Annotated[str, typer.Option(help="Faces of a frame that get an answer: subject or all.")] = "subject",
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
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
    force: Annotated[bool, typer.Option("--force", help="With --out: overwrite an existing file.")] = False,
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
        print(
            f"written {written.file}: {counted(written.rows, 'photo')}, {written.answered} with an answer", file=stream
        )
    if draw is not None:
        print(f"written {draw}: {counted(written.drawn, 'picture')}", file=stream)
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
        print(
            f"{name:12} largest probability difference {difference:.1e} on "
            f"{counted(done.crops, 'crop')} of {done.source}"
        )
    print(f"written {', '.join(map(str, done.files))}")


def pack(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="The file to write.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="Include what fit --resume needs: the last checkpoint, weights of epochs.")
    ] = False,
    with_faces: Annotated[
        bool, typer.Option("--with-faces", help="Include pages that show photos, and drafts of decisions.")
    ] = False,
) -> None:
    """Pack a run or an ensemble into one file, without code and photos, for another machine."""
    from masktrain.runs import archive as packing

    made = packing.pack(run, file, whole=whole, with_faces=with_faces)
    print(f"written {made.place}: {counted(made.files, 'file')} of {made.name}, {made.size / 2**20:.1f} MiB")
    if made.faces:
        print(f"not packed, as they show photos: {', '.join(made.faces)}; --with-faces packs them, too")
    if made.left_out:
        print(f"not packed: {some(made.left_out, 5)}")
    print(f"on the other machine: masktrain unpack {shlex.quote(file.name)}")


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="What masktrain pack has written.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty. [default: runs/<its name>]")
    ] = None,
) -> None:
    """Unpack a packed run after checking its contents; no code in it is run."""
    from masktrain.cli import tables
    from masktrain.runs import archive as packing

    made = packing.unpack(file, out)
    print(f"written {made.place}: {counted(made.files, 'file')}, {made.size / 2**20:.1f} MiB, checksums verified")
    tables.next_command("masktrain", "compare", made.place)


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
            print(
                "Warning: everyone who knows this address and can reach this machine can use the page.", file=sys.stderr
            )
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    showing.demo(run, host=host, port=port, device=device, ready=ready)
