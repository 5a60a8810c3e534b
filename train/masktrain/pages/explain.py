"""explain.html: wrong answers with photo, crop, class activation map and audit findings; and a draft of decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import UsageError, UserError, keep_whole
from maskprep.dataset import View
from maskprep.pages import Link, Table, picture
from maskprep.photos import PhotoError, load
from masktrain.answer import draw, evaluate, model
from masktrain.answer.graph import Network
from masktrain.answer.model import Model
from masktrain.answer.predict import read_boxes
from masktrain.pages import cam, suspects
from masktrain.pages.page import Pages, render
from masktrain.runs import folder as runs
from masktrain.score import evalset
from masktrain.score.evalset import EvalSet

FILE, DRAFT, TABLE = "explain.html", "decisions-draft.csv", "attention.csv"
STUDIED = 256
"""Images whose attention is compared with their mattes; drawn evenly where there are more."""

PAIRS, REPEATED, LISTED = 12, 24, 100
"""Pairs of classes that get a gallery, images shown of those that are wrong most often, and doubtful labels listed."""

HEIGHT = 170
"""Of a photo on the page, pixels."""


@dataclass(frozen=True)
class Explained:
    """What was found and written.

    Args:
        folder: with explain.html, attention.csv and decisions-draft.csv.
        images: how many were asked about, and how many of them answered wrongly.
        wrong: likewise.
        background: mean share of attention beside the subject, and of the crop that is beside it; None without mattes.
        drafted: decisions in the draft, which is ``draft``.
        doubtful: labels that are likely wrong, drafted or not.
        expected: share of the drafted decisions that is expected to be right; None where nothing is drafted.
        unknown: attributes that the run knows too little to doubt a label.
    """

    folder: Path
    images: int
    wrong: int
    background: tuple[float, float] | None
    drafted: int
    draft: Path
    doubtful: int = 0
    expected: float | None = None
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Everything that is known about the images in question.

    Args:
        pictures: view of the cache.
        asked: the images with their truth.
        rows: their rows in the view's table, int64 [n].
        probabilities: float32 [n, C].
        predicted: answers, int64 [n].
        told: answers of single networks or runs that were not trained on the person, int64 [m, n], -1 for none.
        maps: what draws maps.
    """

    pictures: View
    asked: EvalSet
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]
    told: NDArray[np.int64]
    maps: AttentionMaps

    @property
    def wrong(self) -> NDArray[np.int64]:
        """The images that are answered wrongly."""
        return np.flatnonzero(self.predicted != self.asked.truth)

    @property
    def counted(self) -> NDArray[np.int64]:
        """In how many answers of how many each image is wrong, int64 [n, 2]."""
        there = self.told >= 0
        return np.stack([(there & (self.told != self.asked.truth)).sum(0), there.sum(0)], 1)

    def attention(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.uint8], cam.Maps]:
        """Crops and maps of the given answers of some images."""
        people = [self.asked.people[i] for i in chosen]
        return self.maps(self.rows[chosen], self.predicted[chosen], people)


def explain(
    run: Path,
    cache: Path,
    out: Path | None = None,
    *,
    method: str = "gradcam",
    split: str | None = None,
    answers: Path | None = None,
    view: str | None = None,
    also: Sequence[Path] = (),
    most: int = 8,
    sure: float = 0.9,
    device: str = "auto",
    force: bool = False,
) -> Explained:
    """Write galleries of errors with class activation maps, and a draft of decisions on labels.

    Args:
        run: a run or an ensemble. Of several networks the map is the mean of those that see the first view and were
            not trained on the person.
        out: folder to write to; by default ``RUN/explain``.
        method: one of :data:`masktrain.pages.cam.METHODS`.
        split, answers, view: as for :func:`masktrain.answer.evaluate.evaluate`.
        also: further runs whose held-out answers are counted: wrong in k of n.
        most: images shown of each pair of classes.
        sure: a label that is wrong at least this probably, and of which two answers say the same, becomes a line of the
            draft, for attributes with named classes.
        force: write over files in ``out`` that ``explain`` has not written.

    Raises:
        UserError: nothing to explain.
    """
    cam.check(method)
    if not 0 < sure <= 1:
        raise UsageError("--sure lies above 0 and up to 1.")
    if run.is_file():
        raise UsageError(f"{run} is a file, not a run folder.", "Explain the run that it was exported from.")
    if out is not None:
        runs.clear_of_photos([run], out)
        keep_whole(out / FILE, force)
        if not (out / FILE).exists():
            keep_whole(out / TABLE, force)
    predictor = model.load(run, device)
    pictures = model.open_for(predictor, cache, view)
    asked = evalset.ask(pictures, predictor.schema, runs.read_data(run), answers, split)
    answered, known = evaluate.answer(run, predictor, pictures, asked, 64)
    seen = known if answered.scored is None else known & answered.scored
    asked, given, name = asked.take(seen), answered.take(seen), run.resolve().name
    if not len(asked):
        raise UserError(f"None of the images {asked.what} has a crop.")
    rows = pd.Series(pictures.table.index, index=pictures.table["image"]).loc[asked.images["image"]].to_numpy()
    maps = AttentionMaps(run, predictor, method, pictures)
    told = suspects.votes(run, asked, also, predictor, pictures)
    case = Case(pictures, asked, rows, given.probabilities.astype(np.float32), given.answers, told, maps)
    doubts, unknown = suspects.doubts(asked.truth, given.probabilities, told, pictures.schema, sure)
    folder = out or run / "explain"
    folder.mkdir(parents=True, exist_ok=True)
    table = _attention(case)
    if table is not None:
        table.to_csv(folder / TABLE, index=False, float_format="%.4f", lineterminator="\n")
    pages = Pages.beside(folder, pictures.path)
    text = _page(case, name, table, _findings(cache), pages, most, doubts, unknown)
    (folder / FILE).write_text(text, encoding="utf-8")
    drafted = [doubt for doubt in doubts if doubt.agree > 1]
    text = suspects.draft(drafted, asked.images, name)
    background = None
    if table is not None and table["attention"].notna().any():
        background = (float(table["attention"].mean()), float(table["background"].mean()))
    expected = float(np.mean([doubt.probability for doubt in drafted])) if drafted else None
    file = suspects.keep(folder / DRAFT, text)
    counts = len(asked), len(case.wrong), background, len(drafted)
    return Explained(folder, *counts, file, len(doubts), expected, unknown)


