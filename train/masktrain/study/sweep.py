"""Many fits over a space of settings, proposed by Optuna and kept in its journal in the folder of the sweep.

Any number of processes may work on one sweep, on machines that share its folder: start the same command again. A trial
whose process has ended is taken up where its fit stopped.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from maskprep.base import UsageError, UserError, lock, missing_extra, read_json, write_atomic, write_json
from maskprep.store import Cache
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.runs import folder as runs
from masktrain.study import crossfit
from masktrain.study import fit as fitting
from masktrain.study.progress import Progress
from masktrain.study.resume import fit_or_resume
from masktrain.study.space import Space
from masktrain.study.trials import JOURNAL, PRUNERS, Trial, finished, folder, journal
from masktrain.train.checkpoint import LAST
from masktrain.train.device import choose_device

if TYPE_CHECKING:
    import optuna

ABOUT, BEST, LOCKS = "sweep.json", "best.yaml", "locks"
KINDS = ("tpe", "random", "grid")
TRIALS_USUAL = 20
STOPPED = (129, 130, 143)
"""Exit status of a fit that a hang-up, Ctrl-C or SIGTERM has stopped."""
HOPELESS = 3
"""So many failures at the start end a sweep."""
BUDGET = ("total", "hours")
"""What may be another when a sweep goes on."""
WEIGHED = 10
"""So many finished trials it takes to say which settings matter."""


@dataclass(frozen=True)
class Swept:
    """Finished trials in order, the best, how much each setting matters (0..1, sum 1; empty with few trials), and how
    many trials there are to be in all."""

    out: Path
    trials: list[Trial]
    best: Trial | None
    importance: dict[str, float]
    out_of_time: bool
    total: int


class _Reporting(Progress):
    """Passes everything on, and the score of every epoch to Optuna, which may end the trial there."""

    def __init__(self, inner: Progress, trial: optuna.Trial, run: Path) -> None:
        self._inner, self._trial, self._run = inner, trial, run
        self.running, self.say, self.step = inner.running, inner.say, inner.step  # type: ignore[method-assign]

    def epoch(self, record: dict[str, Any]) -> None:
        import optuna

        step = sum(len(runs.read_metrics(file.parent)) for file in self._run.rglob(runs.METRICS))
        frozen = self._trial.study.get_trials(deepcopy=False)[self._trial.number]
        if step not in frozen.intermediate_values:  # a fit that goes on repeats what came after its snapshot
            self._trial.report(record["macro_f1"], step)
        self._inner.epoch(record)
        if self._trial.should_prune():
            raise optuna.TrialPruned


class _TakenError(UserError):
    """Another process fits this trial."""


@dataclass(frozen=True)
class _Job:
    """All that a process needs to work on a sweep."""

    cache: Path
    space: Space
    out: Path
    total: int
    hours: float | None
    folds: bool
    kind: str
    prune: str
    seed: int

    def work(self, progress: Progress, each: Callable[[Trial, Swept], None]) -> Swept:
        """Fit one trial after another until there are as many as there are to be, or the time is up."""
        study, started = journal(self.out, self.prune), time.monotonic()
        while True:
            done = finished(study)
            usual = sum(t.seconds for t in done) / max(len(done), 1)
            if done and self.hours is not None and time.monotonic() - started + usual > self.hours * 3600:
                return self.swept(study, out_of_time=len(done) < self.total)
            with self._claimed(study) as trial:
                if trial is None:
                    return self.swept(study)
                self._fit(study, trial, progress)
            sofar = self.swept(study)
            each(next(t for t in sofar.trials if t.number == trial.number + 1), sofar)
            first = sofar.trials[:HOPELESS]
            if len(first) == HOPELESS and all(t.state == "failed" for t in sofar.trials):
                raise UserError(f"None of the first {HOPELESS} trials could be trained: {first[-1].why}")

    @contextmanager
    def _claimed(self, study: optuna.Study) -> Iterator[optuna.Trial | None]:
        """A trial that this process alone fits: one whose process has ended, or a new one; None if there is none."""
        import optuna

        with ExitStack() as stack:

            def alone(number: int) -> bool:
                try:
                    stack.enter_context(lock(self.out / LOCKS / str(number), lambda process: _TakenError(process)))
                except _TakenError:
                    return False
                return True

            with lock(self.out / LOCKS / "next"):
                begun = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
                stopped = next((t for t in begun if alone(t.number)), None)
                if stopped is not None:
                    trial = optuna.Trial(study, stopped._trial_id)
                elif (number := sum(t.state.name != "WAITING" for t in study.get_trials(deepcopy=False))) < self.total:
                    trial = self._new(study, number)
                    alone(trial.number)
                else:
                    trial = None
            yield trial

    def _new(self, study: optuna.Study, number: int) -> optuna.Trial:
        """The next trial; what is proposed depends on the seed, its number and the trials before alone."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = self.seed * 1_000_003 + number
        study.sampler = TPESampler(seed=seed, multivariate=True) if self.kind == "tpe" else RandomSampler(seed)
        if self.kind == "grid":
            study.enqueue_trial(self.space.grid()[number], skip_if_exists=True)
        return study.ask()

    def _fit(self, study: optuna.Study, trial: optuna.Trial, progress: Progress) -> None:
        """Fit one trial, from where it was stopped if it was, and keep the result. What cannot be fitted has failed."""
        import optuna

        values = {v.key: v.suggest(trial) for v in self.space.varied}
        trial.set_user_attr("values", values)
        started, score, state = time.monotonic(), None, optuna.trial.TrialState.COMPLETE
        run = self.out / folder(trial.number + 1)
        try:
            config = FitConfig.from_keys(self.space.fixed | values)
            score = fit_or_resume(self.cache, config, run, self.folds, _Reporting(progress, trial, run))
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
            for checkpoint in run.rglob(LAST):  # nobody goes on with it
                checkpoint.unlink()
        except UserError as error:
            if error.code in STOPPED:
                raise
            state = optuna.trial.TrialState.FAIL
            trial.set_user_attr("why", error.message)
        trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
        with lock(self.out / LOCKS / "next"):
            study.tell(trial, score, state)
            sofar = self.swept(study)
            if sofar.best is not None:
                _write_best(self.out, self.space.fixed | sofar.best.values, sofar)

    def swept(self, study: optuna.Study, out_of_time: bool = False) -> Swept:
        """The sweep so far."""
        done = finished(study)
        scored = [t for t in done if t.state == "done"]
        best = max(scored, key=lambda t: (t.score or 0.0, -t.number), default=None)
        importance: dict[str, float] = {}
        if len(scored) >= WEIGHED and len({t.score for t in scored}) > 1:
            from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

            importance = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        return Swept(self.out, done, best, importance, out_of_time, self.total)


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
    prune: str = "median",
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    each: Callable[[Trial, Swept], None] = lambda trial, sofar: None,
) -> Swept:
    """Fit again and again, each time with settings that the trials before make promising.

    The objective is macro-F1 on the held-out people: of the one split, or with ``folds`` of everyone. A sweep that was
    stopped goes on where it was. TPE: Bergstra et al., NeurIPS 2011; pruning by the median: Golovin et al., KDD 2017;
    successive halving: arXiv 1810.05934.

    Args:
        cache: to train on.
        space: what is fixed and what varies.
        out: folder of the sweep; one that exists goes on if its settings are the same.
        base: further fixed settings, flat; they come over those of the space.
        trials: how many in all, those done before included; by default 20, of a grid all combinations.
        hours: no trial but the first is begun that would end after so many, counted from now.
        kind: tpe, random or grid.
        prune: one of :data:`masktrain.study.trials.PRUNERS`.
        workers: so many processes, started by Ray.
        progress: shows each fit; not with several workers.
        each: called after every trial, with all so far.

    Raises:
        UserError: Optuna or Ray is missing, the cache or the settings cannot be used (nothing is written then), ``out``
            is another sweep, or stopped by Ctrl-C or SIGTERM (exit 130 and 143).
    """
    Cache(cache).clear_of_photos(out)
    if hours is not None and not hours >= 0:
        raise UsageError(f"--hours must be 0 or more, not {hours}.")
    if kind not in KINDS:
        raise UsageError(f"There is no kind '{kind}'.", f"There are: {', '.join(KINDS)}.")
    if prune not in PRUNERS:
        raise UsageError(f"--prune cannot be '{prune}'.", f"Use {', '.join(PRUNERS)}.")
    if workers > 1 and "run.plugins" in (base or {}):
        raise UsageError(
            "--workers cannot be used with plugins, which are loaded in one process.",
            "Start the command several times instead.",
        )
    for extra, package in [("sweep", "optuna"), ("ray", "ray")][: 1 + (workers > 1)]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise missing_extra(package, extra) from error
    if varied := sorted({v.key for v in space.varied} & set(base or {})):
        raise UsageError(f"{varied[0]} is both varied and fixed.", "Leave it out of --set or out of the space.")
    space = dataclasses.replace(space, fixed=space.fixed | (base or {}))
    space.check()
    most = len(space.grid()) if kind == "grid" else None
    total = trials or most or TRIALS_USUAL
    job = _Job(cache.resolve(), space, out.resolve(), min(total, most or total), hours, folds, kind, prune, seed)
    _open(out, job)
    with _stoppable(out):
        if workers == 1:
            return job.work(progress or Progress(), each)
        return _side_by_side(job, workers, each)


