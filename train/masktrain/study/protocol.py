"""Ground rules of a project, written before the first fit: view, folds, criterion, seeds; and the baselines.

A protocol is a YAML file with the folds of the people beside it. Every fit on its cache keeps to it: the settings it
names come from it, and others are an error or a recorded deviation.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskprep.base import UsageError, UserError, counted, read_yaml, write_with
from maskprep.dataset import View, open_view
from maskprep.store import Cache
from masktrain.answer import baselines
from masktrain.config.config import FitConfig, hash_of
from masktrain.data import folds
from masktrain.data.trainset import open_view_of
from masktrain.data.units import of_people, unit, warned
from masktrain.score import metrics
from masktrain.study.space import Space
from masktrain.train import criteria

FILE = "protocol.yaml"
"""Name of a cache's own protocol."""

FORMAT = 1
OWN = ("run.protocol", "run.deviates", "run.extended")
"""Settings by which a run tells what it keeps to; nobody else sets them."""

HEAD = """\
# Ground rules for every fit on this cache, written before the first one by: masktrain init
# `rules` are settings (any of `masktrain settings` may be added), `seeds` the seeds that may be used, [] for any.
# masktrain fit takes them from here; what contradicts them is an error, or with --deviate a deviation that is kept.
"""


@dataclass(frozen=True)
class Protocol:
    """Rules that fits keep to.

    Attributes:
        file: where it is written.
        rules: settings by dotted name; ``data.folds_file`` is relative to the file's folder.
        count: folds in the folds file.
        digest: sha256 of the folds file.
        seeds: that fits may use, the first one where none is asked for; empty for any.
        found: what was there on the day it was written: data, eval split, classes, baselines.
    """

    file: Path
    rules: dict[str, Any]
    count: int
    digest: str
    seeds: tuple[int, ...]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def folds(self) -> Path:
        """The folds file."""
        return self.file.parent / str(self.rules["data.folds_file"])

    def hash(self) -> str:
        """Of what fits keep to: equal means equal rules, whatever the file is called."""
        rules = {k: v for k, v in self.rules.items() if k != "data.folds_file"}
        return hash_of({"rules": rules, "folds": self.digest, "seeds": list(self.seeds)})[:16]


def init(
    cache: Path,
    out: Path | None = None,
    *,
    view: str | None = None,
    select: str = "macro_f1",
    count: int = 5,
    split_seed: int = 0,
    folds_file: Path | None = None,
    seeds: Sequence[int] = (),
    note: str = "",
    probe: bool = True,
) -> Protocol:
    """Write the ground rules of a cache, and what is there before the first fit.

    Args:
        out: the file, by default protocol.yaml in the cache; the folds are written beside it.
        view: the only crops that fits may use; None lets them choose, and takes the only view, or ``face``, here.
        select: the score that decides, see ``select.by``.
        count, split_seed: folds, and which split; or ``folds_file`` that is there already.
        seeds: that fits may use; empty for any.
        note: what the project is to find out.
        probe: score a linear probe, too (seconds).

    Raises:
        UsageError: the file exists, or there is no such score.
        UserError: the cache or the folds cannot be used.
    """
    file = out or cache / FILE
    Cache(cache).clear_of_photos(out)
    if file.exists():
        raise UsageError(
            f"{file} already exists.",
            "A protocol is not overwritten, as runs may follow it; remove it or choose another --out.",
        )
    opened = open_view(cache, view)
    nobody = metrics.score(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), opened.schema)
    criteria.criterion({**nobody.to_dict(), "val_loss": 0.0}, select)
    for seed in seeds:
        FitConfig.from_keys({"run.seed": seed})
    where = folds_file or file.with_suffix(".folds.csv")
    if folds_file is None:
        folds.write_file(opened, count, split_seed, where)
    found = _found(opened, where, probe)
    rules = {
        **({} if view is None else {"data.view": opened.name}),
        "data.folds_file": Path(os.path.relpath(where.resolve(), file.parent.resolve())).as_posix(),
        "select.by": select,
    }
    made = Protocol(file, rules, len(found["data"]["folds"]), _digest(where), tuple(dict.fromkeys(seeds)), found)
    content = {
        "format": FORMAT,
        "written": datetime.date.today().isoformat(),
        "note": note,
        "rules": made.rules,
        "seeds": list(made.seeds),
        "folds": {"count": made.count, "sha256": made.digest},
        "found": found,
    }
    text = HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_with(file, lambda part: part.write_text(text, encoding="utf-8"))
    return made


