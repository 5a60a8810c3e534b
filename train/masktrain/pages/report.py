"""report.html of a run, of all folds or of an ensemble: scores, what to do next, errors, curves and settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UserError, counted, write_with
from maskprep.dataset import OVERVIEW, View, open_view
from maskprep.labels import Schema
from maskprep.pages import HeatMap, LineChart, Link, Pictures, Table, picture
from masktrain.answer import members
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.data import tasks
from masktrain.data.labels import numbers_behind
from masktrain.data.units import of_people, unit, units
from masktrain.pages import advice, weakest
from masktrain.pages.page import INTERVAL, Pages, over, render
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.runs.predictions import Predictions
from masktrain.score import calibration, metrics, origins, paired, slices
from masktrain.train.augment import by_class, shown

FILE = "report.html"
ERRORS, SAMPLES = 24, 12
MANY = 40
"""Classes above which confused pairs stand in place of a matrix, and of F1 curves only the weakest and the median."""
BINS = 10
"""Stretches of the highest probability in which calibration is shown."""


def report(run: Path, cache: Path | None = None) -> Path:
    """Write report.html into the folder of a run, of all folds, or of an ensemble.

    Args:
        cache: where the cache is now, if it has moved.

    Returns:
        The file.

    Raises:
        UserError: no finished run, or the cache no longer has its images.
    """
    parts = _parts(run)
    data, environment = runs.read_data(run), runs.read_environment(run)
    where = runs.need_cache(cache or Path(data["cache"]), run, f"masktrain report {run} NEW_CACHE")
    view = tasks.like(open_view(where, data["view"]), runs.schema_of(run))
    held = heldout.read(run)
    rows = pd.Series(view.table.index, index=view.table["image"]).reindex(held.images)
    if rows.isna().any():
        raise UserError(f"{view.path} no longer has all the images of {run}.")
    table, schema = view.table.iloc[rows.to_numpy(dtype=np.int64)], view.schema
    truth, p, people = held.labels, held.probabilities, table["person"].tolist()
    predicted, over_what = held.answers, unit(len(set(people)), len(people))
    scores = metrics.score_table(held, numbers_behind(table, schema))
    interval = metrics.interval(truth, predicted, people, schema.num_classes)
    pages, probe = Pages.beside(run, view.path, held.images.tolist()), _probe(parts, held)
    ranked = origins.rank(truth, predicted, people, schema, origins.gather(view.path, table, schema, truth, p))
    records = [runs.read_metrics(part) for part in parts]
    settings = runs.read_settings(run) if _made_of_runs(run) else runs.every_setting(run)
    recipe, samples = ("", []) if _made_of_runs(run) else _samples(parts[0], data, view)
    rows_of_settings = _settings(settings, environment.get("defaults", {}))
    several = len(parts) > 1
    text = render(
        run.resolve().name,
        "report.html.j2",
        run=run,
        cache=view.path,
        note=runs.read_folds(run).get("note") if (run / runs.FOLDS).is_file() else environment.get("note"),
        doubts=data.get("persons", {}).get("doubts", []),
        cards=_cards(scores, interval, units(len(set(people)), len(people)), probe),
        trained=_trained(run, data, len(parts), environment.get("device", "")),
        chosen=f"{chosen[:1].upper()}{chosen[1:]}." if (chosen := runs.chosen(run)) else "",
        advice=[
            *advice.of_errors(ranked, view.path, run, len(set(people)), held.images, pages.photo),
            *advice.of_training(run, scores.macro_f1, probe, [] if several else records[0], view.path),
        ],
        origins=over(_origins(ranked, len(set(people))), over_what),
        baselines=_baselines(held, data, probe),
        no_probe=next((reason for part in parts if (reason := runs.read_probe(part).get("none"))), ""),
        matrices=_matrices(truth, predicted, schema),
        errors=Pictures(_errors(truth, p, predicted, table, view, pages)),
        reviewed=bool(pages.review),
        classes=over(_classes(scores, truth, predicted, people), over_what),
        slices=over(_slices(truth, predicted, table, schema), over_what),
        parts=over(_parts_table(parts, held, run), over_what) if several else None,
        parts_are="Folds" if (run / runs.FOLDS).is_file() else "Members",
        charts=_charts(records, schema, data) if all(records) else [],
        ece=calibration.ece(p, truth),
        reliability=_reliability_chart(p, truth),
        recipe=recipe,
        samples=Pictures(samples),
        changed=Table(
            ("setting", "value", "default"),
            [(k, str(v), str(d)) for k, v, d in rows_of_settings if v != d],
            wide=("value",),
        ),
        settings=Table(("setting", "value"), [(k, str(v)) for k, v, _ in rows_of_settings], wide=("value",)),
        stats=Link(OVERVIEW, pages.stats) if pages.stats else "",
    )
    write_with(run / FILE, lambda part: part.write_text(text, encoding="utf-8"))
    return run / FILE


def _parts(run: Path) -> list[Path]:
    """The runs of the folds, the members of an ensemble, or the run itself.

    Raises:
        UserError: it is not finished.
    """
    if (run / runs.FOLDS).is_file():
        return runs.members(run)
    if (run / runs.ENSEMBLE).is_file():
        return members.folders(run)
    if (run / runs.ENV).is_file() or not (run / runs.OOF).is_file():
        runs.read_result(run)
    return [run]


def _made_of_runs(run: Path) -> bool:
    """Whether a folder has no settings of a fit: an ensemble, a composition or a mean of weights."""
    return not (run / runs.FOLDS).is_file() and not (run / runs.ENV).is_file()


def _cards(
    scores: metrics.Scores, interval: metrics.Interval, scored: str, probe: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """The scores in large letters: value, name, and what is said below."""
    cards = [("macro-F1", f"{scores.macro_f1:.4f}", f"95 % over {scored}: {interval.text()}")]
    if probe:
        difference = scores.macro_f1 - probe["macro_f1"]
        cards.append(("linear probe", f"{probe['macro_f1']:.4f}", f"this run {difference:+.4f}; features not trained"))
    cards.append(("accuracy", f"{scores.accuracy:.4f}", f"balanced {scores.balanced_accuracy:.4f}"))
    if len(scores.attributes) > 1:
        each = scores.attributes.items()
        cards += [(f"{n} macro-F1", f"{v['macro_f1']:.4f}", f"accuracy {v['accuracy']:.4f}") for n, v in each]
    cards += [(f"mean absolute error of {n}", f"{error:.2f}", "") for n, error in scores.mae.items()]
    if scores.log_loss is not None:
        cards.append(("log-loss", f"{scores.log_loss:.4f}", ""))
    return [(value, name, more) for name, value, more in cards]


def _trained(run: Path, data: dict[str, Any], parts: int, device: str) -> str:
    """On what it was trained and scored, in a sentence."""
    on = f" on {device}" if device else ""
    scored = of_people(data["images"]["val"], len(data["people"]["val"]))
    if (run / runs.FOLDS).is_file():
        return f"{counted(parts, 'fold')}{on}: everybody is answered by the model that was not trained on them."
    if (run / runs.ENSEMBLE).is_file():
        return f"{members.WORDS[members.read(run)['kind']].capitalize()} of {parts} networks, scored on {scored}."
    trained = of_people(data["images"]["train"], len(data["people"]["train"]))
    return f"Trained on {trained}{on}, scored on {scored}."


def _probe(parts: Sequence[Path], held: Predictions) -> dict[str, Any]:
    """The linear probe on the same images: macro-F1, accuracy, its network, and its answers [n] where they are kept;
    empty where a fold has none, or where several members have one each."""
    found = [runs.read_probe(part) for part in parts]
    told = {image: answer for each in found for image, answer in each.get("answers", {}).items()}
    answers = np.array([told.get(image, -1) for image in held.images], dtype=np.int64)
    if len(answers) and (answers >= 0).all():
        matrix = metrics.confusion(held.labels, answers, held.schema.num_classes)
        scored = {"macro_f1": metrics.macro_f1(matrix), "accuracy": metrics.accuracy(matrix), "answers": answers}
        return scored | {"network": found[0]["network"]}
    return found[0] if len(found) == 1 and "macro_f1" in found[0] else {}


def _baselines(held: Predictions, data: dict[str, Any], probe: dict[str, Any]) -> Table:
    """What knows no or fewer pictures, and by how much the run is better."""
    counts = np.array(data["classes"]["train"], dtype=np.float64)
    rows = []
    if probe:
        against = paired.between(held, held.answers, probe["answers"]).text if "answers" in probe else ""
        name = f"linear probe: logistic regression on the features of {probe['network']} before training"
        rows.append((name, probe["macro_f1"], probe["accuracy"], against))
    for name, answers in metrics.guesses(counts, len(held)):
        other = paired.beside(name, held, answers, paired.between(held, held.answers, answers))
        rows.append((name, other.macro_f1, other.accuracy, other.against.text if other.against else ""))
    return Table(("compared with", "macro-F1", "accuracy", "this run minus it"), rows, wide=("compared with",))


def _parts_table(parts: Sequence[Path], held: Predictions, run: Path) -> Table:
    """Each fold or member on the images that it and the whole have held out."""
    place, rows = pd.Index(held.images), []
    for part in parts:
        if not (part / runs.OOF).is_file():
            continue
        own = heldout.read(part)
        where = place.get_indexer(pd.Index(own.images))
        mine, ours = np.flatnonzero(where >= 0), where[where >= 0]
        if not len(ours) or own.schema != held.schema:
            continue
        labels, who = held.labels[ours], held.people[ours]
        whole = metrics.macro_f1(metrics.confusion(labels, held.answers[ours], held.schema.num_classes))
        alone = metrics.macro_f1(metrics.confusion(labels, own.answers[mine], held.schema.num_classes))
        known = runs.read_probe(part).get("macro_f1", "")
        found = paired.compare(labels, own.answers[mine], held.answers[ours], who, held.schema.num_classes)
        folds = (run / runs.FOLDS).is_file()
        rows.append(
            (part.name, len(ours), len(set(who.tolist())), alone, *((whole, known) if folds else (found.text,)))
        )
    if (run / runs.FOLDS).is_file():
        return Table(("fold", "images", "people", "macro-F1 of its best epoch", "as scored", "linear probe"), rows)
    return Table(("member", "images", "people", "macro-F1", "it minus the ensemble"), rows)


def _charts(records: Sequence[list[dict[str, Any]]], schema: Schema, data: dict[str, Any]) -> list[LineChart]:
    """Losses, scores and F1 of every class over the epochs; of several folds their means, each fold in grey."""
    losses = {"training loss": "train_loss", "validation loss (negative log-likelihood)": "val_loss"}
    scores = {"macro-F1": "macro_f1", "accuracy": "accuracy", "training accuracy": "train_accuracy"}
    if len(records) == 1:
        series = [{n: [r.get(key, np.nan) for r in records[0]] for n, key in part.items()} for part in (losses, scores)]
        present = [n for n, k in zip(schema.class_names, data["classes"]["val"], strict=True) if k]
        return [*(LineChart(lines, "epoch") for lines in series), *class_charts(records[0], present)]
    longest = max(map(len, records))
    charts = []
    for name, key in (("validation loss", "val_loss"), ("macro-F1", "macro_f1"), ("accuracy", "accuracy")):
        curves = [[r.get(key, np.nan) for r in each] for each in records]
        mean = np.mean([[*c, *[c[-1]] * (longest - len(c))] for c in curves], 0).tolist()
        charts.append(LineChart({f"{name}, mean of the folds": mean}, "epoch", curves, "each fold"))
    return charts


def class_charts(records: Sequence[dict[str, Any]], present: Collection[str]) -> list[LineChart]:
    """F1 of the classes over the epochs, those weakest in the best epoch by name; nothing where none stands out.

    Args:
        present: classes that held-out images have; others have no F1.
    """
    best = next((r for r in records if r["epoch"] == records[-1]["best_epoch"]), records[-1])
    named = dict(weakest.weakest(best["class_f1"], present))
    if not named:
        return []
    curves = {name: [r["class_f1"][name] for r in records] for name in best["class_f1"] if name in present}
    lines = {f"F1 of {name}: {f1:.2f} in epoch {best['epoch']}": curves[name] for name, f1 in named.items()}
    others, called = [values for name, values in curves.items() if name not in named], "the other classes"
    if len(others) > MANY:
        others, called = [np.median(others, 0).tolist()], "median of the other classes"
    return [LineChart(lines, "epoch", others, called, 0.0, 1.0)]


def _classes(
    scores: metrics.Scores, truth: NDArray[np.int64], predicted: NDArray[np.int64], people: Sequence[str]
) -> Table:
    sure = metrics.class_intervals(truth, predicted, people, len(scores.classes))
    both = list(zip(scores.classes, sure, strict=True))
    return Table(
        ("class", "images", "predicted", "precision", "recall", "F1", INTERVAL),
        [(c.name, c.support, c.predicted, c.precision, c.recall, c.f1, i.text(".3f")) for c, i in both],
        [(c.f1, i.low, i.high) if i.people >= metrics.FEW else (c.f1, c.f1, c.f1) for c, i in both],
        INTERVAL,
    )


def _origins(ranked: Sequence[origins.ErrorSource], everyone: int) -> Table:
    """Kinds of errors, by how much better the score would be without them."""
    widest = max([o.high if everyone >= metrics.FEW else o.gain for o in ranked] + [1e-9])
    return Table(
        ("if these were correct", "images", "wrong", "people", "macro-F1 gains", INTERVAL),
        [
            (o.what, o.images, o.wrong, o.people, f"{o.gain:+.3f}", metrics.between(o.low, o.high, everyone, "+.3f"))
            for o in ranked
        ],
        [
            (o.gain / widest, o.low / widest, o.high / widest) if everyone >= metrics.FEW else (o.gain / widest,) * 3
            for o in ranked
        ],
        INTERVAL,
        "orange",
        wide=("if these were correct",),
    )


def _slices(truth: NDArray[np.int64], predicted: NDArray[np.int64], table: pd.DataFrame, schema: Schema) -> Table:
    """Parts of the images: by crop status and source where these differ, and by attribute."""
    columns = {name: table[name].tolist() for name in ("status", "source") if name in table}
    by = slices.default(schema, list(columns)) + [n for n in schema.joint if len(schema.joint) > 1]
    scored = slices.score(truth, predicted, table["person"].tolist(), schema, columns, by)
    return Table(
        ("by", "slice", "images", "people", "accuracy", INTERVAL, "macro-F1"),
        [(s.by, s.value, s.images, s.people, s.accuracy, s.interval, s.macro_f1) for s in scored],
        [(s.accuracy, s.low, s.high) if s.people >= metrics.FEW else (s.accuracy,) * 3 for s in scored],
        INTERVAL,
        "green",
    )


def reliability(p: NDArray[Any], truth: NDArray[np.int64], bins: int = BINS) -> list[dict[str, float]]:
    """For equal stretches of the highest probability with images: number of the stretch (``bin``), how many images,
    mean probability (``confidence``) and share of correct answers (``accuracy``); ``p`` [n, C]."""
    confidence, right = p.max(1), p.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        {
            "bin": int(k),
            "images": int((inside := place == k).sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
        }
        for k in np.unique(place)
    ]


def _reliability_chart(p: NDArray[Any], truth: NDArray[np.int64]) -> LineChart:
    """Correct answers against the probability that was claimed, and the share of the images."""
    found = {int(part["bin"]): part for part in reliability(p, truth)}
    lines = {
        "share of correct answers": [found[k]["accuracy"] if k in found else np.nan for k in range(BINS)],
        "mean of the highest probability": [found[k]["confidence"] if k in found else np.nan for k in range(BINS)],
        "share of the images": [found[k]["images"] / len(truth) if k in found else 0.0 for k in range(BINS)],
    }
    return LineChart(lines, "highest probability", low=0.0, high=1.0, first=0.5 / BINS, step=1 / BINS)


def _matrices(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], schema: Schema
) -> list[tuple[str, HeatMap | Table]]:
    """For every attribute and the joint label a title and the matrix, or the most confused pairs of many classes."""
    joint = metrics.confusion(truth, predicted, schema.num_classes)
    each = [(name, schema[name].classes, m) for name, m in metrics.per_attribute(joint, schema).items()]
    if len(schema.joint) > 1:
        each.append(("joint label", schema.class_names, joint))
    return [
        (title, HeatMap(names, names, counts.tolist(), "label ↓ answer →"))
        if len(names) <= MANY
        else (f"{title}: most confused of {len(names)} classes", _confused(names, truth, predicted, counts))
        for title, names, counts in each
    ]


def _confused(
    names: Sequence[str], truth: NDArray[np.int64], predicted: NDArray[np.int64], counts: NDArray[np.int64]
) -> Table:
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20].tolist()
    pairs = [divmod(k, len(counts)) for k in order if wrong.flat[k]]
    total = counts.sum(1)
    return Table(
        ("label", "answer", "images", "of the label"),
        [(names[t], names[a], int(counts[t, a]), f"{counts[t, a] / total[t]:.0%}") for t, a in pairs],
    )


def _errors(
    truth: NDArray[np.int64],
    p: NDArray[Any],
    predicted: NDArray[np.int64],
    table: pd.DataFrame,
    view: View,
    pages: Pages,
) -> list[tuple[str, list[object]]]:
    """The wrong answers with the least probability for the truth."""
    own, names = p[np.arange(len(truth)), truth], view.schema.class_names
    wrong = [int(i) for i in np.argsort(own, kind="stable") if predicted[i] != truth[i]][:ERRORS]
    captions: list[list[object]] = [
        [
            pages.photo(str(table["image"].iloc[i])),
            f"label {names[truth[i]]} ({own[i]:.0%})",
            f"answer {names[predicted[i]]} ({p[i, predicted[i]]:.0%})",
            f"crop: {table['status'].iloc[i]}",
        ]
        for i in wrong
    ]
    return list(zip(map(picture, view.gather(table.index.to_numpy()[wrong])), captions, strict=True))


def _samples(run: Path, data: dict[str, Any], view: View) -> tuple[str, list[tuple[str, list[object]]]]:
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


def _settings(settings: dict[str, Any], defaults: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Every setting: its name, value and the default of the run's version."""
    return [
        (f"{section}.{key}", value, defaults.get(section, {}).get(key, value))
        for section, values in settings.items()
        for key, value in values.items()
    ]
