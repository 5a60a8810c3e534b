"""The command ``fit``; its options are built from the settings."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskprep.base import UsageError
from masktrain.cli.options import PLUGIN, PROTOCOL, SETTINGS, given_settings, spoken
from masktrain.config.config import FitConfig, describe, kinds_of
from masktrain.data.units import units
from masktrain.study.progress import Progress

if TYPE_CHECKING:
    from masktrain.config.parts import PartPlan
    from masktrain.study.crossfit import Crossfitted
    from masktrain.study.fit import Fitted
    from masktrain.study.seeds import Seeded

SHOWN = {
    "data": "view task where val_ratio fold folds_file split_seed background colour train_bins drop_intervals"
    " label_margin teacher",
    "model": "name second pretrained start dropout freeze",
    "target": "kind",
    "loss": "name label_smoothing class_weights",
    "augment": "recipe mixup cutmix halves",
    "sample": "kind by photos",
    "optim": "epochs batch_size optimizer lr weight_decay layer_decay clip ema",
    "schedule": "kind warmup",
    "select": "by patience",
    "run": "seed minutes probe device amp tta",
}
"""Settings that have an option of their own, by section; --set reaches all."""

BY_SECTION = ("name", "kind", "recipe")
"""Settings whose option is called after their section."""

RESUMED = ("context", "cache", "resume", "plugin", "epochs")
"""Parameters that can be given to a run that goes on."""


FLAGS = {"settings": "--set", "start": "--from"}
"""Options that are not called as their parameters."""


def option_of(key: str) -> str:
    """The parameter of ``fit`` that sets a setting."""
    section, _, name = key.partition(".")
    if name in BY_SECTION or key == "select.by":
        return section
    return "sample_by" if key == "sample.by" else name


OPTIONS = {option_of(key): key for part, names in SHOWN.items() for key in (f"{part}.{n}" for n in names.split())}
"""Parameter of ``fit`` -> setting."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each of :data:`OPTIONS`, with the setting's type, default and help."""
    built = []
    for name, key in OPTIONS.items():
        about, kinds = describe(key), kinds_of(key)
        kind: Any = kinds[0] | None if type(None) in kinds else kinds[0]
        option = typer.Option(
            *([FLAGS[name]] if name in FLAGS else []),
            help=about.metadata["help"],
            show_default=about.default is not None,
        )
        shown = Annotated[kind, option]
        built.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=about.default, annotation=shown))
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]  # without the settings
    split = next(i for i, p in enumerate(own) if p.kind is inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.Signature([*own[:split], *built, *own[split:]])
    command.__signature__ = signature  # type: ignore[attr-defined]
    return command


@with_settings
def fit(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Argument(metavar="CACHE", help="The cache to train on.")] = None,
    *,
    settings: Annotated[list[str] | None, SETTINGS] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Start from the settings of a recipe; see masktrain recipes.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, over those of the recipe.")] = None,
    plugin: Annotated[list[str] | None, PLUGIN] = None,
    protocol: Annotated[Path | None, PROTOCOL] = None,
    deviate: Annotated[
        str,
        typer.Option(metavar="REASON", help="Allow settings that contradict the protocol; the run keeps this reason."),
    ] = "",
    folds: Annotated[str | None, typer.Option(metavar="all", help="Fit every fold, one after another.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Fit once with each seed; prints mean and standard deviation.")
    ] = None,
    parts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml", help="Fit a network for each part of the label in this file, then compose them."
        ),
    ] = None,
    note: Annotated[str, typer.Option("--note", "--hypothesis", help="Note for the run: what it is to find out.")] = "",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show the plan, try some steps and check data and gradients."),
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(help="With --dry-run: a .png or .html file of crops before and after augmentation."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --sheet: overwrite an existing file.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="As --dry-run, and check that one batch can be overfitted (a minute).")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only search a learning rate with a range test of 100 updates.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, new or empty. [default: runs/<model>-<hash>-<number>]")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Resume a run that was stopped; with --epochs N, train a finished one for more epochs."
        ),
    ] = None,
    **chosen: Any,
) -> None:
    """Train a timm model on some of the people; keep the epoch that is best on the others, who are held out."""
    given = spoken(context)
    if resume is not None and (other := given - set(RESUMED)):
        names = ", ".join(FLAGS.get(n, "--" + n.replace("_", "-")) for n in sorted(other))
        raise UsageError(f"A resumed run keeps its settings; {names} cannot be given with --resume.")
    if resume is None and cache is None:
        raise UsageError("No cache is given.", "Give the folder that maskprep made, or --resume RUN.")
    if folds not in (None, "all"):
        raise UsageError(f"--folds is 'all' or not given, not '{folds}'.", "A single fold: --fold 1/5")
    if find_lr and (dry_run or check):
        raise UsageError("--find-lr is given alone, without --dry-run and --check.")
    if sheet is not None and not (dry_run or check):
        raise UsageError("--sheet needs --dry-run or --check.", "The report.html of a run has such pictures, too.")
    values = given_settings(config, settings, plugin)
    if resume is not None:
        _resume(resume, cache, chosen["epochs"] if "epochs" in given else None)
        return
    assert cache is not None
    from masktrain.config import recipes
    from masktrain.config.parts import read_parts
    from masktrain.study import crossfit
    from masktrain.study import protocol as ruling

    values |= {key: chosen[name] for name, key in OPTIONS.items() if name in given}
    plans, route = None if parts is None else read_parts(parts), "soft"
    if recipe is not None:
        from masktrain.cli import show
        from masktrain.study import views

        made_of = recipes.recipe(recipe)
        if made_of.parts and plans is None:
            plans, route = list(made_of.parts), made_of.route
        with show.bars() as bars:
            values = views.recipe(cache, recipe, values, progress=_progress(), bars=bars)
    if plans is not None:
        if dry_run or check or find_lr:
            raise UsageError("--dry-run, --check and --find-lr try one fit.", "Try a part with --task and --where.")
        rules = functools.partial(ruling.settings, cache, named=protocol, deviate=deviate)
        out = out or Path("runs") / (parts.stem if parts is not None else str(recipe))
        _parts(cache, plans, lambda own: rules(values | own), out, folds is not None, note, route)
        return
    if seeds is not None:
        if dry_run or check or find_lr or "seed" in given:
            raise UsageError("--dry-run, --check, --find-lr and --seed try one fit, --seeds are several.")
        from masktrain.study import seeds as several

        own = {s: ruling.settings(cache, values | {"run.seed": s}, protocol, deviate) for s in several.parse(seeds)}
        _seeded(several.fit_seeds(cache, own, out=out, folds=folds is not None, note=note, progress=_progress()))
        return
    made = ruling.settings(cache, values, protocol, deviate)
    for line in ruling.notes(cache, made, protocol):
        _progress().say(line)
    if folds is not None:
        crossfit.check(made)
    if dry_run or check or find_lr:
        from masktrain.cli import show

        if find_lr:
            show.rates(cache, made)
        elif not show.tried(cache, made, sheet, force, heart=check):
            raise typer.Exit(1)
    elif folds is not None:
        _crossfitted(crossfit.crossfit(cache, made, out=out, note=note, progress=_progress()))
    else:
        from masktrain.study import fit as fitting

        _fitted(fitting.fit(cache, made, out=out, note=note, progress=_progress()))


