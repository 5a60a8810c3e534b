"""Many fits over a space of settings, proposed by Optuna, with a budget; finished trials are kept and never redone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from maskprep.base import UsageError, UserError, missing_extra, read_json, write_atomic, write_json
from maskprep.store import Cache
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import crossfit
from masktrain.study import fit as fitting
from masktrain.study.progress import Progress
from masktrain.study.space import Space
from masktrain.study.trials import Trial, below_median, epochs_of, folder, read, write
from masktrain.study.workers import in_order as side_by_side
from masktrain.train import feed
from masktrain.train.checkpoint import LAST

ABOUT, BEST = "sweep.json", "best.yaml"
KINDS = ("tpe", "random", "grid")
TRIALS_USUAL = 20
HOPELESS = 3
"""So many failures at the start end a sweep."""
WEIGHED = 10
"""So many finished trials it takes to say which settings matter."""


@dataclass(frozen=True)
class Swept:
    """Trials in order, the best, how much each setting matters (0..1, sum 1; empty with few trials), and how many
    trials there are to be in all."""

    out: Path
    trials: list[Trial]
    best: Trial | None
    importance: dict[str, float]
    out_of_time: bool
    total: int


class _PrunedError(Exception):
    """A trial that is not worth going on with."""


class _Watched(Progress):
    """Passes everything on, and gives a trial up after an epoch that leaves no hope."""

    def __init__(self, inner: Progress, hopeless: Callable[[], bool]) -> None:
        self.inner, self.hopeless = inner, hopeless

    @contextmanager
    def running(
        self, run: Path, config: FitConfig, data: dict[str, Any], about: dict[str, Any], done: int, step: int
    ) -> Iterator[None]:
        """See :class:`masktrain.study.progress.Progress`."""
        with self.inner.running(run, config, data, about, done, step):
            yield

    def say(self, text: str) -> None:
        """See :class:`masktrain.study.progress.Progress`."""
        self.inner.say(text)

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """See :class:`masktrain.study.progress.Progress`."""
        self.inner.step(epoch, images, loss, waited)

    def epoch(self, record: dict[str, Any]) -> None:
        """See :class:`masktrain.study.progress.Progress`."""
        self.inner.epoch(record)
        if self.hopeless():
            raise _PrunedError


def sweep(
    cache: Path,
    space: Space,
    out: Path,
    *,
    base: dict[str, Any] | None = None,
    trials: int | None = None,
    hours: float | None = None,
    folds: bool = False,
    kind: str = "tpe",
    prune: bool = True,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    each: Callable[[Trial, Swept], None] = lambda trial, sofar: None,
) -> Swept:
    """Fit again and again, each time with settings that what was found so far makes promising.

    The objective is macro-F1 on the held-out people: of the one split, or with ``folds`` of everyone. What is proposed
    depends on the seed and on the finished trials alone, so that a sweep that was stopped goes on as if it had not
    been. TPE: Bergstra et al., NeurIPS 2011; pruning by the median: Golovin et al., KDD 2017.

    Args:
        cache: to train on.
        space: what is fixed and what varies.
        out: folder of the sweep; one that exists goes on if its settings are the same.
        base: further fixed settings, flat; they come over those of the space.
        trials: how many in all, those done before included; by default 20, of a grid all combinations.
        hours: no trial but the first is begun that would end after so many, counted from now.
        kind: tpe, random or grid.
        prune: give up a trial whose score is below the median of the others at the same epoch.
        workers: so many trials at once, by Ray; they are those that one worker would do, with the same results.
        progress: shows each fit; not with several workers.
        each: called after every trial, with all so far.

    Raises:
        UserError: Optuna is missing, the cache or the settings cannot be used (nothing is written then), ``out`` is
            another sweep, or stopped by Ctrl-C or SIGTERM (exit 130 and 143).
    """
    Cache(cache).clear_of_photos(out)
    if hours is not None and not hours >= 0:
        raise UsageError(f"--hours must be 0 or more, not {hours}.")
    if kind not in KINDS:
        raise UsageError(f"There is no kind '{kind}'.", f"There are: {', '.join(KINDS)}.")
    _check_workers(workers, kind, prune, "run.plugins" in (base or {}))
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fixed = space.fixed | (base or {})
    if varied := sorted({v.key for v in space.varied} & set(base or {})):
        raise UsageError(f"{varied[0]} is both varied and fixed.", "Leave it out of --set or out of the space.")
    space = dataclasses.replace(space, fixed=fixed)
    space.check()
    combinations = space.grid() if kind == "grid" else []
    total = min(trials or len(combinations), len(combinations)) if combinations else trials or TRIALS_USUAL
    _open(out, cache, space, folds, kind, prune, seed)
    started = time.monotonic()
    with runs.locked(out), _stoppable(out):
        done = read(out, {v.key for v in space.varied})

        def in_time() -> bool:
            usual = sum(t.seconds for t in done) / len(done) if done else 0.0
            return not done or hours is None or time.monotonic() - started + usual <= hours * 3600

        def keep(trial: Trial) -> None:
            done.append(trial)
            write(out, done)
            sofar = _swept(out, space, done, total, seed)
            if sofar.best is not None:
                _write_best(out, fixed | sofar.best.values, sofar)
            each(trial, sofar)
            if len(done) == HOPELESS and all(t.state == "failed" for t in done):
                raise UserError(f"None of the first {HOPELESS} trials could be trained: {trial.why}")

        def values(number: int) -> dict[str, Any]:
            return combinations[number - 1] if combinations else _proposed(space, done, kind, seed, number)

        if workers > 1:
            where = (cache.resolve(), out.resolve())
            given = [(*where, fixed, number, values(number), folds) for number in range(len(done) + 1, total + 1)]
            for trial in side_by_side(_trial, given, workers, in_time):
                keep(trial)
        while workers == 1 and len(done) < total and in_time():
            number = len(done) + 1
            keep(_trial(cache, out, fixed, number, values(number), folds, done if prune else [], progress))
        return _swept(out, space, done, total, seed, out_of_time=len(done) < total)


def _check_workers(workers: int, kind: str, prune: bool, plugins: bool) -> None:
    """Refuse what several workers cannot do as one does.

    Raises:
        UsageError: saying what and why.
    """
    if workers == 1:
        return
    if kind == "tpe":
        said = "tpe learns from the trials before, so they cannot be done side by side."
        raise UsageError(said, "Use --kind random or grid with --workers.")
    if prune:
        said = "What is pruned depends on the trials before, so they cannot be done side by side."
        raise UsageError(said, "Use --no-prune with --workers.")
    if plugins:
        raise UsageError("Plugins are loaded in this process alone.", "Leave --workers away.")


@contextmanager
def _stoppable(out: Path) -> Iterator[None]:
    """Say after Ctrl-C or SIGTERM how the sweep goes on; a trial alone would speak of itself."""
    code = 130
    try:
        yield
        return
    except KeyboardInterrupt:
        pass
    except UserError as error:
        if error.code not in (130, 143):
            raise
        code = error.code
    raise UserError(f"The sweep {out} was stopped; all that is done is kept.", "The same command goes on.", code=code)


def _open(out: Path, cache: Path, space: Space, folds: bool, kind: str, prune: bool, seed: int) -> None:
    """Write down what is swept and on what, or see that it is what was swept here before.

    Raises:
        UserError: the cache or the settings cannot be used; then nothing is written.
    """
    about = {
        "cache": str(cache.resolve()),
        "data": _data(cache, space, folds),
        "fixed": space.fixed,
        "space": [asdict(v) for v in space.varied],
        "folds": folds,
        "kind": kind,
        "prune": prune,
        "seed": seed,
    }
    about = json.loads(json.dumps(about))
    if (out / ABOUT).is_file():
        before = read_json(out / ABOUT, {}, "Choose another --out.")
        if other := [key for key in about if before.get(key) != about[key]]:
            if other == ["data"]:
                raise UsageError(
                    f"The cache {cache} has changed since {out} was begun: other crops, mattes, labels or people.",
                    "Trials on both cannot be compared; choose another --out.",
                )
            raise UsageError(f"{out} is a sweep with other settings: {', '.join(other)}.", "Choose another --out.")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists and is no sweep.", "Choose another --out.")
    write_json(out / ABOUT, about)


def _data(cache: Path, space: Space, folds: bool) -> dict[str, Any]:
    """What the first trial that can be fitted is trained on.

    Raises:
        UserError: no trial can be; what stands in the way of the first one.
    """
    problem: UserError | None = None
    tried: set[tuple[Any, ...]] = set()
    for values in space.some():
        try:
            config = FitConfig.from_keys(space.fixed | values)
            looked_at = (config.data, config.target, config.sample, config.select, config.run, config.model.head)
            if looked_at in tried:
                continue
            tried.add(looked_at)
            if folds:
                crossfit.check(config)
            view = feed.opened(cache, config)
            training = fitting.check(view, feed.settled(view, config))
        except UserError as error:
            problem = problem or error
        else:
            grounds = {space.fixed.get("data.background", "original")}
            grounds |= {value for v in space.varied if v.key == "data.background" for value in v.values}
            record = runs.data_record(view, training)
            kept = ("view", "fingerprint", "folds", "extra", *(["mattes"] if grounds != {"original"} else []))
            return {key: record[key] for key in kept}
    assert problem is not None
    raise problem


def _study(space: Space, done: list[Trial], kind: str, seed: int, number: int) -> Any:
    """Optuna's study of the finished trials, with a sampler that is the same whenever it is asked for a trial."""
    import optuna

    samplers = optuna.samplers
    own = seed * 1_000_003 + number - 1
    sampler = samplers.RandomSampler(own) if kind == "random" else samplers.TPESampler(seed=own, multivariate=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    distributions = {v.key: v.distribution() for v in space.varied}
    for trial in done:
        if trial.score is not None:
            study.add_trial(
                optuna.trial.create_trial(
                    state=states[trial.state],
                    value=trial.score,
                    params={v.key: v.drawn(trial.values[v.key]) for v in space.varied},
                    distributions=distributions,
                    intermediate_values=dict(enumerate(trial.epochs)),
                )
            )
    return study


def _proposed(space: Space, done: list[Trial], kind: str, seed: int, number: int) -> dict[str, Any]:
    drawn = _study(space, done, kind, seed, number).ask({v.key: v.distribution() for v in space.varied}).params
    return {v.key: v.meant(drawn[v.key]) for v in space.varied}


def _trial(
    cache: Path,
    out: Path,
    fixed: dict[str, Any],
    number: int,
    values: dict[str, Any],
    folds: bool,
    before: Sequence[Trial] = (),
    progress: Progress | None = None,
) -> Trial:
    """One trial; one of settings that do not go together has failed."""
    try:
        config = FitConfig.from_keys(fixed | values)
    except UsageError as error:
        return Trial(number, values, None, "failed", 0.0, [], error.message)
    return _fit(cache, config, out, number, values, folds, before, progress)


def _fit(
    cache: Path,
    config: FitConfig,
    out: Path,
    number: int,
    values: dict[str, Any],
    folds: bool,
    before: Sequence[Trial],
    progress: Progress | None,
) -> Trial:
    """One trial, from where it was stopped if it was."""
    run = out / folder(number)
    watched = _Watched(progress or Progress(), lambda: below_median(epochs_of(run), [t.epochs for t in before]))
    started = time.monotonic()

    def trial(score: float | None, state: str, why: str = "") -> Trial:
        return Trial(number, values, score, state, round(time.monotonic() - started, 1), epochs_of(run), why)

    record = run / (runs.FOLDS if folds else LAST)
    if run.is_dir() and not record.is_file():
        shutil.rmtree(run)  # killed before there was anything to go on with
    begun = run.is_dir()
    try:
        if folds:
            whole = crossfit.resume(run, progress=watched) if begun else None
            whole = whole or crossfit.crossfit(cache, config, out=run, progress=watched)
            return trial(whole.scores.macro_f1, "done")
        single = fitting.resume(run, progress=watched) if begun else None
        single = single or fitting.fit(cache, config, out=run, progress=watched)
        return trial(float(single.best["macro_f1"]), "done")
    except _PrunedError:
        for checkpoint in run.rglob(LAST):  # nobody goes on with it
            checkpoint.unlink()
        return trial(max(epochs_of(run)), "pruned")
    except UserError as error:
        if error.code in (130, 143):
            raise
        return trial(None, "failed", error.message)


def _swept(out: Path, space: Space, done: list[Trial], total: int, seed: int, out_of_time: bool = False) -> Swept:
    finished = [t for t in done if t.state == "done" and t.score is not None]
    best = max(finished, key=lambda t: (t.score or 0.0, -t.number), default=None)
    importance: dict[str, float] = {}
    if len(finished) >= WEIGHED and len({t.score for t in finished}) > 1:
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        study = _study(space, done, "random", seed, len(done) + 1)
        importance = {
            str(k): float(v) for k, v in get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()).items()
        }
    return Swept(out, list(done), best, importance, out_of_time, total)


def _write_best(out: Path, settings: dict[str, Any], swept: Swept) -> None:
    """best.yaml: the settings of the best trial, as ``masktrain fit --config`` takes them."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    assert swept.best is not None
    head = f"# The best of {len(swept.trials)} trials: number {swept.best.number}, macro-F1 {swept.best.score:.4f}\n"
    write_atomic(out / BEST, (head + yaml.safe_dump(nested, sort_keys=False)).encode())
