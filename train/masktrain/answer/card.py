"""The model card: a page about what was trained, filled from the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from maskprep.base import read_json
from masktrain.answer.model import Model
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import metrics, slices

EVALUATION: dict[str, type] = {
    "what": str,
    "scores.n": int,
    "scores.macro_f1": float,
    "scores.accuracy": float,
    "interval.low": float,
    "interval.high": float,
    "warnings": list,
}
"""What the card takes from the scores that evaluate has kept."""

FEW = 30
"""Training images below which a class is named among the limits."""


def write(run: Path, predictor: Model) -> str:
    """The card of a run or an ensemble, in Markdown."""
    manual = predictor.spec
    data = runs.read_data(run)
    kind = f"ensemble of {len(manual.members)} networks ({manual.combination})" if manual.combination else "network"
    lines = [
        f"# {run.resolve().name}",
        "",
        f"A {kind} that tells {len(manual.classes)} classes from crops of faces: "
        + ", ".join(f"{a} ({', '.join(manual.labels()[a].classes)})" for a in manual.labels().joint)
        + ".",
        "",
        *_models(run, predictor),
        *_data(data, manual.classes),
        *_scores(run, predictor),
        *_evaluations(run),
        *_limits(data, manual.classes, predictor),
        *_licences(predictor),
    ]
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table, numbers to the right."""

    def text(value: object) -> str:
        return (f"{value:.4f}" if isinstance(value, float) else str(value)).replace("|", "\\|")

    numeric = [bool(rows) and isinstance(row, int | float) for row in (rows[0] if rows else [""] * len(head))]
    marks = ["---:" if n else "---" for n in numeric]
    return [f"| {' | '.join(map(text, row))} |" for row in [head, marks, *rows]] + [""]


def _models(run: Path, predictor: Model) -> list[str]:
    manual = predictor.spec
    rows = [
        (m.model, m.run, m.view, "x".join(map(str, next(i.size for i in manual.inputs if i.view == m.view))))
        for m in manual.members
    ]
    lines = ["## Model", "", *table(("network", "run", "view", "crop"), rows)]
    for m in manual.members[:1]:
        lines += [
            f"Crops are 8-bit RGB; channels are normalised by mean {_numbers(m.mean)} and standard deviation"
            f" {_numbers(m.std)} (of 0..1)" + (", each network by its own." if len(manual.members) > 1 else "."),
            "",
        ]
    calibration = predictor.calibration
    lines += [
        f"Calibration: temperature {calibration.temperature:.3f}"
        + ("; limits per class fitted for macro-F1." if calibration.thresholds else ".")
        if calibration.temperature != 1 or calibration.thresholds
        else "Probabilities are not calibrated.",
        "",
    ]
    if (run / runs.CONFIG).is_file():
        settings = yaml.safe_load((run / runs.CONFIG).read_text(encoding="utf-8"))
        flat = [f"{s}.{k}={v}" for s, values in settings.items() if isinstance(values, dict) for k, v in values.items()]
        lines += ["Settings: " + ", ".join(f"`{text}`" for text in flat) + ".", ""] if flat else []
    return lines


def _data(data: dict[str, Any], classes: Sequence[str]) -> list[str]:
    images, people, counts = data["images"], data["people"], data["classes"]
    left = ", ".join(f"{n} {why}" for why, n in images.get("left out", {}).items())
    return [
        "## Data",
        "",
        f"Trained on {images['train']} images of {len(people['train'])} people; {images['val']} images of"
        f" {len(people['val'])} people were held out. People, not pictures, are split.",
        *([f"Left out: {left}."] if left else []),
        "",
        *table(
            ("class", "training images", "held out"),
            [(c, t, v) for c, t, v in zip(classes, counts["train"], counts["val"], strict=True)],
        ),
    ]