def _parts(
    cache: Path,
    plans: list[PartPlan],
    settings: Callable[[dict[str, Any]], FitConfig],
    out: Path,
    folds: bool,
    note: str,
    route: str,
) -> None:
    """Fit the parts of the label, and print their composition."""
    from masktrain.cli import tables
    from masktrain.study.parts import fit_parts

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("Parts are fitted by one process.", "With torchrun, fit each with --task, then compose them.")
    given = {}
    for part in plans:
        task = ",".join(part.task)
        given[part.name] = (task, settings(part.settings | {"data.task": task, "data.where": part.where}))
    tables.composed(fit_parts(cache, given, out, folds=folds, note=note, route=route, progress=_progress()))


def _rank() -> int:
    """Number of this process among those that torchrun starts; the first one prints."""
    return int(os.environ.get("RANK", "0"))


def _progress() -> Progress:
    from masktrain.cli import show

    return Progress() if _rank() else show.PrintedFit()


def _resume(run: Path, cache: Path | None, epochs: int | None) -> None:
    """Go on with a run, or with all folds or seeds of one."""
    from masktrain.runs import folder as runs
    from masktrain.study import crossfit, seeds
    from masktrain.study import fit as fitting

    folds, seeded = (run / runs.FOLDS).is_file(), (run / seeds.ABOUT).is_file()
    if (folds or seeded) and epochs is not None:
        raise UsageError(f"{run} is several fits, which keep their length.", "Fit anew: masktrain fit CACHE --epochs N")
    if seeded:
        _seeded(seeds.resume_seeds(run, cache, progress=_progress()))
    elif folds:
        _crossfitted(crossfit.resume(run, cache, progress=_progress()))
    else:
        _fitted(fitting.resume(run, cache, epochs=epochs, progress=_progress()))


