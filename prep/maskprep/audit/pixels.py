"""Checks of the photos' pixels, on the numbers that the stage ``measure`` keeps, and of duplicates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from maskprep.audit.context import Context
from maskprep.audit.findings import Hit, NotRunError, check, longer_side, ramp, scored

GREY = 0.03
"""Distance from grey that 95% of a colourless photo stay below."""


@check("The file cannot be read.")
def file_broken(c: Context) -> Iterable[Hit]:
    """Every photo with an error."""
    for image, error, detail in zip(c.images["image"], c.images["error"], c.images["detail"], strict=True):
        if isinstance(error, str):
            more = f": {detail}" if isinstance(detail, str) else ""
            yield image, 1.0, f"the file is {error.replace('_', ' ')}{more}"


@check("A file that some tools read wrongly; maskprep read it correctly.")
def file_odd(c: Context) -> Iterable[Hit]:
    """Turned by its EXIF tag, a rare suffix, another format than its suffix says, or a hidden twin (``._name``)."""
    formats = Image.registered_extensions()
    suffixes = Counter(PurePosixPath(image).suffix for image in c.images["image"])
    columns = (c.images[name] for name in ("image", "format", "orientation"))
    for image, kind, orientation in zip(*columns, strict=True):
        suffix = PurePosixPath(image).suffix
        named = formats.get(suffix.lower())
        if image in c.twins:
            yield image, 0.3, "a hidden file '._' with the same name lies beside it, which some tools take for a photo"
        if isinstance(kind, str) and named is not None and named != {"MPO": "JPEG", "DIB": "BMP"}.get(kind, kind):
            yield image, 0.35, f"the file is {kind}, its name says {named}"
        if orientation != 1:
            yield (
                image,
                0.25,
                f"stored rotated (EXIF orientation {orientation}); tools that ignore this show it rotated",
            )
        if suffix != suffix.lower() and suffixes[suffix] <= len(c.images) / 10:
            yield image, 0.25, f"the suffix '{suffix}' is in capitals, unlike that of most photos"


@check("The face is blurred compared with the others.")
def blurry(c: Context) -> Iterable[Hit]:
    """Detail of the face at 64 pixels, by its logarithm's robust z score; a set that is sharp throughout has none."""
    values = {image: math.log(max(1e-4, v)) for image, v in c.measured("detail").items()}
    for image, value, z, usual in scored(values, 0.2):
        yield image, ramp(-z, 3.0, 7.0, 0.3, 0.85), f"{math.exp(value - usual):.0%} of the usual detail"


@check("The face is very dark.")
def dark(c: Context) -> Iterable[Hit]:
    """Even the bright parts of the face are dark."""
    for image, value in c.measured("high").items():
        how = "nearly black" if value < 0.15 else f"dark: its bright parts reach {value:.0%} of white"
        yield image, ramp(value, 0.35, 0.1, 0.3, 0.9), f"the {c.subject} is {how}"


@check("The face is overexposed.")
def bright(c: Context) -> Iterable[Hit]:
    """Even the dark parts of the face are bright."""
    for image, value in c.measured("low").items():
        how = "plain white" if value > 0.95 else f"overexposed: its dark parts are at {value:.0%} of white"
        yield image, ramp(value, 0.65, 0.95, 0.3, 0.9), f"the {c.subject} is {how}"


@check("The face has hardly any contrast.")
def low_contrast(c: Context) -> Iterable[Hit]:
    """Distance of the 5th and the 95th percentile of the face's luma."""
    high = c.measured("high")
    for image, low in c.measured("low").items():
        span = high[image] - low
        even = span < 0.01
        how = "of one brightness throughout" if even else f"flat: light and dark differ by {span:.0%} of white"
        yield image, ramp(span, 0.2, 0.03, 0.3, 0.9), f"the {c.subject} is {how}"


@check("Heavy JPEG compression.")
def compressed(c: Context) -> Iterable[Hit]:
    """JPEG quality told from the quantisation tables."""
    for image, value in c.measured("quality").items():
        yield image, ramp(value, 50, 10, 0.25, 0.8), f"JPEG quality {value:.0f}"


