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
from maskprep.audit.likeness import descriptors, posterior, unit

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

    @property
    def usual(self) -> str:
        """The two usual likenesses, for people."""
        return f"{self.own[0]:.2f}, strangers {self.strangers[0]:.2f} ({self.means})"


def likeness(c: Context) -> Likeness:
    """Compare faces.

    Raises:
        NotRunError: too few people or photos to know what alike means.
    """
    if not c.shows_faces:
        raise NotRunError("no view shows faces, so none were looked for")
    boxed = {sample.image for sample, _ in c.boxed}
    seen = np.ones(len(c.measures), bool) if c.embeddings is None else ~np.isnan(c.embeddings[:, 0])
    rows = [i for i, image in enumerate(c.measures["image"]) if image in c.person_of and image in boxed and seen[i]]
    images = c.measures["image"].iloc[rows].tolist()
    by_person: dict[str, list[int]] = {}
    for i, image in enumerate(images):
        by_person.setdefault(c.person_of[image], []).append(i)
    if sum(len(m) > 1 for m in by_person.values()) < PEOPLE:
        raise NotRunError(f"it takes at least {PEOPLE} people with two photos or more")
    if c.embeddings is None:
        means, vectors = COLOURS, descriptors(c.patches[rows], [c.person_of[image] for image in images])
    else:
        means, vectors = NETWORK, unit(c.embeddings[rows] - c.embeddings[rows].mean(axis=0))
    members = {person: np.array(m, np.intp) for person, m in by_person.items()}
    several = sorted(person for person, m in members.items() if len(m) > 1)
    own = [v for p in several for v in alike(vectors[members[p]], vectors[members[p]], own=True)]
    half = len(several) // 2
    pairs = zip(several, several[half:] + several[:half], strict=True)
    strangers = [v for a, b in pairs for v in alike(vectors[members[a]], vectors[members[b]])]
    return Likeness(images, vectors, members, robust(own, 0.02), robust(strangers, 0.02), means)


def alike(these: NDArray[np.float64], those: NDArray[np.float64], own: bool = False) -> NDArray[np.float64]:
    """Cosine of each of ``these`` with the one of ``those`` it is most like, float64 [n]; with ``own`` the two are the
    same photos, and none is compared with itself. The most like, because one person's photos may be of several
    occasions: a wrong one is like none of them."""
    cosines = these @ those.T
    if own:
        cosines[np.arange(len(these)), np.arange(len(these))] = -1
    return np.asarray(cosines.max(axis=1), np.float64)


@check("The face looks like none of the person's other photos.")
def identity_differs(c: Context) -> Iterable[Hit]:
    """Likeness to the person's other photos: as among strangers rather than as among one's own."""
    faces = c.once(likeness)
    for person, rows in faces.members.items():
        if len(rows) < 3:
            continue  # with two, nobody can tell which of them is wrong
        for row, value in zip(rows, alike(faces.vectors[rows], faces.vectors[rows], own=True), strict=True):
            if value < faces.own[0]:
                severity = posterior(float(value), faces.own, faces.strangers)
                text = f"likeness {value:.2f} to the other photos of {person}; own photos {faces.usual}"
                yield faces.images[row], severity, text


@check("Two people look like one.")
def identity_same(c: Context) -> Iterable[Hit]:
    """For each person the most alike other one: alike as one's own photos are rather than as strangers are."""
    faces = c.once(likeness)
    people = sorted(faces.members)
    means = unit(np.array([faces.vectors[faces.members[p]].mean(axis=0) for p in people]))
    prior = 0.1 / len(people)  # one person in ten sits there twice, at most
    for start in range(0, len(people), 512):  # in blocks: 20,000 people would make 3 GB at once
        block = means[start : start + 512] @ means.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -1
        for i, j in enumerate(block.argmax(axis=1), start):
            rows, others = faces.members[people[i]], faces.members[people[j]]
            value = float(np.median(alike(faces.vectors[rows], faces.vectors[others])))
            if value > faces.strangers[0]:
                severity = posterior(value, faces.strangers, faces.own, prior)
                text = f"{people[i]} looks like {people[j]}: likeness {value:.2f}, own photos {faces.usual}"
                for row in rows:
                    yield faces.images[row], severity, text
