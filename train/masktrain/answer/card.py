"""The model card of a run or an ensemble, in Markdown (card.md.j2)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from maskprep.base import read_json
from maskprep.faces import DETECTORS
from maskprep.weights import REGISTRY
from masktrain.answer.model import Model
from masktrain.answer.spec import CropSpec
from masktrain.data.units import of_people, unit
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
    "interval.people": int,
    "warnings": list,
}
"""What the card takes from the scores that evaluate has kept."""

FEW = 30
"""Training images below which a class is named among the limits."""

Row = tuple[str | float, ...]


def write(run: Path, predictor: Model) -> str:
    """The card of a run or an ensemble, in Markdown."""
    spec, data = predictor.spec, runs.read_data(run)
    counts = [*zip(spec.classes, data["classes"]["train"], data["classes"]["val"], strict=True)]
    evaluated, warnings = evaluations(run)
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template.filters["cell"] = lambda v: (f"{v:.4f}" if isinstance(v, float) else str(v)).replace("|", "\\|")
    values: dict[str, Any] = {
        "name": run.resolve().name,
        "spec": spec,
        "schema": spec.labels(),
        "networks": [
            (m.model, m.run, m.view, next("x".join(map(str, i.size)) for i in spec.inputs if i.view == m.view))
            for m in spec.members
        ],
        "calibration": predictor.calibration,
        "settings": _settings(run),
        "left_out": data["images"].get("left out", {}),
        "trained": of_people(data["images"]["train"], len(data["people"]["train"])),
        "held_out": of_people(data["images"]["val"], len(data["people"]["val"])),
        "doubts": data.get("persons", {}).get("doubts", [])[:1],
        "counts": counts,
        "evaluations": evaluated,
        "warnings": warnings,
        "geometry": [_geometry(each) for each in spec.inputs],
        "no_face": spec.settings.get("choose", {}).get("no_face", "rescue"),
        "absent": [name for name, n, _ in counts if n == 0],
        "rare": [f"{name} ({n})" for name, n, _ in counts if 0 < n < FEW],
        "few": FEW,
        "licences": _licences(predictor),
    }
    source = files("masktrain.answer").joinpath("card.md.j2").read_text(encoding="utf-8")
    values |= _scores(run, predictor)
    if values.get("counted") == "images":  # people are no column of their own then
        values["slices"] = [(*row[:2], *row[3:]) for row in values["slices"]]
    return template.from_string(source).render(values)


def _settings(run: Path) -> list[str]:
    if not (run / runs.CONFIG).is_file():
        return []
    settings = yaml.safe_load((run / runs.CONFIG).read_text(encoding="utf-8"))
    sections = ((name, values) for name, values in settings.items() if isinstance(values, dict))
    return [f"`{section}.{key}={value}`" for section, values in sections for key, value in values.items()]


def _scores(run: Path, predictor: Model) -> dict[str, Any]:
    """Of the people held out; without calibration, which was fitted on them."""
    if not (run / runs.OOF).is_file():
        return {"scores": None}
    held, schema = heldout.read(run), predictor.schema
    predicted, people = held.probabilities.argmax(1), held.people.tolist()
    number, images = len(set(people)), len(people)
    scores = metrics.score(held.labels, predicted, schema)
    parts = slices.score(held.labels, predicted, people, schema, {}, slices.default(schema, []))
    return {
        "scores": scores,
        "counted": unit(number, images),
        "scored": of_people(images, number),
        "chosen": runs.chosen(run),
        "interval": metrics.interval(held.labels, predicted, people, schema.num_classes),
        "attributes": [(name, v["macro_f1"], v["accuracy"]) for name, v in scores.attributes.items()],
        "class_scores": [(c.name, c.support, c.precision, c.recall, c.f1) for c in scores.classes],
        "slices": [(p.value, p.images, p.people, p.accuracy, p.interval) for p in parts],
    }


def evaluations(run: Path) -> tuple[list[Row], list[str]]:
    """Rows of the scores that evaluate has kept in a run, and their warnings.

    Raises:
        UserError: a file of scores cannot be used.
    """
    rows: list[Row] = []
    warnings = []
    for file in sorted(run.glob("eval-*.json")):
        report = read_json(file, EVALUATION, "Delete it, or evaluate the run again.")
        s, i = report["scores"], report["interval"]
        rows.append(
            (report["what"], s["n"], s["macro_f1"], metrics.between(i["low"], i["high"], i["people"]), s["accuracy"])
        )
        warnings += [f"{report['what']}: {warning}" for warning in report["warnings"]]
    return rows, warnings


def _licences(predictor: Model) -> list[Row]:
    """Of the pretrained weights and of the detectors that cut the crops; the run's own weights have what you give."""
    from masktrain.train.model import import_timm, known_name

    timm = import_timm()
    rows: list[Row] = []
    for name in dict.fromkeys(n for m in predictor.spec.members for n in m.model.split(" + ")):
        config = timm.models.get_pretrained_cfg(known_name(name))
        licence = getattr(config, "license", None) or "not stated by timm"
        rows.append((name, "pretrained weights in timm, if the run started from them", licence))
    detectors: Sequence[str] = predictor.spec.settings.get("detect", {}).get("detectors", ())
    known = [name for name in detectors if name in DETECTORS]
    return rows + [(n, "face detector that cuts the crops", REGISTRY[n].licence) for n in known]


def _geometry(crop: CropSpec) -> str:
    about = [f"{k} {v}" for k in ("margin", "align", "crop", "border") if (v := crop.geometry.get(k)) is not None]
    return ", ".join([f"{crop.view}: {crop.size[0]}x{crop.size[1]}", *about])