def _side_by_side(job: _Job, workers: int, each: Callable[[Trial, Swept], None]) -> Swept:
    """Let processes of Ray's work on a sweep: on this machine, or on the cluster that RAY_ADDRESS names.

    Each has as many threads as this one, as sums of floats depend on their number, and a share of the GPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import torch

    cluster = bool(os.environ.get("RAY_ADDRESS"))
    here = {} if cluster else {"num_cpus": workers, "num_gpus": torch.cuda.device_count(), "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="error", **here)
    try:
        gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_worker)
        study = journal(job.out, job.prune)
        shown = {t.number for t in finished(study)}
        waiting = [remote.remote(job, torch.get_num_threads()) for _ in range(workers)]
        late = False
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=1.0)
            for told in ray.get(ended):
                if isinstance(told, tuple):
                    raise UserError(*told)
                late |= told
            sofar = job.swept(study)
            for trial in (t for t in sofar.trials if t.number not in shown):
                shown.add(trial.number)
                each(trial, sofar)
        return job.swept(study, late)
    finally:
        ray.shutdown()


def _worker(job: _Job, threads: int) -> bool | tuple[str, str, int]:
    """In a process of Ray's: whether the time is up, or an error that Ray would wrap in one of its own."""
    import torch

    torch.set_num_threads(threads)
    try:
        return job.work(Progress(), lambda trial, sofar: None).out_of_time
    except UserError as error:
        return error.message, error.hint, error.code


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
        if error.code not in STOPPED:
            raise
        code = error.code
    raise UserError(
        f"The sweep {out} was stopped; all that is done is kept.", "To go on, run the same command.", code=code
    )


