"""report.html of a run: one page that needs nothing else, to look at and to send."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UserError, write_with
from maskprep.dataset import View, open_view
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.data import tasks
from masktrain.pages import weakest
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import calibration, metrics, origins, slices
from masktrain.train.augment import by_class, shown
from masktrain.train.checkpoint import load_sidecar

FILE = "report.html"
ERRORS, SAMPLES, MANY = 24, 12, 40
COLOURS = ("#2f6db3", "#c2571a", "#3d8b50", "#8a4f9e")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.4em} h2{font-size:1.1em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px} td,th{padding:2px 8px;text-align:right} th{font-weight:600}
td:first-child,th:first-child{text-align:left} .big{font-size:1.3em}
.photos{display:flex;flex-wrap:wrap;gap:10px} figure{margin:0;width:150px;font-size:12px}
figcaption{line-height:1.3;overflow-wrap:anywhere}
figure img{width:150px;display:block;border-radius:3px} .grey{color:#777} svg text{font-size:11px;fill:#555}
.scroll{overflow-x:auto}
"""


def report(run: Path, cache: Path | None = None) -> Path:
    """Write report.html into a run folder.

    Args:
        cache: where the cache is now, if it has moved.

    Returns:
        The file.

    Raises:
        UserError: no finished run, or the cache no longer has its images.
    """
    data, records = runs.read_data(run), runs.read_metrics(run)
    result = runs.read_result(run)
    view = tasks.like(open_view(cache or Path(data["cache"]), data["view"]), load_sidecar(run).labels())
    held = heldout.read(run)
    rows = pd.Series(view.table.index, index=view.table["image"]).reindex(held.images)
    if rows.isna().any():
        raise UserError(f"{view.path} no longer has all the images of {run}.")
    table = view.table.iloc[rows.to_numpy(dtype=np.int64)]
    truth, p = held.labels, held.probabilities
    parts = [
        _head(run, result, data),
        "<h2>Epochs</h2>" + _curves(records) + weakest.curves(records, _present(data, view)),
        "<h2>Classes</h2>" + _classes(truth, p.argmax(1), table["person"].tolist(), view),
        "<h2>Where the errors come from</h2>" + _origins(truth, p, table, view),
        "<h2>Slices</h2>" + _slices(truth, p.argmax(1), table, view),
        "<h2>How sure it is</h2>" + reliability(p, truth),
        "<h2>What is taken for what</h2>" + _confusions(truth, p.argmax(1), view),
        "<h2>Worst errors</h2>" + _errors(truth, p, table, view),
        "<h2>What the model is shown</h2>" + _samples(run, data, view),
        "<h2>Settings</h2>" + _settings(run),
    ]
    page = f"<!doctype html><meta charset=utf-8><title>{_e(run.name)}</title><style>{STYLE}</style>" + "\n".join(parts)
    write_with(run / FILE, lambda part: part.write_text(page + "\n", encoding="utf-8"))
    return run / FILE


def _head(run: Path, result: dict[str, Any], data: dict[str, Any]) -> str:
    best, interval = result["best"], result["interval"]
    env = runs.read_environment(run)
    attributes = "; ".join(
        f"{_e(n)} macro-F1 {v['macro_f1']:.4f}, accuracy {v['accuracy']:.4f}" for n, v in best["attributes"].items()
    )
    which = f"Mean of epochs {best['soup']}" if "soup" in best else f"Best epoch {best['epoch']}"
    note = f"<p>{_e(env['note'])}</p>" if env.get("note") else ""
    images, people = data["images"], data["people"]
    return (
        f"<h1>{_e(run.name)}</h1>{note}<p class=big>macro-F1 {best['macro_f1']:.4f} <span class=grey>(95 % over"
        f" {interval['people']} people: {interval['low']:.4f} to {interval['high']:.4f})</span>,"
        f" accuracy {best['accuracy']:.4f}</p><p>{attributes}. {which} of {result['epochs']}.</p>"
        f"<p class=grey>Trained on {images['train']} images of {len(people['train'])} people, scored on"
        f" {images['val']} of {len(people['val'])}; {_e(str(env.get('device', '')))}.</p>"
    )


