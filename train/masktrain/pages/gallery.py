"""explain.html: errors side by side with the photo, the map, and what audit has to say. One page, all in it."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import MADE_BY
from maskprep.dataset import View
from maskprep.photos import PhotoError, load
from masktrain.answer import draw
from masktrain.pages import attention
from masktrain.pages.report import STYLE
from masktrain.score.evalset import EvalSet

HEIGHT = 170
"""Of a photo on the page, pixels."""

STEADY = 24
"""Images shown of those that are wrong most often."""

CARDS = """
.card{display:flex;flex-wrap:wrap;gap:6px;border:1px solid #ddd;border-radius:4px;padding:6px;margin:6px 0}
.card img{height:170px;border-radius:3px} .card div{flex:1;min-width:230px;font-size:13px;overflow-wrap:anywhere}
.finding{color:#a33} nav a{margin-right:1em}
"""


class Looking(Protocol):
    """What tells where a model looks."""

    def maps(
        self, rows: NDArray[np.int64], labels: NDArray[np.int64], people: Sequence[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Crops uint8 [n, H, W, 3] and maps float32 [n, H, W]."""
        ...


@dataclass(frozen=True)
class Case:
    """Everything that is known about the images in question.

    Args:
        pictures: view of the cache.
        asked: the images with their truth.
        rows: their rows in the view's table, int64 [n].
        probabilities: float32 [n, C].
        told: answers, int64 [n].
        counted: in how many answers of how many each is wrong, int64 [n, 2].
        findings: of audit, by image.
        looking: what tells where the model looks.
    """

    pictures: View
    asked: EvalSet
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    told: NDArray[np.int64]
    counted: NDArray[np.int64]
    findings: dict[str, list[str]]
    looking: Looking


def page(case: Case, run: str, method: str, table: pd.DataFrame | None, *, pairs: int, most: int) -> str:
    """The page.

    Args:
        case: the images.
        run: name of the run.
        method: of the maps.
        table: attention.csv; None without mattes.
        pairs: how many pairs of classes get a gallery.
        most: images of each.
    """
    from masktrain.answer.predict import read_boxes

    boxes = read_boxes(case.pictures.path)
    names = case.pictures.schema.class_names
    truth, told = case.asked.truth, case.told
    own = case.probabilities[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(truth != told)
    parts = [
        f"<h1>{_e(run)}: what it gets wrong</h1>",
        f"<p class=big>{len(wrong)} of {len(truth)} images {_e(case.asked.what)}</p>",
        f"<p class=grey>Maps: {_e(method)} for the given answer, blue nothing to red most. The crop is what the network"
        " is shown. k of n: wrong in so many of the answers by networks that did not know the person.</p>",
    ]
    if table is not None and len(table):
        parts.append("<h2>Does it look at the face?</h2>" + _shares(table))
    counts = Counter(zip(truth[wrong].tolist(), told[wrong].tolist(), strict=True))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts.append("<h2>What is taken for what</h2>")
    parts.append(
        "<table><tr><th>is<th>taken for<th>images"
        + "".join(
            f"<tr><td>{_e(names[t])}<td>"
            + (f"<a href='#p{t}-{p}'>" if k < pairs else "<a>")
            + f"{_e(names[p])}</a><td>{n}"
            for k, ((t, p), n) in enumerate(ranked[: 2 * pairs])
        )
        + "</table>"
    )
    if case.counted[:, 1].max(initial=0) > 1:
        order = [i for i in wrong.tolist() if case.counted[i, 0] > 1]
        order.sort(key=lambda i: (-case.counted[i, 0], case.counted[i, 1], own[i]))
        parts.append(
            f"<h2>Wrong again and again</h2><p class=grey>{len(order)} images are wrong in more than one answer. Their"
            " labels or crops are at fault more often than those of others.</p>"
        )
        parts.append(_cards(case, order[:STEADY], boxes))
    for (t, p), n in ranked[:pairs]:
        shown = [i for i in wrong.tolist() if (truth[i], told[i]) == (t, p)]
        shown.sort(key=lambda i: own[i])
        parts.append(f"<h2 id='p{t}-{p}'>{_e(names[t])} taken for {_e(names[p])} ({n})</h2>")
        parts.append(_cards(case, shown[:most], boxes))
    right = np.flatnonzero(truth == told)
    surest = sorted(right.tolist(), key=lambda i: -own[i])
    first = list({int(truth[i]): i for i in reversed(surest)}.values())
    parts.append("<h2>For comparison: the surest right answer of each class</h2>")
    parts.append(_cards(case, sorted(first, key=lambda i: int(truth[i])), boxes))
    head = f"<meta charset=utf-8><meta name=generator content={MADE_BY}><title>{_e(run)}</title>"
    return f"<!doctype html>{head}<style>{STYLE}{CARDS}</style>" + "\n".join(parts) + "\n"


def _shares(table: pd.DataFrame) -> str:
    """Attention beside the subject, overall and by class."""
    rows = [("all", table), *((str(name), group) for name, group in table.groupby("class"))]
    cells = "".join(
        f"<tr><td>{_e(name)}<td>{len(group)}<td>{group['attention'].mean():.0%}<td>{group['background'].mean():.0%}"
        for name, group in rows
    )
    worst = table.sort_values("attention", ascending=False).head(5)
    listed = "; ".join(f"{_e(i)} ({a:.0%})" for i, a in zip(worst["image"], worst["attention"], strict=True))
    return (
        "<p>Share of the attention that lies beside the subject, against the share of the crop that does. Near or above"
        " it, the network reads the background.</p>"
        f"<table><tr><th>class<th>images<th>attention<th>background{cells}</table><p class=grey>most: {listed}</p>"
    )


def _cards(case: Case, order: Sequence[int], boxes: dict[str, draw.Box]) -> str:
    if not order:
        return "<p>None.</p>"
    chosen = np.array(order, dtype=np.int64)
    people = [case.asked.people[i] for i in order]
    crops, found = case.looking.maps(case.rows[chosen], case.told[chosen], people)
    shown = attention.overlay(crops, found)
    names = case.pictures.schema.class_names
    parts = []
    for k, i in enumerate(order):
        image = str(case.asked.images["image"].iloc[i])
        t, p = int(case.asked.truth[i]), int(case.told[i])
        said = [
            f"<b>{_e(image)}</b>",
            f"is {_e(names[t])} ({case.probabilities[i, t]:.0%})",
            f"answer {_e(names[p])} ({case.probabilities[i, p]:.0%})",
            f"wrong in {case.counted[i, 0]} of {case.counted[i, 1]}",
            f"crop: {_e(str(case.asked.images['status'].iloc[i]))}",
        ]
        said += [f"<span class=finding>{_e(text)}</span>" for text in case.findings.get(image, [])[:4]]
        photo = _photo(case.pictures, image, boxes.get(image))
        pictures = [_picture(crops[k]), _picture(shown[k])]
        parts.append(f"<div class=card>{photo}{''.join(pictures)}<div>{'<br>'.join(said)}</div></div>")
    return "".join(parts)


def _photo(view: View, image: str, box: draw.Box | None) -> str:
    """The photo with its box, small; a sentence where it is gone."""
    file = Path(view.dataset.get("source", {}).get("root", "")) / image
    try:
        pixels = load(file)
    except PhotoError as error:
        return f"<div class=grey>the photo cannot be shown: {_e(str(error))}</div>"
    height, width = pixels.shape[:2]
    scale = HEIGHT / height
    small = np.asarray(Image.fromarray(pixels).resize((max(1, round(width * scale)), HEIGHT), Image.Resampling.LANCZOS))
    if box is None:
        return _picture(small)
    scaled = (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
    return _picture(draw.annotate(small, [draw.Mark(scaled, (), draw.COLOURS[0])]))


def _picture(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="">'


def _e(text: str) -> str:
    return html.escape(text)
