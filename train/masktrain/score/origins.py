"""Where the errors come from: how much better a score would be without each kind of error, ranked.

Each kind of error is put right in the answers as they stand, and the macro-F1 of all images is taken again. The kinds
overlap: an image may belong to several, so gains do not add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit import LIKELY, predictions
from maskprep.labels import Schema
from masktrain.data import labels as bands
from masktrain.score import paired

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

MARGIN = 2.0
"""A number nearer than this to a limit lies at the border: from ``limit - MARGIN`` up to, but without, the sum."""

EXAMPLES = 4
"""Images of a kind that are named."""
PEOPLE = 5
"""So many people with the most errors are one kind."""

SURE = ("ok", "given", "decided")
LABELS = ("label_pattern", "label_path", "label_person", "label_picture", "model_label_issue", "model_often_wrong")
"""Checks of audit that say that a label may be wrong."""


@dataclass(frozen=True)
class ErrorSource:
    """One kind of error.

    Args:
        what: in words.
        images: of this kind, whether answered rightly or not; ``wrong`` of them are put right, of ``people`` people.
        gain, low, high: macro-F1 with these right minus macro-F1 as it is, with its 95 % interval over people.
        kind: ``attribute``, ``limit``, ``crop``, ``label`` or ``people``; ``name`` is the attribute's.
        examples: numbers of some images that are put right.
    """

    what: str
    images: int
    wrong: int
    people: int
    gain: float
    low: float
    high: float
    kind: str = ""
    name: str = ""
    examples: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What is known about some images besides their labels and answers.

    Args:
        numbers: attribute -> the number behind its class [n], NaN where it is not known.
        doubtful: whether the crop is [n]; None where nothing tells.
        suspects: whether the label is likely wrong [n]; None where nothing tells.
        suspected: by whom, in words.
    """

    numbers: Mapping[str, NDArray[np.float64]]
    doubtful: Flags | None = None
    suspects: Flags | None = None
    suspected: str = ""


def rank(
    truth: Ints, predicted: Ints, people: Sequence[str], schema: Schema, evidence: Evidence, margin: float = MARGIN
) -> list[ErrorSource]:
    """Kinds of errors, the costliest first; kinds without an image are left out.

    Args:
        truth, predicted: joint labels [n].
        people: who is in the images [n].
        margin: see :data:`MARGIN`, in the unit of the numbers.
    """
    wrong = truth != predicted
    every = np.ones(len(truth), dtype=bool)
    kinds: list[tuple[tuple[str, str], str, Flags, Ints]] = []
    if len(schema.joint) > 1:
        kinds += [
            (("attribute", name), f"every {name}", every, _put_right(truth, predicted, schema, name, every))
            for name in schema.joint
        ]
    for name, numbers in evidence.numbers.items():
        limits = schema[name].bins
        near = np.any([(numbers >= k - margin) & (numbers < k + margin) for k in limits], axis=0)
        what = f"{name} within {margin:g} of a limit ({', '.join(f'{k:g}' for k in limits)})"
        kinds.append((("limit", name), what, near, _put_right(truth, predicted, schema, name, near)))
    for kind, what, chosen in (
        ("crop", "photos with a doubtful crop", evidence.doubtful),
        ("label", f"likely label errors ({evidence.suspected})", evidence.suspects),
    ):
        if chosen is not None:
            kinds.append(((kind, ""), what, chosen, np.where(chosen, truth, predicted)))
    who = np.asarray(people, dtype=object)
    errors = pd.Series(who[wrong]).value_counts()
    most = sorted(errors.index, key=lambda p: (-int(errors[p]), str(p)))[:PEOPLE]
    if most and len(set(who.tolist())) < len(who):  # otherwise nobody is known, and every image is its own person
        theirs = np.isin(who, most)
        named = f"the {len(most)} people with the most errors" if len(most) > 1 else "the one person with errors"
        kinds.append(
            (("people", ""), f"{named} ({', '.join(map(str, most))})", theirs, np.where(theirs, truth, predicted))
        )
    found = [_source(*kind, truth, predicted, who, schema) for kind in kinds if kind[2].any()]
    return sorted(found, key=lambda o: -o.gain)


def _source(
    kind: tuple[str, str],
    what: str,
    chosen: Flags,
    mended: Ints,
    truth: Ints,
    predicted: Ints,
    who: NDArray[np.object_],
    schema: Schema,
) -> ErrorSource:
    changed = mended != predicted
    gain = paired.compare(truth, mended, predicted, who, schema.num_classes)
    people = len(set(who[changed].tolist()))
    counts = int(chosen.sum()), int(changed.sum()), people
    where = np.flatnonzero(changed)
    examples = tuple(
        where[np.unique(np.linspace(0, len(where) - 1, EXAMPLES).astype(int))].tolist() if len(where) else ()
    )
    return ErrorSource(what, *counts, gain.difference, gain.low, gain.high, *kind, examples)


