"""Opening photos: orientation, modes, and what is said of files that are none."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from maskprep.photos import colour, decode
from maskprep.photos.decode import PhotoError, PhotoFile, examine, load, reduction_of

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
WIDTH, HEIGHT = 48, 32

# What a viewer shows of a photo stored as red | green over blue | black, per EXIF orientation:
# its corners (top left, top right, bottom left, bottom right), worked out by hand from the EXIF standard.
SHOWN = {
    1: (RED, GREEN, BLUE, BLACK),
    2: (GREEN, RED, BLACK, BLUE),
    3: (BLACK, BLUE, GREEN, RED),
    4: (BLUE, BLACK, RED, GREEN),
    5: (RED, BLUE, GREEN, BLACK),
    6: (BLUE, RED, BLACK, GREEN),
    7: (BLACK, GREEN, BLUE, RED),
    8: (GREEN, BLACK, RED, BLUE),
}


def quarters() -> Image.Image:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = RED
    pixels[: HEIGHT // 2, WIDTH // 2 :] = GREEN
    pixels[HEIGHT // 2 :, : WIDTH // 2] = BLUE
    return Image.fromarray(pixels)


def exif(orientation: int, *others: bytes) -> bytes:
    entries = [struct.pack("<HHIHH", decode.ORIENTATION_TAG, 3, 1, orientation, 0), *others]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def noise(shape: tuple[int, ...] = (40, 60, 3)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8))


def kind_of(path: Path) -> str:
    with pytest.raises(PhotoError) as caught:
        load(path)
    return caught.value.kind


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, orientation: int
) -> None:
    monkeypatch.setattr(colour, "BAND", 5)  # a photo is turned in several bands
    path = tmp_path / f"a.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    if suffix == "tif":
        quarters().save(path, tiffinfo={decode.ORIENTATION_TAG: orientation})
    else:
        quarters().save(path, exif=exif(orientation), **options)
    pixels = load(path)
    size = (HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT)
    assert pixels.shape == (*size, 3)
    corners = (pixels[4, 4], pixels[4, -5], pixels[-5, 4], pixels[-5, -5])
    assert np.allclose(corners, SHOWN[orientation], atol=6)
    photo = examine(path)
    assert (photo.height, photo.width, photo.orientation, photo.error) == (*size, orientation, None)


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_compressed_tiff_is_turned_once(tmp_path: Path, compression: str) -> None:
    quarters().save(tmp_path / "a.tif", compression=compression, tiffinfo={decode.ORIENTATION_TAG: 6})
    pixels = load(tmp_path / "a.tif")
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    assert np.allclose((pixels[4, 4], pixels[4, -5], pixels[-5, 4], pixels[-5, -5]), SHOWN[6], atol=6)


BAD_TAGS = {
    "offset beyond the file": struct.pack("<HHII", 0x010F, 2, 1000, 0xFFFFFF),
    "unknown type": struct.pack("<HHII", 0x010F, 99, 1, 0),
    "directory beyond the file": struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFF),
    "directory that is itself": struct.pack("<HHII", 0x8825, 4, 1, 8),
    "cannot be written again": struct.pack("<HHI4s", 0x0100, 7, 4, b"abcd"),
    "huge": struct.pack("<HHII", 0x9286, 7, 0xFFFFFFFF, 8),
}


@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS.keys())
def test_a_bad_tag_does_not_cost_the_orientation(tmp_path: Path, tag: bytes) -> None:
    quarters().save(tmp_path / "a.jpg", exif=exif(6, tag), quality=100, subsampling=0)
    pixels = load(tmp_path / "a.jpg")
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    assert np.allclose(pixels[4, -5], RED, atol=6)
    assert examine(tmp_path / "a.jpg").orientation == 6


@pytest.mark.parametrize("data", [b"Exif\0\0", b"Exif\0\0garbage", exif(6)[:20], exif(0), exif(9)])
def test_broken_exif_does_not_cost_the_photo(tmp_path: Path, data: bytes) -> None:
    quarters().save(tmp_path / "a.jpg", exif=data)
    assert load(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)
    photo = examine(tmp_path / "a.jpg")
    assert (photo.orientation, photo.width, photo.error) == (1, WIDTH, None)


def test_a_reader_of_exif_that_fails_does_not_cost_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise SyntaxError("not a TIFF file")

    quarters().save(tmp_path / "a.jpg", exif=exif(6))
    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert load(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)
    assert examine(tmp_path / "a.jpg").orientation == 1


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    for values, expected in (((0, 300, 1000, 30000, 65535), (0, 1, 3, 116, 255)), ((0, 7, 255), (0, 7, 255))):
        for name in ("a.png", "a.tif"):
            Image.fromarray(np.array([values], np.uint16)).save(tmp_path / name)
            assert load(tmp_path / name)[0].tolist() == [[v] * 3 for v in expected], name


def test_16_bit_colour_is_scaled(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), 128 * 257, np.uint16))
    assert (load(tmp_path / "a.png") == 128).all()


def test_transparency_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, :, 0] = 255
    rgba[:, 1, 3], rgba[:, 2, 3] = 128, 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    for name in ("rgba.png", "rgba.webp"):
        assert load(tmp_path / name)[0].tolist() == [[255, 255, 255], [255, 127, 127], [255, 0, 0]], name
    Image.fromarray(rgba[:, :, [1, 3]]).save(tmp_path / "la.png")
    assert load(tmp_path / "la.png")[0, :, 0].tolist() == [255, 127, 0]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 200, 10, 20])
    palette.putpixel((1, 0), 1)
    for name in ("p.png", "p.gif"):
        palette.save(tmp_path / name, transparency=0)
        assert load(tmp_path / name)[0].tolist() == [[255, 255, 255], [200, 10, 20]], name
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "trns.png", transparency=(1, 2, 3))
    assert load(tmp_path / "trns.png")[0, 0].tolist() == [255, 255, 255]


def test_other_modes(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert np.allclose(load(tmp_path / "cmyk.jpg"), RED, atol=4)
    Image.new("1", (4, 4), 1).save(tmp_path / "bit.png")
    assert (load(tmp_path / "bit.png") == 255).all()
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.jpg")
    assert (load(tmp_path / "grey.jpg") == 77).all()
    Image.fromarray(np.array([[0, 0.5, np.nan, 1]], np.float32)).save(tmp_path / "float.tif")
    assert load(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 127, 0, 255]


def test_a_palette_photo_with_transparency_is_turned(tmp_path: Path) -> None:
    photo = Image.new("P", (4, 2), 0)
    photo.putpalette([0, 0, 0, 9, 9, 9])
    photo.putpixel((0, 0), 1)
    photo.save(tmp_path / "a.png", transparency=0, exif=exif(6))
    pixels = load(tmp_path / "a.png")
    assert pixels.shape == (4, 2, 3)
    assert pixels[0, 1].tolist() == [9, 9, 9]
    assert (pixels[1:] == 255).all()


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    photo = examine(tmp_path / "a.jpg")
    assert (photo.format, photo.error, photo.width) == ("PNG", None, 60)


def test_empty_text_and_missing(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert kind_of(tmp_path / "empty.jpg") == "empty"
    assert examine(tmp_path / "empty.jpg").bytes == 0
    (tmp_path / "text.jpg").write_text("Dear diary, " * 20)
    assert kind_of(tmp_path / "text.jpg") == "not_an_image"
    photo = examine(tmp_path / "text.jpg")
    assert (photo.bytes, photo.format, photo.width, photo.error) == (240, None, None, "not_an_image")
    assert kind_of(tmp_path / "nowhere.jpg") == "not_read"
    with pytest.raises(PhotoError, match="No such file"):
        examine(tmp_path / "nowhere.jpg")
    assert kind_of(tmp_path) == "not_read"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("good", range(4))
def test_an_error_of_the_disk_is_not_one_of_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, number: int, good: int
) -> None:
    """Whichever of its calls fails; a file that is in memory is a photo whatever becomes of the disk."""
    path = tmp_path / f"a.{suffix}"
    noise((150, 200, 3)).save(path)

    class Disk(io.BytesIO):
        calls = 0

        def fails(self) -> None:
            self.calls += 1
            if self.calls > good:
                raise OSError(number, os.strerror(number), str(path))

        def seek(self, *where: Any) -> int:
            self.fails()
            return super().seek(*where)

        def read(self, *size: Any) -> bytes:
            self.fails()
            return super().read(*size)

    data = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda path, mode: Disk(data))
    for look in (examine, load):
        if good < 3:
            with pytest.raises(PhotoError, match=os.strerror(number)) as caught:
                look(path)
            assert caught.value.kind == "not_read"
        else:
            look(path)


def test_a_file_that_does_not_fit_into_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save(tmp_path / "a.png")
    content = examine(tmp_path / "a.png").content
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    photo = examine(tmp_path / "a.png")
    assert (photo.error, photo.content, photo.bytes) == ("too_large", content, (tmp_path / "a.png").stat().st_size)
    assert kind_of(tmp_path / "a.png") == "too_large"


@pytest.mark.parametrize("where", ["PIL.Image.Image.getexif", "PIL.ImageFile.ImageFile.load", "numpy.empty"])
def test_too_little_memory_is_not_an_error_of_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    noise().save(tmp_path / "a.jpg")
    monkeypatch.setattr(where, fail)
    for look in (examine, load):
        with pytest.raises(PhotoError, match="out of memory") as caught:
            look(tmp_path / "a.jpg")
        assert caught.value.kind == "not_read"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif", "ppm"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: max(5, int(len(data) * share))])
    assert kind_of(path) == "truncated"
    photo = examine(path)
    assert photo.error == "truncated"
    assert photo.bytes == max(5, int(len(data) * share))


def test_a_truncated_photo_keeps_what_its_header_says(tmp_path: Path) -> None:
    noise((200, 300, 3)).save(tmp_path / "a.jpg", exif=exif(6))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:4000])
    photo = examine(tmp_path / "a.jpg")
    assert (photo.error, photo.format, photo.width, photo.height) == ("truncated", "JPEG", 200, 300)


def test_broken_in_the_middle_is_not_called_truncated(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"IDAT") + 4] = 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert kind_of(tmp_path / "a.png") == "unreadable"


def bomb(width: int, height: int, exif_data: bytes | None = None) -> bytes:
    """A PNG of one colour and any size: a thousandth of it on disk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\0" * ((width // 8 + 1) * height), 9)
    middle = chunk(b"eXIf", exif_data) if exif_data else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_decompression_bomb_is_too_large(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(bomb(side, side))
    assert (tmp_path / "a.png").stat().st_size < 1e6
    assert kind_of(tmp_path / "a.png") == "too_large"
    assert examine(tmp_path / "a.png").error == "too_large"


def test_a_bomb_is_not_decoded_to_find_its_orientation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(bomb(1000, 500))
    decoded = []
    original = Image.core.zip_decoder
    monkeypatch.setattr(Image.core, "zip_decoder", lambda *a: decoded.append(a) or original(*a))
    photo = examine(tmp_path / "a.png", max_megapixels=0.4)
    assert (photo.error, photo.width, photo.height, decoded) == ("too_large", 1000, 500, [])
    (tmp_path / "b.png").write_bytes(bomb(1000, 500, exif(6)[6:]))
    photo = examine(tmp_path / "b.png", max_megapixels=0.4)
    assert (photo.error, photo.width, photo.height, photo.orientation, decoded) == ("too_large", 500, 1000, 6, [])
    assert examine(tmp_path / "a.png", max_megapixels=0.6).error is None
    assert decoded, "the decoder is counted at all"


def test_exif_after_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png", exif=exif(6))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    end = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + data[at + length : end] + data[at : at + length] + data[end:])
    photo = examine(tmp_path / "a.png")
    assert (photo.orientation, photo.width, photo.height) == (6, HEIGHT, WIDTH)
    assert load(tmp_path / "a.png")[4, -5].tolist() == list(RED)


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_text(text)
    assert kind_of(tmp_path / "a.jpg") == "not_an_image"


def test_heic_without_the_plugin_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x08free")
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path\nfrom maskprep.photos.decode import examine\n"
        f"photo = examine(Path({os.fspath(path)!r})); print(photo.error, photo.detail)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("unreadable")
    assert "pip install 'maskprep[heic]'" in said


def test_avif_is_not_taken_for_heic(tmp_path: Path) -> None:
    if not decode._formats() or "AVIF" not in decode._formats():
        pytest.skip("this Pillow reads no AVIF")
    noise().save(tmp_path / "a.avif")
    assert load(tmp_path / "a.avif").shape == (40, 60, 3)
    data = (tmp_path / "a.avif").read_bytes()
    (tmp_path / "a.avif").write_bytes(data[: len(data) // 3])
    assert kind_of(tmp_path / "a.avif") == "truncated"


def test_content_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    noise((40, 60)).save(tmp_path / "c.png")
    a, b, c = (examine(tmp_path / name).content for name in ("a.png", "b.jpg", "c.png"))
    assert a == b != c
    assert len(a) == 32


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    """Whole photos with bytes changed or cut at random: always a row."""
    random = np.random.default_rng(1)
    path = tmp_path / "a"
    for suffix in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        buffer = io.BytesIO()
        noise((16, 20, 3)).save(buffer, suffix)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for at in random.integers(0, len(data), random.integers(1, 8)):
                data[at] = random.integers(0, 256)
            path.write_bytes(data[: random.integers(1, len(data) + 1)])
            photo = examine(path, max_megapixels=4)
            assert photo.error in (None, "truncated", "not_an_image", "too_large", "unreadable")
            assert (photo.error is None) == (kind_or_none(path) is None)


def kind_or_none(path: Path) -> str | None:
    try:
        load(path, max_megapixels=4)
    except PhotoError as error:
        return error.kind
    return None


# ---------------------------------------------------------------- reduced photos


@pytest.fixture(scope="module")
def large() -> Image.Image:
    """A photo of 4000 x 3000 with smooth parts, edges and noise."""
    small = np.random.default_rng(2).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels[700:1100, 900:1700] = (250, 30, 60)
    pixels += np.random.default_rng(3).integers(-4, 5, (3000, 4000, 1)).astype(np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["plain", "turned", "profile", "CMYK", "MPO", "progressive"])
def test_a_reduced_photo_is_the_photo_averaged(tmp_path: Path, large: Image.Image, kind: str) -> None:
    file = tmp_path / "a.jpg"
    if kind == "MPO":
        large.save(file, "MPO", save_all=True, append_images=[large.resize((40, 30))])
    else:
        options = {"turned": {"exif": exif(6)}, "progressive": {"progressive": True}}.get(kind, {})
        if kind == "profile":  # one in which red and blue have changed places
            from PIL import ImageCms

            data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
            red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
            data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
            options = {"icc_profile": bytes(data)}
        (large.convert("CMYK") if kind == "CMYK" else large).save(file, quality=92, **options)
    photo = PhotoFile(file)
    full = photo.pixels()
    assert full.shape == ((4000, 3000, 3) if kind == "turned" else (3000, 4000, 3))
    for reduction in (2, 4, 8):
        expected = np.asarray(Image.fromarray(full).reduce(reduction)).astype(int)
        reduced = photo.pixels(reduction)
        assert reduced.shape == expected.shape
        assert np.abs(reduced - expected).mean() < 1, reduction
    row = photo.examine()
    assert (row.height, row.width) == full.shape[:2] and photo.reduction() == 4
    assert row == examine(file) and (row.colour_profile is not None) == (kind == "profile")
    assert row.format == ("MPO" if kind == "MPO" else "JPEG") and row.orientation == (6 if kind == "turned" else 1)


def test_how_far_a_photo_may_be_reduced(tmp_path: Path) -> None:
    side = decode.SEARCH_SIDE
    sides = [(side * 2 - 1, 9), (side * 2, 9), (9, side * 4 - 1), (9, side * 4), (side * 9, side * 9), (side * 8, 7)]
    assert [reduction_of(*s) for s in sides] == [1, 2, 2, 4, 8, 4]
    for name, expected in (("a.jpg", 2), ("a.png", 1), ("a.webp", 1)):
        Image.new("RGB", (side * 2, 30), "red").save(tmp_path / name)
        photo = PhotoFile(tmp_path / name)
        assert photo.reduction() == expected
        assert photo.pixels(8).shape == ((4, side // 4, 3) if expected == 2 else (30, side * 2, 3))
        assert photo.examine() == examine(tmp_path / name)
    (tmp_path / "text.jpg").write_text("Dear diary, " * 20)
    assert PhotoFile(tmp_path / "text.jpg").reduction() == 1
    with pytest.raises(PhotoError, match="No such file"):
        PhotoFile(tmp_path / "nowhere.jpg").reduction()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photo_is_read_once_and_decoded_once_per_reduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(decode, "SEARCH_SIDE", 20)
    noise().save(tmp_path / f"a.{suffix}", exif=exif(6))
    expected = examine(tmp_path / f"a.{suffix}")
    decoded: list[Any] = []
    decoder = "jpeg_decoder" if suffix == "jpg" else "zip_decoder"
    original = getattr(Image.core, decoder)
    monkeypatch.setattr(Image.core, decoder, lambda *a: decoded.append(a) or original(*a))
    photo = PhotoFile(tmp_path / f"a.{suffix}")
    assert photo.examine() == expected
    (tmp_path / f"a.{suffix}").unlink()
    for _ in range(2):
        assert photo.pixels().shape == (60, 40, 3)
        assert photo.pixels(photo.reduction()).shape == ((30, 20, 3) if suffix == "jpg" else (60, 40, 3))
        assert photo.examine() == expected
    assert len(decoded) == (2 if suffix == "jpg" else 1)
    if suffix == "jpg":
        assert decoded[0][-2] == 2  # the decoder itself reduces the photo


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_photo_is_one_at_every_reduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reduction: int, progressive: bool
) -> None:
    monkeypatch.setattr(decode, "SEARCH_SIDE", 1200 // reduction)
    noise((900, 1200, 3)).save(tmp_path / "a.jpg", exif=exif(6), progressive=progressive)
    data = (tmp_path / "a.jpg").read_bytes()
    for share in (0.2, 0.6, 0.95):
        (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * share)])
        photo = PhotoFile(tmp_path / "a.jpg")
        assert photo.reduction() == reduction
        row = photo.examine()
        assert (row.error, row.width, row.height, row.orientation) == ("truncated", 900, 1200, 6)
        with pytest.raises(PhotoError, match="truncated"):
            photo.pixels(reduction)


# ---------------------------------------------------------------- limits


def with_scans(data: bytes, count: int) -> bytes:
    """A progressive JPEG with its last scan repeated."""
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def test_a_jpeg_of_many_scans_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    own = data.count(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(with_scans(data, 2000))
    decoded: list[object] = []
    original = Image.core.jpeg_decoder
    monkeypatch.setattr(Image.core, "jpeg_decoder", lambda *a: decoded.append(a) or original(*a))
    photo = examine(tmp_path / "a.jpg")
    assert (photo.error, photo.detail) == ("unreadable", f"too many scans ({own + 1999})")
    assert (photo.width, photo.height, decoded) == (60, 40, [])
    (tmp_path / "a.jpg").write_bytes(with_scans(data, 101 - own))
    assert examine(tmp_path / "a.jpg").error is None and len(decoded) == 1


def test_only_the_scans_of_the_picture_itself_count(tmp_path: Path) -> None:
    """Not what looks like one in metadata, or in a film after the end of the picture."""
    noise().save(tmp_path / "a.jpg")
    data, marks = (tmp_path / "a.jpg").read_bytes(), b"\xff\xda\0\x02" * 500
    comment = b"\xff\xfe" + (2 + len(marks)).to_bytes(2, "big") + marks
    (tmp_path / "a.jpg").write_bytes(data[:2] + comment + data[2:] + bytes(8) + marks + b"\xff\xd9")
    assert examine(tmp_path / "a.jpg").error is None


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_turning_and_converting_a_photo_makes_no_second_copy_of_it(tmp_path: Path) -> None:
    """Peak memory of a process that decodes a photo of 24 megapixels, in bytes per pixel; it was 18 and 19."""
    Image.new("RGB", (6000, 4000), "red").save(tmp_path / "a.jpg", exif=exif(6))
    palette = Image.new("P", (6000, 4000), 0)
    palette.putpalette([200, 10, 20])
    palette.save(tmp_path / "b.png", transparency=0)
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom maskprep.photos.decode import load\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "load(Path(sys.argv[2])); before = peak()\nload(Path(sys.argv[1])); print((peak() - before) / 24e6)"
    )
    noise().save(tmp_path / "small.png")
    for name, most in (("a.jpg", 9), ("b.png", 7)):
        command = [sys.executable, "-c", code, str(tmp_path / name), str(tmp_path / "small.png")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert float(said) < most, name
