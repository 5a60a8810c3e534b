"""Make one run out of several: votes, weighted means, stacking, or the mean of their weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, counted
from masktrain.answer.graph import KINDS, Combination
from masktrain.answer.members import FILE, write
from masktrain.combine import averages, members, voting
from masktrain.combine.members import Candidate, check_preparation, copy_in, read_candidate, record
from masktrain.config.settings import nearest
from masktrain.data.names import VALUE
from masktrain.runs import folder as runs
from masktrain.runs.predictions import Predictions, is_csv
from masktrain.score import metrics, paired
from masktrain.score.paired import Paired

ALL_KINDS = (*KINDS, "soup")

FOLD_SETTINGS = ("fold", "folds_file", "val_ratio", "split_seed")
"""Settings of the data in which the folds of one model differ."""

PLACE_SETTINGS = ("device", "log", "snapshot_seconds", "protocol", "deviates")
"""Settings of the run that change no answer."""


@dataclass(frozen=True)
class Entry:
    """One group of members (the folds of one setting, or a single run) and how it does on its own.

    Args:
        name: of the runs.
        score, interval: macro-F1 on the images that count.
        weight: in the mean; None where the kind has none.
        parameters: of all its networks, and ``macs``, the billions of multiply-adds that they take for one image.
    """

    name: str
    score: float
    interval: metrics.Interval
    weight: float | None
    parameters: int
    macs: float


@dataclass(frozen=True)
class Ensemble:
    """A finished ensemble.

    Args:
        run: its folder.
        entries: its groups.
        images: how many images every group has an out-of-fold prediction for.
        score, interval: macro-F1 of the combination there, fitted on other people than it is scored on.
        against: compared with the group that is best there.
        best: number of that group.
        correlation: of the groups' errors, [groups, groups].
        notes: what a reader must know.
    """

    run: Path
    kind: str
    entries: list[Entry]
    images: int
    score: float
    interval: metrics.Interval
    against: Paired | None
    best: int
    correlation: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)


def ensemble(
    given: Sequence[Path],
    out: Path,
    *,
    kind: str = "soft",
    cache: Path | None = None,
    seed: int = 0,
    budget: float | None = None,
    device: str = "auto",
) -> Ensemble:
    """Combine runs into one that evaluate, predict and export accept.

    Runs with equal settings that held out different people are the folds of one model: they form a group and speak as
    its mean. Whatever is fitted is fitted on out-of-fold predictions, and scored on people it was not fitted on.

    Args:
        given: run folders, folders of run folders, or CSV files of predictions; of one run alone the epochs that it
            has kept (snapshots, arXiv 1704.00109), which answer for the held-out people first.
        out: folder of the ensemble, new or empty.
        kind: one of :data:`ALL_KINDS`; see :class:`masktrain.answer.graph.Combination`. ``soup``
            averages weights.
        cache: for ``soup`` and epochs, where the crops are if the cache has moved.
        seed: which folds of the people the scoring uses.
        budget: for ``greedy``, the most billions of multiply-adds that the members may take for an image together.
        device: for ``soup`` and epochs, where networks answer.

    Raises:
        UserError: runs that do not go together, or no image that none of them was trained on.
    """
    if kind not in ALL_KINDS:
        near = nearest(kind, ALL_KINDS)
        raise UsageError(f"There is no kind '{kind}'.", f"Use {', '.join(near or ALL_KINDS)}.")
    if budget is not None and kind != "greedy":
        raise UsageError("Only greedy chooses among members by what they cost.", "Use --kind greedy with --budget.")
    if any(map(is_csv, given)):
        from masktrain.combine import files

        if cache is None or kind == "soup" or budget is not None or not all(map(is_csv, given)):
            raise UsageError(
                "CSV files are combined with each other, by votes, with --cache CACHE and without --budget."
            )
        return files.vote(given, cache, out, kind=kind, seed=seed)
    runs.clear_of_photos(given, out)
    epochs = len(given) == 1 and len(averages.kept(given[0])) > 1
    found, left_out = (list(given), []) if epochs else expand(given)
    if len(found) < 2 and not epochs:
        epochs_kept = "For an ensemble of one run's epochs, keep several: masktrain fit CACHE --set select.last=5"
        raise UsageError(
            f"An ensemble needs at least two finished runs; there is {len(found)}.", " ".join([*left_out, epochs_kept])
        )
    team = [read_candidate(folder) for folder in found]
    check_alike(team)
    runs.clear_of_photos(found, out)
    runs.need_new(out)
    if epochs:
        team = averages.epochs_of(team[0], cache, device)
    costs = [members.cost(m) for m in team]
    if kind == "soup":
        state, made = averages.mean_of(team, cache, device)
        averages.write_mean(team, state, made, out)
        groups, fitted = list(range(len(team))), voting.Fitted()
        tables = np.stack([m.held.probabilities for m in team])
    else:
        groups = group(team)
        tables, held = common(team, groups)
        if kind == "stack":
            _stackable(held)
        limit = None
        if budget is not None:
            limit = voting.Budget(members.affordable([c for _, c in costs], groups, budget), budget)
        answer = nested_answer(kind, tables, held.labels, limit)
        combined = voting.nested(held.labels, held.people, held.schema, answer, seed, held.linked)
        fitted = voting.fit(kind, tables, held.labels, limit)
        made = dataclasses.replace(held.saying(combined), numbers=held.numbers)
        _write(out, kind, *taken(kind, team, groups, fitted), made)
    done = _report(out, kind, team, groups, costs, fitted, tables, made, left_out)
    if not epochs:
        return done
    notes = [n for n in done.notes if not n.startswith("The members err on the same images")]
    notes.append(averages.advice(averages.kept(given[0]), done.correlation))
    if kind != "soup":
        _, mean = averages.mean_of(team, cache, device)
        score = metrics.macro_f1(metrics.confusion(mean.labels, mean.answers, mean.schema.num_classes))
        notes.append(f"One network with the mean of their weights (--kind soup) has macro-F1 {score:.4f}.")
    return dataclasses.replace(done, notes=[n for n in notes if n])


def _stackable(held: Predictions) -> None:
    """Refuse to stack on people of whom one alone shows a class: scored without that person nothing knows the class.

    Raises:
        UsageError: naming such classes.
    """
    table = pd.DataFrame({"label": held.labels, "person": held.people})
    alone = table.groupby("label")["person"].nunique()
    if len(rare := alone.index[alone < 2]):
        names = ", ".join(held.schema.class_names[k] for k in rare[:4]) + (", ..." if len(rare) > 4 else "")
        raise UsageError(
            f"Stacking needs two people of every class among those held out; there is one of: {names}.",
            "Use --kind soft or weighted, or runs of all folds, which hold out everybody.",
        )


def taken(
    kind: str, team: Sequence[Candidate], groups: Sequence[int], fitted: voting.Fitted
) -> tuple[list[Candidate], list[int], voting.Fitted]:
    """Members without those that greedy selection has never taken, with their groups and what was fitted."""
    if kind != "greedy" or fitted.weights is None:
        return list(team), list(groups), fitted
    used = np.flatnonzero(fitted.weights).tolist()
    chosen = [(m, used.index(g)) for m, g in zip(team, groups, strict=True) if g in used]
    return [m for m, _ in chosen], [g for _, g in chosen], dataclasses.replace(fitted, weights=fitted.weights[used])


def expand(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The run folders meant: themselves, or those inside a folder that is none; of a run of all folds its folds.

    Returns:
        Them, and sentences about what lies beside them and does not count.

    Raises:
        UsageError: a folder without runs, an ensemble, or a run named twice.
    """
    found: list[Path] = []
    left_out: list[str] = []
    for folder in given:
        if (folder / runs.FOLDS).is_file():
            found += runs.members(folder)
            continue
        if (folder / FILE).is_file():
            raise UsageError(f"{folder} is an ensemble itself.", "Name the runs it was made of.")
        inside: list[Path] = []
        if not (folder / runs.CONFIG).is_file():
            for each in sorted(file.parent for file in folder.glob(f"*/{runs.CONFIG}")):
                if why := _no_member(each):
                    left_out.append(f"{each} is left out: it is {why}.")
                else:
                    inside += runs.members(each) if (each / runs.FOLDS).is_file() else [each]
            if left_out and not inside:
                raise UsageError(f"{folder} holds no finished run.", " ".join(left_out))
        found += inside or [folder]
    if len({f.resolve() for f in found}) < len(found):
        raise UsageError("A run is named twice.", "Use --kind greedy or weighted to give runs more weight than others.")
    return found, left_out


