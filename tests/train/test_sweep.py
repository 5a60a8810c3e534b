"""A space of settings is read and checked, and a sweep over it is the same whether it was stopped or not."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from maskprep.errors import UsageError, UserError
from masktrain.config import recipes
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import space, sweep, trials
from masktrain.study.progress import Progress
from masktrain.train.checkpoint import weights_hash

optuna = pytest.importorskip("optuna")

TINY = {"model.name": "test_resnet", "model.pretrained": False, "optim.epochs": 2, "optim.batch_size": 16}
SPACE = """
fixed:
  data.val_ratio: 0.34
  schedule: {warmup: 0}
space:
  optim.lr: {low: 1e-4, high: 1e-2, log: true}
  loss: {name: [ce, focal]}
"""


def spaced(tmp_path: Path, text: str = SPACE) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def without_times(done: sweep.Swept) -> list[dict[str, Any]]:
    return [dataclasses.asdict(t) | {"seconds": 0} for t in done.trials]


def every(varied: space.Varied) -> list[Any]:
    """The value in the trial of each place in the grid."""
    return [varied.suggest(optuna.trial.FixedTrial({varied.key: place})) for place in varied.grid()]


def test_a_space_is_read(tmp_path: Path) -> None:
    text = SPACE + "  optim.batch_size: {low: 8, high: 32, step: 8}\n  target.weights: [[1, 1], [1, 2]]\n"
    read = space.read(spaced(tmp_path, text))
    assert read.fixed == {"data.val_ratio": 0.34, "schedule.warmup": 0}
    rate, loss, batch, weights = read.varied
    assert (rate.key, rate.low, rate.high, rate.log) == ("optim.lr", 1e-4, 1e-2, True)
    assert every(loss) == ["ce", "focal"] and every(batch) == [8, 16, 24, 32]
    assert FitConfig.from_keys({"target.weights": every(weights)[1]}).target.weights == (1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("space: {}", "varies nothing"),
        ("[1]", "varies nothing"),
        ("space: {optim.lr: [", "is not valid YAML"),
        ("space: {optim.rl: [1]}", "Did you mean 'optim.lr'"),
        ("space: {optim.lr: 2024-13-45}", "must be a list of values"),
        ("space: {lr: {low: 1, high: 2}}", "Did you mean 'optim.lr'"),
        ("space: {optim.lr: [0.1], optim: {lr: [0.2]}}", "optim.lr twice"),
        ("space: {optim.lr: [0.1]}\n1: 2", "has a section '1'"),
        ("space: {optim.lr: 3}", "must be a list of values, or have 'low' and 'high'"),
        ("space: {optim.lr: {low: 1, high: 2, logg: true}}", "Did you mean 'log'"),
        ("space: {optim.lr: {low: 2, high: 1}}", "low must be below high"),
        ("space: {optim.lr: {low: 0, high: 1, log: true}}", "log takes limits above 0"),
        ("space: {optim.epochs: {low: 1, high: 2.5}}", "whole numbers only"),
        ("space: {loss.name: {low: 1, high: 2}}", "is no number"),
        ("space: {loss.name: [ce, focall]}", "focal"),
        ("space: {optim.lr: {low: a, high: 1}}", "must be numbers"),
        ("space: {optim.lr: {low: 0.1, high: .inf}}", "none of them infinite"),
        ("space: {optim.epochs: {low: 1, high: .nan}}", "none of them infinite"),
        ("space: {optim.epochs: {low: 1, high: 9, step: .inf}}", "none of them infinite"),
        ("space: {optim.lr: {low: true, high: 2}}", "must be numbers"),
        ("space: {optim.lr: {low: 1, high: 2, 3: 4}}", "unknown '3'"),
        ("space: {optim.lr: {low: 0, high: 1, step: 1.0e-300}}", "is too small"),
        ("space: {augment.mixup: [0.1, 0.7]}\nfixed: {augment.cutmix: 0.5}", "augment.mixup=0.7 cannot be tried"),
        ("space: {optim.lr: {low: 0.1, high: 2}}\nfixed: {optim.lrs: 1}", "Did you mean 'optim.lr'"),
        ("space: {optim.batch_size: [16, 1.5]}", "optim.batch_size=1.5 cannot be tried"),
        ("space: {optim.lr: [0.1]}\nfixed: {optim.lr: 1}", "both fixes and varies optim.lr"),
        ("space: {optim.lr: [0.1]}\nrange: {}", "has a section 'range'"),
        ("space: {optim.lr: [0.1]}\nfixed: {optim.lrr: 1}", "Did you mean 'optim.lr'"),
    ],
)
def test_a_wrong_space_is_told(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        space.read(spaced(tmp_path, text)).check()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("{low: 0.1, high: 0.75, step: 0.2}", [0.1, 0.3, 0.5, 0.7]),
        ("{low: 0.1, high: 0.4, step: 0.1}", [0.1, 0.2, 0.3, 0.4]),
        ("{low: 0.1234567, high: 0.1234569, step: 0.0000001}", [0.1234567, 0.1234568, 0.1234569]),
        ("{low: 1.0e-14, high: 3.0e-14, step: 1.0e-14}", [1e-14, 2e-14, 3e-14]),
        ("{low: 1000, high: 1000.002, step: 0.001}", [1000, 1000.001, 1000.002]),
    ],
)
def test_numbers_with_a_step_are_those_of_the_file(tmp_path: Path, given: str, values: list[float]) -> None:
    (varied,) = space.read(spaced(tmp_path, f"space: {{optim.lr: {given}}}")).varied
    assert every(varied) == values


def test_a_number_stays_within_its_range_when_it_is_rounded(tmp_path: Path) -> None:
    (varied,) = space.read(spaced(tmp_path, "space: {optim.lr: {low: 0.1234564, high: 0.7654327}}")).varied
    fixed = [optuna.trial.FixedTrial({"optim.lr": value}) for value in (0.1234564, 0.33333333, 0.7654327)]
    assert [varied.suggest(trial) for trial in fixed] == [0.1234564, 0.333333, 0.7654327]


def test_a_grid_that_is_too_large_is_told_before_it_is_made(cache: Path, tmp_path: Path) -> None:
    text = "space: {run.seed: {low: 1, high: 3000000}, loss.name: [ce, focal]}"
    with pytest.raises(UsageError, match="The grid has 6,000,000 combinations"):
        sweep.sweep(cache, space.read(spaced(tmp_path, text)), tmp_path / "out", base=TINY, kind="grid")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fixed", "says"),
    [
        ("data.view: fase", "fase"),
        ("select.by: macro_f2", "macro_f1"),
        ("sample.by: hat", "which is not an attribute"),
    ],
)
def test_what_no_trial_can_use_leaves_no_folder(cache: Path, tmp_path: Path, fixed: str, says: str) -> None:
    read = space.read(spaced(tmp_path, f"space: {{optim.lr: [0.1, 0.2]}}\nfixed: {{{fixed}}}"))
    for folds in (False, True):
        with pytest.raises(UserError) as caught:
            sweep.sweep(cache, read, tmp_path / "out", base=TINY, folds=folds)
        assert says in str(caught.value) and not (tmp_path / "out").exists()
    varied = space.read(spaced(tmp_path, f"space: {{{fixed.replace(': ', ': [')}, {fixed.split(': ')[1]}]}}"))
    with pytest.raises(UserError, match=says):
        sweep.sweep(cache, varied, tmp_path / "out", base=TINY)
    assert not (tmp_path / "out").exists()


def test_a_sweep_of_other_crops_or_that_is_damaged_does_not_go_on(
    synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = synthetic.write_cache(tmp_path / "people")
    read = space.read(spaced(tmp_path, "space: {optim.lr: [0.005, 0.004]}"))
    monkeypatch.setattr(sweep.fitting, "fit", stop)
    with pytest.raises(UserError, match=r"all that is done is kept\.\nTo go on, run the same command") as caught:
        sweep.sweep(cache, read, tmp_path / "out", base=TINY)
    assert caught.value.code == 130
    labels = pd.read_parquet(cache / "labels.parquet")
    labels.loc[40:45, "excluded"] = "blurred"
    labels.to_parquet(cache / "labels.parquet")
    with pytest.raises(UsageError, match="people has changed since"):
        sweep.sweep(cache, read, tmp_path / "out", base=TINY)
    for broken in ("{", "[]", "\xff"):
        (tmp_path / "out" / sweep.ABOUT).write_text(broken, encoding="latin-1")
        with pytest.raises(UserError, match=r"sweep\.json (cannot be read|is damaged)"):
            sweep.sweep(cache, read, tmp_path / "out", base=TINY)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("text", ["{\n{}\n", "[1]\n", '{"op_code": 4}\n'])
def test_a_journal_that_cannot_be_read_is_told(cache: Path, tmp_path: Path, text: str) -> None:
    read = space.read(spaced(tmp_path, "space: {optim.lr: [0.005]}"))
    sweep.sweep(cache, read, tmp_path / "out", base=TINY | {"optim.epochs": 1}, kind="grid")
    (tmp_path / "out" / trials.JOURNAL).write_text(text)
    with pytest.raises(UserError, match=r"journal cannot be read"):
        sweep.sweep(cache, read, tmp_path / "out", base=TINY | {"optim.epochs": 1}, kind="grid")
    (tmp_path / "out" / trials.JOURNAL).unlink()  # as before there was one
    with pytest.raises(UsageError, match="is a sweep of an earlier version"):
        sweep.sweep(cache, read, tmp_path / "out", base=TINY | {"optim.epochs": 1}, kind="grid")


def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path))
    whole = sweep.sweep(cache, read, tmp_path / "whole", base=TINY, trials=3, prune="none")
    assert [t.state for t in whole.trials] == ["done"] * 3
    assert len({t.values["optim.lr"] for t in whole.trials}) == 3
    for t in whole.trials:
        own = runs.read_config(tmp_path / "whole" / trials.folder(t.number))
        assert (own.optim.lr, own.loss.name) == (t.values["optim.lr"], t.values["loss.name"])
        assert len(t.epochs) == 2 and t.score == max(t.epochs)

    class Stopping(Progress):
        """Ctrl-C after the first epoch of the second trial."""

        def epoch(self, record: dict[str, Any]) -> None:
            if (tmp_path / "halved/trial-002").is_dir():
                raise KeyboardInterrupt

    how = {"base": TINY, "trials": 3, "prune": "none"}
    with pytest.raises(UserError, match="was stopped"):
        sweep.sweep(cache, read, tmp_path / "halved", progress=Stopping(), **how)
    halved = sweep.sweep(cache, read, tmp_path / "halved", **how)
    assert without_times(halved) == without_times(whole)
    again = sweep.sweep(cache, read, tmp_path / "halved", base=TINY, trials=3, prune="none")
    assert again.trials == halved.trials  # nothing is done twice
    with pytest.raises(UsageError, match="is a sweep with other settings"):
        sweep.sweep(cache, read, tmp_path / "halved", base=TINY, trials=3, seed=1)
    best = recipes.read(tmp_path / "whole" / sweep.BEST)
    assert whole.best is not None and best["optim.lr"] == whole.best.values["optim.lr"]
    assert best["data.val_ratio"] == 0.34 and best["model.name"] == "test_resnet"


def test_another_process_takes_the_trials_that_nobody_has(cache: Path, tmp_path: Path) -> None:
    """The second one starts while the first is in its first trial."""
    read, how = space.read(spaced(tmp_path)), {"base": TINY | {"optim.epochs": 1}, "trials": 2, "prune": "none"}
    second: list[sweep.Swept] = []

    class Starting(Progress):
        def epoch(self, record: dict[str, Any]) -> None:
            if not second:
                second.append(sweep.sweep(cache, read, tmp_path / "out", **how))

    first = sweep.sweep(cache, read, tmp_path / "out", progress=Starting(), **how)
    assert [t.number for t in second[0].trials] == [2]
    assert [t.number for t in first.trials] == [1, 2] and {t.state for t in first.trials} == {"done"}


def test_trials_that_cannot_be_trained_are_kept_as_such(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path, "space: {model.name: [no_such_model, test_resnet]}"))
    base = {k: v for k, v in TINY.items() if k != "model.name"}
    done = sweep.sweep(cache, read, tmp_path / "out", base=base, trials=9, kind="grid")
    assert done.total == 2
    assert [t.state for t in done.trials] == ["failed", "done"]
    assert "no_such_model" in done.trials[0].why and done.best is not None and done.best.number == 2
    wrong = space.read(spaced(tmp_path, "space: {model.name: [no_a, no_b, no_c, no_d]}"))
    with pytest.raises(UserError, match="None of the first 3 trials could be trained"):
        sweep.sweep(cache, wrong, tmp_path / "wrong", base=base, kind="grid")


def test_successive_halving_goes_on_with_the_best_third(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path, "space: {optim.lr: [0.005, 1.0e-9, 2.0e-9]}"))
    done = sweep.sweep(cache, read, tmp_path / "out", base=TINY, kind="grid", prune="halving")
    assert [(t.state, len(t.epochs)) for t in done.trials] == [("done", 2), ("pruned", 1), ("pruned", 1)]
    with pytest.raises(UsageError, match="--prune cannot be 'half'"):
        sweep.sweep(cache, read, tmp_path / "other", base=TINY, prune="half")


def test_a_hopeless_trial_is_given_up(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path, "space: {optim.lr: [0.005, 0.004, 0.003, 0.002, 1.0e-9]}"))
    first = sweep.sweep(cache, read, tmp_path / "out", base=TINY, kind="grid", trials=4)
    assert (first.total, len(first.trials)) == (4, 4)
    done = sweep.sweep(cache, read, tmp_path / "out", base=TINY, kind="grid")
    assert done.total == 5 and [t.state for t in done.trials[:4]] == ["done"] * 4
    last = done.trials[4]
    assert last.state == "pruned" and last.score == max(last.epochs)
    assert not list((tmp_path / "out" / "trial-005").rglob("last.ckpt"))


def test_folds_and_the_time(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path, "space: {optim.lr: [0.005, 0.004]}"))
    base = TINY | {"data.val_ratio": 0.5}
    done = sweep.sweep(cache, read, tmp_path / "out", base=base, kind="grid", folds=True, hours=1e-6)
    assert done.out_of_time and len(done.trials) == 1 and len(done.trials[0].epochs) == 4
    folded = json.loads((tmp_path / "out" / "trial-001" / runs.FOLDS).read_text())
    assert folded["out_of_fold"]["macro_f1"] == done.trials[0].score


def test_by_command(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = spaced(tmp_path)
    sets = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    monkeypatch.chdir(tmp_path)
    assert call("sweep", cache, file, "--trials", "2", *sets) == 0
    said = capsys.readouterr().out
    best = tmp_path / "runs" / "sweep-space" / sweep.BEST
    assert "trial 2/2 optim.lr=" in said and f"best    settings in {best}" in said
    assert re.search(
        rf"^next    masktrain predict {best.parent}/\S+ {cache} --split eval --out \S+$", said, re.MULTILINE
    )
    assert yaml.safe_load(best.read_text())["model"]["name"] == "test_resnet"


def test_settings_that_do_not_go_together_are_a_failed_trial(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path, "space: {augment.mixup: [0.7], augment.cutmix: [0.7, 0.2]}"))
    done = sweep.sweep(cache, read, tmp_path / "out", base=TINY | {"optim.epochs": 1}, kind="grid")
    assert [t.state for t in done.trials] == ["failed", "done"] and "more than 1" in done.trials[0].why
    with pytest.raises(UsageError, match=r"augment\.mixup is both varied and fixed"):
        sweep.sweep(cache, read, tmp_path / "other", base={"augment.mixup": 0.1})


RANDOM = """
fixed: {data.val_ratio: 0.34, optim.epochs: 1}
space:
  optim.lr: {low: 1e-4, high: 1e-2, log: true}
  model.freeze: [0, 99]