def _scores(run: Path, predictor: Model) -> list[str]:
    if not (run / runs.OOF).is_file():
        return ["## Scores on held-out people", "", "None: nobody was held out by all of its members.", ""]
    held, schema = heldout.read(run), predictor.schema
    predicted = held.probabilities.argmax(1)  # without calibration, which was fitted on these people
    scores = metrics.score(held.labels, predicted, schema)
    interval = metrics.interval(held.labels, predicted, held.people.tolist(), schema.num_classes)
    by = [name for name in slices.default(schema, []) if name]
    parts = slices.score(held.labels, predicted, held.people.tolist(), schema, {}, by)
    lines = [
        "## Scores on held-out people",
        "",
        f"{scores.n} images of {interval.people} people: macro-F1 **{scores.macro_f1:.4f}** (95 % over people:"
        f" {interval.low:.4f} to {interval.high:.4f}), accuracy {scores.accuracy:.4f}.",
        "",
        *table(
            ("attribute", "macro-F1", "accuracy"),
            [(name, v["macro_f1"], v["accuracy"]) for name, v in scores.attributes.items()],
        ),
        *table(
            ("class", "images", "precision", "recall", "F1"),
            [(c.name, c.support, c.precision, c.recall, c.f1) for c in scores.classes],
        ),
    ]
    if parts:
        lines += table(
            ("slice", "images", "people", "accuracy", "95 %"),
            [(p.value, p.images, p.people, p.accuracy, f"{p.low:.3f} to {p.high:.3f}") for p in parts],
        )
    return lines


def _evaluations(run: Path) -> list[str]:
    rows, notes = [], []
    for file in sorted(run.glob("eval-*.json")):
        report = read_json(file, EVALUATION, "Delete it, or evaluate the run again.")
        s, i = report["scores"], report["interval"]
        rows.append((report["what"], s["n"], s["macro_f1"], f"{i['low']:.4f} to {i['high']:.4f}", s["accuracy"]))
        notes += [f"- {report['what']}: {warning}" for warning in report["warnings"]]
    if not rows:
        return []
    lines = ["## Evaluations", "", *table(("what", "images", "macro-F1", "95 % over people", "accuracy"), rows)]
    return [*lines, *notes, ""] if notes else lines


def _limits(data: dict[str, Any], classes: Sequence[str], predictor: Model) -> list[str]:
    counts = data["classes"]["train"]
    absent = [c for c, n in zip(classes, counts, strict=True) if n == 0]
    rare = [f"{c} ({n})" for c, n in zip(classes, counts, strict=True) if 0 < n < FEW]
    choose = predictor.spec.settings.get("choose", {})
    lines = [
        "## Limits",
        "",
        "- The epoch that was kept is the best one on the held-out people, so their scores are a little too good.",
        "- Labels are those of the training data, with their errors; what it says about a person is a guess from a"
        " picture, not a fact about them.",
        f"- It answers for crops cut as in training ({_geometry(predictor)}); a photo without a face is dealt with by"
        f" the policy `{choose.get('no_face', 'rescue')}` of the preprocessing.",
    ]
    lines += [f"- Never seen in training, so never to be expected: {', '.join(absent)}."] if absent else []
    lines += [f"- Seen in fewer than {FEW} training images: {', '.join(rare)}."] if rare else []
    return [*lines, ""]


def _licences(predictor: Model) -> list[str]:
    """Of the pretrained weights and of the detectors that cut the crops; the run's own weights have what you give."""
    from maskprep.faces import DETECTORS
    from maskprep.weights import REGISTRY
    from masktrain.train.model import import_timm, known_name

    timm = import_timm()
    rows: list[tuple[str, str, str]] = []
    for name in dict.fromkeys(n for m in predictor.spec.members for n in m.model.split(" + ")):
        config = timm.models.get_pretrained_cfg(known_name(name))
        licence = getattr(config, "license", None) or "not stated by timm"
        rows.append((name, "pretrained weights in timm, if the run started from them", licence))
    for name in predictor.spec.settings.get("detect", {}).get("detectors", ()):
        if name in DETECTORS:
            rows.append((name, "face detector that cuts the crops", REGISTRY[name].licence))
    return ["## Licences of the weights it builds on", "", *table(("weights", "what for", "licence"), rows)]


def _geometry(predictor: Model) -> str:
    seen = []
    for place in predictor.spec.inputs:
        about = {k: place.geometry.get(k) for k in ("margin", "align", "crop", "border")}
        said = ", ".join(f"{k} {v}" for k, v in about.items() if v is not None)
        seen.append(f"{place.view}: {place.size[0]}x{place.size[1]}" + (f", {said}" if said else ""))
    return "; ".join(seen)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.4f}" for v in values)