def _put_right(truth: Ints, predicted: Ints, schema: Schema, name: str, chosen: Flags) -> Ints:
    """The answers with one attribute as it is, in the images that are chosen."""
    parts = [np.array(np.unravel_index(labels, schema.sizes)) for labels in (truth, predicted)]
    axis = schema.joint.index(name)
    parts[1][axis] = np.where(chosen, parts[0][axis], parts[1][axis])
    return np.asarray(np.ravel_multi_index(tuple(parts[1]), schema.sizes), dtype=np.int64)


def gather(
    cache: Path, images: pd.DataFrame, schema: Schema, truth: Ints, probabilities: NDArray[Any] | None
) -> Evidence:
    """What a cache knows about some images.

    Labels are suspects by what audit has found there (severity at least 0.5); where it has found nothing about labels,
    by the probabilities, if these are from models that did not know the person and know the attribute well.

    Args:
        images: their rows with image, status and the attributes, as in :class:`maskprep.dataset.View`.
        truth: their joint labels [n].
        probabilities: out-of-fold ones [n, C]; None for none.
    """
    suspects, suspected = _audited(cache, images), "by maskprep audit"
    if suspects is None and probabilities is not None:
        suspects = doubted(truth, np.asarray(probabilities, np.float64), schema)
        suspected = "by this model alone: doubtful"
    return Evidence(bands.numbers_behind(images, schema), _doubtful(cache, images), suspects, suspected)


def doubted(truth: Ints, probabilities: NDArray[np.float64], schema: Schema) -> Flags | None:
    """Which labels are wrong more likely than not, by what models say that did not know the person; None where they
    know no attribute well enough. See :func:`maskprep.audit.predictions.mislabelled`.

    Args:
        probabilities: of the joint classes [n, C].
    """
    found = [
        wrong > 0.5 for _, _, doubts in marginal_doubts(truth, probabilities, schema) if doubts for wrong in doubts[1:]
    ]
    return np.any(found, axis=0) if found else None


def marginal_doubts(
    truth: Ints, probabilities: NDArray[np.float64], schema: Schema
) -> Iterator[tuple[str, Ints, tuple[Ints, NDArray[np.float64]] | None]]:
    """Each attribute with its labels [n] and what :func:`maskprep.audit.predictions.mislabelled` says of them."""
    labels = np.array(np.unravel_index(truth, schema.sizes), dtype=np.int64)
    cube = probabilities.reshape(len(truth), *schema.sizes)
    for axis, name in enumerate(schema.joint):
        table = cube.sum(axis=tuple(1 + a for a in range(len(schema.sizes)) if a != axis))
        yield name, labels[axis], predictions.mislabelled(labels[axis], table)


def _audited(cache: Path, images: pd.DataFrame) -> Flags | None:
    """Which labels audit finds likely wrong; None where it has not looked or has found none at all."""
    table = _table(cache / "audit" / "findings.parquet", ["image", "check", "severity"])
    if table is None:
        return None
    named = set(table["image"][table["check"].isin(LABELS) & (table["severity"] >= LIKELY)])
    return images["image"].isin(named).to_numpy(dtype=bool) if named else None


def _doubtful(cache: Path, images: pd.DataFrame) -> Flags:
    """Crops whose status is not ok or decided, or whose face took a second look or was seen by one detector alone."""
    doubtful = ~images["status"].isin(SURE).to_numpy(dtype=bool)
    faces = _table(cache / "faces.parquet", ["image", "face", "group", "detector", "rung"])
    subjects = _table(cache / "subjects.parquet", ["image", "face"])
    if faces is None or subjects is None:
        return doubtful
    chosen = subjects.dropna(subset=["face"]).merge(faces, on=["image", "face"])
    seen = faces.groupby(["image", "group"])["detector"].nunique().rename("seen").reset_index()
    chosen = chosen.merge(seen, on=["image", "group"])
    alone = (chosen["seen"] < 2) & (faces["detector"].nunique() > 1)
    return doubtful | images["image"].isin(chosen["image"][(chosen["rung"] != "as_is") | alone]).to_numpy(dtype=bool)


def _table(file: Path, columns: list[str]) -> pd.DataFrame | None:
    """Columns of a Parquet table; None where it is not there or has no such columns."""
    try:
        return pd.read_parquet(file, columns=columns)
    except (OSError, ValueError, KeyError):
        return None