def _curves(records: list[dict[str, Any]]) -> str:
    losses = {"training loss": "train_loss", "validation loss (negative log-likelihood)": "val_loss"}
    scores = {"macro-F1": "macro_f1", "accuracy": "accuracy", "training accuracy": "train_accuracy"}
    return "".join(
        plot({name: [r.get(key, np.nan) for r in records] for name, key in series.items()})
        for series in (losses, scores)
    )


def _present(data: dict[str, Any], view: View) -> list[str]:
    """The classes that held-out images have."""
    return [name for name, n in zip(view.schema.class_names, data["classes"]["val"], strict=True) if n]


def plot(series: dict[str, list[float]], width: int = 500, height: int = 220) -> str:
    """Lines over the epochs as SVG, with their names and the range of their values."""
    known = [v for values in series.values() for v in values if np.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    scale = (height - 80) / ((high - low) or 1.0)
    found = [f'<svg width="{width}" height="{height}" role="img">']
    for k, (name, values) in enumerate(series.items()):
        step = (width - 70) / max(len(values) - 1, 1)
        points = [(50 + i * step, height - 20 - (v - low) * scale) for i, v in enumerate(values) if np.isfinite(v)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        found.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[k]}" stroke-width="2"/>')
        found += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[k]}"/>' for x, y in points]
        found.append(f'<text x="50" y="{12 + 13 * k}" style="fill:{COLOURS[k]}">{_e(name)}</text>')
    found.append(f'<text x="2" y="{height - 16}">{low:.3g}</text><text x="2" y="64">{high:.3g}</text>')
    count = max(len(v) for v in series.values())
    return "".join(found) + f'<text x="50" y="{height - 2}">epoch 1 to {count}</text></svg>'


def _classes(truth: NDArray[np.int64], predicted: NDArray[np.int64], people: list[str], view: View) -> str:
    scores = metrics.score(truth, predicted, view.schema).classes
    low, high = metrics.class_intervals(truth, predicted, people, len(scores))
    rows = ["<table><tr><th>class<th>images<th>predicted<th>precision<th>recall<th>F1<th>95 % over people<th>"]
    for k, c in enumerate(scores):
        bar = (
            f'<svg width="200" height="12"><rect width="{200 * c.f1:.0f}" height="12" fill="#9dbfe4"/>'
            f'<line x1="{200 * low[k]:.0f}" x2="{200 * high[k]:.0f}" y1="6" y2="6" stroke="#333" stroke-width="2"/>'
            "</svg>"
        )
        rows.append(
            f"<tr><td>{_e(c.name)}<td>{c.support}<td>{c.predicted}<td>{c.precision:.3f}<td>{c.recall:.3f}"
            f"<td>{c.f1:.3f}<td>{low[k]:.3f} to {high[k]:.3f}<td>{bar}"
        )
    return "".join(rows) + "</table>"


def _origins(truth: NDArray[np.int64], p: NDArray[Any], table: pd.DataFrame, view: View) -> str:
    """Kinds of errors, by how much better the score would be without them."""
    known = origins.gather(view.path, table, view.schema, truth, p)
    found = origins.rank(truth, p.argmax(1), table["person"].tolist(), view.schema, known)
    scale = 200 / max([o.high for o in found] + [1e-9])
    rows = ["<table><tr><th>if these were right<th>images<th>wrong<th>people<th>macro-F1 gains<th>95 % over people<th>"]
    for o in found:
        low, high = max(o.low, 0.0), max(o.high, 0.0)
        bar = (
            f'<svg width="204" height="12"><rect width="{scale * max(o.gain, 0):.0f}" height="12" fill="#e6b08f"/>'
            f'<line x1="{scale * low:.0f}" x2="{scale * high:.0f}" y1="6" y2="6" stroke="#333" stroke-width="2"/></svg>'
        )
        rows.append(
            f"<tr><td>{_e(o.what)}<td>{o.images}<td>{o.wrong}<td>{o.people}<td>{o.gain:+.3f}"
            f"<td style='white-space:nowrap'>{o.low:+.3f} to {o.high:+.3f}<td>{bar}"
        )
    about = (
        "<p class=grey>Rows overlap: an image may stand in several, so gains do not add up. Likely label errors count"
        " as right, as if the label were mended; a network that is sure and wrong looks just like one.</p>"
    )
    return "".join(rows) + "</table>" + about


