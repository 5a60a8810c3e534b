"""What a network is shown in training, beside what the cache holds: a picture to look at before a fit."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskprep.base import UsageError, draw_text, keep_whole, write_with
from maskprep.dataset import FAINT, GAP, INK, PAPER
from maskprep.labels import Schema
from maskprep.pages import document, picture
from maskprep.photos import write_png
from maskprep.store import Cache
from masktrain.config.config import FitConfig
from masktrain.train.pixels import Batch, Feed

FORMS = (".png", ".html")
MOST = 24
"""Images on a sheet."""
ACROSS = 4
"""Pairs of pictures in a row of a PNG."""
SIDE = 128
"""Height of a picture on a PNG, pixels."""
STYLE = (
    "<style>.all{display:flex;flex-wrap:wrap;gap:14px} .all figure{margin:0;width:246px} .all img{width:120px}</style>"
)


@dataclass(frozen=True)
class Samples:
    """Images of some training steps.

    Attributes:
        crops: as the cache holds them, uint8 [n, H, W, 3].
        shown: as they are trained on: sampled, before their background, augmented, mixed.
        captions: [n] their labels, with shares where others are mixed in.
    """

    crops: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    captions: tuple[str, ...]


def of_batch(batch: Batch, rows: NDArray[np.int64], feed: Feed) -> Samples:
    """The images of a batch that is about to be trained on.

    Args:
        rows: their table rows, int64 [n].
        feed: where the batch comes from.
    """
    shown = batch.images(feed.augmenter).cpu().numpy().copy()
    named = tuple(caption(shares, feed.view.schema) for shares in batch.truth.cpu().numpy())
    return Samples(feed.view.gather_original(rows), shown, named)


def joined(parts: Sequence[Samples]) -> Samples:
    """The images of several steps, no more than fit a sheet."""
    crops, shown = (np.concatenate([getattr(p, name) for p in parts])[:MOST] for name in ("crops", "shown"))
    return Samples(crops, shown, tuple(c for p in parts for c in p.captions)[:MOST])


def caption(shares: NDArray[Any], schema: Schema) -> str:
    """A label in words: its class, or the classes that share it, the largest share first, from 2 % on."""
    order = np.argsort(-shares, kind="stable")
    kept = [int(k) for k in order if shares[k] >= 0.02]
    if len(kept) == 1:
        return schema.class_names[kept[0]]
    return " + ".join(f"{schema.class_names[k]} {shares[k]:.0%}" for k in kept[:3])


def title(config: FitConfig) -> str:
    """What images go through, in words."""
    a, data = config.augment, config.data
    mixed = [f"{name} {share:.0%}" for name in ("mixup", "cutmix", "halves") if (share := getattr(a, name))]
    behind = [f"background {data.background}"] if data.background != "original" else []
    return ", ".join([f"recipe {a.recipe}", *mixed, *behind, f"seed {config.run.seed}"])


def check(out: Path, cache: Path, force: bool = False) -> None:
    """Refuse a file that cannot be drawn, before any work.

    Raises:
        UsageError: another form, a place among the photos of the cache, or (but with ``force``) a file that is there
            and is no such sheet.
    """
    Cache(cache).clear_of_photos(out, "--sheet")
    keep_whole(out, force, "--sheet")
    _check_form(out)


def _check_form(out: Path) -> None:
    if out.suffix.lower() not in FORMS:
        raise UsageError(f"{out} is neither PNG nor HTML.", f"End its name in {' or '.join(FORMS)}.")


def write(samples: Samples, out: Path, about: str) -> Path:
    """Draw the images in pairs, left from the cache and right as they are trained on.

    Args:
        out: a .png, or a .html that needs nothing else.
        about: what they went through.

    Raises:
        UsageError: another form.
    """
    _check_form(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".html":
        page = _page(samples, about)
        write_with(out, lambda part: part.write_text(page, encoding="utf-8"))
    else:
        picture = _picture(samples, about)
        write_png(out, picture)
    return out


def _picture(samples: Samples, about: str) -> Image.Image:
    count, height, width = samples.crops.shape[:3]
    wide = max(1, round(SIDE * width / height))
    column, row, top = 2 * wide + 6 * GAP, SIDE + 40, 56
    across = min(ACROSS, count)
    sheet = Image.new("RGB", (across * column + 2 * GAP, top + -(-count // across) * row), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, (2 * GAP, 8), "Left: the crop; right: the augmented image for training", INK, 16)
    draw_text(draw, (2 * GAP, 30), about, FAINT, 12)
    for i, said in enumerate(samples.captions):
        x, y = 2 * GAP + i % across * column, top + i // across * row
        for k, pixels in enumerate((samples.crops[i], samples.shown[i])):
            shown = Image.fromarray(pixels).resize((wide, SIDE), Image.Resampling.BICUBIC)
            sheet.paste(shown, (x + k * (wide + GAP), y))
        for k, line in enumerate(_broken(said, column // 7)):
            draw_text(draw, (x, y + SIDE + 2 + 14 * k), line, INK, 12)
    return sheet


def _broken(text: str, room: int) -> list[str]:
    """A caption in no more than two lines."""
    if len(text) <= room:
        return [text]
    at = text.rfind(" + ", 0, room)
    at = at if at > 0 else room
    return [text[:at], text[at:].strip()[:room]]


def _page(samples: Samples, about: str) -> str:
    figures = [
        f"<figure><img src={picture(crop)!r} alt=crop> <img src={picture(shown)!r} alt=augmented>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for crop, shown, caption in zip(samples.crops, samples.shown, samples.captions, strict=True)
    ]
    head = "Left: the crop; right: the augmented image for training"
    body = f"<p>{html.escape(head)}. {html.escape(about)}</p><div class=all>{''.join(figures)}</div>"
    return document("Training images", body, STYLE)
