"""Checks of what trained runs predicted for images that they were not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp
from maskprep.audit.predictions import Predictions
from maskprep.base import missing_extra

HOPELESS = 0.3
"""Share of errors from which on a run's disagreement says nothing about the label: people who label err far less."""

DOUBT = 0.3
"""Severity of a disagreement that says nothing."""


def weighed(severity: float, errors: float) -> float:
    """A severity as it stands for a run that never errs, cut down by the share of images that the runs do get wrong.

    The more often runs err on an attribute, the likelier it is that they, and not the label, are wrong once more.
    """
    return DOUBT + max(0.0, 1 - errors / HOPELESS) * (severity - DOUBT)


def _runs(c: Context) -> list[tuple[Predictions, NDArray[np.int64]]]:
    """Each run with the joint classes of its images as they are labelled now, -1 without a label: a relabelled image is
    judged by its new label.

    Raises:
        NotRunError: no predictions were given.
    """
    if not c.predictions:
        raise NotRunError("no predictions were given; give them with: --predictions runs/*/oof.parquet")
    now = dict(zip(c.labels["image"], c.labels["label"].fillna(-1).astype(np.int64), strict=True))
    return [(run, np.array([now[image] for image in run.images], np.int64)) for run in c.predictions]


def _of_attribute(c: Context, name: str) -> Iterator[tuple[list[str], NDArray[np.int64], NDArray[np.float64]]]:
    """Of each run the images with a label, their classes of one attribute, and the probabilities, float64 [n, k]."""
    axis = c.schema.joint.index(name)
    for run, joint in _runs(c):
        rows = np.flatnonzero(joint >= 0)
        classes = np.array([c.schema.decode(int(k))[axis] for k in joint[rows]], np.int64)
        yield [run.images[i] for i in rows], classes, run.of_attribute(c.schema, name)[rows]


def pooled(c: Context, name: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Images with a label, their classes and the mean probabilities over all runs, for one attribute."""
    label: dict[str, int] = {}
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for images, classes, probabilities in _of_attribute(c, name):
        label |= dict(zip(images, classes.tolist(), strict=True))
        for image, row in zip(images, probabilities, strict=True):
            rows.setdefault(image, []).append(row)
    images = sorted(label)
    means = np.array([np.mean(rows[image], axis=0) for image in images], np.float64)
    return images, np.array([label[i] for i in images], np.int64), means.reshape(-1, len(c.schema[name].classes))


@check("model_label_issue", "model", "Runs that never saw the image are sure of another label (confident learning).")
def model_label_issue(c: Context) -> Iterable[Hit]:
    """Per attribute, cleanlab's confident learning (Northcutt et al. 2021) on the mean of all runs; the severity is how
    much surer the runs are of the other class, :func:`weighed` by how often they are wrong."""
    _runs(c)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise NotRunError(str(missing_extra("cleanlab", "audit")).replace("\n", " ")) from error
    for name in c.schema.joint:
        images, labels, probabilities = pooled(c, name)
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


@check("model_often_wrong", "model", "Several runs get the image wrong.")
def model_often_wrong(c: Context) -> Iterable[Hit]:
    """Wrong in at least two runs and in more than half of those that looked; per attribute, and :func:`weighed`."""
    _runs(c)
    asked: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for name in c.schema.joint:
        for images, classes, probabilities in _of_attribute(c, name):
            asked.update((image, name) for image in images)
            missed = classes != probabilities.argmax(axis=1)
            wrong.update((image, name) for image, miss in zip(images, missed, strict=True) if miss)
    if max(asked.values(), default=0) < 2:
        raise NotRunError("it takes predictions of at least two runs on the same images")
    errors = {
        name: sum(n for (_, a), n in wrong.items() if a == name)
        / max(1, sum(n for (_, a), n in asked.items() if a == name))
        for name in c.schema.joint
    }
    for (image, name), n in wrong.items():
        count = asked[image, name]
        if n >= 2 and 2 * n > count:
            yield image, weighed(0.35 + 0.3 * n / count, errors[name]), f"{name}: wrong in {n} of {count} runs"


@check("model_unsure", "model", "Runs that never saw the image can hardly tell its label.")
def model_unsure(c: Context) -> Iterable[Hit]:
    """Gap between the two likeliest classes of an attribute, on the mean of all runs."""
    _runs(c)
    for name in c.schema.joint:
        images, _, probabilities = pooled(c, name)
        if probabilities.shape[1] > 1:
            best = np.sort(probabilities, axis=1)[:, ::-1]
            for image, first, second in zip(images, best[:, 0], best[:, 1], strict=True):
                text = f"{name}: {first:.0%} against {second:.0%}"
                yield image, ramp(first - second, 0.15, 0.0, 0.2, 0.4), text


@check("model_confused", "model", "The image is one of a pair of classes that runs mix up most.")
def model_confused(c: Context) -> Iterable[Hit]:
    """Wrong predictions among the three pairs of joint classes that are mixed up most often."""
    wrong: list[tuple[str, int, int, float]] = []
    for run, labels in _runs(c):
        for image, a, row in zip(run.images, labels.tolist(), run.probabilities, strict=True):
            b = int(row.argmax())
            if a >= 0 and a != b:
                wrong.append((image, a, b, float(row[b] - row[a])))
    counts = Counter((min(a, b), max(a, b)) for _, a, b, _ in wrong)
    worst = sorted(counts, key=lambda pair: (-counts[pair], pair))[:3]
    names = c.schema.class_names
    for image, a, b, gap in wrong:
        pair = (min(a, b), max(a, b))
        if pair in worst:
            text = f"{names[a]} taken for {names[b]}, one of {counts[pair]} mix-ups of these two"
            yield image, 0.25 + 0.2 * gap, text