@check("A photo without colour in a set with colour.")
def grayscale(c: Context) -> Iterable[Hit]:
    """Nothing is far from grey; the fewer such photos there are, the odder each is."""
    values = c.measured("chroma")
    grey = [image for image, value in values.items() if value < GREY]
    share = len(grey) / max(1, len(values))
    for image in grey:
        yield image, ramp(share, 0.3, 0.0, 0.2, 0.55), f"no colour; {1 - share:.0%} of the photos have some"


@check("The photo was enlarged from a small original, or is out of focus throughout.")
def upscaled(c: Context) -> Iterable[Hit]:
    """Halving the whole photo takes nothing away; or the crop is far larger than the face's own pixels: at most 0.3."""
    for image, value in c.measured("fine").items():
        severity = ramp(value, 0.012, 0.002, 0.35, 0.7)
        yield image, severity, "the photo loses no detail when its size is halved"
    margins = {name: dict(zip(crops["image"], crops["margin"], strict=True)) for name, crops in c.crops.items()}
    views = {name: view for name, view in c.views.items() if view.crop == "face"}
    for sample, box in c.boxed:
        for name, view in views.items():
            margin = margins.get(name, {}).get(sample.image, view.margin)
            factor = min(view.size) / max(1e-6, longer_side(box) * (1 + 2 * margin))
            text = f"the crop of view '{name}' enlarges it {factor:.1f} times"
            yield sample.image, ramp(factor, 2.0, 6.0, 0.1, 0.3), text


@check("A part of the crop was never photographed.")
def crop_invented(c: Context) -> Iterable[Hit]:
    """Share of the crop that lies outside the photo, in the worst view."""
    filling = {"inside": "the photo's edge colour", "reflect": "a mirror image", "constant": "black"}
    for name, crops in c.crops.items():
        border = c.views[name].border
        what = filling.get(border, f"border {border}")
        for image, share in zip(crops["image"], crops["invented"], strict=True):
            text = f"{share:.0%} of the crop of view '{name}' lies outside the photo ({what})"
            yield image, ramp(float(share), 0.1, 0.5, 0.35, 0.9), text


@check("The photo has an unusual shape or size.")
def odd_size(c: Context) -> Iterable[Hit]:
    """Robust z scores of the logarithms of aspect and of the number of pixels."""
    shapes = {s.image: math.log(s.width / s.height) for s in c.samples.values()}
    sizes = {s.image: math.log(s.width * s.height) for s in c.samples.values()}
    for values, floor, what in ((shapes, 0.15, "shape"), (sizes, 0.3, "size")):
        for image, _, z, _ in scored(values, floor):
            size = f"{c.samples[image].width:.0f}x{c.samples[image].height:.0f}"
            yield image, ramp(abs(z), 3.0, 8.0, 0.25, 0.6), f"{size} pixels, an unusual {what}"


@check("Another photo is identical or nearly identical.")
def duplicate(c: Context) -> Iterable[Hit]:
    """Worst when the two lie in train and eval or belong to different people; what nobody is named on counts as one
    person's."""
    if c.duplicates is None:
        raise NotRunError("there is no table of duplicates yet; make it with: maskprep duplicates")
    rows: Iterator[Any] = c.duplicates.itertuples(index=False)
    for row in rows:
        exact = row.kind == "exact"
        leak = row.split_a != row.split_b
        named = [c.person_of.get(image) for image in (row.image_a, row.image_b)]
        apart = not row.same_person and None not in named
        if leak:
            severity = 1.0 if exact else 0.8
        elif apart:
            severity = 0.9 if exact else 0.65
        else:
            severity = 0.6 if exact else 0.2
        who = "" if row.same_person else " (nobody is named on both)"
        if apart:
            who = f", filed under {named[0]} and {named[1]}"
        where = f", one in {row.split_a}, one in {row.split_b}" if leak else ""
        how = "the same picture as" if exact else "nearly the same picture as"
        for image, other in ((row.image_a, row.image_b), (row.image_b, row.image_a)):
            yield image, severity, f"{how} {other}{who}{where}"
