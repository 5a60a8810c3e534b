"""Checks of who is on the photos: one person's photos that do not look alike, and different people's that do.

They compare what a face network says (:mod:`maskprep.audit.embedding`) where one is installed, else colour and form of
the upper face (:mod:`maskprep.audit.likeness`), and say which. What counts as alike is learned from the data set: own
photos against strangers'.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, robust
from maskprep.audit.likeness import descriptors, posterior

COLOURS, NETWORK = "colour and form of the upper face", "a face network"
"""What is compared, for people."""

PEOPLE = 5
"""With fewer people of two photos or more, likeness cannot be calibrated."""


@dataclass(frozen=True)
class Likeness:
    """Descriptors of every photo with a face and a person, and how alike own photos and strangers are.

    Args:
        images: keys, float64 [n, d] ``vectors`` beside them.
        vectors: unit vectors.
        members: person -> rows.
        own: median and spread of the likeness to the person's other photos.
        strangers: of the likeness to another person's photos.
        means: what was compared, in words.
    """

    images: list[str]
    vectors: NDArray[np.float64]
    members: dict[str, NDArray[np.intp]]
    own: tuple[float, float]
    strangers: tuple[float, float]
    means: str


def likeness(c: Context) -> Likeness:
    """Compare faces.

    Raises:
        NotRunError: too few people or photos to know what alike means.
    """
    if not c.shows_faces:
        raise NotRunError("no view shows faces, so none were looked for")
    rows = [
        (i, image, c.person_of[image])
        for i, image in enumerate(c.measures["image"])
        if image in c.person_of
        and image in c.scenes
        and c.scenes[image].box is not None
        and (c.embeddings is None or not np.isnan(c.embeddings[i, 0]))
    ]
    by_person: dict[str, list[int]] = {}
    for at, (_, _, person) in enumerate(rows):
        by_person.setdefault(person, []).append(at)
    if sum(len(m) > 1 for m in by_person.values()) < PEOPLE:
        raise NotRunError(f"it takes at least {PEOPLE} people with two photos or more")
    chosen = [i for i, _, _ in rows]
    if c.embeddings is None:
        means, vectors = COLOURS, descriptors(c.patches[chosen], [person for _, _, person in rows])
    else:
        means, vectors = NETWORK, c.embeddings[chosen] - c.embeddings[chosen].mean(axis=0)
        vectors = vectors / np.maximum(1e-9, np.linalg.norm(vectors, axis=1, keepdims=True))
    members = {person: np.array(m, np.intp) for person, m in by_person.items()}
    several = {p: m for p, m in members.items() if len(m) > 1}
    own = [v for m in several.values() for v in alike(vectors[m], vectors[m], own=True)]
    people = sorted(several)
    shifted = [people[(i + len(people) // 2) % len(people)] for i in range(len(people))]
    strange = [v for a, b in zip(people, shifted, strict=True) for v in alike(vectors[members[a]], vectors[members[b]])]
    return Likeness([r[1] for r in rows], vectors, members, robust(own, 0.02), robust(strange, 0.02), means)


def alike(these: NDArray[np.float64], those: NDArray[np.float64], own: bool = False) -> NDArray[np.float64]:
    """Cosine of each of ``these`` with the one of ``those`` it is most like, float64 [n]; with ``own`` the two are the
    same photos, and none is compared with itself. The most like, because one person's photos may be of several
    occasions: a wrong one is like none of them."""
    cosines = these @ those.T
    if own:
        cosines[np.arange(len(these)), np.arange(len(these))] = -1
    return np.asarray(cosines.max(axis=1), np.float64)


@check("identity_differs", "identity", "The face looks like none of the person's other photos.")
def identity_differs(c: Context) -> Iterable[Hit]:
    """Likeness to the person's other photos: as among strangers rather than as among one's own."""
    found = c.once("likeness", likeness)
    for person, rows in found.members.items():
        if len(rows) < 3:
            continue  # with two, nobody can tell which of them is wrong
        for row, value in zip(rows, alike(found.vectors[rows], found.vectors[rows], own=True), strict=True):
            if value < found.own[0]:
                severity = posterior(float(value), found.own, found.strangers)
                text = f"likeness {value:.2f} to the other photos of {person}; own photos {found.own[0]:.2f},"
                yield found.images[row], severity, f"{text} strangers {found.strangers[0]:.2f} ({found.means})"


@check("identity_same", "identity", "Two people look like one.")
def identity_same(c: Context) -> Iterable[Hit]:
    """For each person the most alike other one: alike as one's own photos are rather than as strangers are."""
    found = c.once("likeness", likeness)
    people = sorted(found.members)
    means = np.array([found.vectors[found.members[p]].mean(axis=0) for p in people])
    means /= np.maximum(1e-9, np.linalg.norm(means, axis=1, keepdims=True))
    prior = 0.1 / len(people)  # one person in ten sits there twice, at most
    for start in range(0, len(people), 512):  # in blocks: 20,000 people would make 3 GB at once
        block = means[start : start + 512] @ means.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -1
        for i, j in enumerate(block.argmax(axis=1)):
            mine, theirs = found.members[people[start + i]], found.members[people[j]]
            value = float(np.median(alike(found.vectors[mine], found.vectors[theirs])))
            if value > found.strangers[0]:
                severity = posterior(value, found.strangers, found.own, prior)
                text = f"{people[start + i]} looks like {people[j]}: likeness {value:.2f}"
                text += f", own photos {found.own[0]:.2f}, strangers {found.strangers[0]:.2f}"
                for row in mine:
                    yield found.images[row], severity, f"{text} ({found.means})"
