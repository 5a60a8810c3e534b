"""Run folders: their names, and the records that every run keeps."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from maskprep.audit import OOF as OOF
from maskprep.base import UsageError, UserError, check_shape, lock, read_json
from maskprep.dataset import View
from maskprep.labels import Schema
from maskprep.store import Cache, is_cache
from masktrain.config.config import FitConfig
from masktrain.data import tasks
from masktrain.data.trainset import TrainSet
from masktrain.runs import files

CONFIG, DATA, ENV, METRICS = "config.yaml", "data.json", "env.json", "metrics.jsonl"
RESULT, FOLDS, ENSEMBLE, PROBE = "result.json", "folds.json", "ensemble.json", "probe.json"
LOCK = ".lock"
SHAPES: dict[str, dict[str, type]] = {
    DATA: {
        **dict.fromkeys(("cache", "view", "fingerprint"), str),
        "images.train": int,
        "images.val": int,
        **{f"{part}.{side}": list for part in ("people", "classes") for side in ("train", "val")},
    },
    METRICS: {"epoch": int, "best_epoch": int, "macro_f1": float, "accuracy": float, "attributes": dict},
    RESULT: {
        **dict.fromkeys(("best.macro_f1", "best.accuracy", "interval.low", "interval.high"), float),
        "epochs": int,
        "interval.people": int,
        "best.attributes": dict,
    },
    FOLDS: {"folds": int, "cache": str},
    ENV: {},
    PROBE: {},
}
"""What a run's records cannot do without."""

OVER_FOLDS: dict[str, type] = {
    **dict.fromkeys(("out_of_fold.macro_f1", "out_of_fold.accuracy", "interval.low", "interval.high"), float),
    "out_of_fold.attributes": dict,
}
"""What folds.json has beside that when all folds are done."""

MEND = "Restore it from a copy, or train anew: masktrain fit CACHE"


def new_run(config: FitConfig, out: Path | None = None, root: Path = Path("runs")) -> Path:
    """Make the folder of a new run and claim it; an existing one is never written over.

    Args:
        out: the folder itself. Without it: ``root/<model>-<hash of the settings>-<six random digits>``, a name that
            runs of other folders and machines do not have.

    Raises:
        UsageError: ``out`` exists and is not empty.
    """
    if out is None:
        out = root / f"{config.model.name}-{config.hash()[:8]}-{secrets.token_hex(3)}"
    go_on = f"Choose another --out, or go on with it: masktrain fit --resume {out}"
    need_new(out, go_on)
    out.mkdir(parents=True, exist_ok=True)
    try:
        (out / LOCK).touch(exist_ok=False)  # of two that begin at once, one has the folder
    except FileExistsError:
        raise UsageError(f"{out} already exists.", go_on) from None
    return out


def need_new(out: Path, hint: str = "Choose another --out.") -> None:
    """Refuse a place that is a file, or a folder that holds something.

    Raises:
        UsageError: it does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists.", hint)


def twin(config: FitConfig, data: dict[str, Any], *near: Path, whole: bool = False) -> Path | None:
    """A finished run of the same settings on the same data, if there is one.

    Args:
        data: data.json of the fit; of the first fold where all are meant.
        near: folders of runs to look into, whatever the runs in them are called, folds of a run of all folds too.
        whole: whether a run of all folds is meant.
    """
    first = f"# {config.hash()}"  # the first line of config.yaml tells the same settings without reading them
    for folder in near:
        for file in sorted(folder.glob(f"*/{CONFIG}")) + sorted(folder.glob(f"*/fold-*/{CONFIG}")):
            try:
                with file.open(encoding="utf-8", errors="replace") as lines:
                    if lines.readline().strip() != first:
                        continue
            except OSError:  # not ours to read
                continue
            if whole != (file.parent / FOLDS).is_file() or not (file.parent / DATA).is_file():
                continue
            try:
                theirs = read_data(file.parent) if finished(file.parent) else {}
            except UserError:  # damaged, so nobody can use it
                continue
            if theirs and all(theirs.get(k, []) == data[k] for k in ("fingerprint", "folds", "extra")):
                return file.parent
    return None


def beside(out: Path | None, root: Path = Path("runs")) -> tuple[Path, ...]:
    """Folders in which a new run looks for one that is just like it: those beside it, and the usual one."""
    return (root,) if out is None or out.parent.resolve() == root.resolve() else (out.parent, root)


def finished(run: Path) -> bool:
    """Whether a run, or a run of all folds, has come to its end; what is made of other runs is whole from the start.

    Raises:
        UserError: folds.json cannot be used.
    """
    if (run / FOLDS).is_file():
        return "out_of_fold" in read_folds(run)
    return (run / RESULT).is_file() or not (run / ENV).is_file()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a run to this process while it is trained; what a killed process has left half written is removed.

    Raises:
        UsageError: another process is training it.
    """

    def taken(process: str) -> UsageError:
        return UsageError(f"{run} is being trained by another process ({process}).")

    with lock(run / LOCK, taken) as held:
        if held:
            files.sweep(run)
        yield