class AttentionMaps:
    """Maps by the networks of a run that see its first view, each with the people that it was not trained on."""

    def __init__(self, run: Path, predictor: Model, method: str, pictures: View) -> None:
        self.method = method
        self.pictures = predictor.spec.inputs[0].of(pictures)
        self.parts: list[tuple[Network, set[str]]] = []
        folders = suspects.networks(run)
        for part in predictor.graph.networks:
            folder = folders[part.member]
            if part.place == 0:
                held = runs.read_data(folder)["people"]["val"] if (folder / runs.DATA).is_file() else []
                self.parts.append((part, set(held)))

    def __call__(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], people: Sequence[str]
    ) -> tuple[NDArray[np.uint8], cam.Maps]:
        """Crops uint8 [n, H, W, 3] of some table rows as the networks get them, and maps float32 [n, H, W]."""
        crops = self.pictures.gather(rows)
        total, count = np.zeros(crops.shape[:3], np.float32), np.zeros(len(rows), np.float32)
        shape = len(self.parts), len(rows)
        asked = np.array([part.asked[labels] for part, _ in self.parts]).reshape(shape)
        strangers = asked & np.array([[p in held for p in people] for _, held in self.parts]).reshape(shape)
        strangers |= asked & ~strangers.any(0)  # where nobody held the person out, everyone is asked
        for (part, _), chosen in zip(self.parts, strangers, strict=True):
            total[chosen] += cam.maps(part, crops[chosen], labels[chosen], self.method)
            count[chosen] += 1
        return crops, (total / np.maximum(count, 1)[:, None, None]).astype(np.float32)


def _findings(cache: Path) -> dict[str, list[str]]:
    """What audit found about each image, the most severe first; nothing where there was no audit."""
    file = cache / "audit" / "findings.parquet"
    if not file.is_file():
        return {}
    table = pd.read_parquet(file).sort_values("severity", ascending=False, kind="stable")
    found: dict[str, list[str]] = {}
    for image, check, severity, detail in table[["image", "check", "severity", "detail"]].itertuples(index=False):
        found.setdefault(image, []).append(f"{check} {severity:.2f}: {detail}")
    return found


def _attention(case: Case) -> pd.DataFrame | None:
    """Share of attention, and of the crop, beside the subject, for a sample of the images; None without mattes."""
    status = case.pictures.table["matte"].iloc[case.rows].to_numpy()
    usable = np.flatnonzero([s is not None and s not in ("low_contrast", "empty") for s in status])
    if not len(usable):
        return None
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(STUDIED, len(usable))).round().astype(int))]
    alphas = case.pictures.gather_alpha(case.rows[chosen])
    names = case.pictures.schema.class_names
    return pd.DataFrame(
        {
            "image": case.asked.images["image"].to_numpy()[chosen],
            "class": [names[k] for k in case.asked.truth[chosen]],
            "answer": [names[k] for k in case.predicted[chosen]],
            "attention": cam.background_share(case.attention(chosen)[1], alphas),
            "background": 1 - alphas.mean((1, 2)) / 255,
        }
    )


