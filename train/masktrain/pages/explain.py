"""What a run gets wrong, where it looked, and a draft of decisions: a page to look through, and a file to merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, keep_whole
from maskprep.dataset import View
from masktrain.answer import evaluate, members, predictors, trained
from masktrain.answer.graph import Part
from masktrain.answer.predictor import Predictor, find_view
from masktrain.pages import attention, gallery
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.runs.predictions import Predictions
from masktrain.score import evalset
from masktrain.score.evalset import EvalSet

FILE, DRAFT, TABLE = "explain.html", "decisions-draft.csv", "attention.csv"
STUDIED = 256
"""Images whose attention is compared with their mattes; drawn evenly where there are more."""

PAIRS = 12
"""Pairs of classes that get a gallery."""


@dataclass(frozen=True)
class Explained:
    """What was found and written.

    Args:
        folder: with explain.html, attention.csv and decisions-draft.csv.
        images: how many were asked about, and how many of them answered wrongly.
        wrong: likewise.
        background: mean share of attention beside the subject, and of the crop that is beside it; None without mattes.
        drafted: decisions in the draft, which is ``draft``.
    """

    folder: Path
    images: int
    wrong: int
    background: tuple[float, float] | None
    drafted: int
    draft: Path


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
    """Write galleries of errors with maps of where the model looked, and a draft of decisions on labels.

    Args:
        run: a run or an ensemble. Of several networks those are looked into that see the first view and did not know
            the person; the map is their mean.
        out: folder to write to; by default ``RUN/explain``.
        method: one of :data:`masktrain.pages.attention.METHODS`.
        split, answers, view: as for :func:`masktrain.answer.evaluate.evaluate`.
        also: further runs whose held-out answers are counted: wrong in k of n.
        most: images shown of each pair of classes.
        sure: a wrong answer at least this probable becomes a line of the draft, for attributes with named classes.
        force: write over files in ``out`` that ``explain`` has not written.

    Raises:
        UserError: nothing to explain, or the grad-cam library is missing.
    """
    attention.check(method)
    if not 0 < sure <= 1:
        raise UsageError("--sure lies above 0 and up to 1.")
    if run.is_file():
        raise UsageError(f"{run} is a file, not a run folder.", "Explain the run that it was exported from.")
    if out is not None:
        runs.clear_of_photos([run], out)
        keep_whole(out / FILE, force)
        if not (out / FILE).exists():
            keep_whole(out / TABLE, force)
    predictor = predictors.load(run, device)
    pictures = predictors.open_for(predictor, cache, view)
    asked = evalset.ask(pictures, predictor.schema, runs.read_data(run), answers, split)
    table, known = evaluate.answer(run, predictor, pictures, asked, 64)
    seen = known & (table.scored if table.scored is not None else True)
    asked, probabilities, told = asked.take(seen), table.probabilities[seen], table.answers[seen]
    if not len(asked):
        raise UserError(f"None of the images {asked.what} has a crop.")
    rows = pd.Series(pictures.table.index, index=pictures.table["image"]).loc[asked.images["image"]].to_numpy()
    looked = Lookers(run, predictor, method, pictures)
    wrong = np.flatnonzero(told != asked.truth)
    counted = votes(run, asked, also, predictor, pictures, rows)
    case = gallery.Case(pictures, asked, rows, probabilities, told, counted, findings(cache), looked)
    folder = out or run / "explain"
    folder.mkdir(parents=True, exist_ok=True)
    table = _attention(case, looked)
    if table is not None:
        table.to_csv(folder / TABLE, index=False, float_format="%.4f", lineterminator="\n")
    page = gallery.page(case, run.resolve().name, method, table, pairs=PAIRS, most=most)
    (folder / FILE).write_text(page, encoding="utf-8")
    drafted = draft(case, wrong, sure, run.resolve().name)
    file = _keep(folder / DRAFT, drafted[0])
    background = None
    if table is not None and table["attention"].notna().any():
        background = (float(table["attention"].mean()), float(table["background"].mean()))
    return Explained(folder, len(asked), len(wrong), background, drafted[1], file)


def _keep(file: Path, text: str) -> Path:
    """Write a draft beside earlier ones, which somebody may have worked on. Returns the file that holds it."""
    number, made = 1, file
    while made.exists() and made.read_text(encoding="utf-8") != text:
        number += 1
        made = file.with_stem(f"{file.stem}-{number}")
    made.write_text(text, encoding="utf-8")
    return made


class Lookers:
    """The networks of a run that see its first view, and whom each of them was not trained on."""

    def __init__(self, run: Path, predictor: Predictor, method: str, pictures: View) -> None:
        parts, _ = trained.parts_of(predictor.source)
        self.method = method
        self.pictures = predictor.manual.inputs[0].of(pictures)
        folders = _folders(run) or [run]
        self.parts: list[tuple[Part, set[str]]] = []
        for part, folder in zip(parts, folders, strict=True):
            if part.place == 0:
                held = runs.read_data(folder)["people"]["val"] if (folder / runs.DATA).is_file() else []
                self.parts.append((part, set(held)))

    def maps(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], people: Sequence[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Crops uint8 [n, H, W, 3] of some table rows as the networks see them, and where these look [n, H, W]."""
        crops = self.pictures.gather(rows)
        total = np.zeros(crops.shape[:3], np.float32)
        count = np.zeros(len(rows), np.float32)
        strangers = np.array([[p in held for p in people] for _, held in self.parts]).reshape(len(self.parts), -1)
        asked = np.array([part.asked(labels) for part, _ in self.parts]).reshape(len(self.parts), -1)
        strangers &= asked
        strangers |= asked & ~strangers.any(0)  # where nobody held the person out, everyone is asked
        for (part, _), chosen in zip(self.parts, strangers, strict=True):
            total[chosen] += attention.maps(part, crops[chosen], labels[chosen], self.method)
            count[chosen] += 1
        return crops, (total / np.maximum(count, 1)[:, None, None]).astype(np.float32)


