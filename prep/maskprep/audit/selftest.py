"""Audit tests itself: known faults are planted in a copy of the tables, and what is found is counted.

Every kind of fault is planted alone, in photos drawn at random that had no likely finding before; the checks are run
anew on the changed copy. Nothing is written, and no photo is touched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from maskprep.audit import embedding
from maskprep.audit.context import Context
from maskprep.audit.examine import Audit
from maskprep.audit.findings import CHECKS, LIKELY, Finding, NotRunError, run_checks
from maskprep.audit.labels import classes_of, of_people
from maskprep.audit.measure import measure, patch_of
from maskprep.faces.face import Box
from maskprep.photos.decode import PhotoError, load
from maskprep.pipeline.job import Job

LEFT_OUT = ("face_not_best", "label_path")
"""Checks that would find what is planted only because it is planted: a choice that the program itself got wrong is the
best it knows, and a photo with a wrong label mostly has a wrong name."""

SHARE, MOST, FEWEST = 0.04, 40, 8
"""Faults of one kind: this share of the images, within these bounds."""


@dataclass(frozen=True)
class Score:
    """How well one kind of fault was found.

    Args:
        fault: its name.
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
Plant = Callable[["Bench"], Planted]
FAULTS: dict[str, Plant] = {}


def fault(name: str) -> Callable[[Plant], Plant]:
    """Register a kind of fault."""

    def register(plant: Plant) -> Plant:
        FAULTS[name] = plant
        return plant

    return register


@dataclass
class Bench:
    """What faults are planted in.

    Args:
        job: the cache, for reading photos.
        context: the tables as they are; never changed.
        clean: images without a likely finding, whose subject was chosen from the faces seen.
        random: draws the images.
    """

    job: Job
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

    def with_boxes(self, boxes: dict[str, tuple[Box, Any]]) -> Context:
        """A copy in which the subjects of some photos are elsewhere: image -> box and keypoints (or None). The crops
        are cut anew."""
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
                photo = load(self.job.path(image), self.job.config.index.max_megapixels)
            except PhotoError as error:
                raise NotRunError(f"'{image}' can no longer be read: {error}") from error
            for name, value in measure(photo, box).items():
                measures.loc[measures.index[at[image]], name] = value
            patches[at[image]] = patch_of(photo, box, keypoints)
            if vectors is not None:
                vectors[at[image]] = np.nan if embed is None or keypoints is None else embed(photo, keypoints)
        subjects["keypoints"] = pd.Series(points, index=subjects.index, dtype=object)
        return dataclasses.replace(
            c, subjects=subjects, measures=measures, patches=patches, embeddings=vectors, _memory={}
        )

    def with_labels(self, labels: pd.DataFrame) -> Context:
        """A copy with other labels; the joint label follows."""
        c = self.context
        names = c.schema.names
        joint: list[Any] = [
            c.schema.label(dict(zip(names, row, strict=True))) for row in zip(*(labels[n] for n in names), strict=True)
        ]
        return dataclasses.replace(c, labels=labels.assign(label=joint), _memory={})


def run_self_test(job: Job, audit: Audit, seed: int = 0) -> list[Score]:
    """Plant every kind of fault and score what the checks find.

    Args:
        job: an open, audited cache.
        audit: its audit.
        seed: of the draw.
    """
    likely = {f.image for f in audit.outcome.findings if f.severity > LIKELY} | audit.ruled
    c = audit.context
    clean = [i for i, s in c.scenes.items() if i not in likely and s.status == "ok" and s.chosen is not None]
    scores = []
    job.progress.start("self-test", len(FAULTS))
    for name, plant in FAULTS.items():
        try:
            changed, planted = plant(Bench(job, c, clean, np.random.default_rng(seed)))
        except NotRunError as why:
            scores.append(Score(name, not_run=str(why)))
        else:
            outcome = run_checks(changed, [each for each in CHECKS.values() if each.name not in LEFT_OUT])
            scores.append(score(name, outcome.findings, outcome.images(), planted, likely))
        job.progress.advance(1)
    return scores


