"""Labels that are likely wrong, by networks that were not trained on the person, and drafts of decisions on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit import OOF
from maskprep.dataset import View
from maskprep.labels import Schema
from maskprep.store import Decision, to_csv
from masktrain.answer import members, model
from masktrain.answer.model import Model
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import evalset, origins
from masktrain.score.evalset import EvalSet


@dataclass(frozen=True)
class Doubt:
    """A label that is likely wrong.

    Args:
        row: number of the image.
        label, other: classes of the attribute, as labelled and as it likelier is.
        probability: that the label is wrong and the other class right, as far as the model can tell.
        agree: of ``answers``, how many say the other class.
    """

    row: int
    attribute: str
    label: str
    other: str
    probability: float
    agree: int
    answers: int

    def cells(self, image: str) -> tuple[Any, ...]:
        """Its row in a table."""
        drafted = "yes" if self.agree > 1 else "no"
        says = f"{self.agree} of {self.answers}"
        return image, self.attribute, self.label, self.other, f"{self.probability:.0%}", says, drafted


def doubts(
    truth: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    told: NDArray[np.int64],
    schema: Schema,
    sure: float,
) -> tuple[list[Doubt], tuple[str, ...]]:
    """Labels that are wrong at least as probably as ``sure``, the likeliest first, and the attributes that are known
    too little to say. Attributes with number bins are left out, as no answer tells the number.

    Args:
        truth: joint labels [n]; ``probabilities`` [n, C].
        told: answers of single networks or runs, see :func:`votes`.
    """
    found, unknown = [], []
    for axis, (name, labels, said) in enumerate(origins.marginal_doubts(truth, probabilities, schema)):
        if schema[name].bins:
            continue
        if said is None:
            unknown.append(name)
            continue
        each = np.where(told < 0, -1, np.array(np.unravel_index(np.maximum(told, 0), schema.sizes))[axis])
        classes, (other, wrong) = schema[name].classes, said
        for i in np.flatnonzero(wrong >= sure).tolist():
            agree, answers = int((each[:, i] == other[i]).sum()), int((each[:, i] >= 0).sum())
            found.append(Doubt(i, name, classes[labels[i]], classes[other[i]], float(wrong[i]), agree, answers))
    return sorted(found, key=lambda d: (-d.probability, d.row)), tuple(unknown)


def draft(doubts: Sequence[Doubt], images: pd.DataFrame, run: str) -> str:
    """decisions.csv rows that would put labels right; a person looks, takes out what is wrong, and merges the rest."""
    rows = []
    for d in doubts:
        image = images.iloc[d.row]
        why = f"draft: {run} says {d.other}, wrong label {d.probability:.0%}, {d.agree} of {d.answers} say so"
        about = f"{d.attribute}={d.other}", f"{d.attribute}={d.label}", why
        rows.append(Decision(str(image["content"]), str(image["image"]), "relabel", *about, by=run))
    return to_csv(rows)


def keep(file: Path, text: str) -> Path:
    """Write a draft beside earlier ones, which somebody may have worked on. Returns the file that holds it."""
    number, made = 1, file
    while made.exists() and made.read_text(encoding="utf-8") != text:
        number += 1
        made = file.with_stem(f"{file.stem}-{number}")
    made.write_text(text, encoding="utf-8")
    return made


def networks(run: Path) -> list[Path]:
    """The run itself, or the members of an ensemble."""
    return members.folders(run) if (run / members.FILE).is_file() else [run]


def votes(run: Path, asked: EvalSet, also: Sequence[Path], predictor: Model, pictures: View) -> NDArray[np.int64]:
    """What single networks or runs answer about each image, int64 [m, n]; -1 where one was trained on the person.

    For people held out these are the answers that the runs have kept of them; otherwise every network's own.
    """
    images, told = asked.images["image"], []
    for folder in (*_keepers(run, predictor.schema), *also) if asked.split == "val" else (*networks(run), *also):
        if asked.split == "val":
            held = heldout.read(folder)
            place = pd.Series(np.arange(len(held)), index=held.images).reindex(images)
            there = place.notna().to_numpy()
            predicted = held.probabilities[place[there].to_numpy(np.int64)].argmax(1)
        else:
            other = model.load(folder)
            own = model.open_for(other, pictures.path) if len(other.spec.inputs) > 1 else pictures
            if other.spec.view != predictor.spec.view:
                own = model.find_view(pictures.path, other.spec.inputs[0], other.spec.settings)
            place = pd.Series(own.table.index, index=own.table["image"]).reindex(images)
            data = runs.read_data(folder if (folder / runs.DATA).is_file() else run)
            known = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
            there = place.notna().to_numpy() & ~(known.to_numpy() & evalset.same_source(pictures, data))
            predicted = other.decide(other(own, place[there].to_numpy(np.int64)))
        answers = np.full(len(asked), -1, dtype=np.int64)
        answers[there] = predicted
        told.append(answers)
    return np.array(told)


def _keepers(run: Path, schema: Schema) -> list[Path]:
    """Who has kept answers about people held out: all members of an ensemble, otherwise the run itself."""
    folders = networks(run)
    whole = all((folder / OOF).is_file() and runs.schema_of(folder) == schema for folder in folders)
    return folders if whole else [run]