def _open(out: Path, job: _Job) -> None:
    """Write down what is swept and on what, or see that it is what was swept here before.

    Raises:
        UserError: the cache or the settings cannot be used; then nothing is written.
    """
    about = asdict(job) | {"data": _data(job)}
    about = json.loads(json.dumps({k: v for k, v in about.items() if k not in BUDGET}, default=str))
    if not (out / ABOUT).is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} already exists and is no sweep.", "Choose another --out.")
        write_json(out / ABOUT, about)
        return
    before = read_json(out / ABOUT, {}, "Choose another --out.")
    other = [key for key in about if before.get(key) != about[key]]
    if other == ["data"]:
        raise UsageError(
            f"The cache {job.cache} has changed since {out} was begun: other crops, mattes, labels or people.",
            "Trials on both cannot be compared; choose another --out.",
        )
    if other:
        raise UsageError(f"{out} is a sweep with other settings: {', '.join(other)}.", "Choose another --out.")
    if not (out / JOURNAL).is_file() and any(out.glob("trial*")):
        raise UsageError(
            f"{out} is a sweep of an earlier version, which cannot go on.",
            "Its runs and best.yaml can be used as they are; choose another --out for more trials.",
        )


def _data(job: _Job) -> dict[str, Any]:
    """What the first trial that can be fitted is trained on.

    Raises:
        UserError: no trial can be; what stands in the way of the first one.
    """
    problem: UserError | None = None
    tried: set[tuple[Any, ...]] = set()
    for values in job.space.some():
        try:
            config = FitConfig.from_keys(job.space.fixed | values)
            looked_at = (config.data, config.target, config.sample, config.select, config.run, config.model.head)
            if looked_at in tried:
                continue
            tried.add(looked_at)
            if job.folds:
                crossfit.check(config)
            view = open_view_of(job.cache, config)
            data = TrainSet.open(view, config)
            fitting.check(data, fitting.settled(data, config, choose_device(config.run.device)))
            record = runs.data_record(view, data)
        except UserError as error:
            problem = problem or error
            continue
        grounds = {job.space.fixed.get("data.background", "original")}
        grounds |= {value for v in job.space.varied if v.key == "data.background" for value in v.values}
        kept = ("view", "fingerprint", "folds", "extra", *(["mattes"] if grounds != {"original"} else []))
        return {key: record[key] for key in kept}
    assert problem is not None
    raise problem


def _write_best(out: Path, settings: dict[str, Any], swept: Swept) -> None:
    """best.yaml: the settings of the best trial, as ``masktrain fit --config`` takes them."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    assert swept.best is not None
    head = f"# The best of {len(swept.trials)} trials: number {swept.best.number}, macro-F1 {swept.best.score:.4f}\n"
    write_atomic(out / BEST, (head + yaml.safe_dump(nested, sort_keys=False)).encode())
