"""Photos with a colour profile are brought to sRGB, those without or with sRGB itself stay as they are stored."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

import maskprep as api
from maskprep.photos import colour
from maskprep.photos.colour import picture
from maskprep.photos.decode import examine, load

pytestmark = pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow is without LittleCMS")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = {"rXYZ": (0.51512, 0.24120, -0.00105), "gXYZ": (0.29198, 0.69225, 0.04189), "bXYZ": (0.15710, 0.06657, 0.78407)}
"""Colorants of Display P3 at D50, which has the curve of sRGB (SMPTE EG 432-1, ICC registry)."""


def profile(colorants: dict[str, tuple[float, float, float]]) -> bytes:
    """sRGB with other colorants."""
    data = bytearray(SRGB)
    for i in range(struct.unpack_from(">I", data, 128)[0]):
        name, at, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if name.decode() in colorants:
            struct.pack_into(">3i", data, at + 8, *(round(v * 65536) for v in colorants[name.decode()]))
    return bytes(data)


def colorants() -> dict[str, tuple[float, float, float]]:
    """Those of sRGB."""
    found = {}
    for i in range(struct.unpack_from(">I", SRGB, 128)[0]):
        name, at, _ = struct.unpack_from(">4sII", SRGB, 132 + 12 * i)
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            x, y, z = struct.unpack_from(">3i", SRGB, at + 8)
            found[name.decode()] = (x / 65536, y / 65536, z / 65536)
    return found


def by_hand(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Display P3 in sRGB: light, matrix, curve (IEC 61966-2-1)."""
    share = pixels / 255
    light = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    own = colorants()
    matrix = np.linalg.inv(np.array([own[name] for name in P3]).T) @ np.array([*P3.values()]).T
    light = np.clip(light @ matrix.T, 0, 1)
    share = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(share * 255).astype(np.uint8)


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """Every picture below is this one."""
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_display_p3_by_hand(tmp_path: Path, noise: NDArray[np.uint8], suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(file, icc_profile=profile(P3), lossless=True, quality=100, subsampling=0)
    stored = np.array(Image.open(file))
    seen = load(file)
    assert np.abs(seen.astype(int) - by_hand(stored)).max() <= 2
    assert np.abs(seen.astype(int) - stored).max() > 40
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile(P3)))
    expected = ImageCms.profileToProfile(Image.open(file), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert np.array_equal(seen, np.asarray(expected))
    assert examine(file).colour_profile == source.profile.profile_description


def test_two_colours_that_change_places(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    """With the colorants of red and green exchanged, so are the channels; turning, transparency and palettes stay."""
    own = colorants()
    swapped = profile({"rXYZ": own["gXYZ"], "gXYZ": own["rXYZ"]})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "turned.png", icc_profile=swapped, exif=exif)
    assert np.abs(load(tmp_path / "turned.png").astype(int) - np.rot90(noise[..., [1, 0, 2]], -1)).max() <= 1
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:10] = 255
    Image.fromarray(np.dstack([noise, alpha])).save(tmp_path / "alpha.png", icc_profile=swapped)
    seen = load(tmp_path / "alpha.png").astype(int)
    assert np.abs(seen[:10] - noise[:10][..., [1, 0, 2]]).max() <= 1 and (seen[10:] == 255).all()
    flat = Image.new("RGB", (20, 20), (200, 10, 40))
    flat.quantize(4).save(tmp_path / "palette.png", icc_profile=swapped)
    assert np.abs(load(tmp_path / "palette.png").astype(int) - (10, 200, 40)).max() <= 1
    keyed = Image.fromarray(noise)
    keyed.putpixel((0, 0), (1, 2, 3))
    keyed.save(tmp_path / "key.png", icc_profile=swapped, transparency=(1, 2, 3))
    assert load(tmp_path / "key.png")[0, 0].tolist() == [255, 255, 255]


def test_what_leaves_the_pixels_as_they_are(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(noise[..., 0])
    picture = Image.fromarray(noise)
    for name, image, data in (
        ("none", picture, None),
        ("srgb", picture, SRGB),
        ("broken", picture, b"not a profile"),
        ("cut", picture, profile(P3)[:200]),
        ("grey", grey, profile(P3)),  # a profile for another kind of picture
        ("bits", grey.convert("I;16"), profile(P3)),
    ):
        file, plain = tmp_path / f"{name}.png", tmp_path / f"{name}-plain.png"
        image.save(file, icc_profile=data)
        image.save(plain)
        assert np.array_equal(load(file), load(plain)) and examine(file).colour_profile is None, name
        same, profiled = colour.in_srgb(opened := Image.open(file))
        assert same is opened and profiled is None


def test_cmyk_goes_through_its_profile_only_where_it_has_one(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif", icc_profile=profile(P3))
    assert load(tmp_path / "a.tif")[0, 0].tolist() == [255, 0, 0]


def test_only_photos_that_are_converted_are_made_anew(tmp_path: Path, yunet: None, noise: NDArray[np.uint8]) -> None:
    """A key that is made from the content alone stays what it was; one of a converted photo differs."""
    assert picture("a", None) == "a" and picture("b", "Display P3") not in ("a", "b")
    (tmp_path / "photos").mkdir()
    Image.fromarray(noise).save(tmp_path / "photos/p3.png", icc_profile=profile(P3))
    Image.fromarray(noise).save(tmp_path / "photos/srgb.png", icc_profile=SRGB)
    settings = tmp_path / "s.yaml"
    settings.write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 16, crop: centre}}\n")
    api.run(tmp_path / "photos", tmp_path / "cache", settings, engine="serial")
    table = pd.read_parquet(tmp_path / "cache/images.parquet").set_index("image")["colour_profile"]
    assert isinstance(table["p3.png"], str) and pd.isna(table["srgb.png"])