def _crossfitted(done: Crossfitted) -> None:
    """Print how the fits of all folds went."""
    from statistics import mean, stdev

    from masktrain.cli import tables
    from masktrain.pages import report

    over = units(done.interval.people, done.scores.n)
    title = f"{done.run}: {over}, each scored by the model that was not trained on them"
    tables.scores(title, done.scores, done.interval)
    spread = f"; mean {mean(done.folds):.4f}, standard deviation {stdev(done.folds):.4f}"
    print()
    tables.line(f"epochs  {done.chosen}")
    tables.line(f"folds   macro-F1 {', '.join(f'{f:.4f}' for f in done.folds)}{spread}")
    tables.line(f"look    {done.run / report.FILE}")
    tables.next_evaluate(done.run)


def _seeded(done: Seeded) -> None:
    """Print how the fits of several seeds went."""
    from masktrain.cli import tables

    if _rank():
        return
    each = ", ".join(f"{score:.4f}" for score in done.scores.values())
    tables.line(f"seeds   {', '.join(map(str, done.scores))}: macro-F1 {each}")
    print(f"        mean {done.mean:.4f}, standard deviation {done.spread:.4f}")
    tables.next_command("masktrain", "compare", done.folder)


def _fitted(done: Fitted) -> None:
    """Print how a fit went."""
    from masktrain.cli import tables
    from masktrain.pages import report
    from masktrain.runs import folder as runs
    from masktrain.study import probe
    from masktrain.study.length import improving

    if _rank():
        return
    best, people = done.best, done.interval.people
    over = units(people, sum(runs.read_data(done.run)["classes"]["val"]))
    tables.line(
        f"score   macro-F1 {best['macro_f1']:.4f} (95% over {over}: {done.interval.text()}), accuracy"
        f" {best['accuracy']:.4f}"
    )
    tables.line(f"        {runs.chosen(done.run)}")
    for name, values in best["attributes"].items():
        print(f"        {name}: macro-F1 {values['macro_f1']:.4f}, accuracy {values['accuracy']:.4f}")
    errors = "".join(f", mean absolute error of {name} {error:.2f}" for name, error in best["mae"].items())
    tables.line(f"        balanced accuracy {best['balanced_accuracy']:.4f}, log-loss {best['log_loss']:.4f}{errors}")
    for line in probe.lines(runs.read_probe(done.run), best["macro_f1"]):
        tables.line(line)
    why = {"patience": "later epochs were no better", "minutes": "the time of --minutes was over"}
    if done.ended in why:
        epochs = runs.read_config(done.run).optim.epochs
        tables.line(f"        ended after epoch {done.epochs} of {epochs}, as {why[done.ended]}")
    elif improving(runs.read_metrics(done.run)):
        more = f"masktrain fit --resume {shlex.quote(str(done.run))} --epochs {2 * done.epochs}"
        print(f"        still improving at the end; more epochs may help:\n        {more}")
    print(f"look    {done.run / report.FILE}")
    tables.next_evaluate(done.run)