def _folders(run: Path) -> list[Path]:
    """Folders of an ensemble's members; none for a single run."""
    return members.folders(run) if (run / members.FILE).is_file() else []


def votes(
    run: Path,
    asked: EvalSet,
    also: Sequence[Path],
    predictor: Predictor,
    pictures: View,
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """In how many answers of how many each image is wrong, int64 [n, 2], counting only who did not know the person.

    For people held out these are the answers that the runs have kept of them; otherwise every network's own.
    """
    counted = np.zeros((len(asked), 2), np.int64)
    if asked.split == "val":
        for folder in (run, *also):
            _count(counted, asked, heldout.read(folder))
        return counted
    for folder in [*(_folders(run) or [run]), *also]:
        other = predictors.load(folder)
        own = predictors.open_for(other, pictures.path) if len(other.manual.inputs) > 1 else pictures
        if other.manual.view != predictor.manual.view:
            own = find_view(pictures.path, other.manual.inputs[0])
        places = pd.Series(own.table.index, index=own.table["image"]).reindex(asked.images["image"])
        data = runs.read_data(folder if (folder / runs.DATA).is_file() else run)
        known = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        there = (places.notna().to_numpy()) & ~(known.to_numpy() & evalset.same_source(pictures, data))
        told = other.decide(other(own, places[there].to_numpy(np.int64)))
        _add(counted, there, told != asked.truth[there])
    return counted


def _add(counted: NDArray[np.int64], there: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> None:
    counted[there, 0] += wrong
    counted[there, 1] += 1


def _count(counted: NDArray[np.int64], asked: EvalSet, held: Predictions) -> None:
    place = pd.Series(np.arange(len(held)), index=held.images).reindex(asked.images["image"])
    there = place.notna().to_numpy()
    told = held.probabilities[place[there].to_numpy(np.int64)].argmax(1)
    _add(counted, there, told != asked.truth[there])


def findings(cache: Path) -> dict[str, list[str]]:
    """What audit found about each image, the most severe first; nothing where there was no audit."""
    file = cache / "audit" / "findings.parquet"
    if not file.is_file():
        return {}
    table = pd.read_parquet(file).sort_values("severity", ascending=False, kind="stable")
    found: dict[str, list[str]] = {}
    for image, check, severity, detail in table[["image", "check", "severity", "detail"]].itertuples(index=False):
        found.setdefault(image, []).append(f"{check} {severity:.2f}: {detail}")
    return found


def _attention(case: gallery.Case, looked: Lookers) -> pd.DataFrame | None:
    """Share of attention, and of the crop, beside the subject, for a sample of the images; None without mattes."""
    status = case.pictures.table["matte"].iloc[case.rows].to_numpy()
    usable = np.flatnonzero([s is not None and s not in ("low_contrast", "empty") for s in status])
    if not len(usable):
        return None
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(STUDIED, len(usable))).round().astype(int))]
    people = [case.asked.people[i] for i in chosen]
    _, found = looked.maps(case.rows[chosen], case.told[chosen], people)
    alphas = case.pictures.gather_alpha(case.rows[chosen])
    names = case.pictures.schema.class_names
    return pd.DataFrame(
        {
            "image": case.asked.images["image"].to_numpy()[chosen],
            "class": [names[k] for k in case.asked.truth[chosen]],
            "answer": [names[k] for k in case.told[chosen]],
            "attention": attention.background_share(found, alphas),
            "background": 1 - alphas.mean((1, 2)) / 255,
        }
    )


def draft(case: gallery.Case, wrong: NDArray[np.int64], sure: float, run: str) -> tuple[str, int]:
    """decisions.csv rows that would make the labels what the model says, and how many.

    Only a draft: a person looks, takes out what is wrong, and merges the rest. Attributes with number bins are left
    out, as no answer tells the number.
    """
    from maskprep.store import Decision, to_csv

    schema = case.pictures.schema
    order = sorted(wrong.tolist(), key=lambda i: -case.probabilities[i, case.told[i]])
    rows = []
    for i in order:
        cube = case.probabilities[i].reshape(schema.sizes)
        image: dict[str, Any] = case.asked.images.iloc[i].to_dict()
        answers = zip(
            schema.joint, schema.decode(int(case.asked.truth[i])), schema.decode(int(case.told[i])), strict=True
        )
        for axis, (name, truth, told) in enumerate(answers):
            p = float(cube.sum(axis=tuple(a for a in range(cube.ndim) if a != axis))[told])
            if truth == told or schema[name].bins or p < sure:
                continue
            classes = schema[name].classes
            k, n = case.counted[i]
            why = f"draft: {run} says {classes[told]} ({p:.0%}), wrong in {k} of {n}"
            value, expected = f"{name}={classes[told]}", f"{name}={classes[truth]}"
            rows.append(Decision(str(image["content"]), str(image["image"]), "relabel", value, expected, why, by=run))
    return to_csv(rows), len(rows)
