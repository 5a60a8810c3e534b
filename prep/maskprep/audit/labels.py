"""Checks of the labels: against each other, against names and folders, and against what the picture shows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, ramp, robust
from maskprep.audit.likeness import bayes, looks, ratio
from maskprep.base import fold
from maskprep.labels import Attribute

RELIABLE = 0.75
"""How far from chance (0) to always right (1) the look of a face must tell an attribute to be asked."""

PER_CLASS, PEOPLE = 20, 10
"""Photos of each class and people that it takes to learn what a class looks like."""


@check("A training photo without a label, or with a value that is not a class.")
def label_missing(c: Context) -> Iterable[Hit]:
    """Training photos without a label; the fewer they are, the likelier is a mistake."""
    if not c.schema.joint:
        raise NotRunError("there is nothing to classify")
    rows = zip(c.labels["image"], c.labels["label"], c.labels["excluded"], strict=True)
    training = [(i, pd.isna(v)) for i, v, x in rows if c.split_of[i] == "train" and not isinstance(x, str)]
    share = sum(missing for _, missing in training) / max(1, len(training))
    for image, missing in training:
        if missing and share < 1:
            severity = max(0.3, ramp(share, 0.5, 0.0, 0.3, 0.8))
            yield image, severity, f"no label; {1 - share:.0%} of the training photos have one"


@check("Photos of one person have different values of an attribute of the person, such as gender or age.")
def label_person(c: Context) -> Iterable[Hit]:
    """Attributes that nearly everyone has one value of."""
    for attribute in c.schema.attributes:
        classes = c.classes_of(attribute)
        if not c.of_people(classes):
            continue
        for person, images in c.people.items():
            counts = Counter(classes[i] for i in images if i in classes)
            if len(counts) > 1:
                usual = counts.most_common(1)[0]
                values = ", ".join(f"{n} {attribute.classes[k]}" for k, n in sorted(counts.items()))
                for image in images:
                    if image in classes:
                        odd = classes[image] != usual[0] or usual[1] * 2 <= counts.total()
                        yield image, 0.85 if odd else 0.4, f"{attribute.name} of {person}: {values}"


@check("A person has another number of photos per class than nearly everyone.")
def label_pattern(c: Context) -> Iterable[Hit]:
    """Attributes that vary within a person, such as mask state: 5, 1 and 1 for nearly everyone."""
    ran = False
    for attribute in c.schema.attributes:
        classes = c.classes_of(attribute)
        if not classes or c.of_people(classes):
            continue
        counts = {p: Counter(classes[i] for i in images if i in classes) for p, images in c.people.items()}
        shapes = Counter(tuple(n[k] for k in range(len(attribute.classes))) for n in counts.values() if n)
        if len(shapes) == 0 or shapes.most_common(1)[0][1] < 0.6 * shapes.total():
            continue
        ran = True
        usual = shapes.most_common(1)[0][0]
        for person, n in counts.items():
            shape = tuple(n[k] for k in range(len(attribute.classes)))
            if not n or shape == usual:
                continue
            over = {k for k, (a, b) in enumerate(zip(shape, usual, strict=True)) if a > b}
            numbers = ", ".join(f"{a} {name}" for a, name in zip(shape, attribute.classes, strict=True))
            text = f"{person} has {numbers}; nearly everyone has {', '.join(map(str, usual))}"
            broken = sum(i not in c.samples for i in c.people[person])
            severity = 0.6 if over else 0.35
            chosen = [i for i in c.people[person] if classes.get(i) in over] if over else c.people[person][:1]
            for image in chosen:
                yield image, severity, text + (f" ({broken} of the files are broken)" if broken else "")
    if not ran:
        raise NotRunError("most people do not have the same number of photos per class")


@check("The label contradicts the name or the folder of the photo.")
def label_path(c: Context) -> Iterable[Hit]:
    """Words of the path that name a class, such as ``female`` or ``incorrect``, against the label."""
    for attribute in c.schema.attributes:
        if attribute.bins:
            continue
        names = {fold(name): k for k, name in enumerate(attribute.classes)}
        for image, k in c.classes_of(attribute).items():
            path = PurePosixPath(image)
            words = [fold(w) for w in (*re.split(r"[^\w]+|_", image.removesuffix(path.suffix)), path.parent.name)]
            named = {names[w] for w in words if w in names}
            if len(named) == 1 and k not in named:
                other = attribute.classes[named.pop()]
                yield image, 0.6, f"{attribute.name} is '{attribute.classes[k]}', but the path says '{other}'"


@check("A number at the limit of two classes, such as age 59 at the limit 60.")
def label_border(c: Context) -> Iterable[Hit]:
    """Within a fiftieth of the limit, at least one unit."""
    ran = False
    for attribute in c.schema.attributes:
        if not attribute.bins or attribute.name not in c.labels:
            continue
        ran = True
        for image, value in zip(c.labels["image"], c.labels[attribute.name], strict=True):
            if attribute.index(value) is None:
                continue
            limit = min(attribute.bins, key=lambda b: abs(b - float(value)))
            if abs(float(value) - limit) <= max(1.0, abs(limit) / 50):
                yield image, 0.25, f"{attribute.name} {value:g} lies at the limit {limit:g}"
    if not ran:
        raise NotRunError("no attribute is a number cut into classes")


# ---------------------------------------------------------------- what the picture shows


@dataclass(frozen=True)
class Appearance:
    """What faces look like, for one attribute.

    Args:
        name: of the attribute.
        names: of its classes that occur.
        images: keys of the units compared: photos, or people (then all photos of each).
        classes: class by label, int64 [n].
        scores: float64 [n, k], see :func:`maskprep.audit.likeness.looks`.
    """

    name: str
    names: list[str]
    images: list[list[str]]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


def appearance(c: Context, attribute: Attribute) -> Appearance:
    """What the faces look like.

    Raises:
        NotRunError: there are too few photos, or the class cannot be told by people not learned from.
    """
    classes = c.classes_of(attribute)
    boxed = {sample.image for sample, _ in c.boxed}
    rows = [i for i, image in enumerate(c.measures["image"]) if image in classes and image in boxed]
    images = c.measures["image"].iloc[rows].tolist()
    counts = Counter(classes[image] for image in images)
    people = [c.person_of.get(image, image) for image in images]
    if len(counts) < 2 or min(counts.values()) < PER_CLASS or len(set(people)) < PEOPLE:
        raise NotRunError(f"'{attribute.name}' needs two classes of {PER_CLASS} photos and {PEOPLE} people")
    present = sorted(counts)
    labels = np.searchsorted(present, [classes[image] for image in images]).astype(np.int64)
    scores = looks(c.patches[rows], labels, len(present), people)
    units: dict[str, list[int]] = {}
    personal = c.of_people(classes)
    for i, image in enumerate(images):
        units.setdefault(f"{people[i]}\n{labels[i]}" if personal else image, []).append(i)
    members = list(units.values())
    score = np.array([scores[m].mean(axis=0) for m in members])
    label = np.array([labels[m[0]] for m in members], np.int64)
    right = [float((score[label == k].argmax(axis=1) == k).mean()) for k in range(len(present))]
    reliability = (float(np.mean(right)) - 1 / len(present)) / (1 - 1 / len(present))
    if reliability < RELIABLE:
        share = f"reliability {max(0.0, reliability):.0%}"
        raise NotRunError(f"'{attribute.name}' cannot be predicted from the colours of faces ({share})")
    names = [attribute.classes[k] for k in present]
    return Appearance(attribute.name, names, [[images[i] for i in m] for m in members], label, score)


@check("By the colours of the face, the picture looks like another class.")
def label_picture(c: Context) -> Iterable[Hit]:
    """For each attribute that the face's colours tell reliably; two photos of one person that look swapped confirm
    each other."""
    ready, reasons = [], []
    for name in c.schema.joint:
        try:
            ready.append(appearance(c, c.schema[name]))
        except NotRunError as reason:
            reasons.append(str(reason))
    if not ready:
        raise NotRunError("; ".join(reasons) or "there is nothing to classify")
    for each in ready:
        yield from _unlike(c, each)


def _unlike(c: Context, seen: Appearance) -> Iterator[Hit]:
    """Units that look like another class, their photos, and whether another photo of the person looks swapped."""
    gaps = {
        (a, b): robust((seen.scores[seen.classes == a, b] - seen.scores[seen.classes == a, a]).tolist(), 0.08)
        for a, b in permutations(range(len(seen.names)), 2)
    }
    odds: dict[int, tuple[float, int]] = {}  # unit -> likelihood ratio of the likeliest other class, and that class
    partners: dict[tuple[str | None, int, int], list[int]] = {}  # person, class, other class -> single photos
    for i, (a, score) in enumerate(zip(seen.classes.tolist(), seen.scores, strict=True)):
        others = []
        for b in range(len(seen.names)):
            if b != a and score[b] > score[a]:
                middle, width = gaps[b, a]
                others.append((ratio(float(score[b] - score[a]), gaps[a, b], (-middle, width)), b))
        if others:
            odds[i] = max(others)
            if len(seen.images[i]) == 1:
                partners.setdefault((c.person_of.get(seen.images[i][0]), a, odds[i][1]), []).append(i)
    for i, (likelihood, b) in odds.items():
        a, person = int(seen.classes[i]), c.person_of.get(seen.images[i][0])
        text = f"{seen.name} is '{seen.names[a]}', it looks like '{seen.names[b]}'"
        swapped = partners.get((person, b, a), []) if person is not None and len(seen.images[i]) == 1 else []
        if swapped:
            best = max(swapped, key=lambda j: odds[j][0])
            likelihood *= max(1.0, odds[best][0])
            text += (
                f"; {PurePosixPath(seen.images[best][0]).name} looks like the opposite; the two labels may be swapped"
            )
        severity = bayes(likelihood)
        for image in seen.images[i]:
            yield image, 0.0 if math.isnan(severity) else severity, text