def _no_member(run: Path) -> str:
    """Why a folder that nobody named is no member; empty if it is one."""
    if not runs.finished(run):
        return "not finished"
    made = not (run / runs.FOLDS).is_file() and ((run / FILE).is_file() or (run / averages.FILE).is_file())
    return "made of runs itself" if made else ""


def check_alike(members: Sequence[Candidate]) -> None:
    """Refuse runs that answer different questions, or that look for the subject in different ways.

    Raises:
        UsageError: naming two of them.
    """
    first = members[0]
    for other in members[1:]:
        if other.sidecar.classes != first.sidecar.classes:
            raise UsageError(
                f"{first.folder} and {other.folder} have different classes.",
                "Runs for parts of the label are put together with: masktrain compose",
            )
    check_preparation(members)


def group(team: Sequence[Candidate]) -> list[int]:
    """Number of each member's group: settings that are equal but for the fold, one view, and no image in common."""
    kinds: list[tuple[str, set[str]]] = []
    numbers = []
    for member in team:
        without = {"data": FOLD_SETTINGS, "run": PLACE_SETTINGS}
        own = {s: {k: v for k, v in kept.items() if k not in without.get(s, ())} for s, kept in member.settings.items()}
        key = json.dumps([own, member.sidecar.view, member.sidecar.geometry], sort_keys=True, default=str)
        images = set(member.held.images.tolist())
        for number, (other, seen) in enumerate(kinds):
            if other == key and not seen & images:
                seen |= images
                numbers.append(number)
                break
        else:
            kinds.append((key, images))
            numbers.append(len(kinds) - 1)
    return numbers


