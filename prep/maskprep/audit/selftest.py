"""Audit tests itself: known faults are planted in a copy of the tables, and what is found is counted.

Every kind of fault is planted alone, in photos drawn at random that had no likely finding before; the checks are run
anew on the changed copy. Nothing is written, and no photo is touched.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from maskprep.audit import embedding
from maskprep.audit.context import Context
from maskprep.audit.examine import Audit
from maskprep.audit.findings import CHECKS, LIKELY, NotRunError, Outcome, run_checks
from maskprep.audit.measure import measure, patch_of
from maskprep.base import Box, Progress
from maskprep.labels import Attribute
from maskprep.photos import PhotoError, PhotoFolder

LEFT_OUT = ("face_not_best", "label_path")
"""Checks that would find what is planted only because it is planted: a choice that the program itself got wrong is the
best it knows, and a photo with a wrong label mostly has a wrong name."""

SHARE, MOST, FEWEST = 0.04, 40, 8
"""Faults of one kind: this share of the images, within these bounds."""

BYSTANDER = 0.75
"""Probability of a face from which on another face of the photo is planted as the subject."""


@dataclass(frozen=True)
class Score:
    """How well one kind of fault was found.

    Args:
        planted: how many images.
        recall: share of them among the images with a finding above 0.5.
        precision: share of them among those images, images with a likely finding before not counted.
        precision_at_k: share of them among the first ``planted`` images of the list, those again not counted.
        average_precision: area under the curve of precision over recall, along the whole list.
        recall_at_80: the most that is found by going down the list as long as four in five are such images.
        found_by: the checks that found most, with their counts.
        not_run: why the fault could not be planted; empty otherwise.
    """

    fault: str
    planted: int = 0
    recall: float = 0.0
    precision: float = 0.0
    precision_at_k: float = 0.0
    average_precision: float = 0.0
    recall_at_80: float = 0.0
    found_by: str = ""
    not_run: str = ""


Planted = tuple[Context, set[str]]
"""A changed copy of the tables, and the images with the fault."""

FAULTS: dict[str, Callable[[Trial], Planted]] = {}


def fault(name: str) -> Callable[[Callable[[Trial], Planted]], None]:
    """Register a kind of fault."""
    return lambda plant: FAULTS.update({name: plant})


@dataclass
class Trial:
    """What one kind of fault is planted in.

    Args:
        photos: opens the photos.
        context: the tables as they are; never changed.
        clean: images without a likely finding, whose subject was chosen from the faces seen.
        random: draws the images.
    """

    photos: PhotoFolder
    context: Context
    clean: list[str]
    random: np.random.Generator

    def draw(self, among: Iterable[str], need: str) -> list[str]:
        """Some images.

        Raises:
            NotRunError: there are too few, naming what is needed.
        """
        fit = list(among)
        if len(fit) < FEWEST:
            raise NotRunError(f"it takes {FEWEST} {need}, there are {len(fit)}")
        wished = int(np.clip(SHARE * len(self.context.images), FEWEST, MOST))
        chosen = self.random.permutation(len(fit))[: min(wished, max(FEWEST, len(fit) // 3))]
        return [fit[i] for i in sorted(chosen)]

    def with_boxes(self, boxes: dict[str, tuple[Box, Any]]) -> Planted:
        """The subjects of some photos are elsewhere: image -> box and keypoints (or None). The crops are cut anew."""
        c = self.context
        subjects, measures, patches = c.subjects.copy(), c.measures.copy(), c.patches.copy()
        vectors = None if c.embeddings is None else c.embeddings.copy()
        file = embedding.model_file()
        embed = None if vectors is None or file is None else embedding.open_model(file)
        row = {image: i for i, image in enumerate(c.images["image"])}
        at = {image: i for i, image in enumerate(measures["image"])}
        points = subjects["keypoints"].tolist()
        for image, (box, keypoints) in boxes.items():
            subjects.loc[subjects.index[row[image]], ["x0", "y0", "x1", "y1"]] = box
            points[row[image]] = None if keypoints is None else np.ravel(keypoints)
            try:
                photo = self.photos(image).pixels()
            except PhotoError as error:
                raise NotRunError(f"'{image}' can no longer be read: {error}") from error
            for name, value in measure(photo, box).items():
                measures.loc[measures.index[at[image]], name] = value
            patches[at[image]] = patch_of(photo, box, keypoints)
            if vectors is not None:
                vectors[at[image]] = np.nan if embed is None or keypoints is None else embed(photo, keypoints)
        subjects["keypoints"] = pd.Series(points, index=subjects.index, dtype=object)
        changed = dataclasses.replace(c, subjects=subjects, measures=measures, patches=patches, embeddings=vectors)
        return changed, set(boxes)

    def moved(self, move: Callable[[float, float, float, float], Box]) -> Planted:
        """Some boxes are moved, and the keypoints are those of no face."""
        boxes = {sample.image: box for sample, box in self.context.boxed}
        chosen = self.draw(self.clean, "photos without a finding")
        return self.with_boxes({image: (move(*boxes[image]), None) for image in chosen})

    def with_values(self, attribute: Attribute, new: dict[str, Any]) -> Planted:
        """Some photos have another value of a label: image -> value. The joint label follows."""
        c = self.context
        old = c.labels[attribute.name]
        values = [new.get(image, value) for image, value in zip(c.labels["image"], old, strict=True)]
        labels = c.labels.assign(**{attribute.name: values})
        rows = labels[list(c.schema.names)].to_dict("records")
        joint: list[Any] = [c.schema.label({str(name): value for name, value in row.items()}) for row in rows]
        return dataclasses.replace(c, labels=labels.assign(label=joint)), set(new)

    def with_columns(self, name: str, **wrong: Any) -> Planted:
        """Some images of the first view have other values in the tables ``mattes`` or ``crops``."""
        tables: dict[str, pd.DataFrame] = getattr(self.context, name)
        if not tables:
            raise NotRunError(f"no view has {name}")
        view, table = next(iter(tables.items()))
        clean = set(self.clean)
        chosen = set(self.draw([i for i in table["image"] if i in clean], f"{name} without a finding"))
        mask = table["image"].isin(chosen)
        changed = table.assign(**{n: table[n].mask(mask, v(table) if callable(v) else v) for n, v in wrong.items()})
        replaced: dict[str, Any] = {name: {**tables, view: changed}}
        return dataclasses.replace(self.context, **replaced), chosen


def run_self_test(audit: Audit, progress: Progress, seed: int = 0) -> list[Score]:
    """Plant every kind of fault and score what the checks find; ``seed`` is that of the draw."""
    likely = {f.image for f in audit.outcome.findings if f.severity > LIKELY} | audit.decided
    c = audit.context
    clean = [i for i, s in c.samples.items() if i not in likely and s.status == "ok" and s.chosen is not None]
    scores = []
    progress.start("self-test", len(FAULTS))
    for name, plant in FAULTS.items():
        try:
            changed, planted = plant(Trial(audit.photos, c, clean, np.random.default_rng(seed)))
        except NotRunError as why:
            scores.append(Score(name, not_run=str(why)))
        else:
            outcome = run_checks(changed, [each for each in CHECKS.values() if each.name not in LEFT_OUT])
            scores.append(score(name, outcome, planted, likely))
        progress.advance(1)
    return scores


def score(name: str, outcome: Outcome, planted: Collection[str], ignored: Collection[str]) -> Score:
    """Count what was found of a fault ``planted`` in some images. The ``ignored`` ones count neither way, because
    something was found on them before."""
    worst = {f.image: f for f in reversed(outcome.findings)}  # the most severe of an image comes last
    ranking = [image for image in outcome.images() if image in planted or image not in ignored]
    flagged = [image for image in ranking if worst[image].severity > LIKELY]
    hits = [image for image in flagged if image in planted]
    precisions, seen, reached = 0.0, 0, 0
    for rank, image in enumerate(ranking, 1):
        if image in planted:
            seen += 1
            precisions += seen / rank
            reached = seen if seen >= 0.8 * rank else reached
    by = Counter(worst[image].check for image in hits)
    return Score(
        name,
        len(planted),
        len(hits) / len(planted),
        len(hits) / len(flagged) if flagged else 0.0,
        sum(image in planted for image in ranking[: len(planted)]) / len(planted),
        precisions / len(planted),
        reached / len(planted),
        ", ".join(f"{check} {n}" for check, n in sorted(by.items(), key=lambda pair: (-pair[1], pair[0]))[:3]),
    )


# ---------------------------------------------------------------- the faults


@fault("bystander chosen")
def bystander(trial: Trial) -> Planted:
    """The subject is another credible face of the photo."""
    others = {}
    for image in trial.clean:
        sample = trial.context.samples[image]
        faces = [k.face for k in sample.candidates if k is not sample.chosen and k.face.evidence >= BYSTANDER]
        if faces:
            others[image] = (faces[0].box, faces[0].keypoints)
    return trial.with_boxes({image: others[image] for image in trial.draw(others, "photos with a second face")})


@fault("another person's photo")
def stranger(trial: Trial) -> Planted:
    """Faces, subject and pixels are those of a photo of somebody else."""
    c = trial.context
    several = [i for i in trial.clean if len(c.people.get(c.person_of.get(i, ""), ())) > 2]
    chosen = trial.draw(several, "photos of people with three or more")
    instead = {}
    for image in chosen:
        others = [i for i in several if c.person_of[i] != c.person_of[image] and i not in chosen]
        if not others:
            raise NotRunError("there is nobody else")
        instead[image] = others[int(trial.random.integers(len(others)))]

    def taken(table: pd.DataFrame) -> pd.DataFrame:
        """A table with one row an image, those of the chosen ones with the values of the others."""
        rows = table.set_index("image").loc[[instead.get(image, image) for image in table["image"]]]
        return rows.reset_index(drop=True).assign(image=table["image"].to_numpy())

    fields = ["image", "width", "height", "format", "orientation", "error", "detail"]
    faces = [c.faces[c.faces["image"] == other].assign(image=image) for image, other in instead.items()]
    at = {image: i for i, image in enumerate(c.measures["image"])}
    order = [at[instead.get(image, image)] for image in c.measures["image"]]
    changed = dataclasses.replace(
        c,
        images=c.images.assign(**taken(c.images[fields])),
        subjects=taken(c.subjects),
        faces=pd.concat([c.faces[~c.faces["image"].isin(chosen)], *faces], ignore_index=True),
        measures=taken(c.measures),
        patches=c.patches[order],
        embeddings=None if c.embeddings is None else c.embeddings[order],
    )
    return changed, set(chosen)


@fault("crop shifted by half a face")
def shifted(trial: Trial) -> Planted:
    """The box is moved by half its side in any direction; the keypoints are those of no face."""

    def move(x0: float, y0: float, x1: float, y1: float) -> Box:
        turn = trial.random.uniform(0, 2 * np.pi)
        dx, dy = (x1 - x0) / 2 * np.cos(turn), (y1 - y0) / 2 * np.sin(turn)
        return x0 + dx, y0 + dy, x1 + dx, y1 + dy

    return trial.moved(move)


@fault("half a face")
def half(trial: Trial) -> Planted:
    """The box ends in the middle of the face."""

    def move(x0: float, y0: float, x1: float, y1: float) -> Box:
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        halves = [(x0, y0, cx, y1), (cx, y0, x1, y1), (x0, y0, x1, cy), (x0, cy, x1, y1)]
        return halves[int(trial.random.integers(4))]

    return trial.moved(move)


@fault("labels of two photos swapped")
def swapped(trial: Trial) -> Planted:
    """Two photos of one person have each other's value of an attribute that varies within people."""
    c = trial.context
    attribute = next((a for a in c.schema.attributes if (k := c.classes_of(a)) and not c.of_people(k)), None)
    if attribute is None:
        raise NotRunError("no label varies within people")
    classes = c.classes_of(attribute)
    clean = set(trial.clean)
    counts = Counter(classes.values())
    rarest = sorted(range(len(attribute.classes)), key=lambda k: counts[k])[:2]
    pairs = {}
    for images in c.people.values():
        a, b = (next((i for i in images if classes.get(i) == k and i in clean), None) for k in rarest)
        if a is not None and b is not None:
            pairs[a] = b
    chosen = trial.draw(pairs, f"people with two values of '{attribute.name}'")[: max(FEWEST, MOST // 2)]
    value = c.labels.set_index("image")[attribute.name]
    new = {a: value[pairs[a]] for a in chosen} | {pairs[a]: value[a] for a in chosen}
    return trial.with_values(attribute, new)


@fault("wrong value of a person's label")
def wrong_person_label(trial: Trial) -> Planted:
    """All photos of some people have another value of what is a person's, such as gender."""
    c = trial.context
    named = (a for a in c.schema.attributes if not a.bins)
    attribute = next((a for a in named if (k := c.classes_of(a)) and c.of_people(k)), None)
    if attribute is None or len(attribute.classes) < 2:
        raise NotRunError("no label with classes is the same on all photos of a person")
    classes = c.classes_of(attribute)
    clean = set(trial.clean)
    known = {p: images for p, images in c.people.items() if images[0] in classes and clean.intersection(images)}
    chosen = trial.draw(known, "people")[: max(FEWEST, MOST // 4)]
    images = [image for person in chosen for image in known[person] if image in classes]
    names = attribute.classes
    return trial.with_values(attribute, {image: names[(classes[image] + 1) % len(names)] for image in images})


@fault("one photo under two people")
def copied(trial: Trial) -> Planted:
    """The table of duplicates lists pairs of different people."""
    c = trial.context
    chosen = trial.draw(trial.clean, "photos without a finding")
    pairs, who, split = list(zip(chosen[::2], chosen[1::2], strict=False)), c.person_of.get, c.split_of
    rows = [(a, b, "exact", 0, who(a) == who(b), split[a], split[b]) for a, b in pairs]
    names = ["image_a", "image_b", "kind", "distance", "same_person", "split_a", "split_b"]
    planted = pd.DataFrame(rows, columns=names)
    table = planted if c.duplicates is None else pd.concat([c.duplicates, planted], ignore_index=True)
    return dataclasses.replace(c, duplicates=table), {image for pair in pairs for image in pair}


@fault("crop beyond the photo")
def beyond(trial: Trial) -> Planted:
    """The numbers of a crop of which more than a third was never photographed."""
    return trial.with_columns("crops", invented=0.35)


@fault("matte blanked")
def blanked(trial: Trial) -> Planted:
    """The numbers of a matte without a person."""
    return trial.with_columns("mattes", coverage=0.0, face_coverage=0.0, components=0, border_share=0.0)


@fault("matte inverted")
def inverted(trial: Trial) -> Planted:
    """The numbers of a matte that keeps the background and removes the person."""
    return trial.with_columns(
        "mattes", coverage=lambda table: 1 - table["coverage"], face_coverage=0.0, border_share=1.0
    )
