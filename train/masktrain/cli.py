"""The command ``masktrain``: reads options, calls the function of the same name, prints what it found."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from maskprep.errors import UsageError, UserError
from masktrain.config import FitConfig, describe, keys, parse

app = typer.Typer(
    help="Train on the crops that maskprep caches, score and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULTS = FitConfig()
OPTIONS: dict[str, str] = {}
"""Parameter of ``fit`` → setting."""


def option(key: str, *names: str) -> Any:
    """A command-line option for a setting, with the setting's own help; its default is the setting's."""
    shown = names[0].removeprefix("--") if names else key.rpartition(".")[2]
    OPTIONS["recipe" if key == "augment.recipe" else shown] = key
    about = describe(key)
    return typer.Option(*names, help=about.metadata["help"], show_default=about.default is not None)


def assignments(texts: list[str]) -> dict[str, Any]:
    """Settings given as ``key=value``.

    Raises:
        UsageError: no such setting, or no value of its type.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set needs KEY=VALUE, not '{text}'.", "For example: --set loss.gamma=3")
        values[key.strip()] = parse(key.strip(), value.strip())
    return values


@app.command()
def fit(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Argument(metavar="CACHE", help="The cache to train on.")] = None,
    view: Annotated[str | None, option("data.view")] = DEFAULTS.data.view,
    val_ratio: Annotated[float, option("data.val_ratio")] = DEFAULTS.data.val_ratio,
    split_seed: Annotated[int, option("data.split_seed")] = DEFAULTS.data.split_seed,
    background: Annotated[str, option("data.background")] = DEFAULTS.data.background,
    colour: Annotated[str, option("data.colour")] = DEFAULTS.data.colour,
    model: Annotated[str, option("model.name", "--model")] = DEFAULTS.model.name,
    pretrained: Annotated[bool, option("model.pretrained")] = DEFAULTS.model.pretrained,
    dropout: Annotated[float, option("model.dropout")] = DEFAULTS.model.dropout,
    target: Annotated[str, option("target.kind", "--target")] = DEFAULTS.target.kind,
    loss: Annotated[str, option("loss.name", "--loss")] = DEFAULTS.loss.name,
    label_smoothing: Annotated[float, option("loss.label_smoothing")] = DEFAULTS.loss.label_smoothing,
    class_weights: Annotated[str, option("loss.class_weights")] = DEFAULTS.loss.class_weights,
    recipe: Annotated[str, option("augment.recipe", "--augment")] = DEFAULTS.augment.recipe,
    epochs: Annotated[int, option("optim.epochs")] = DEFAULTS.optim.epochs,
    batch_size: Annotated[int, option("optim.batch_size")] = DEFAULTS.optim.batch_size,
    optimizer: Annotated[str, option("optim.optimizer")] = DEFAULTS.optim.optimizer,
    lr: Annotated[float, option("optim.lr")] = DEFAULTS.optim.lr,
    weight_decay: Annotated[float, option("optim.weight_decay")] = DEFAULTS.optim.weight_decay,
    warmup: Annotated[float, option("optim.warmup")] = DEFAULTS.optim.warmup,
    clip: Annotated[float, option("optim.clip")] = DEFAULTS.optim.clip,
    ema: Annotated[float, option("optim.ema")] = DEFAULTS.optim.ema,
    seed: Annotated[int, option("run.seed")] = DEFAULTS.run.seed,
    device: Annotated[str, option("run.device")] = DEFAULTS.run.device,
    amp: Annotated[str, option("run.amp")] = DEFAULTS.run.amp,
    tta: Annotated[str, option("run.tta")] = DEFAULTS.run.tta,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as loss.gamma=3; see masktrain settings."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty. [default: runs/<model>-<hash>-<number>]")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
) -> None:
    """Train a timm model on people, keep the epoch that is best on people held out."""
    given = [
        name
        for name in (*OPTIONS, "settings", "out")
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if resume is not None and given:
        names = ", ".join("--" + {"recipe": "augment", "settings": "set"}.get(n, n).replace("_", "-") for n in given)
        raise UsageError(f"A resumed run keeps its settings; {names} cannot be given with --resume.")
    if resume is None and cache is None:
        raise UsageError("Which cache? Give the folder that maskprep made, or --resume RUN.")
    values = {key: context.params[name] for name, key in OPTIONS.items()}
    config = FitConfig.from_keys(values | assignments(settings or []))
    from masktrain import fit as fitting
    from masktrain import show

    progress = show.PrintedFit()
    if resume is not None:
        fitted = fitting.resume(resume, cache, progress=progress)
    else:
        assert cache is not None
        fitted = fitting.fit(cache, config, out=out, progress=progress)
    low, high = fitted.interval.low, fitted.interval.high
    print(
        f"best    epoch {fitted.best['epoch']}: macro-F1 {fitted.best['macro_f1']:.4f}"
        f" (95% over {fitted.interval.people} people: {low:.4f} to {high:.4f}),"
        f" accuracy {fitted.best['accuracy']:.4f}"
    )
    for name, values in fitted.best["attributes"].items():
        print(f"        {name}: macro-F1 {values['macro_f1']:.4f}, accuracy {values['accuracy']:.4f}")
    print(f"next    masktrain evaluate {fitted.run} CACHE")


@app.command()
def settings() -> None:
    """List every setting with its default, its help and where it comes from."""
    for key in keys():
        about = describe(key)
        default = about.default if not isinstance(about.default, tuple) else ",".join(map(str, about.default))
        print(f"{key} = {'none' if default is None else default}")
        print(f"    {about.metadata['help']} ({about.metadata['source']})")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache with the images to score.")],
    answers: Annotated[
        Path | None, typer.Option(help="CSV with ImageID and ans (or label, or a column per attribute).")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, eval or val. [default: eval if it has labels, otherwise val]")
    ] = None,
    view: Annotated[str | None, typer.Option(help="View of the cache. [default: the run's]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    tta: Annotated[str | None, typer.Option(help="none or mirror. [default: as the run was validated]")] = None,
) -> None:
    """Score a run: macro-F1 with its interval over people, each attribute, each class."""
    from masktrain import evaluate as evaluating
    from masktrain import show

    report = evaluating.evaluate(
        run, cache, split=split, answers=answers, view=view, batch_size=batch_size, device=device, tta=tta
    )
    show.scores(f"{report.run} on {report.what}, {report.interval.people} people", report.scores, report.interval)
    if report.without_crop:
        print(
            f"{len(report.without_crop)} without a crop, answered with the most frequent training class:"
            f" {', '.join(report.without_crop[:5])}{', ...' if len(report.without_crop) > 5 else ''}"
        )
    for warning in report.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"written {report.file}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    source: Annotated[Path, typer.Argument(metavar="PHOTOS|CACHE", help="A photo, a folder of photos, or a cache.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    split: Annotated[str | None, typer.Option(help="train or eval, for a cache. [default: all]")] = None,
    view: Annotated[str | None, typer.Option(help="View of the cache. [default: the run's]")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    tta: Annotated[str | None, typer.Option(help="none or mirror. [default: as the run was validated]")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that prepare raw photos. [default: one per core]")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when a photo has no answer.")] = False,
) -> None:
    """Write ImageID,ans for every photo; raw photos are prepared as the training photos were."""
    from masktrain import predict as predicting

    written = predicting.predict(
        run,
        source,
        out,
        proba=proba,
        split=split,
        view=view,
        batch_size=batch_size,
        device=device,
        tta=tta,
        workers=workers,
    )
    print(f"written {written.file}: {written.rows} photos, {written.rows - len(written.unanswered)} with an answer")
    if written.unanswered:
        examples = [f"{name} ({why})" for name, why in list(written.unanswered.items())[:5]]
        more = ", ..." if len(written.unanswered) > 5 else ""
        print(f"{len(written.unanswered)} without an answer: {', '.join(examples)}{more}", file=sys.stderr)
        if strict:
            raise typer.Exit(3)


def main() -> None:
    """Entry point: errors meant for people are printed, not traced."""
    # Before torch is loaded: threads that spin while they wait take the cores from each other and from everyone else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        print(f"Error: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
