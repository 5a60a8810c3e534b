"""CSV files of predictions, whoever made them, combined into one: votes of submissions, without a run or a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from maskprep.base import UsageError, write_with
from maskprep.dataset import image_table
from maskprep.labels import Schema
from maskprep.store import Cache
from masktrain.combine import ensemble, voting
from masktrain.runs import predictions
from masktrain.score import metrics, paired

FITTED = ("weighted", "greedy", "stack")


def vote(files: Sequence[Path], cache: Path, out: Path, *, kind: str = "soft", seed: int = 0) -> ensemble.Ensemble:
    """Combine files of predictions of the same images into one, which evaluate reads like any other.

    A file without probabilities is sure of its answers. What is fitted is fitted on the images whose labels the cache
    knows, and scored on people it was not fitted on; the files themselves must not come from training on these.

    Args:
        files: see :func:`masktrain.runs.predictions.read_csv`.
        cache: says which images, people, labels and classes there are.
        out: the CSV file to write: ImageID, ans, p_0, p_1, ...
        kind: soft, hard, weighted, greedy or stack.

    Raises:
        UserError: files that cannot be read or matched; or no labels to fit on.
    """
    Cache(cache).clear_of_photos(out)
    if not predictions.is_csv(out) or out.exists():
        raise UsageError(f"{out} {'exists' if out.exists() else 'is no .csv'}.", "Name a new .csv file with --out.")
    schema = Schema.from_dict(Cache(cache).read()["schema"])
    known = image_table(cache, schema).set_index("image", drop=False)
    given = [predictions.read_csv(file, known["image"], schema) for file in files]
    named = sorted({image for meant in given[0].meant for image in meant})
    rows = known.loc[named]
    labels = rows["label"].where(rows["excluded"].isna()).fillna(-1).to_numpy(dtype=np.int64)
    members = [each.of(named, rows["person"], labels, f"that {files[0].name} names") for each in given]
    tables, labelled = np.stack([m.probabilities for m in members]), labels >= 0
    if kind in FITTED and not labelled.any():
        raise UsageError(f"{cache} knows no label of these images to fit '{kind}' on.", "Use --kind soft or hard.")
    fitted = voting.fit(kind, tables[:, labelled], labels[labelled])
    with torch.inference_mode():
        whole = ensemble.combination(kind, range(len(files)), fitted)(torch.from_numpy(tables).float()).numpy()
    frame = members[0].saying(whole).frame().drop(columns=["person", "label"]).rename(columns={"image": "ImageID"})
    frame.insert(1, "ans", whole.argmax(1))
    write_with(out, lambda part: frame.to_csv(part, index=False, float_format="%.6g", lineterminator="\n"))
    if not labelled.any():
        nobody = metrics.Interval(0.0, 0.0, 0.95, 0)
        return ensemble.Ensemble(out, kind, [], 0, 0.0, nobody, None, 0, np.zeros((0, 0)), ["No label is known."])
    held, tables = members[0].take(labelled), tables[:, labelled]
    answer = ensemble.nested_answer(kind, tables, held.labels)
    scored = voting.nested(held.labels, held.people, schema, answer, seed).argmax(1)
    each = [paired.beside(f.name, held, t.argmax(1), None) for f, t in zip(files, tables, strict=True)]
    best = int(np.argmax([e.macro_f1 for e in each]))
    made = paired.beside(kind, held, scored, paired.between(held, scored, tables[best].argmax(1)))
    weights = [None] * len(each) if fitted.weights is None else fitted.weights.tolist()
    entries = [ensemble.Entry(e.name, e.macro_f1, e.interval, w, 0, 0.0) for e, w in zip(each, weights, strict=True)]
    wrong = np.array([t.argmax(1) != held.labels for t in tables])
    correlation = voting.error_correlation(wrong)
    return ensemble.Ensemble(
        out, kind, entries, len(held), made.macro_f1, made.interval, made.against, best, correlation
    )
