"""The command ``masktrain``: reads options, calls the function of the same name, prints what it found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from maskprep import __version__
from maskprep.base import UsageError, entry, panelled
from masktrain.cli import answers as cli_answers
from masktrain.cli import rules as cli_rules
from masktrain.cli import runs as cli_runs
from masktrain.config.config import FitConfig, assignments, describe, keys, named
from masktrain.study.progress import Progress

PANELS = {
    "Before the first fit": ("init", "folds", "models", "recipes", "settings"),
    "Train": ("fit", "sweep"),
    "Look and compare": ("evaluate", "compare", "report", "explain"),
    "Make more of runs": ("ensemble", "compose", "calibrate"),
    "Use": ("predict", "export", "pack", "unpack", "demo"),
}
"""Commands in the order of the work."""

app = typer.Typer(
    cls=panelled(PANELS),
    help="Train on the crops that maskprep caches, score and predict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DEFAULTS = FitConfig()
TRIALS = ("dry_run", "check", "find_lr")
"""Parameters of ``fit`` that try something out and write nothing."""

OPTIONS: dict[str, str] = {}
"""Parameter of ``fit`` → setting."""

REST = ("settings", "recipe", "config", "protocol", "deviate", "folds", "note", *TRIALS, "sheet", "force", "out")
"""Parameters of ``fit`` that are no settings and cannot be given to one that goes on."""


def option(key: str, *names: str) -> Any:
    """A command-line option for a setting, with the setting's own help; its default is the setting's."""
    shown = names[0].removeprefix("--").replace("-", "_") if names else key.rpartition(".")[2]
    OPTIONS[shown] = key
    about = describe(key)
    return typer.Option(*names, help=about.metadata["help"], show_default=about.default is not None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"masktrain {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Argument(metavar="CACHE", help="The cache to train on.")] = None,
    view: Annotated[str | None, option("data.view")] = DEFAULTS.data.view,
    task: Annotated[str, option("data.task", "--task")] = DEFAULTS.data.task,
    where: Annotated[str, option("data.where", "--where")] = DEFAULTS.data.where,
    val_ratio: Annotated[float, option("data.val_ratio")] = DEFAULTS.data.val_ratio,
    fold: Annotated[str, option("data.fold")] = DEFAULTS.data.fold,
    folds_file: Annotated[str | None, option("data.folds_file")] = DEFAULTS.data.folds_file,
    split_seed: Annotated[int, option("data.split_seed")] = DEFAULTS.data.split_seed,
    background: Annotated[str, option("data.background")] = DEFAULTS.data.background,
    colour: Annotated[str, option("data.colour")] = DEFAULTS.data.colour,
    model: Annotated[str, option("model.name", "--model")] = DEFAULTS.model.name,
    second: Annotated[str, option("model.second")] = DEFAULTS.model.second,
    pretrained: Annotated[bool, option("model.pretrained")] = DEFAULTS.model.pretrained,
    dropout: Annotated[float, option("model.dropout")] = DEFAULTS.model.dropout,
    freeze: Annotated[int, option("model.freeze")] = DEFAULTS.model.freeze,
    target: Annotated[str, option("target.kind", "--target")] = DEFAULTS.target.kind,
    loss: Annotated[str, option("loss.name", "--loss")] = DEFAULTS.loss.name,
    label_smoothing: Annotated[float, option("loss.label_smoothing")] = DEFAULTS.loss.label_smoothing,
    class_weights: Annotated[str, option("loss.class_weights")] = DEFAULTS.loss.class_weights,
    augment: Annotated[str, option("augment.recipe", "--augment")] = DEFAULTS.augment.recipe,
    mixup: Annotated[float, option("augment.mixup")] = DEFAULTS.augment.mixup,
    cutmix: Annotated[float, option("augment.cutmix")] = DEFAULTS.augment.cutmix,
    halves: Annotated[float, option("augment.halves")] = DEFAULTS.augment.halves,
    sample: Annotated[str, option("sample.kind", "--sample")] = DEFAULTS.sample.kind,
    sample_by: Annotated[str, option("sample.by", "--sample-by")] = DEFAULTS.sample.by,
    photos: Annotated[int, option("sample.photos")] = DEFAULTS.sample.photos,
    epochs: Annotated[int, option("optim.epochs")] = DEFAULTS.optim.epochs,
    batch_size: Annotated[int, option("optim.batch_size")] = DEFAULTS.optim.batch_size,
    optimizer: Annotated[str, option("optim.optimizer")] = DEFAULTS.optim.optimizer,
    lr: Annotated[float, option("optim.lr")] = DEFAULTS.optim.lr,
    weight_decay: Annotated[float, option("optim.weight_decay")] = DEFAULTS.optim.weight_decay,
    layer_decay: Annotated[float, option("optim.layer_decay")] = DEFAULTS.optim.layer_decay,
    schedule: Annotated[str, option("schedule.kind", "--schedule")] = DEFAULTS.schedule.kind,
    warmup: Annotated[float, option("schedule.warmup")] = DEFAULTS.schedule.warmup,
    clip: Annotated[float, option("optim.clip")] = DEFAULTS.optim.clip,
    ema: Annotated[float, option("optim.ema")] = DEFAULTS.optim.ema,
    select: Annotated[str, option("select.by", "--select")] = DEFAULTS.select.by,
    patience: Annotated[int, option("select.patience")] = DEFAULTS.select.patience,
    train_bins: Annotated[str | None, option("data.train_bins")] = DEFAULTS.data.train_bins,
    drop_intervals: Annotated[str | None, option("data.drop_intervals")] = DEFAULTS.data.drop_intervals,
    label_margin: Annotated[str | None, option("data.label_margin")] = DEFAULTS.data.label_margin,
    seed: Annotated[int, option("run.seed")] = DEFAULTS.run.seed,
    device: Annotated[str, option("run.device")] = DEFAULTS.run.device,
    amp: Annotated[str, option("run.amp")] = DEFAULTS.run.amp,
    tta: Annotated[str, option("run.tta")] = DEFAULTS.run.tta,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as loss.gamma=3; see masktrain settings."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Start from the settings of a recipe; see masktrain recipes.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, over those of the recipe.")] = None,
    plugin: Annotated[list[str] | None, cli_runs.PLUGIN] = None,
    protocol: Annotated[Path | None, cli_rules.PROTOCOL] = None,
    deviate: Annotated[
        str, typer.Option(metavar="REASON", help="Allow settings that contradict the protocol; the run keeps why.")
    ] = "",
    folds: Annotated[str | None, typer.Option(metavar="all", help="Fit every fold, one after another.")] = None,
    note: Annotated[str, typer.Option("--note", "--hypothesis", help="What the run is to find out.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and try some steps.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="With --dry-run: a .png or .html of crops as they are and as they are trained on."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --sheet: write over any file that is there.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only check data, gradients and learning before a long fit (a minute).")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only look for a learning rate: a range test of 100 updates.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty. [default: runs/<model>-<hash>-<number>]")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
) -> None:
    """Train a timm model on people, keep the epoch that is best on people held out."""
    given = {
        name for name in (*OPTIONS, *REST) if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if resume is not None and given:
        names = ", ".join("--" + {"settings": "set"}.get(n, n).replace("_", "-") for n in sorted(given))
        raise UsageError(f"A resumed run keeps its settings; {names} cannot be given with --resume.")
    if resume is None and cache is None:
        raise UsageError("Which cache? Give the folder that maskprep made, or --resume RUN.")
    if folds not in (None, "all"):
        raise UsageError(f"--folds is 'all' or not given, not '{folds}'.", "A single fold: --fold 1/5")
    tried = [name for name in TRIALS if context.params[name]]
    if len(tried) > 1:
        raise UsageError(f"{' and '.join('--' + n.replace('_', '-') for n in tried)} are given one at a time.")
    values: dict[str, Any] = {}
    loaded = cli_runs.load(plugin)
    if recipe is not None or config is not None:
        from masktrain.config import recipes

        for source in (recipe, config):
            values |= recipes.read(source) if source is not None else {}
    values |= cli_rules.checked(assignments(settings or [])) | loaded
    values |= {key: context.params[n] for n, key in OPTIONS.items() if n in given}
    if sheet is not None and not dry_run:
        raise UsageError("--sheet shows what a --dry-run tries.", "Give both; report.html of a run has such pictures.")
    chosen = FitConfig.from_keys(values) if cache is None else cli_rules.ruled(cache, values, protocol, deviate)
    if folds is not None:
        from masktrain.study import crossfit

        crossfit.check(chosen)
    if tried:
        assert cache is not None
        _try(tried[0], cache, chosen, sheet, force)
        return
    _fit(cache, chosen, resume, folds is not None, note, out)


def _try(kind: str, cache: Path, config: FitConfig, sheet: Path | None, force: bool) -> None:
    """Try a fit out; exit 1 if a check failed."""
    from masktrain.cli import show

    if kind == "check":
        if not show.checked(cache, config):
            raise typer.Exit(1)
    elif kind == "find_lr":
        show.rates(cache, config)
    else:
        show.planned(cache, config, sheet, force)


def _fit(cache: Path | None, config: FitConfig, resume: Path | None, folds: bool, note: str, out: Path | None) -> None:
    """Fit, and print how it went."""
    from statistics import mean, stdev

    from masktrain.cli import show
    from masktrain.pages import report
    from masktrain.runs import folder as runs
    from masktrain.study import crossfit
    from masktrain.study import fit as fitting

    rank = int(os.environ.get("RANK", "0"))  # of the processes that torchrun starts, the first one speaks
    progress = Progress() if rank else show.PrintedFit()
    if folds or (resume is not None and (resume / runs.FOLDS).is_file()):
        if resume is not None:
            whole = crossfit.resume(resume, cache, progress=progress)
        else:
            assert cache is not None
            whole = crossfit.crossfit(cache, config, out=out, note=note, progress=progress)
        people = f"{whole.interval.people} people, each by the model that did not know them"
        show.scores(f"{whole.run}: {people}", whole.scores, whole.interval)
        spread = f"; mean {mean(whole.folds):.4f}, standard deviation {stdev(whole.folds):.4f}"
        print(f"folds   macro-F1 {', '.join(f'{f:.4f}' for f in whole.folds)}{spread}")
        print(f"next    masktrain evaluate {whole.run} CACHE (the mean of all models)")
        return
    if resume is not None:
        fitted = fitting.resume(resume, cache, progress=progress)
    else:
        assert cache is not None
        fitted = fitting.fit(cache, config, out=out, note=note, progress=progress)
    if rank:
        return
    low, high = fitted.interval.low, fitted.interval.high
    soup = fitted.best.get("soup")
    which = f"mean of epochs {', '.join(map(str, soup))}" if soup else f"epoch {fitted.best['epoch']}"
    print(
        f"best    {which}: macro-F1 {fitted.best['macro_f1']:.4f}"
        f" (95% over {fitted.interval.people} people: {low:.4f} to {high:.4f}),"
        f" accuracy {fitted.best['accuracy']:.4f}"
    )
    for name, values in fitted.best["attributes"].items():
        print(f"        {name}: macro-F1 {values['macro_f1']:.4f}, accuracy {values['accuracy']:.4f}")
    if fitted.epochs < (epochs := runs.read_config(fitted.run).optim.epochs):
        print(f"        ended after epoch {fitted.epochs} of {epochs}, as none was better for long enough")
    print(f"look    {fitted.run / report.FILE}")
    print(f"next    masktrain evaluate {fitted.run} CACHE")


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the recipes that come with masktrain, or show one."""
    from masktrain.config import recipes as known

    if name is not None:
        print(known.text(name), end="")
        return
    for each in known.names():
        print(f"{each:14} {known.text(each).partition(chr(10))[0].removeprefix('# ')}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, or folders that hold runs.")],
    on: Annotated[
        str, typer.Option(help="val (the people held out), or eval (as masktrain evaluate --split eval has kept).")
    ] = "val",
    out: Annotated[Path | None, typer.Option(help="Write the table to this .html or .md file, too.")] = None,
) -> None:
    """Show runs beside each other: scores, each paired with the best, and the settings in which they differ."""
    from masktrain.cli import show
    from masktrain.pages import compare as comparing

    made = comparing.compare(runs, on)
    show.comparison(made)
    if out is not None:
        from masktrain.pages import standings

        print(f"written {standings.write(made, out)}")