"""


def test_trials_side_by_side_are_those_of_one_worker(cache: Path, tmp_path: Path) -> None:
    """Scores of every epoch, and weights bit for bit; one of them cannot be trained."""
    pytest.importorskip("ray")
    read = space.read(spaced(tmp_path, RANDOM))
    how = {"base": {k: v for k, v in TINY.items() if k != "optim.epochs"}, "kind": "random", "prune": "none"}
    one = sweep.sweep(cache, read, tmp_path / "one", trials=4, **how)
    seen: list[int] = []
    two = sweep.sweep(
        cache, read, tmp_path / "two", trials=4, workers=2, each=lambda t, sofar: seen.append(t.number), **how
    )
    assert without_times(two) == without_times(one) and sorted(seen) == [1, 2, 3, 4]
    assert {t.state for t in one.trials} == {"done", "failed"}
    for t in (t for t in one.trials if t.state == "done"):
        a, b = (load_file(tmp_path / f / trials.folder(t.number) / "best.safetensors") for f in ("one", "two"))
        assert weights_hash(a) == weights_hash(b)
    assert (tmp_path / "one/best.yaml").read_text() == (tmp_path / "two/best.yaml").read_text()


def test_plugins_are_not_loaded_side_by_side(cache: Path, tmp_path: Path) -> None:
    read = space.read(spaced(tmp_path))
    with pytest.raises(UsageError, match="cannot be used with plugins"):
        sweep.sweep(cache, read, tmp_path / "out", workers=2, base={"run.plugins": ["a.py@0"]})
    assert not (tmp_path / "out").exists()


def test_without_ray_one_is_told_which_extra(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="ray is not installed") as error:
        sweep.sweep(cache, space.read(spaced(tmp_path)), tmp_path / "out", workers=2, kind="random", prune="none")
    assert "maskprep[ray]" in error.value.hint