def write_config(run: Path, config: FitConfig) -> None:
    """config.yaml: every value, not only those given."""
    text = f"# {config.hash()}\n" + yaml.safe_dump(config.to_dict(), sort_keys=False)
    files.write_file(run / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def read_config(run: Path) -> FitConfig:
    """config.yaml of a run; settings it does not know yet have their defaults.

    Raises:
        UsageError: there is none.
    """
    _need(run, CONFIG)
    return FitConfig.from_dict(read_settings(run))


def every_setting(run: Path) -> dict[str, dict[str, Any]]:
    """config.yaml as it stands, with the defaults of what it does not know yet: to look at, so no plugin is needed.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    _need(run, CONFIG)
    kept = read_settings(run)
    return {section: values | kept.get(section, {}) for section, values in FitConfig().to_dict().items()}


def _need(run: Path, name: str) -> None:
    if not (run / name).is_file():
        raise UsageError(f"{run} is not a run: it has no {name}.", "Make one with: masktrain fit CACHE")


def data_record(view: View, training: TrainSet) -> dict[str, Any]:
    """What a run was trained on, as kept in data.json; the counts of its classes are those of the schema's limits.

    Args:
        view: the cache that people are held out of.
    """
    split, table = training.split, training.view.table
    train, val = table.iloc[split.train], table.iloc[split.val]
    counts = {
        side: np.bincount(rows["label"].to_numpy(dtype=np.int64), minlength=view.schema.num_classes).tolist()
        for side, rows in (("train", train), ("val", val))
    }
    everything, whole = tasks.whole(view)
    own = everything["label"].iloc[split.train[split.train < len(view)]].to_numpy(dtype=np.int64)
    return {
        "cache": str(view.path.resolve()),
        "source": view.dataset.get("source"),
        "view": view.name,
        "fingerprint": view.fingerprint(),
        "mattes": view.mattes_fingerprint(),
        "folds": split.hash,
        "images": {"train": len(train), "val": len(val), "left out": split.left_out, "without crop": len(view.missing)},
        "classes": counts,
        "whole": {"schema": whole.to_dict(), "train": np.bincount(own, minlength=whole.num_classes).tolist()},
        "training": training.record,
        "extra": training.extra,
        "linked": [list(group) for group in split.linked],
        "people": {"train": sorted(set(train["person"])), "val": sorted(set(val["person"]))},
        "persons": {"known": view.persons_known, "doubts": view.person_doubts()},
    }


def need_cache(where: Path, run: Path, hint: str) -> Path:
    """The place of a run's cache, where there is one.

    Args:
        hint: the command that takes another place.

    Raises:
        UsageError: nothing is there.
    """
    if not where.exists():
        raise UsageError(f"The cache of {run} was {where}, which is not there.", f"If it has moved: {hint}")
    return where


def clear_of_photos(folders: Iterable[Path], out: Path | None, option: str = "--out") -> None:
    """Nothing is written among the photos that runs were trained on, where their caches still are.

    Raises:
        UsageError: the path lies there.
    """
    for file in (run / name for run in folders for name in (DATA, FOLDS) if (run / name).is_file()):
        cache = Path(_read(file.parent, file.name)["cache"])
        if is_cache(cache):
            Cache(cache).clear_of_photos(out, option)


def read_data(run: Path) -> dict[str, Any]:
    """data.json of a run.

    Raises:
        UsageError: there is none.
        UserError: it cannot be used.
    """
    _need(run, DATA)
    return _read(run, DATA)


def read_result(run: Path) -> dict[str, Any]:
    """result.json of a finished run.

    Raises:
        UserError: it is not finished, or the file cannot be used.
    """
    if not (run / RESULT).is_file():
        raise UserError(f"{run} is not finished.", f"Go on with it: masktrain fit --resume {run}")
    return _read(run, RESULT)


def read_probe(run: Path) -> dict[str, Any]:
    """probe.json of a run; empty where there is none.

    Raises:
        UserError: it cannot be used.
    """
    return _read(run, PROBE) if (run / PROBE).is_file() else {}


def read_folds(run: Path) -> dict[str, Any]:
    """folds.json of a run of all folds; ``out_of_fold`` is in it when all are done.

    Raises:
        UserError: it cannot be used.
    """
    about = _read(run, FOLDS)
    if "out_of_fold" in about:
        check_shape(about, OVER_FOLDS, str(run / FOLDS), MEND)
    return about


def read_environment(run: Path) -> dict[str, Any]:
    """env.json of a run, or of the first fold of one of all folds; empty where there is none.

    Raises:
        UserError: it cannot be used.
    """
    found = next((f for f in (run, run / "fold-1") if (f / ENV).is_file()), None)
    return {} if found is None else _read(found, ENV)


def _read(run: Path, name: str) -> dict[str, Any]:
    return read_json(run / name, SHAPES[name], MEND)


def changed(view: View, data: dict[str, Any], background: str) -> bool:
    """Whether a view is no longer what a run was trained on.

    Args:
        data: data.json of the run.
        background: what lay behind its subjects; without one of its own, mattes do not count.
    """
    mattes = data.get("mattes") if background == "original" else view.mattes_fingerprint()
    return (view.fingerprint(), mattes) != (data["fingerprint"], data.get("mattes"))


def read_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run as it stands, also when an earlier version wrote it.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{run / CONFIG} cannot be read: {error}.", MEND) from error
    check_shape(settings, dict.fromkeys(settings, dict) if isinstance(settings, dict) else {}, str(run / CONFIG), MEND)
    return dict(settings)


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one epoch to metrics.jsonl, on disk before the call returns."""
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The epochs of metrics.jsonl; a last line cut off by a crash is left out.

    Raises:
        UserError: another line is damaged.
    """
    file = run / METRICS
    if not file.is_file():
        return []
    records: list[dict[str, Any]] = []
    lines = file.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{file} cannot be read: line {number} is damaged.", MEND) from error
        check_shape(record, SHAPES[METRICS], f"{file}, line {number},", MEND)
        records.append(record)
    return records


def best_epoch(run: Path, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record of the best epoch, of at least one.

    Raises:
        UserError: it is not among them.
    """
    best = next((r for r in records if r["epoch"] == records[-1]["best_epoch"]), None)
    if best is None:
        raise UserError(f"{run / METRICS} lacks its best epoch, {records[-1]['best_epoch']}.", MEND)
    return best


def latest(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Scores that chose no epoch: of the last one, and the mean of the last five, as result.json has them."""
    parts = (("last", records[-1:]), ("mean of last five", records[-5:]))
    return {k: {s: fmean(r[s] for r in part) for s in ("macro_f1", "accuracy")} for k, part in parts}


def chosen(run: Path) -> str:
    """What chose the epoch of a run's weights, beside the scores that chose none; empty where that is not known."""
    if (run / FOLDS).is_file():
        return str(read_folds(run).get("chosen", ""))
    if not (run / RESULT).is_file() or not (records := read_metrics(run)):
        return ""
    best, (last, five) = read_result(run)["best"], (f"{s['macro_f1']:.4f}" for s in latest(records).values())
    if every_setting(run)["select"]["epoch"] == "last":
        return f"nothing was chosen on these people: last epoch ({len(records)}) {last}, mean of last five {five}"
    which = f"epoch {best['epoch']}" if "soup" not in best else f"mean of epochs {', '.join(map(str, best['soup']))}"
    return f"chosen on these people: best {best['macro_f1']:.4f} ({which}), last {last}, mean of last five {five}"


def keep_metrics(run: Path, epoch: int) -> None:
    """Cut metrics.jsonl back to the epochs that the checkpoint knows.

    Raises:
        UserError: it lacks some of them.
    """
    kept = [r for r in read_metrics(run) if r["epoch"] <= epoch]
    if [r["epoch"] for r in kept] != list(range(1, epoch + 1)):
        raise UserError(f"{run / METRICS} holds {len(kept)} of the {epoch} epochs that the checkpoint knows.", MEND)
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept)
    files.write_file(run / METRICS, lambda part: part.write_text(text, encoding="utf-8"))


def members(run: Path) -> list[Path]:
    """The runs of the folds.

    Raises:
        UsageError: not all of them are finished.
    """
    about = read_folds(run)
    if "out_of_fold" not in about:
        raise UsageError(f"Not all folds of {run} are finished.", f"Go on with: masktrain fit --resume {run}")
    return [run / f"fold-{k}" for k in range(1, about["folds"] + 1)]


def schema_of(run: Path) -> Schema:
    """What a run, an ensemble or a composition classifies.

    Raises:
        UserError: it is none, or cannot be read.
    """
    if not (run / ENSEMBLE).is_file():
        from masktrain.train.checkpoint import load_sidecar  # torch takes a second

        return load_sidecar(run).labels()
    kept = read_json(run / ENSEMBLE, {"members": list}, MEND)
    try:
        return Schema.from_dict(kept["schema"]) if "schema" in kept else schema_of(run / kept["members"][0]["folder"])
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{run / ENSEMBLE} names no member.", "Make the ensemble again.") from error