def score(name: str, findings: Iterable[Finding], ranking: list[str], planted: set[str], ignored: set[str]) -> Score:
    """Count what was found.

    Args:
        name: of the fault.
        findings: of the changed copy.
        ranking: images with findings, worst first.
        planted: images with the fault.
        ignored: images that count neither way, because something was found on them before.
    """
    worst: dict[str, Finding] = {}
    for f in findings:
        if f.image not in worst or f.severity > worst[f.image].severity:
            worst[f.image] = f
    ranking = [image for image in ranking if image in planted or image not in ignored]
    flagged = [image for image in ranking if worst[image].severity > LIKELY]
    hits = sum(image in planted for image in flagged)
    precisions, seen, reached = 0.0, 0, 0
    for rank, image in enumerate(ranking, 1):
        if image in planted:
            seen += 1
            precisions += seen / rank
            reached = seen if seen >= 0.8 * rank else reached
    by: dict[str, int] = {}
    for image in flagged:
        if image in planted:
            by[worst[image].check] = by.get(worst[image].check, 0) + 1
    common = sorted(by.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return Score(
        name,
        len(planted),
        hits / len(planted),
        hits / len(flagged) if flagged else 0.0,
        sum(image in planted for image in ranking[: len(planted)]) / len(planted),
        precisions / len(planted),
        reached / len(planted),
        ", ".join(f"{check} {n}" for check, n in common),
    )


def print_scores(out: Console, scores: list[Score]) -> None:
    """The scores as a table."""
    table = Table()
    table.add_column("fault")
    for name in ("planted", "recall", "precision", "precision at k", "average precision", "recall at precision 0.8"):
        table.add_column(name, justify="right")
    table.add_column("found by")
    for each in scores:
        if each.not_run:
            table.add_row(each.fault, "-", *[""] * 5, f"not planted: {each.not_run}")
        else:
            numbers = (each.recall, each.precision, each.precision_at_k, each.average_precision, each.recall_at_80)
            table.add_row(each.fault, str(each.planted), *(f"{v:.2f}" for v in numbers), each.found_by)
    out.print(table)


# ---------------------------------------------------------------- the faults


@fault("bystander chosen")
def bystander(bench: Bench) -> Planted:
    """The subject is another credible face of the photo."""
    c = bench.context
    others = {}
    for image in bench.clean:
        scene = c.scenes[image]
        found = [k.face for k in scene.candidates if k is not scene.chosen and k.face.evidence >= 0.75]
        if found:
            others[image] = (found[0].box, found[0].keypoints)
    chosen = bench.draw(others, "photos with a second face")
    return bench.with_boxes({image: others[image] for image in chosen}), set(chosen)


@fault("another person's photo")
def stranger(bench: Bench) -> Planted:
    """Faces, subject and pixels are those of a photo of somebody else."""
    c = bench.context
    several = [i for i in bench.clean if len(c.people.get(c.person_of.get(i, ""), ())) > 2]
    chosen = bench.draw(several, "photos of people with three or more")
    moved = {}
    for image in chosen:
        if not (others := [i for i in several if c.person_of[i] != c.person_of[image] and i not in chosen]):
            raise NotRunError("there is nobody else")
        moved[image] = others[int(bench.random.integers(len(others)))]
    source = [moved.get(image, image) for image in c.images["image"]]
    images, subjects = c.images.set_index("image"), c.subjects.set_index("image")
    fields = ["width", "height", "format", "orientation", "error", "detail"]
    new_images = c.images.copy()
    new_images[fields] = images.loc[source, fields].to_numpy()
    for name in ("width", "height"):
        new_images[name] = pd.to_numeric(new_images[name])
    new_subjects = subjects.loc[source].reset_index(drop=True).assign(image=c.images["image"])
    kept = c.faces[~c.faces["image"].isin(chosen)]
    taken = [c.faces[c.faces["image"] == other].assign(image=image) for image, other in moved.items()]
    at = {image: i for i, image in enumerate(c.measures["image"])}
    order = [at[moved.get(image, image)] for image in c.measures["image"]]
    measures = c.measures.iloc[order].reset_index(drop=True).assign(image=c.measures["image"].to_numpy())
    changed = dataclasses.replace(
        c,
        images=new_images,
        subjects=new_subjects,
        faces=pd.concat([kept, *taken], ignore_index=True),
        measures=measures,
        patches=c.patches[order],
        embeddings=None if c.embeddings is None else c.embeddings[order],
        _memory={},
    )
    return changed, set(chosen)


@fault("crop shifted by half a face")
def shifted(bench: Bench) -> Planted:
    """The box is moved by half its side in any direction; the keypoints are those of no face."""
    chosen = bench.draw(bench.clean, "photos without a finding")
    boxes: dict[str, tuple[Box, Any]] = {}
    for image in chosen:
        x0, y0, x1, y1 = bench.context.scenes[image].box or (0.0, 0.0, 1.0, 1.0)
        turn = bench.random.uniform(0, 2 * np.pi)
        dx, dy = (x1 - x0) / 2 * np.cos(turn), (y1 - y0) / 2 * np.sin(turn)
        boxes[image] = ((x0 + dx, y0 + dy, x1 + dx, y1 + dy), None)
    return bench.with_boxes(boxes), set(chosen)


@fault("half a face")
def half(bench: Bench) -> Planted:
    """The box ends in the middle of the face."""
    chosen = bench.draw(bench.clean, "photos without a finding")
    boxes: dict[str, tuple[Box, Any]] = {}
    for image in chosen:
        x0, y0, x1, y1 = bench.context.scenes[image].box or (0.0, 0.0, 1.0, 1.0)
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        halves = [(x0, y0, cx, y1), (cx, y0, x1, y1), (x0, y0, x1, cy), (x0, cy, x1, y1)]
        boxes[image] = (halves[int(bench.random.integers(4))], None)
    return bench.with_boxes(boxes), set(chosen)


@fault("labels of two photos swapped")
def swapped(bench: Bench) -> Planted:
    """Two photos of one person have each other's value of an attribute that varies within people."""
    c = bench.context
    attribute = next((a for a in c.schema.attributes if (k := classes_of(c, a)) and not of_people(c, k)), None)
    if attribute is None:
        raise NotRunError("no label varies within people")
    classes = classes_of(c, attribute)
    rarest = sorted(range(len(attribute.classes)), key=lambda k: sum(v == k for v in classes.values()))[:2]
    clean = set(bench.clean)
    pairs = {}
    for images in c.people.values():
        mine = [next((i for i in images if classes.get(i) == k and i in clean), None) for k in rarest]
        if None not in mine:
            pairs[str(mine[0])] = str(mine[1])
    chosen = bench.draw(pairs, f"people with two values of '{attribute.name}'")[: max(FEWEST, MOST // 2)]
    labels = c.labels.set_index("image")
    values = labels[attribute.name].copy()
    for a in chosen:
        values[a], values[pairs[a]] = labels.at[pairs[a], attribute.name], labels.at[a, attribute.name]
    table = labels.assign(**{attribute.name: values}).reset_index()
    return bench.with_labels(table), {*chosen, *(pairs[a] for a in chosen)}


@fault("wrong value of a person's label")
def wrong_person_label(bench: Bench) -> Planted:
    """All photos of some people have another value of what is a person's, such as gender."""
    c = bench.context
    named = (a for a in c.schema.attributes if not a.bins)
    attribute = next((a for a in named if (k := classes_of(c, a)) and of_people(c, k)), None)
    if attribute is None or len(attribute.classes) < 2:
        raise NotRunError("no label with classes is the same on all photos of a person")
    classes = classes_of(c, attribute)
    clean = set(bench.clean)
    known = {p: images for p, images in c.people.items() if images[0] in classes and clean.intersection(images)}
    chosen = bench.draw(known, "people")[: max(FEWEST, MOST // 4)]
    values = dict(zip(c.labels["image"], c.labels[attribute.name], strict=True))
    for person in chosen:
        for image in known[person]:
            if image in classes:
                values[image] = attribute.classes[(classes[image] + 1) % len(attribute.classes)]
    table = c.labels.assign(**{attribute.name: [values[i] for i in c.labels["image"]]})
    return bench.with_labels(table), {image for p in chosen for image in known[p] if image in classes}


@fault("one photo under two people")
def copied(bench: Bench) -> Planted:
    """The table of duplicates lists pairs of different people."""
    c = bench.context
    chosen = bench.draw(bench.clean, "photos without a finding")
    pairs, who, split = list(zip(chosen[::2], chosen[1::2], strict=False)), c.person_of.get, c.split_of
    rows = [(a, b, "exact", 0, who(a) == who(b), split[a], split[b]) for a, b in pairs]
    names = ["image_a", "image_b", "kind", "distance", "same_person", "split_a", "split_b"]
    planted = pd.DataFrame(rows, columns=names)
    table = planted if c.duplicates is None else pd.concat([c.duplicates, planted], ignore_index=True)
    return dataclasses.replace(c, duplicates=table, _memory={}), {image for pair in pairs for image in pair}


def _replaced(bench: Bench, tables: dict[str, Any], what: str, **wrong: Any) -> tuple[dict[str, Any], set[str]]:
    """The tables of all views, with other values for some images of the first one."""
    if not tables:
        raise NotRunError(f"no view has {what}")
    view, table = next(iter(tables.items()))
    chosen = set(bench.draw([i for i in table["image"] if i in set(bench.clean)], f"{what} without a finding"))
    mask = table["image"].isin(chosen)
    return {**tables, view: table.assign(**{n: table[n].mask(mask, v) for n, v in wrong.items()})}, chosen


@fault("crop beyond the photo")
def beyond(bench: Bench) -> Planted:
    """The numbers of a crop of which more than a third was never photographed."""
    crops, chosen = _replaced(bench, bench.context.crops, "crops", invented=0.35)
    return dataclasses.replace(bench.context, crops=crops, _memory={}), chosen


def _with_mattes(bench: Bench, **wrong: Any) -> Planted:
    mattes, chosen = _replaced(bench, bench.context.mattes, "mattes", **wrong)
    return dataclasses.replace(bench.context, mattes=mattes, _memory={}), chosen


@fault("matte blanked")
def blanked(bench: Bench) -> Planted:
    """The numbers of a matte without a person."""
    return _with_mattes(bench, coverage=0.0, face_coverage=0.0, components=0, border_share=0.0)


@fault("matte inverted")
def inverted(bench: Bench) -> Planted:
    """The numbers of a matte that keeps the background and removes the person."""
    made, chosen = _with_mattes(bench, face_coverage=0.0, border_share=1.0)
    table = next(iter(made.mattes.values()))
    table["coverage"] = table["coverage"].mask(table["image"].isin(chosen), 1 - table["coverage"])
    return made, chosen
