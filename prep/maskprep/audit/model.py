"""Checks of what trained runs predicted for images that they were not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp
from maskprep.audit.predictions import mislabelled
from maskprep.base import missing_extra

HOPELESS = 0.3
"""Share of errors from which on a run's disagreement says nothing about the label: people who label err far less."""

DOUBT = 0.3
"""Severity of a disagreement that says nothing."""

ALONE = 0.45
"""Largest severity of what one run alone says."""


def weighed(severity: float, errors: float) -> float:
    """A severity as it stands for a run that never errs, cut down by the share of images that the runs do get wrong.

    The more often runs err on an attribute, the likelier it is that they, and not the label, are wrong once more.
    """
    return DOUBT + max(0.0, 1 - errors / HOPELESS) * (severity - DOUBT)


def joint(c: Context) -> tuple[pd.Series, pd.DataFrame]:
    """By image and run, the joint class as it is labelled now (a relabelled image is judged by its new label) and the
    probability of each joint class; images without a label are left out.

    Raises:
        NotRunError: no predictions were given.
    """
    if not c.predictions:
        raise NotRunError("no predictions were given; give them with: --predictions runs/*/oof.parquet")
    rows = pd.concat([pd.DataFrame(run.probabilities, index=list(run.images)) for run in c.predictions])
    truth = c.labels.set_index("image")["label"].loc[rows.index]
    known = truth.notna().to_numpy()
    return truth[known].astype(np.int64), rows[known]


def of_attribute(c: Context, name: str) -> tuple[pd.Series, pd.DataFrame]:
    """The same for the classes of one attribute: summed over the joint classes that share one."""
    truth, rows = c.once(joint)
    axis = c.schema.joint.index(name)
    classes = [c.schema.decode(k)[axis] for k in range(rows.shape[1])]
    return truth.map(lambda k: classes[k]), rows.T.groupby(classes).sum().T


def pooled(c: Context, name: str) -> tuple[pd.Series, pd.DataFrame]:
    """The same, one row an image: the mean of all runs."""
    truth, rows = c.once(of_attribute, name)
    return truth[~truth.index.duplicated()].sort_index(), rows.groupby(level=0).mean()


@check("Runs that were not trained on the person are certain of another label (confident learning).")
def model_label_issue(c: Context) -> Iterable[Hit]:
    """Per attribute, cleanlab's confident learning (Northcutt et al. 2021) on the mean of all runs; the severity
    follows how probable it is that the label is wrong, see ``mislabelled``. It stays below likely where the runs
    do not know the attribute (accuracy below 0.9), or fewer than two of them say so."""
    c.once(joint)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise NotRunError(str(missing_extra("cleanlab", "audit")).replace("\n", " ")) from error
    for name in c.schema.joint:
        truth, rows = c.once(pooled, name)
        present = np.unique(truth)
        if len(present) < 2:
            continue
        cut = rows[present].to_numpy()
        cut = cut / np.maximum(1e-12, cut.sum(axis=1, keepdims=True))
        short = np.searchsorted(present, truth)
        issues = find_label_issues(short, cut, filter_by="both", n_jobs=1)
        doubts = mislabelled(short.astype(np.int64), cut)
        each = c.once(of_attribute, name)[1].idxmax(axis=1)
        classes = [c.schema[name].classes[k] for k in present]
        for i in map(int, np.flatnonzero(issues & (cut.argmax(axis=1) != short))):
            label, other = int(short[i]), int(cut[i].argmax())
            given, told = float(cut[i, label]), float(cut[i, other])
            agree = int((each.loc[[truth.index[i]]] == present[other]).sum())
            severity = DOUBT if doubts is None else DOUBT + (0.95 - DOUBT) * float(doubts[1][i])
            severity = severity if agree > 1 else min(severity, ALONE)
            text = f"{name} is '{classes[label]}' ({given:.0%}), the runs say '{classes[other]}' ({told:.0%})"
            yield truth.index[i], severity, text


@check("Several runs get the image wrong.")
def model_often_wrong(c: Context) -> Iterable[Hit]:
    """Wrong in at least two runs and in more than half of those that looked; per attribute, and :func:`weighed`."""
    if c.once(joint)[0].index.is_unique:
        raise NotRunError("it takes predictions of at least two runs on the same images")
    for name in c.schema.joint:
        truth, rows = c.once(of_attribute, name)
        wrong = rows.idxmax(axis=1) != truth
        errors = float(wrong.mean())
        for image, n, count in wrong.groupby(level=0).agg(["sum", "count"]).itertuples():
            if n >= 2 and 2 * n > count:
                yield image, weighed(0.35 + 0.3 * n / count, errors), f"{name}: wrong in {n} of {count} runs"


@check("Runs that were not trained on the person are uncertain about the label.")
def model_unsure(c: Context) -> Iterable[Hit]:
    """Gap between the two likeliest classes of an attribute, on the mean of all runs."""
    c.once(joint)
    for name in c.schema.joint:
        rows = c.once(pooled, name)[1]
        if rows.shape[1] > 1:
            for image, (second, first) in zip(rows.index, np.sort(rows, axis=1)[:, -2:], strict=True):
                yield image, ramp(first - second, 0.15, 0.0, 0.2, 0.4), f"{name}: {first:.0%} against {second:.0%}"


@check("The image is of the two classes that runs confuse most.")
def model_confused(c: Context) -> Iterable[Hit]:
    """Wrong predictions among the three pairs of joint classes that are mixed up most often."""
    truth, rows = c.once(joint)
    wrong = [
        (image, a, b, float(row[b] - row[a]))
        for image, a, row in zip(truth.index, truth, rows.to_numpy(), strict=True)
        if (b := int(row.argmax())) != a
    ]
    counts = Counter((min(a, b), max(a, b)) for _, a, b, _ in wrong)
    worst = sorted(counts, key=lambda pair: (-counts[pair], pair))[:3]
    names = c.schema.class_names
    for image, a, b, gap in wrong:
        pair = (min(a, b), max(a, b))
        if pair in worst:
            text = f"{names[a]} taken for {names[b]}, one of {counts[pair]} confusions of these two"
            yield image, 0.25 + 0.2 * gap, text