def common(team: Sequence[Candidate], groups: Sequence[int]) -> tuple[NDArray[np.float64], Predictions]:
    """Out-of-fold probabilities [groups, n, C] of the images that every group has one for, and those images.

    Raises:
        UserError: there are none; or runs that disagree on a label.
    """
    frames = []
    for number in range(max(groups) + 1):
        parts = [m.held.frame() for m, g in zip(team, groups, strict=True) if g == number]
        frames.append(pd.concat(parts).set_index("image").sort_index())
    shared = frames[0].index
    for frame in frames[1:]:
        shared = shared.intersection(frame.index)
    if not len(shared):
        raise UserError(
            "The runs held out different people, so there is nobody on whom all of them can be scored.",
            "Train them with the same --split-seed, or give all folds of each.",
        )
    shared = shared.sort_values()
    labels = [frame.loc[shared, "label"].to_numpy(dtype=np.int64) for frame in frames]
    if any((labels[0] != other).any() for other in labels[1:]):
        raise UserError("The runs were trained on different labels of the same images.", "Train them on one cache.")
    columns = [c for c in frames[0] if str(c).startswith("p_")]
    tables = np.stack([frame.loc[shared, columns].to_numpy(dtype=np.float64) for frame in frames])
    people = frames[0].loc[shared, "person"].to_numpy(dtype=object)
    linked = tuple(dict.fromkeys(tuple(group) for m in team for group in m.held.linked))
    images = shared.to_numpy(dtype=object)
    numbers = {}
    for name in team[0].held.schema.joint:
        if told := [frame.loc[shared, f"{name}{VALUE}"] for frame in frames if f"{name}{VALUE}" in frame]:
            numbers[name] = np.mean(told, axis=0)
    held = Predictions(images, people, labels[0], tables[0], team[0].held.schema, linked=linked, numbers=numbers)
    return tables, held


