"""report.html of a run: scores, curves, errors and settings on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UserError, write_with
from maskprep.dataset import View, open_view
from maskprep.labels import Schema
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.data import tasks
from masktrain.data.labels import numbers_behind
from masktrain.data.units import of_people, unit, units
from masktrain.pages import weakest
from masktrain.pages.page import INTERVAL, Chart, Table, picture, render
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import calibration, metrics, origins, slices
from masktrain.train.augment import by_class, shown
from masktrain.train.checkpoint import load_sidecar

FILE = "report.html"
ERRORS, SAMPLES = 24, 12
MANY = 40
"""Classes above which there is no confusion matrix, and of the F1 curves only the weakest and the median."""


def report(run: Path, cache: Path | None = None) -> Path:
    """Write report.html into a run folder.

    Args:
        cache: where the cache is now, if it has moved.

    Returns:
        The file.

    Raises:
        UserError: no finished run, or the cache no longer has its images.
    """
    data, records, result = runs.read_data(run), runs.read_metrics(run), runs.read_result(run)
    environment = runs.read_environment(run)
    where = runs.need_cache(cache or Path(data["cache"]), run, f"masktrain report {run} NEW_CACHE")
    view = tasks.like(open_view(where, data["view"]), load_sidecar(run).labels())
    held = heldout.read(run)
    rows = pd.Series(view.table.index, index=view.table["image"]).reindex(held.images)
    if rows.isna().any():
        raise UserError(f"{view.path} no longer has all the images of {run}.")
    table, schema = view.table.iloc[rows.to_numpy(dtype=np.int64)], view.schema
    truth, p, people = held.labels, held.probabilities, table["person"].tolist()
    predicted, counted = p.argmax(1), unit(len(set(people)), len(people))
    recipe, samples = _samples(run, data, view)
    text = render(
        "report.html.j2",
        title=run.name,
        note=environment.get("note"),
        device=environment.get("device", ""),
        best=result["best"],
        beside=metrics.score_table(held, numbers_behind(table, schema)).beside,
        interval=metrics.Interval(**result["interval"]),
        chosen=runs.chosen(run),
        epochs=result["epochs"],
        over=units(len(set(people)), len(people)),
        trained=of_people(data["images"]["train"], len(data["people"]["train"])),
        scored=of_people(data["images"]["val"], len(data["people"]["val"])),
        doubts=data.get("persons", {}).get("doubts", []),
        charts=_charts(records, [n for n, k in zip(schema.class_names, data["classes"]["val"], strict=True) if k]),
        classes=_classes(truth, predicted, people, schema).over(counted),
        origins=_origins(truth, predicted, people, schema, origins.gather(view.path, table, schema, truth, p)).over(
            counted
        ),
        slices=_slices(truth, predicted, table, schema).over(counted),
        ece=calibration.ece(p, truth),
        reliability=reliability(p, truth),
        matrices=_matrices(truth, predicted, schema),
        errors=_errors(truth, p, table, view),
        recipe=recipe,
        samples=samples,
        settings=_settings(run, environment.get("defaults", {})),
    )
    write_with(run / FILE, lambda part: part.write_text(text, encoding="utf-8"))
    return run / FILE


def _charts(records: Sequence[dict[str, Any]], present: Collection[str]) -> list[Chart]:
    """Losses, scores, and F1 of every class."""
    losses = {"training loss": "train_loss", "validation loss (negative log-likelihood)": "val_loss"}
    scores = {"macro-F1": "macro_f1", "accuracy": "accuracy", "training accuracy": "train_accuracy"}
    foot = f"epoch 1 to {len(records)}"
    charts = [
        Chart({name: [r.get(key, np.nan) for r in records] for name, key in series.items()}, foot)
        for series in (losses, scores)
    ]
    return [*charts, *class_charts(records, present)]


def class_charts(records: Sequence[dict[str, Any]], present: Collection[str]) -> list[Chart]:
    """F1 of the classes over the epochs, those weakest in the best epoch by name; nothing where none stands out.

    Args:
        present: classes that held-out images have; others have no F1.
    """
    best = next((r for r in records if r["epoch"] == records[-1]["best_epoch"]), records[-1])
    named = dict(weakest.weakest(best["class_f1"], present))
    if not named:
        return []
    curves = {name: [r["class_f1"][name] for r in records] for name in best["class_f1"] if name in present}
    lines = {f"{name}: {f1:.2f} in epoch {best['epoch']}": curves[name] for name, f1 in named.items()}
    others = [values for name, values in curves.items() if name not in named]
    if len(others) > MANY:
        others = [np.median(others, 0).tolist()]
    return [Chart(lines, f"F1 of classes, epoch 1 to {len(records)}", others, 0.0, 1.0)]


def _classes(truth: NDArray[np.int64], predicted: NDArray[np.int64], people: Sequence[str], schema: Schema) -> Table:
    scores = metrics.score(truth, predicted, schema).classes
    sure = metrics.class_intervals(truth, predicted, people, len(scores))
    return Table(
        ("class", "images", "predicted", "precision", "recall", "F1", INTERVAL),
        [
            (c.name, c.support, c.predicted, c.precision, c.recall, c.f1, i.text(".3f"))
            for c, i in zip(scores, sure, strict=True)
        ],
        [(c.f1, i.low, i.high) for c, i in zip(scores, sure, strict=True)],
    )


def _origins(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    people: Sequence[str],
    schema: Schema,
    known: origins.Evidence,
) -> Table:
    """Kinds of errors, by how much better the score would be without them."""
    ranked = origins.rank(truth, predicted, people, schema, known)
    widest, everyone = max([o.high for o in ranked] + [1e-9]), len(set(people))
    return Table(
        ("if these were correct", "images", "wrong", "people", "macro-F1 gains", INTERVAL),
        [
            (o.what, o.images, o.wrong, o.people, f"{o.gain:+.3f}", metrics.between(o.low, o.high, everyone, "+.3f"))
            for o in ranked
        ],
        [(o.gain / widest, o.low / widest, o.high / widest) for o in ranked],
    )


def _slices(truth: NDArray[np.int64], predicted: NDArray[np.int64], table: pd.DataFrame, schema: Schema) -> Table:
    """Parts of the images: by crop status and source where these differ, and by attribute."""
    columns = {name: table[name].tolist() for name in ("status", "source") if name in table}
    by = slices.default(schema, list(columns)) + [n for n in schema.joint if len(schema.joint) > 1]
    scored = slices.score(truth, predicted, table["person"].tolist(), schema, columns, by)
    return Table(
        ("by", "slice", "images", "people", "accuracy", INTERVAL, "macro-F1"),
        [(s.by, s.value, s.images, s.people, s.accuracy, s.interval, s.macro_f1) for s in scored],
        [(s.accuracy, s.low, s.high) for s in scored],
    )


def reliability(p: NDArray[Any], truth: NDArray[np.int64], bins: int = 10) -> list[dict[str, float]]:
    """For equal stretches of the highest probability with images: how many, their share of all, mean probability
    (``confidence``) and share of correct answers (``accuracy``); ``p`` [n, C]."""
    confidence, right = p.max(1), p.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "images": int((inside := place == k).sum()),
            "share": float(inside.mean()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for k in np.unique(place)
    ]


def _matrices(truth: NDArray[np.int64], predicted: NDArray[np.int64], schema: Schema) -> list[tuple[Any, ...]]:
    """Title, classes, counts [K, K] and their shares of the row, for every attribute and the joint label."""
    joint = metrics.confusion(truth, predicted, schema.num_classes)
    each = [(name, schema[name].classes, m) for name, m in metrics.per_attribute(joint, schema).items()]
    if len(schema.joint) > 1 and schema.num_classes <= MANY:
        each.append(("joint label", schema.class_names, joint))
    return [
        (title, names, counts.tolist(), (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist())
        if len(names) <= MANY
        else (title, names, None, None)
        for title, names, counts in each
    ]


def _errors(truth: NDArray[np.int64], p: NDArray[Any], table: pd.DataFrame, view: View) -> list[tuple[str, list[str]]]:
    """The wrong answers with the least probability for the truth."""
    own, names = p[np.arange(len(truth)), truth], view.schema.class_names
    wrong = [int(i) for i in np.argsort(own, kind="stable") if p[i].argmax() != truth[i]][:ERRORS]
    captions = [
        [
            str(table["image"].iloc[i]),
            f"label {names[truth[i]]} ({own[i]:.0%})",
            f"answer {names[p[i].argmax()]} ({p[i].max():.0%})",
            f"crop: {table['status'].iloc[i]}",
        ]
        for i in wrong
    ]
    return list(zip(map(picture, view.gather(table.index.to_numpy()[wrong])), captions, strict=True))


def _samples(run: Path, data: dict[str, Any], view: View) -> tuple[str, list[tuple[str, list[str]]]]:
    """The recipe in words, and training images as the first epoch augments them."""
    settings = runs.every_setting(run)
    augment = settings["augment"]
    if not {augment["recipe"], *(c.rpartition(":")[2] for c in augment["classes"])} <= set(RECIPES):
        return f"recipe {augment['recipe']}, of a plugin that is not loaded", []
    rows = np.flatnonzero(view.table["person"].isin(set(data["people"]["train"])) & view.table["label"].notna())
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLES])
    pixels, labels = view.gather(chosen), view.table["label"].iloc[chosen].to_numpy(dtype=np.int64)
    recipes, kinds = by_class(AugmentConfig(**augment), view.schema, labels)
    for kind, own in enumerate(recipes):
        if (mine := np.flatnonzero(kinds == kind)).size:
            pixels[mine] = shown(own, settings["run"]["seed"], pixels[mine], chosen[mine])
    mixed = augment["mixup"] + augment["cutmix"] + augment["halves"]
    parts = [f"{mixed:.0%} of the images then mixed with another"] if mixed else []
    text = "; ".join([f"recipe {augment['recipe']}", *parts, *augment["classes"]])
    return text, [(picture(x), [view.schema.class_names[k]]) for x, k in zip(pixels, labels.tolist(), strict=True)]


def _settings(run: Path, defaults: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Every setting: its name, value and the default of the run's version."""
    return [
        (f"{section}.{key}", value, defaults.get(section, {}).get(key, value))
        for section, values in runs.every_setting(run).items()
        for key, value in values.items()
    ]
