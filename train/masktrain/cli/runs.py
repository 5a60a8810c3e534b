"""Commands about what was trained: export it, combine, calibrate, explain and compare it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from masktrain.cli import rules as cli_rules
from masktrain.config.config import assignments

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run or ensemble.")]

Force = Annotated[bool, typer.Option("--force", help="With --out: write over any file that is there.")]

PLUGIN = typer.Option(
    metavar="FILE.py|MODULE", help="Code of yours that adds losses, recipes, schedules or ways of sampling; repeatable."
)


def load(names: list[str] | None) -> dict[str, Any]:
    """Import the plugins that were named, and the setting that tells of them."""
    from masktrain.config import plugins

    return {"run.plugins": list(plugins.load(names))} if names else {}


def export(
    run: Run,
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
    seed: Annotated[int, typer.Option(help="Which folds of the people the scoring uses.")] = 0,
    device: Annotated[str, typer.Option(help="For soup and kept epochs: auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Make one run of several; scored on people that neither the runs nor what combines them has seen."""
    from masktrain.cli import show_runs
    from masktrain.combine import ensemble as combining

    show_runs.ensemble(combining.ensemble(given, out, kind=kind, cache=cache, seed=seed, budget=budget, device=device))


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
    from masktrain.cli import show, show_runs
    from masktrain.combine import compose as composing

    made = composing.compose(given, out, route=route)
    show.scores(
        f"{made.run}: {made.images} held-out images of {made.interval.people} people", made.scores, made.interval
    )
    show_runs.parts(made)


def pack(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="The file to write.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="With what fit --resume needs too: the last checkpoint, weights of epochs.")
    ] = False,
) -> None:
    """Write a run or an ensemble into one file, without code, to use it at another place."""
    from masktrain.runs import archive as packing

    made = packing.pack(run, file, whole=whole)
    print(f"written {made.place}: {made.files} files of {made.name}, {made.size / 2**20:.1f} MiB")
    if made.left_out:
        print(f"left out {', '.join(made.left_out[:5])}{', ...' if len(made.left_out) > 5 else ''}")
    print(f"next    masktrain unpack {file} --out FOLDER")


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
    print(f"next    masktrain evaluate {made.place} CACHE")


def calibrate(
    run: Run,
    thresholds: Annotated[
        str,
        typer.Option(help="Keep limits per class: when their gain is clear (above noise), always or never."),
    ] = "clear",
    seed: Annotated[int, typer.Option(help="Which folds of the people the scoring uses.")] = 0,
) -> None:
    """Fit a temperature, and limits per class for macro-F1, on held-out people; the run uses them from then on."""
    from masktrain.cli import show_runs
    from masktrain.combine import calibrate as calibrating

    show_runs.calibrated(calibrating.calibrate(run, thresholds=thresholds, seed=seed))


def explain(
    run: Run,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache with the images.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to. [default: RUN/explain]")] = None,
    method: Annotated[
        str, typer.Option(help="gradcam, gradcam++, hirescam, layercam, xgradcam or eigencam.")
    ] = "gradcam",
    split: Annotated[
        str | None, typer.Option(help="train, eval or val. [default: eval if it has labels, otherwise val]")
    ] = None,
    answers: Annotated[Path | None, typer.Option(help="CSV with ImageID and ans, as for evaluate.")] = None,
    view: Annotated[str | None, typer.Option(help="View of the cache. [default: the run's]")] = None,
    also: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Count the answers of this run too: wrong in k of n.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Images shown of each pair of classes.")] = 8,
    sure: Annotated[float, typer.Option(help="A wrong answer at least this probable becomes a draft decision.")] = 0.9,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
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
    print(f"decide  {done.drafted} drafted decisions in {done.draft}; take out what is wrong, then:")
    print(f"        maskprep decisions {cache} --merge {done.draft}; maskprep review {cache}")


def sweep(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache to train on.")],
    space: Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="What is fixed, and what varies in which range.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep. [default: runs/sweep-SPACE]")] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many fits, those done before included.", show_default="20, of a grid all combinations"
        ),
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Begin no trial that would end after so many.")] = None,
    folds: Annotated[
        str | None,
        typer.Option(help="'all' scores each trial on everyone, by all folds (data.val_ratio says how many)."),
    ] = None,
    kind: Annotated[str, typer.Option(help="tpe (learns from the trials before), random or grid.")] = "tpe",
    prune: Annotated[
        bool,
        typer.Option("--prune/--no-prune", help="Give up trials below the median of the others at the same epoch."),
    ] = True,
    recipe: Annotated[str | None, typer.Option(help="Recipe to start from.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any fixed setting.")] = None,
    protocol: Annotated[Path | None, cli_rules.PROTOCOL] = None,
    plugin: Annotated[list[str] | None, PLUGIN] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which settings are proposed.")] = 0,
    workers: Annotated[
        int,
        typer.Option(min=1, help="So many trials at once, by Ray (pip install 'maskprep[ray]'); random or grid only."),
    ] = 1,
) -> None:
    """Look for good settings: many fits over a space of them, within so many trials or hours; goes on if stopped."""
    from maskprep.base import UsageError
    from masktrain.cli import show, show_runs
    from masktrain.config import recipes
    from masktrain.study import space as spaces
    from masktrain.study import sweep as sweeping

    if folds not in (None, "all"):
        raise UsageError(f"--folds is 'all' or not given, not '{folds}'.")
    loaded = load(plugin)
    base = (recipes.read(recipe) if recipe else {}) | cli_rules.checked(assignments(settings or [])) | loaded
    varied = spaces.read(space)
    done = sweeping.sweep(
        cache,
        varied,
        out or Path("runs") / f"sweep-{space.stem}",
        base=cli_rules.swept(cache, base, varied, protocol),
        trials=trials,
        hours=hours,
        folds=folds is not None,
        kind=kind,
        prune=prune,
        seed=seed,
        workers=workers,
        progress=show.PrintedFit(),
        each=show_runs.trial,
    )
    show_runs.swept(done)


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
    from maskprep.base import UsageError
    from masktrain.pages import compare, standings
    from masktrain.pages import report as reporting
    from masktrain.train.checkpoint import SIDECAR

    caches = [path for path in given if (path / "dataset.json").is_file()]
    folders = [path for path in given if path not in caches]
    whole = len(folders) == 1 and (folders[0] / SIDECAR).is_file() and out is None
    if whole and len(caches) <= 1:
        print(f"written {reporting.report(folders[0], caches[0] if caches else None)}")
        return
    if caches:
        raise UsageError(f"{caches[0]} is a cache; a page over several runs needs none.")
    found = compare.compare(folders)
    if found.unfinished:
        print(f"not finished, so not ranked: {', '.join(found.unfinished)}")
    print(f"written {standings.write(found, out or Path(standings.FILE))}")


def demo(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run or ensemble, or an exported .onnx.")],
    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
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


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="timm's names, or globs such as 'resnet*'.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train and ask each one here, at its native size, from random weights.")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Show what your own runs in this folder scored.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once while measuring.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
) -> None:
    """Tell what models cost: parameters, native size, weights and licence, speed and memory; by default some of each
    family, with when to use it."""
    from masktrain.cli import show_runs
    from masktrain.study import models as known

    scored = known.own_scores(runs) if runs is not None else None
    show_runs.models(known.choose(names or (), tuple(scored or ())), scored, measure, device, batch_size)


def register(app: typer.Typer) -> None:
    """Add the commands to masktrain's."""
    for command in (sweep, models, report, export, ensemble, compose, pack, unpack, calibrate, explain, demo):
        app.command()(command)
