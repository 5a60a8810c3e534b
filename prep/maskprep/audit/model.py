"""Checks of what trained runs predicted for images that they were not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp
from maskprep.audit.predictions import Predictions
from maskprep.errors import missing_extra

HOPELESS = 0.3
"""Share of errors from which on a run's disagreement says nothing about the label: people who label err far less."""

DOUBT = 0.3
"""Severity of a disagreement that says nothing."""


def weighed(severity: float, errors: float) -> float:
    """A severity as it stands for a run that never errs, cut down by the share of images that the runs do get wrong.

    The more often runs err on an attribute, the likelier it is that they, and not the label, are wrong once more.
    """
    return DOUBT + max(0.0, 1 - errors / HOPELESS) * (severity - DOUBT)


def _runs(c: Context) -> tuple[Predictions, ...]:
    if not c.predictions:
        raise NotRunError("no predictions were given; give them with: --predictions runs/*/oof.parquet")
    return c.predictions


def current(c: Context, run: Predictions) -> NDArray[np.int64]:
    """The labels as they are now, -1 where there is none: a relabelled image is judged by its new label."""
    now = dict(zip(c.labels["image"], c.labels["label"], strict=True))
    return np.array([-1 if pd.isna(now[image]) else int(now[image]) for image in run.images], np.int64)


def _by_attribute(c: Context, run: Predictions) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.float64]]]:
    """(attribute, current classes or -1, probabilities) of one run."""
    joint = current(c, run)
    told = [c.schema.decode(int(k)) if k >= 0 else (-1,) * len(c.schema.joint) for k in joint]
    for axis, name in enumerate(c.schema.joint):
        yield name, np.array([t[axis] for t in told], np.int64), run.of_attribute(c.schema, name)


@check("model_label_issue", "model", "Runs that never saw the image are sure of another label (confident learning).")
def model_label_issue(c: Context) -> Iterable[Hit]:
    """Per attribute, cleanlab's confident learning (Northcutt et al. 2021) on the mean of all runs; the severity is how
    much surer the runs are of the other class, :func:`weighed` by how often they are wrong."""
    runs = _runs(c)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise NotRunError(str(missing_extra("cleanlab", "audit")).replace("\n", " ")) from error
    for name in c.schema.joint:
        images, labels, probabilities = pooled(c, runs, name)
        present = np.unique(labels)
        if len(present) < 2:
            continue
        cut = probabilities[:, present]
        cut = cut / np.maximum(1e-12, cut.sum(axis=1, keepdims=True))
        short = np.searchsorted(present, labels)
        issues = find_label_issues(short, cut, filter_by="both", n_jobs=1)
        errors = float((cut.argmax(axis=1) != short).mean())
        classes = c.schema[name].classes
        for i in np.flatnonzero(issues):
            given, other = float(cut[i, short[i]]), int(cut[i].argmax())
            if other == short[i]:
                continue
            severity = weighed(0.5 + 0.45 * max(0.0, float(cut[i, other]) - given), errors)
            text = f"{name} is '{classes[labels[i]]}' ({given:.0%}), the runs say '{classes[present[other]]}'"
            yield images[i], severity, f"{text} ({float(cut[i, other]):.0%})"


def pooled(
    c: Context, runs: Iterable[Predictions], name: str
) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Images with a label, their classes and the mean probabilities over all runs, for one attribute."""
    total: dict[str, list[NDArray[np.float64]]] = {}
    label: dict[str, int] = {}
    for run in runs:
        for attribute, told, probabilities in _by_attribute(c, run):
            if attribute == name:
                for image, k, row in zip(run.images, told, probabilities, strict=True):
                    if k >= 0:
                        total.setdefault(image, []).append(row)
                        label[image] = int(k)
    images = sorted(total)
    means = [np.mean(total[image], axis=0) for image in images]
    size = len(c.schema[name].classes)
    values = np.array(means, np.float64).reshape(-1, size)
    return images, np.array([label[image] for image in images], np.int64), values


@check("model_often_wrong", "model", "Several runs get the image wrong.")
def model_often_wrong(c: Context) -> Iterable[Hit]:
    """Wrong in at least two runs and in more than half of those that looked; per attribute, and :func:`weighed`."""
    runs = _runs(c)
    wrong: dict[tuple[str, str], int] = {}
    asked: dict[tuple[str, str], int] = {}
    for run in runs:
        for name, told, probabilities in _by_attribute(c, run):
            said = probabilities.argmax(axis=1)
            for image, k, p in zip(run.images, told, said, strict=True):
                if k >= 0:
                    asked[image, name] = asked.get((image, name), 0) + 1
                    wrong[image, name] = wrong.get((image, name), 0) + int(k != p)
    if max(asked.values(), default=0) < 2:
        raise NotRunError("it takes predictions of at least two runs on the same images")
    errors = {
        name: sum(n for (_, a), n in wrong.items() if a == name)
        / max(1, sum(n for (_, a), n in asked.items() if a == name))
        for name in c.schema.joint
    }
    for (image, name), n in wrong.items():
        if n >= 2 and 2 * n > asked[image, name]:
            share = n / asked[image, name]
            yield image, weighed(0.35 + 0.3 * share, errors[name]), f"{name}: wrong in {n} of {asked[image, name]} runs"


@check("model_unsure", "model", "Runs that never saw the image can hardly tell its label.")
def model_unsure(c: Context) -> Iterable[Hit]:
    """Gap between the two likeliest classes of an attribute, on the mean of all runs."""
    for name in c.schema.joint:
        images, _, probabilities = pooled(c, _runs(c), name)
        if probabilities.shape[1] < 2:
            continue
        best = np.sort(probabilities, axis=1)[:, ::-1]
        for image, first, second in zip(images, best[:, 0], best[:, 1], strict=True):
            if severity := ramp(first - second, 0.15, 0.0, 0.2, 0.4):
                yield image, severity, f"{name}: {first:.0%} against {second:.0%}"


@check("model_confused", "model", "The image is one of a pair of classes that runs mix up most.")
def model_confused(c: Context) -> Iterable[Hit]:
    """Wrong predictions among the three pairs of joint classes that are mixed up most often."""
    counts: dict[tuple[int, int], int] = {}
    wrong: list[tuple[str, int, int, float]] = []
    for run in _runs(c):
        told = current(c, run)
        said = run.probabilities.argmax(axis=1)
        for image, a, b, row in zip(run.images, told, said, run.probabilities, strict=True):
            if a >= 0 and a != b:
                pair = (min(int(a), int(b)), max(int(a), int(b)))
                counts[pair] = counts.get(pair, 0) + 1
                wrong.append((image, int(a), int(b), float(row[b] - row[a])))
    worst = sorted(counts, key=lambda pair: (-counts[pair], pair))[:3]
    names = c.schema.class_names
    for image, a, b, gap in wrong:
        pair = (min(a, b), max(a, b))
        if pair in worst:
            text = f"{names[a]} taken for {names[b]}, one of {counts[pair]} mix-ups of these two"
            yield image, 0.25 + 0.2 * gap, text