def nested_answer(
    kind: str, tables: NDArray[np.float64], labels: NDArray[np.int64], budget: voting.Budget | None = None
) -> Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.float64]]:
    """For :func:`masktrain.combine.voting.nested`: combine some images by what is fitted on others."""
    numbers = range(len(tables))

    def answer(known: NDArray[np.bool_], asked: NDArray[np.bool_]) -> NDArray[np.float64]:
        fitted = voting.fit(kind, tables[:, known], labels[known], budget)
        with torch.inference_mode():
            return np.asarray(combination(kind, numbers, fitted)(torch.from_numpy(tables[:, asked]).float()).numpy())

    return answer


def combination(kind: str, groups: Sequence[int], fitted: voting.Fitted) -> Combination:
    """The module that combines members by what was fitted for their groups."""
    weights = None if fitted.weights is None else fitted.weights.tolist()
    return Combination(kind, groups, weights, fitted.coefficients, fitted.intercepts)


def _write(
    out: Path, kind: str, team: Sequence[Candidate], groups: Sequence[int], fitted: voting.Fitted, made: Predictions
) -> None:
    """The folder of an ensemble; its members' weights are copied, so it can be moved and they can be deleted."""
    folders = copy_in(out, team)
    record(out, team, made, {"ensemble": {"kind": kind, "members": [m.name for m in team]}})
    learnt = (fitted.weights, fitted.coefficients, fitted.intercepts)
    write(
        out, kind, folders, groups, *(None if v is None else v.tolist() for v in learnt)
    )  # last: now it is an ensemble


def _report(
    out: Path,
    kind: str,
    team: Sequence[Candidate],
    groups: Sequence[int],
    costs: Sequence[tuple[int, float]],
    fitted: voting.Fitted,
    tables: NDArray[np.float64],
    made: Predictions,
    left_out: Sequence[str],
) -> Ensemble:
    """Scores, diversity and cost."""
    classes, labels, people = tables.shape[2], made.labels, made.people.tolist()
    answers = [table.argmax(1) for table in tables]
    scores = [metrics.macro_f1(metrics.confusion(labels, a, classes)) for a in answers]
    best = int(np.argmax(scores))
    entries = []
    for g, answered in enumerate(answers):
        mine = [i for i, number in enumerate(groups) if number == g]
        name = team[mine[0]].name + (f" and {len(mine) - 1} more folds" if len(mine) > 1 else "")
        weight = None if fitted.weights is None else float(fitted.weights[g])
        parameters, macs = sum(costs[i][0] for i in mine), sum(costs[i][1] for i in mine)
        interval = metrics.interval(labels, answered, people, classes)
        entries.append(Entry(name, scores[g], interval, weight, parameters, macs))
    predicted = made.probabilities.argmax(1)
    correlation = voting.error_correlation(np.array([a != labels for a in answers]))
    notes = [*left_out, *_notes(team, groups, tables, correlation)]
    return Ensemble(
        run=out,
        kind=kind,
        entries=entries,
        images=len(made),
        score=metrics.macro_f1(metrics.confusion(labels, predicted, classes)),
        interval=metrics.interval(labels, predicted, people, classes),
        against=paired.compare(labels, predicted, answers[best], people, classes) if len(entries) > 1 else None,
        best=best,
        correlation=correlation,
        notes=notes,
    )


def _notes(
    members: Sequence[Candidate], groups: Sequence[int], tables: NDArray[np.float64], correlation: NDArray[np.float64]
) -> list[str]:
    notes = []
    count = len(tables)
    if len(members) > count:
        notes.append(
            "Folds of one model are scored by the fold that was not trained on "
            "the person; for new photos the mean of all"
            " folds is used."
        )
    if count > 1:
        mean = float(correlation[~np.eye(count, dtype=bool)].mean())
        if mean > voting.ALIKE:
            notes.append(
                f"The members err on the same images (mean correlation {mean:.2f}): combining them gains little."
            )
        notes.append("The best member was chosen on these images, so its score is slightly too high.")
    most = max(len(m.held) for m in members)
    if tables.shape[1] < most // 2:
        notes.append(f"Only {counted(tables.shape[1], 'image')} held out by all; runs held out up to {most} each.")
    return notes