@app.command()
def folds(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="The cache with the people.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    count: Annotated[int, typer.Option("--folds", min=2, help="How many.")] = 5,
    split_seed: Annotated[int, typer.Option(min=0, help="Which split.")] = 0,
    view: Annotated[str | None, typer.Option(help="View of the cache.")] = None,
) -> None:
    """Write the fold of every person to a file, to use the same folds everywhere (fit --folds-file)."""
    from maskprep.dataset import open_view
    from masktrain.data import folds as folding

    written = folding.write_file(open_view(cache, view), count, split_seed, out)
    print(f"written {out}: {written} people in {count} folds")


@app.command()
def settings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY|SECTION]...", help="Only these, such as loss or optim.lr.")
    ] = None,
) -> None:
    """List every setting with its default, its help and where it comes from (what S1.24 is: docs/training.md)."""
    for key in dict.fromkeys(key for name in names for key in named(name)) if names else keys():
        about = describe(key)
        default = about.default if not isinstance(about.default, tuple) else ",".join(map(str, about.default))
        print(f"{key} = {'none' if default is None else default}")
        print(f"    {about.metadata['help']} ({about.metadata['source']})")


cli_rules.register(app)
cli_answers.register(app)
cli_runs.register(app)


def main() -> None:
    """Entry point: errors meant for people are printed, not traced."""
    # Before torch is loaded: threads that spin while they wait take the cores from each other and from everyone else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    entry.run(app, "Interrupted.")


if __name__ == "__main__":
    main()
