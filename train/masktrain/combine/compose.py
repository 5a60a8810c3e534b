"""Runs that each learnt a part, each with a model, view and settings of its own, as one that answers everything.

The parts are networks for some attributes (``masktrain fit --task age``), or for them where another attribute has some
classes (``--task age --where mask=wear``). Their probabilities are multiplied; the result is scored out of fold on
people that no part was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.labels import Schema
from masktrain.answer.graph import PRODUCT, ROUTED, Combination, JointMap, joint_map
from masktrain.answer.members import Parts, write
from masktrain.combine import ensemble
from masktrain.combine.members import Candidate, check_preparation, copy_in, read_candidate, record
from masktrain.config.settings import nearest
from masktrain.config.where import Where
from masktrain.data import tasks
from masktrain.data.names import listed
from masktrain.runs import folder as runs
from masktrain.runs import predictions
from masktrain.runs.predictions import Predictions
from masktrain.score import metrics


@dataclass(frozen=True)
class Part:
    """A run that answers for some attributes, or all folds of one; ``where`` says for which images it was trained."""

    attributes: tuple[str, ...]
    folder: Path
    members: tuple[Candidate, ...]
    held: Predictions
    schema: Schema
    where: Where | None

    @property
    def name(self) -> str:
        """For people."""
        return ",".join(self.attributes) + (f" where {self.where}" if self.where else "")


@dataclass(frozen=True)
class Composed:
    """A finished composition.

    Attributes:
        run: its folder.
        images: how many were held out by every part.
        scores, interval: of the joint answers on these images.
        parts: of each part its name, its run, network, view, and macro-F1 of its attributes where it is asked.
        notes: what a reader must know.
    """

    run: Path
    images: int
    scores: metrics.Scores
    interval: metrics.Interval
    parts: tuple[tuple[str, str, str, str, float], ...]
    notes: tuple[str, ...]


def compose(given: Sequence[str], out: Path, *, route: str = "soft") -> Composed:
    """Make one run of several that evaluate, predict, explain and export accept like any other.

    Args:
        given: ``attribute=RUN`` for every attribute (``mask,gender=RUN`` for several at once). A run that knows more
            attributes is summed over them. A run that was trained where another attribute has some classes is asked
            for those alone; then there must be one for each of its classes.
        out: folder of the composition, new or empty.
        route: ``soft`` multiplies all; ``hard`` takes what the parts answer for the most probable class of the first
            part alone.

    Raises:
        UserError: parts that do not make up the joint label, or that held out different people.
    """
    if route not in ("soft", "hard"):
        raise UsageError(f"--route cannot be '{route}'.", "Use soft or hard.")
    runs.need_new(out)
    named = [_named(text) for text in given]
    runs.clear_of_photos([folder for _, folder in named], out)
    whole, counts = _whole([folder for _, folder in named])
    parts = [_part(names, folder, whole) for names, folder in named]
    check(parts, whole)
    everyone = [m for part in parts for m in part.members]
    check_preparation(everyone)
    held = [_answers(part, whole) for part in parts]
    kind = PRODUCT if route == "soft" else ROUTED
    made, notes = multiply(parts, held, whole, kind)
    fallback = int(np.argmax(counts))
    _write(out, kind, parts, everyone, made, Parts(whole, fallback, _asked(parts)), counts)
    told = made.answers
    return Composed(
        out,
        len(made),
        metrics.score(made.labels, told, whole, made.probabilities),
        metrics.interval(made.labels, told, made.people.tolist(), whole.num_classes),
        tuple(_line(part) for part in parts),
        tuple(notes),
    )


def _named(text: str) -> tuple[tuple[str, ...], Path]:
    names, equals, folder = text.partition("=")
    if not (equals and names.strip() and folder.strip()):
        raise UsageError(f"'{text}' is not ATTRIBUTE=RUN.", "Such as: masktrain compose mask=runs/a age=runs/b --out c")
    return tuple(name.strip() for name in names.split(",")), Path(folder)


def _whole(folders: Sequence[Path]) -> tuple[Schema, NDArray[np.int64]]:
    """The schema of the cache that all parts were trained on, and the training images of its classes."""
    found: list[tuple[Schema, NDArray[np.int64]]] = []
    for folder in folders:
        data = runs.read_data(folder)
        if "whole" in data:
            schema, counts = Schema.from_dict(data["whole"]["schema"]), data["whole"]["train"]
        else:  # a run of an earlier version, which knew all attributes
            schema, counts = read_candidate(ensemble.expand([folder])[0][0]).sidecar.labels(), data["classes"]["train"]
        found.append((schema, np.array(counts, dtype=np.int64)))
    for folder, (schema, _) in zip(folders, found, strict=True):
        if schema != found[0][0]:
            raise UsageError(f"{folders[0]} and {folder} were trained on caches with other classes.")
    return found[0][0], max((counts for _, counts in found), key=lambda c: int(c.sum()))


def _part(names: tuple[str, ...], folder: Path, whole: Schema) -> Part:
    members = tuple(read_candidate(each) for each in ensemble.expand([folder])[0])
    if len(members) > 1 and not (folder / runs.FOLDS).is_file():
        raise UsageError(f"{folder} holds several runs.", "Name one of them, or the folder of all folds of one.")
    schema = members[0].sidecar.labels()
    for name in names:
        if name not in whole.joint:
            near = nearest(name, whole.joint)
            hint = f"Did you mean '{near[0]}'?" if near else f"There is {', '.join(whole.joint)}."
            raise UsageError(f"There is no attribute '{name}'.", hint)
        if name not in schema.joint:
            raise UsageError(f"{folder} does not classify {name}; it classifies {', '.join(schema.joint)}.")
    where = tasks.parse(members[0].settings.get("data", {}).get("where", ""), whole)
    if where is not None and where.attribute in names:
        raise UsageError(f"{folder} was trained where {where} only, so it cannot classify {where.attribute}.")
    return Part(names, folder, members, predictions.read(folder), schema, where)


def check(parts: Sequence[Part], whole: Schema) -> None:
    """Make sure that every attribute is answered once for every image.

    Raises:
        UsageError: it is not.
    """
    for name in whole.joint:
        mine = [part for part in parts if name in part.attributes]
        if not mine:
            raise UsageError(f"No run is named for {name}.", f"The joint label is made of {', '.join(whole.joint)}.")
        if len(mine) == 1 and mine[0].where is None:
            continue
        states = [part.where.attribute for part in mine if part.where is not None]
        if len(states) < len(mine) or len(set(states)) > 1:
            raise UsageError(f"Several runs are named for {name}: {listed([str(p.folder) for p in mine])}.")
        classes = [c for part in mine if part.where is not None for c in part.where.classes]
        if sorted(classes) != sorted(whole[states[0]].classes):
            twice = sorted({c for c in classes if classes.count(c) > 1})
            lost = [c for c in whole[states[0]].classes if c not in classes]
            said = f"has several runs where {states[0]} is {listed(twice)}" if twice else ""
            said = said or f"has no run where {states[0]} is {listed(lost)}"
            raise UsageError(
                f"{name} {said}.", "Train the parts with --where so that each class is in exactly one of them."
            )
        if any(states[0] in part.attributes and part.where is not None for part in parts):
            raise UsageError(
                f"{states[0]} decides which run classifies {name}, so one run must classify it on all images."
            )


def multiply(
    parts: Sequence[Part], held: Sequence[pd.DataFrame], whole: Schema, kind: str = PRODUCT
) -> tuple[Predictions, list[str]]:
    """The joint probabilities of the images that every part held out.

    Args:
        held: of each part, by image: person, its attributes as it was told them, and its factors p_0, p_1, ...

    Raises:
        UserError: the parts held out different people, or were told different labels.
    """
    notes = []
    people = [set(frame["person"]) for frame in held]
    for part, theirs in zip(parts, people, strict=True):
        if theirs != people[0]:
            one, other = len(people[0] - theirs), len(theirs - people[0])
            raise UserError(
                f"{parts[0].folder} and {part.folder} held out different people ({one} and {other} the other did not),"
                " so there is nobody on whom both can be scored.",
                "Train the parts with the same --split-seed and --val-ratio (or --fold, --folds-file).",
            )
    shared = held[0].index
    for frame in held[1:]:
        shared = shared.intersection(frame.index)
    shared = shared.sort_values()
    if lost := max(len(frame) for frame in held) - len(shared):
        notes.append(f"{lost} held-out images lack crops in one of the views, and are not scored.")
    columns = [f"p_{k}" for k in range(whole.num_classes)]
    tables = np.stack([frame.loc[shared, columns].to_numpy(dtype=np.float64) for frame in held])
    table = Combination(kind, range(len(held)))(torch.from_numpy(tables).float()).numpy().astype(np.float64)
    told: dict[str, NDArray[np.int64]] = {}
    for frame in held:
        for name in (n for n in whole.joint if n in frame):
            values = frame.loc[shared, name].to_numpy(dtype=np.int64)
            if (told.setdefault(name, values) != values).any():
                raise UserError(f"The runs were trained on different labels of {name}.", "Train them on one cache.")
    labels = [whole.encode([int(told[name][i]) for name in whole.joint]) for i in range(len(shared))]
    who = held[0].loc[shared, "person"].to_numpy(dtype=object)
    linked = tuple(dict.fromkeys(group for part in parts for group in part.held.linked))
    truth, images = np.array(labels, dtype=np.int64), shared.to_numpy(dtype=object)
    return Predictions(images, who, truth, table, whole, linked=linked), notes


def _answers(part: Part, whole: Schema) -> pd.DataFrame:
    """What a part says of those it held out, see :func:`multiply`."""
    factors = _spread(part, whole)(torch.tensor(part.held.probabilities, dtype=torch.float32)).numpy()
    frame = pd.DataFrame(factors, columns=[f"p_{k}" for k in range(whole.num_classes)], index=part.held.images)
    frame.insert(0, "person", part.held.people)
    indices = np.array([part.schema.decode(int(label)) for label in part.held.labels])
    for name in part.schema.joint:
        if name in whole.joint:
            frame[name] = indices[:, part.schema.joint.index(name)]
    return frame


def _spread(part: Part, whole: Schema) -> JointMap:
    return joint_map(whole, part.schema, part.attributes, part.where)


def _asked(parts: Sequence[Part]) -> tuple[tuple[tuple[str, ...], Where | None], ...]:
    return tuple((part.attributes, part.where) for part in parts for _ in part.members)


def _line(part: Part) -> tuple[str, str, str, str, float]:
    """A part for people, with macro-F1 of its attributes over all that it held out."""
    places = [part.schema.joint.index(name) for name in part.attributes]
    asked = Schema(tuple(part.schema[name] for name in part.attributes))
    matrix = joint_map(part.schema, part.schema, part.attributes).matrix.numpy()  # 1 where two agree in what is asked
    told = (part.held.probabilities @ matrix).argmax(1)
    truth, answered = (
        np.array([asked.encode([part.schema.decode(int(k))[p] for p in places]) for k in values], dtype=np.int64)
        for values in (part.held.labels, told)
    )
    score = metrics.macro_f1(metrics.confusion(truth, answered, asked.num_classes))
    sidecar = part.members[0].sidecar
    size = "x".join(map(str, sidecar.size))
    return part.name, str(part.folder), sidecar.backbones, f"{sidecar.view} {size}", score


def _write(
    out: Path,
    kind: str,
    parts: Sequence[Part],
    everyone: Sequence[Candidate],
    made: Predictions,
    about: Parts,
    counts: NDArray[np.int64],
) -> None:
    """The folder of a composition; weights are copied, so it can be moved and its parts can be deleted."""
    folders = copy_in(out, everyone)
    told = {"composition": {part.name: str(part.folder.name) for part in parts}}
    record(out, everyone, made, told, counts)
    groups = [number for number, part in enumerate(parts) for _ in part.members]
    write(out, kind, folders, groups, parts=about)  # last: now it is a run