def _page(
    case: Case,
    run: str,
    table: pd.DataFrame | None,
    findings: dict[str, list[str]],
    pages: Pages,
    most: int,
    doubts: Sequence[suspects.Doubt],
    unknown: Sequence[str],
) -> str:
    """The page.

    Args:
        run: its name.
        table: attention.csv; None without mattes.
        findings: of audit, by image.
        pages: where photos are reviewed.
        most: images of each pair of classes.
        doubts: labels that are likely wrong; ``unknown`` are the attributes of which nothing can be said.
    """
    boxes, names = read_boxes(case.pictures.path), case.pictures.schema.class_names
    truth, predicted, wrong = case.asked.truth, case.predicted, case.wrong.tolist()
    own = case.probabilities[np.arange(len(truth)), truth]

    def cards(order: list[int]) -> list[dict[str, Any]]:
        return _cards(case, order, boxes, findings, pages)

    counts = Counter((int(truth[i]), int(predicted[i])) for i in wrong)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    pairs = [
        {
            "id": f"p{t}-{p}",
            "truth": names[t],
            "answer": names[p],
            "images": n,
            "cards": cards(sorted((i for i in wrong if (truth[i], predicted[i]) == (t, p)), key=own.item)[:most]),
        }
        for (t, p), n in ranked[:PAIRS]
    ]
    repeated = sorted(
        (i for i in wrong if case.counted[i, 0] > 1), key=lambda i: (-case.counted[i, 0], case.counted[i, 1], own[i])
    )
    confident = sorted(np.flatnonzero(truth == predicted).tolist(), key=own.item)
    best = {int(truth[i]): i for i in confident}
    return render(
        f"{run}: wrong answers",
        "explain.html.j2",
        wrong=len(wrong),
        images=len(truth),
        what=case.asked.what,
        method=case.maps.method,
        attention=None if table is None else _shares(table),
        highest=[] if table is None else table.dropna().nlargest(5, "attention")[["image", "attention"]].to_numpy(),
        confused=Table(
            ("label", "answer", "images"),
            [
                (names[t], Link(names[p], f"#p{t}-{p}") if k < PAIRS else names[p], n)
                for k, ((t, p), n) in enumerate(ranked[: 2 * PAIRS])
            ],
        ),
        unknown=", ".join(unknown),
        doubtful=Table(
            ("image", "attribute", "label", "likelier", "label is wrong", "say so", "drafted"),
            [d.cells(case.asked.images["image"].iloc[d.row]) for d in doubts[:LISTED]],
        )
        if doubts
        else None,
        repeated=cards(repeated[:REPEATED]) if case.counted[:, 1].max(initial=0) > 1 else None,
        repeated_count=len(repeated),
        pairs=pairs,
        correct=cards([best[k] for k in sorted(best)]),
    )


def _shares(table: pd.DataFrame) -> Table:
    """Attention beside the subject, overall and by class; without what has no map."""
    table = table.dropna()
    groups = [("all", table), *((str(name), group) for name, group in table.groupby("class"))] if len(table) else []
    return Table(
        ("class", "images", "of the map", "of the crop"),
        [(n, len(g), f"{g['attention'].mean():.0%}", f"{g['background'].mean():.0%}") for n, g in groups],
    )


def _cards(
    case: Case, order: list[int], boxes: dict[str, draw.Box], findings: dict[str, list[str]], pages: Pages
) -> list[dict[str, Any]]:
    """What is shown of some images: photo, crop, map, and lines of text."""
    if not order:
        return []
    crops, maps = case.attention(np.array(order))
    names, made = case.pictures.schema.class_names, []
    for i, crop, shown in zip(order, crops, cam.overlay(crops, maps), strict=True):
        image, t, p = str(case.asked.images["image"].iloc[i]), int(case.asked.truth[i]), int(case.predicted[i])
        card: dict[str, Any] = {
            "image": pages.photo(image),
            "crop": picture(crop),
            "map": picture(shown),
            "photo": None,
        }
        try:
            card["photo"] = picture(_photo(case.pictures, image, boxes.get(image)))
        except PhotoError as error:
            card["missing"] = str(error)
        card["lines"] = [
            f"label {names[t]} ({case.probabilities[i, t]:.0%})",
            f"answer {names[p]} ({case.probabilities[i, p]:.0%})",
            f"wrong in {case.counted[i, 0]} of {case.counted[i, 1]}",
            f"crop: {case.asked.images['status'].iloc[i]}",
        ]
        made.append(card | {"findings": findings.get(image, [])[:4]})
    return made


def _photo(view: View, image: str, box: draw.Box | None) -> NDArray[np.uint8]:
    """The photo with its box, small.

    Raises:
        PhotoError: it is gone or cannot be read.
    """
    pixels = load(Path(view.dataset.get("source", {}).get("root", "")) / image)
    height, width = pixels.shape[:2]
    scale = HEIGHT / height
    small = np.asarray(Image.fromarray(pixels).resize((max(1, round(width * scale)), HEIGHT), Image.Resampling.LANCZOS))
    if box is None:
        return small
    scaled = (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
    return draw.annotate(small, [draw.Mark(scaled, (), draw.COLOURS[0])])