def _slices(truth: NDArray[np.int64], predicted: NDArray[np.int64], table: pd.DataFrame, view: View) -> str:
    """Parts of the images: by crop status and source where these differ, and by mask state and age."""
    columns = {name: table[name].tolist() for name in ("status", "source") if name in table}
    by = slices.default(view.schema, list(columns)) + [n for n in view.schema.joint if len(view.schema.joint) > 1]
    rows = ["<table><tr><th>by<th>slice<th>images<th>people<th>accuracy<th>95 % over people<th>macro-F1<th>"]
    for s in slices.score(truth, predicted, table["person"].tolist(), view.schema, columns, by):
        bar = (
            f'<svg width="200" height="12"><rect width="{200 * s.accuracy:.0f}" height="12" fill="#b9d8bf"/>'
            f'<line x1="{200 * s.low:.0f}" x2="{200 * s.high:.0f}" y1="6" y2="6" stroke="#333" stroke-width="2"/></svg>'
        )
        rows.append(
            f"<tr><td>{_e(s.by)}<td>{_e(s.value)}<td>{s.images}<td>{s.people}<td>{s.accuracy:.3f}"
            f"<td>{s.low:.3f} to {s.high:.3f}<td>{s.macro_f1:.3f}<td>{bar}"
        )
    return "".join(rows) + "</table>"


def reliability(p: NDArray[Any], truth: NDArray[np.int64], bins: int = 10, side: int = 220) -> str:
    """Calibration error, and how often answers are right against how sure they are, as SVG.

    Args:
        p: probabilities [n, C].
        bins: equal stretches of the highest probability; the area of a point is the share of the images in it.
    """
    sure, right = p.max(1), p.argmax(1) == truth
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    found = [
        f"<p>Calibration error {calibration.ece(p, truth):.4f}: mean difference between how sure the answers are"
        f" and how often they are right.</p>",
        f'<svg width="{side + 60}" height="{side + 40}" role="img" style="overflow:visible;margin-top:16px">'
        f'<rect x="40" y="5" width="{side}" height="{side}" fill="none" stroke="#ccc"/>'
        f'<line x1="40" y1="{side + 5}" x2="{side + 40}" y2="5" stroke="#bbb" stroke-dasharray="4"/>',
    ]
    for k in range(bins):
        if (inside := place == k).any():
            x, y = 40 + side * sure[inside].mean(), 5 + side * (1 - right[inside].mean())
            radius = 2 + 14 * np.sqrt(inside.mean())
            about = f"{inside.sum()} images, sure {sure[inside].mean():.2f}, right {right[inside].mean():.2f}"
            found.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{COLOURS[0]}" fill-opacity="0.6">'
                f"<title>{about}</title></circle>"
            )
    found.append(f'<text x="40" y="{side + 22}">0</text><text x="{side + 34}" y="{side + 22}">1</text>')
    found.append(
        f'<text x="{side // 2}" y="{side + 34}">highest probability</text><text x="0" y="16">right</text></svg>'
    )
    return "".join(found)


def _confusions(truth: NDArray[np.int64], predicted: NDArray[np.int64], view: View) -> str:
    schema = view.schema
    joint = metrics.confusion(truth, predicted, schema.num_classes)
    parts = [matrix(m, schema[name].classes, name) for name, m in metrics.per_attribute(joint, schema).items()]
    if len(schema.joint) > 1 and schema.num_classes <= MANY:
        parts.append(matrix(joint, schema.class_names, "joint label"))
    return "".join(parts)