def read(file: Path) -> Protocol:
    """A protocol from its file.

    Raises:
        UsageError: there is none, or it holds a setting that is unknown or of the wrong type.
        UserError: it cannot be read, or its folds file has changed.
    """
    if not file.is_file():
        raise UsageError(f"There is no protocol {file}.", "Write one with: masktrain init CACHE")
    try:
        content = read_yaml(file)
        rules, seeds = {str(k): v for k, v in content["rules"].items()}, tuple(content["seeds"])
        told = content["folds"]
        made = Protocol(file, rules, int(told["count"]), str(told["sha256"]), seeds, dict(content.get("found") or {}))
        where, usable = made.folds, content["format"] == FORMAT
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{file} is no protocol: {why}.", "Write one with: masktrain init CACHE") from error
    if not usable:
        raise UserError(f"{file} was written by another version.", "Write one with: masktrain init")
    if wrong := sorted({*OWN, "run.seed"} & set(rules)):
        raise UsageError(f"{file}: '{wrong[0]}' is no rule; seeds are listed under 'seeds'.")
    try:
        for seed in seeds or (0,):
            FitConfig.from_keys({**rules, "run.seed": seed})
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", error.hint) from error
    if not where.is_file():
        raise UserError(f"The folds of {file} are gone: there is no {where}.")
    if _digest(where) != made.digest:
        raise UserError(
            f"{where} has changed since {file} was written.",
            "Restore it, or write other rules: masktrain init CACHE --out FILE",
        )
    return made


def of(cache: Path, named: Path | None = None) -> Protocol | None:
    """The protocol that counts for a cache: the one that is named, else its own, else none."""
    if named is not None:
        return read(named)
    return read(cache / FILE) if (cache / FILE).is_file() else None


def settings(cache: Path, given: Mapping[str, Any], named: Path | None = None, deviate: str = "") -> FitConfig:
    """The settings of a fit: those given, and those that the protocol of the cache rules.

    Args:
        cache: to fit on.
        given: settings by dotted name; None for one that is not given.
        named: a protocol in place of the cache's own.
        deviate: why settings contradict the protocol.

    Raises:
        UsageError: settings that contradict the protocol, without a reason; or a reason without such settings.
    """
    rules = of(cache, named)
    if rules is not None and _contradictions(_free(given), rules):  # what does not exist contradicts nothing
        _check(cache, FitConfig.from_keys(_free(given)))
    return FitConfig.from_keys(_ruled(given, rules, deviate))


