"""Colours of photos that carry a colour profile (ICC.1:2022), such as Display P3 of telephones: brought to sRGB.

A profile that changes nothing to speak of, which is most of them, leaves the pixels as they are stored.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, features

VERSION = 1
SAME = 2
"""A profile that changes no colour by more levels of 255 is sRGB by another name."""

SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow mode -> the colour space of profiles for it. Others, 16 bits of grey among them, are left as they are."""

PLAIN = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
STEPS = 9


def in_srgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """A decoded picture in sRGB, and the name of the profile it was converted from.

    Returns:
        The very same picture and None where it has no profile, a broken one, one for another kind of picture, or sRGB.
    """
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return image, None
    keyed = {"RGB": "RGBA", "L": "LA"}.get(image.mode) if "transparency" in image.info else None
    mode = keyed or PLAIN.get(image.mode, image.mode)
    opaque = {"RGBA": "RGB", "LA": "L"}.get(mode, mode)
    found = _conversion(data, opaque)
    if found is None:
        return image, None
    from PIL import ImageCms

    whole = image.convert(mode)
    converted = ImageCms.applyTransform(whole.convert(opaque), found[0])
    assert converted is not None  # it is not done in place
    if mode != opaque:
        converted.putalpha(whole.getchannel("A"))
    return converted, found[1]


@lru_cache(32)
def _conversion(profile: bytes, mode: str) -> tuple[Any, str] | None:
    """What converts pictures of a mode from a profile to sRGB, and the profile's name; None to leave them alone."""
    if mode not in SPACES or not features.check("littlecms2"):
        return None
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        change = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "CMYK":
            levels = np.linspace(0, 255, STEPS if mode == "RGB" else 256).astype(np.uint8)
            colours = np.stack(np.meshgrid(*[levels] * len(mode)), -1).reshape(1, -1, len(mode))
            before = Image.fromarray(colours[..., 0] if mode == "L" else colours)
            after = np.asarray(ImageCms.applyTransform(before, change), np.int64)
            if np.abs(after - colours).max() <= SAME:
                return None
        return change, " ".join((source.profile.profile_description or "").split()) or "unnamed"
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # a broken profile must not cost the photo
        return None


def picture(content: str, profile: str | None) -> str:
    """What tells the pixels of photos apart, for keys: the file's content, and how its colours came to be sRGB if they
    were not.

    Args:
        content: hash of the file.
        profile: name of the profile that its colours were brought to sRGB from; None where they are as stored.
    """
    return f"{content} to sRGB {VERSION}" if isinstance(profile, str) else content