def matrix(counts: NDArray[np.int64], names: Sequence[str], title: str) -> str:
    """A confusion matrix as a table, rows the truth, coloured by the share of the row."""
    if len(names) > MANY:
        return f"<p>{_e(title)}: {len(names)} classes, too many for a table.</p>"
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [f"<div class=scroll><table><tr><th>{_e(title)}" + "".join(f"<th>{_e(n)}" for n in names)]
    for i, name in enumerate(names):
        cells = [
            f'<td style="background:rgba({"47,109,179" if i == j else "194,87,26"},{0.75 * shares[i, j]:.2f})">'
            f"{counts[i, j] or ''}"
            for j in range(len(names))
        ]
        rows.append(f"<tr><td>{_e(name)}" + "".join(cells))
    return "".join(rows) + "</table></div><br>"


def _errors(truth: NDArray[np.int64], p: NDArray[Any], table: pd.DataFrame, view: View) -> str:
    """The wrong answers with the least probability for the truth."""
    own = p[np.arange(len(truth)), truth]
    wrong = [int(i) for i in np.argsort(own, kind="stable") if p[i].argmax() != truth[i]][:ERRORS]
    if not wrong:
        return "<p>None: every answer is right.</p>"
    names = view.schema.class_names
    captions = [
        f"{_e(table['image'].iloc[i])}<br>is {_e(names[truth[i]])} ({own[i]:.0%})<br>taken for"
        f" {_e(names[p[i].argmax()])} ({p[i].max():.0%})<br><span class=grey>crop: {_e(table['status'].iloc[i])}</span>"
        for i in wrong
    ]
    return photos(view.gather(table.index.to_numpy()[wrong]), captions)


def _samples(run: Path, data: dict[str, Any], view: View) -> str:
    """Training images as the first epoch augments them."""
    settings = runs.every_setting(run)
    recipe, augment = settings["augment"]["recipe"], settings["augment"]
    if not {recipe, *(c.rpartition(":")[2] for c in augment["classes"])} <= set(RECIPES):
        return f"<p class=grey>recipe {_e(recipe)}, of a plugin that is not loaded</p>"
    people = set(data["people"]["train"])
    rows = np.flatnonzero(view.table["person"].isin(people) & view.table["label"].notna())
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLES])
    pixels = view.gather(chosen)
    labels = view.table["label"].iloc[chosen].to_numpy(dtype=np.int64)
    recipes, kinds = by_class(AugmentConfig(**augment), view.schema, labels)
    for kind, own in enumerate(recipes):
        if (mine := np.flatnonzero(kinds == kind)).size:
            pixels[mine] = shown(own, settings["run"]["seed"], pixels[mine], chosen[mine])
    mixed = augment["mixup"] + augment["cutmix"] + augment["halves"]
    more = f", {mixed:.0%} of the images then mixed with another" if mixed else ""
    captions = [_e(view.schema.class_names[k]) for k in labels.tolist()]
    more += "".join(f"; {_e(c)}" for c in augment["classes"])
    return f"<p class=grey>recipe {_e(recipe)}{more}</p>" + photos(pixels, captions)


def photos(pixels: NDArray[np.uint8], captions: Sequence[str]) -> str:
    """Pictures uint8 [n, H, W, 3] side by side, with captions in HTML."""
    from PIL import Image

    figures = []
    for picture, caption in zip(pixels, captions, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=85)
        text = base64.b64encode(buffer.getvalue()).decode()
        shown = f'<img src="data:image/jpeg;base64,{text}" alt="">'
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f"<div class=photos>{''.join(figures)}</div>"


def _settings(run: Path) -> str:
    """Every setting; those that are not the defaults of the run's version stand out."""
    defaults = runs.read_environment(run).get("defaults", {})
    rows = []
    for section, values in runs.every_setting(run).items():
        for key, value in values.items():
            own = defaults.get(section, {}).get(key, value)
            text = f"<b>{_e(str(value))}</b> <span class=grey>default {_e(str(own))}</span>"
            rows.append(f"<tr><td>{section}.{key}<td>{text if value != own else _e(str(value))}")
    return f"<table>{''.join(rows)}</table>"


def _e(text: str) -> str:
    return html.escape(text)