def _free(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that someone chooses; ``select.by=last`` chooses nothing, whatever the criterion."""
    values = {k: v for k, v in given.items() if k not in OWN}
    if values.get("select.by") == "last":
        del values["select.by"]
        values["select.epoch"] = "last"
    return values


def _check(cache: Path, config: FitConfig) -> None:
    """Raise UsageError for a view or a score that does not exist."""
    nobody = np.zeros(0, dtype=np.int64)
    scores = metrics.score(nobody, nobody, open_view_of(cache, config).schema)
    criteria.criterion({**scores.to_dict(), "val_loss": 0.0}, config.select.by)


def notes(cache: Path, config: FitConfig, named: Path | None = None) -> list[str]:
    """What has changed in the data of a cache since its protocol was written."""
    rules = of(cache, named)
    view = None if rules is None else open_view_of(cache, config)
    if rules is None or view is None or rules.found.get("data", {}).get("view") != view.name or config.data.task:
        return []
    if rules.found["data"]["fingerprint"] == view.fingerprint():
        return []
    return [f"note    labels, crops or people have changed since {rules.file} was written; scores from before differ"]


def of_sweep(cache: Path, base: dict[str, Any], space: Space, named: Path | None = None) -> dict[str, Any]:
    """The fixed settings of a sweep with those that the protocol rules; what is ruled may not vary.

    Raises:
        UsageError: what is fixed or varied contradicts the protocol.
    """
    rules = of(cache, named)
    if rules is None:
        return base
    varied = {v.key: "several values" for v in space.varied if v.key != "data.fold"}
    made = _ruled(space.fixed | base | varied, rules)
    return base | {k: v for k, v in made.items() if k in (*rules.rules, "run.seed", *OWN)}


def _ruled(given: Mapping[str, Any], rules: Protocol | None, deviate: str = "") -> dict[str, Any]:
    """Flat settings with what a protocol rules; see :func:`settings`."""
    values = _free(given)
    if rules is None:
        if deviate:
            raise UsageError("There is no protocol to deviate from.", "Write one with: masktrain init CACHE")
        return values
    against = _contradictions(values, rules)
    if against and not deviate:
        what = "; ".join(f"{key}={value}, not {ruled}" for key, value, ruled in against)
        raise UsageError(
            f"This contradicts the protocol {rules.file}: {what}.",
            "Leave it out, or give the reason, which the run keeps: masktrain fit CACHE --deviate REASON",
        )
    if deviate and not against:
        raise UsageError(f"Nothing deviates from {rules.file}.", "Leave --deviate out.")
    broken = {key for key, *_ in against}
    ruled = rules.rules | {"data.folds_file": str(rules.folds)}
    if values.get("run.seed") is None and rules.seeds:
        ruled["run.seed"] = rules.seeds[0]
    if broken & FOLDS:
        del ruled["data.folds_file"]
    values |= {k: v for k, v in ruled.items() if k not in broken}
    reasons = tuple(f"{key}={value}, not {rule}: {deviate}" for key, value, rule in against)
    return values | {"run.protocol": rules.hash(), "run.deviates": reasons}


FOLDS = {"data.folds_file", "data.fold", "data.val_ratio", "data.split_seed"}
"""Settings that say who is held out; any other than the protocol's makes other folds."""


def _contradictions(given: Mapping[str, Any], rules: Protocol) -> list[tuple[str, Any, Any]]:
    """Settings that are not what a protocol says: their names, values, and what the protocol has."""
    found: list[tuple[str, Any, Any]] = []
    for key, ruled in rules.rules.items():
        value = given.get(key)
        if value is None or key == "data.folds_file":
            continue
        if (list(value) if isinstance(value, tuple) else value) != ruled:
            found.append((key, value, ruled))
    file, fold, seed = (given.get(key) for key in ("data.folds_file", "data.fold", "run.seed"))
    if file and not (Path(file).is_file() and _digest(Path(file)) == rules.digest):
        found.append(("data.folds_file", file, rules.folds))
    if fold and folds.numbered(fold)[1] != rules.count:
        found.append(("data.fold", fold, f"one of {rules.count}"))
    usual = FitConfig().data
    for key, default in (("data.val_ratio", usual.val_ratio), ("data.split_seed", usual.split_seed)):
        if key not in rules.rules and given.get(key) not in (None, default):
            found.append((key, given[key], f"the folds of {rules.folds}"))
    if seed is not None and rules.seeds and seed not in rules.seeds:
        found.append(("run.seed", seed, " or ".join(map(str, rules.seeds))))
    return found


def _found(view: View, file: Path, probe: bool) -> dict[str, Any]:
    """What is there before the first fit, as the file keeps it.

    ``data``: images, people, left out, fingerprint; ``persons``: share known, and what follows; ``eval``: images
    and labelled ones of the split ``eval``; ``classes``: name -> people, images, images in each fold; ``baselines``:
    name -> macro_f1, accuracy, over everyone, each fold answered by what the other folds hold; ``no probe``: why the
    linear probe is not among them.
    """
    usable, left_out = folds.usable_rows(view)
    count = 1 + max(folds.read_file(file, view.table["person"].iloc[usable]).values())
    splits = [folds.split(view, 0.5, 0, fold=f"{k}/{count}", file=str(file)) for k in range(1, count + 1)]
    labels, people = view.table["label"], view.table["person"]
    held = [labels.iloc[s.val].to_numpy(dtype=np.int64) for s in splits]
    images = np.stack([np.bincount(part, minlength=view.schema.num_classes) for part in held])
    truth, total = np.concatenate(held), images.sum(0)
    answers: dict[str, list[Any]] = {}
    for part, counts in zip(held, images, strict=True):
        for name, guessed in metrics.guesses((total - counts).astype(np.float64), len(part)):
            answers.setdefault(name, []).append(guessed)
    scored = {name: metrics.score(truth, np.concatenate(parts), view.schema) for name, parts in answers.items()}
    missing = ""
    try:
        if probe and len(usable):
            name, known, answered = baselines.folded(view, usable, [s.val for s in splits])
            scored[name] = metrics.score(labels.iloc[known].to_numpy(dtype=np.int64), answered, view.schema)
    except UserError as error:
        missing = error.message
    own = view.table.iloc[usable]
    each = own.groupby(own["label"].astype(int))["person"].nunique()
    judged = [t[t["split"] != "train"] for t in (view.table, view.missing)]
    lost = int((view.missing["split"] == "train").sum())
    return {
        "data": {
            "view": view.name,
            "images": len(usable),
            "people": int(people.iloc[usable].nunique()),
            "left out": left_out | ({"no crop": lost} if lost else {}),
            "folds": [{"images": len(s.val), "people": int(people.iloc[s.val].nunique())} for s in splits],
            "fingerprint": view.fingerprint(),
        },
        "persons": {"known": view.persons_known, "doubts": list(view.person_doubts())},
        "eval": {
            "what": "split 'eval': never trained on, never chosen by; scored once, when everything is decided",
            "images": sum(len(t) for t in judged),
            "labelled": sum(int(t["label"].notna().sum()) for t in judged),
        },
        "classes": {
            name: {"people": int(each.get(k, 0)), "images": int(total[k]), "folds": images[:, k].tolist()}
            for k, name in enumerate(view.schema.class_names)
        },
        "baselines": {
            name: {"macro_f1": round(s.macro_f1, 4), "accuracy": round(s.accuracy, 4)} for name, s in scored.items()
        },
        **({"no probe": missing} if missing else {}),
    }


def lines(made: Protocol) -> list[str]:
    """What is there and what is ruled, in words."""
    data, judged, classes = made.found["data"], made.found["eval"], made.found["classes"]
    gone = ", ".join(f"{n} {why}" for why, n in data["left out"].items())
    width = max(len(name) for name in classes)
    noun = unit(data["people"], data["images"])
    columns = ["images"] if noun == "images" else ["people", "images"]
    seeds = f"seeds {', '.join(map(str, made.seeds))}" if made.seeds else "any seed"
    view = f"view '{made.rules['data.view']}'" if "data.view" in made.rules else "any view"
    return [
        f"data    {of_people(data['images'], data['people'])}; view '{data['view']}'",
        *([f"        left out: {gone}"] if gone else []),
        f"eval    {counted(judged['images'], 'image')}, {judged['labelled']} of "
        "them labelled: never trained on or chosen by"
        if judged["images"]
        else f"eval    no split 'eval' in this cache: to score new {noun} at "
        "the end, keep some in a folder of that name",
        *warned(made.found["persons"]["doubts"]),
        f"{'class':{width}}  {'  '.join(columns)}  in each fold",
        *(
            f"{name:{width}}  {'  '.join(f'{c[n]:6d}' for n in columns)} {' '.join(f'{n:4d}' for n in c['folds'])}"
            for name, c in classes.items()
        ),
        *(
            f"note    {name} is missing in {c['folds'].count(0)} of {made.count} folds"
            for name, c in classes.items()
            if c["images"] and not all(c["folds"])
        ),
        *(
            f"baseline {name}: macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f}"
            for name, scores in made.found["baselines"].items()
        ),
        *([f"note    no linear probe: {made.found['no probe']}"] if "no probe" in made.found else []),
        f"rules   {made.count} folds of {noun}, best epoch by {made.rules['select.by']}, {view}, {seeds}",
        f"written {made.file} and its folds {made.folds}",
    ]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
