"""Opening photos: upright 8-bit sRGB pixels, or one named reason why not.

Every photo passes through :func:`load`, so orientation, colour profiles, alpha, palettes, 16 bits and CMYK are handled
in one place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maskprep.errors import RowError
from maskprep.photos.colour import in_srgb
from maskprep.photos.phash import perceptual_hash

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
        *(".heic", ".heif", ".avif", ".gif", ".ppm", ".pgm"),
    )
)
"""File names that are taken for photos; everything else is counted as ignored."""

MAX_MEGAPIXELS = 120.0
"""Default limit on the decoded size: a 120-megapixel photo needs about 1 GB to turn upright."""

PILLOW_LIMIT = 178.0
"""Pillow itself refuses anything larger, so no setting may exceed it (megapixels)."""

OUT_OF_MEMORY = "out of memory"
"""What Pillow's decoders say when memory ran out."""

MAX_BYTES = 2 << 30
"""Larger files are not read into memory; no photo within the limit on pixels is."""

ORIENTATION_TAG = 0x0112

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright."""

FORMATS = frozenset(("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "HEIF"))
"""What Pillow may open, whatever a file is called; others include EPS, which would start another program."""

_SIGNATURES: tuple[tuple[int, bytes, bytes], ...] = (
    # offset, first bytes, bytes that end a whole file (empty: no fixed end)
    (0, b"\xff\xd8\xff", b"\xff\xd9"),
    (0, b"\x89PNG\r\n\x1a\n", b"IEND"),
    (0, b"BM", b""),
    (0, b"GIF8", b"\x00;"),
    (0, b"II*\x00", b""),
    (0, b"MM\x00*", b""),
    (8, b"WEBP", b""),
    (4, b"ftyp", b""),
)


NOT_READ = "not_read"
"""Kind of a failure that says nothing of the file's bytes and may pass: an error of the disk or the network, a missing
permission, too little memory. It is never kept in a shard."""


class PhotoError(RowError):
    """A photo that cannot be used.

    Args:
        kind: one of empty, truncated, not_an_image, too_large, unreadable; or NOT_READ.
        detail: what the decoder said, one line.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail if kind == NOT_READ else f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Photo:
    """What the index keeps of one file.

    Args:
        content: BLAKE2b-128 of the file's bytes, hexadecimal; empty when the file cannot be read at all.
        bytes: file size.
        format: what the file holds (JPEG, PNG, ...), whatever its name says; None when unknown.
        width: pixels of the upright image, None when unknown.
        height: see ``width``.
        orientation: EXIF orientation 1..8, 1 when absent.
        colour_profile: name of the profile that the colours were brought to sRGB from, None where they are as stored.
        error: None, or the kind of :class:`PhotoError`.
        detail: what the decoder said, None without an error.
        phash: what it looks like (:func:`maskprep.photos.phash.perceptual_hash`), None with an error.
    """

    content: str
    bytes: int
    format: str | None = None
    width: int | None = None
    height: int | None = None
    orientation: int = 1
    colour_profile: str | None = None
    error: str | None = None
    detail: str | None = None
    phash: str | None = None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A photo's file. It is read before it is decoded, so what a decoder raises is never an error of the disk.

    Raises:
        PhotoError: NOT_READ, when it cannot be opened or read, or memory runs out.
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise PhotoError(NOT_READ, _one_line(error)) from error
    except MemoryError as error:
        raise PhotoError(NOT_READ, "out of memory") from error


def _size(file: IO[bytes]) -> int:
    """Bytes of a file, which is then at its start."""
    size = file.seek(0, 2)
    file.seek(0)
    return size


@cache
def heic_available() -> bool:
    """Whether the optional HEIC plugin is installed; registers it with Pillow when it is."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow, with its plugins, can open."""
    heic_available()
    Image.init()
    return tuple(sorted(FORMATS & set(Image.OPEN)))


def load(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Decode one photo: uint8 [height, width, 3], sRGB, upright, transparency laid on white.

    Raises:
        PhotoError: the file is empty, truncated, no image, too large or otherwise unreadable, or was not read.
    """
    heic_available()
    with _opened(path) as file:
        if (size := _size(file)) > MAX_BYTES:
            raise PhotoError("too_large", _gigabytes(size))
        return _decode(io.BytesIO(file.read()), max_megapixels)[1]


def examine(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Hash a file, read its header and decode it once in full.

    Raises:
        PhotoError: NOT_READ; what the file holds is no exception but the photo's ``error``.
    """
    heic_available()
    with _opened(path) as file:
        if (size := _size(file)) > MAX_BYTES:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))  # type: ignore[arg-type]
            return Photo(digest.hexdigest(), size, error="too_large", detail=_gigabytes(size))
        data = file.read()
        content, header = hashlib.blake2b(data, digest_size=16).hexdigest(), dict[str, Any]()
        try:
            header, pixels = _decode(io.BytesIO(data), max_megapixels, header)
        except PhotoError as error:
            return Photo(content, len(data), **header, error=error.kind, detail=error.detail or None)
        shape = {"height": pixels.shape[0], "width": pixels.shape[1]}
        return Photo(content, len(data), **{**header, **shape}, phash=perceptual_hash(pixels))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:g}"


def _decode(
    file: IO[bytes], max_megapixels: float, header: dict[str, Any] | None = None
) -> tuple[dict[str, Any], Pixels]:
    """Header facts and upright pixels. ``header`` is filled as soon as they are known, so it survives an error."""
    header = {} if header is None else header
    head = file.read(16)
    if not head:
        raise PhotoError("empty")
    end = next((last for at, first, last in _SIGNATURES if head[at : at + len(first)] == first), None)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of half-broken metadata and of large images; we decide
            image = Image.open(file, formats=_formats())
            header["format"] = image.format
            header["width"], header["height"] = image.size
            late = image.format == "PNG" and "exif" not in image.info  # may follow the pixels: not to be asked for now
            if not late:
                _note_orientation(image, header)
            megapixels = image.width * image.height / 1e6
            if megapixels > max_megapixels:
                raise PhotoError("too_large", f"{megapixels:.0f} megapixels, the limit is {max_megapixels:g}")
            image.load()
            if late:
                _note_orientation(image, header)
            turn = None if image.format == "TIFF" else UPRIGHT.get(header["orientation"])  # Pillow turns TIFF by itself
            colours, header["colour_profile"] = in_srgb(image)
            return header, to_rgb(colours if turn is None else colours.transpose(turn))
    except (PhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError("too_large", _one_line(error)) from error
    except UnidentifiedImageError as error:
        if end is None:
            raise PhotoError("not_an_image") from error
        if head[4:8] == b"ftyp" and head[8:12] not in (b"avif", b"avis") and not heic_available():
            raise PhotoError("unreadable", "HEIC needs an optional package: pip install 'maskprep[heic]'") from error
        kind = "unreadable" if _has_end(file, end) and not _is_short(file, head) else "truncated"
        raise PhotoError(kind, "the header cannot be read") from error
    except Exception as error:  # a decoder may raise anything on broken bytes; the row says what it was
        message = _one_line(error)
        if OUT_OF_MEMORY in message.lower():
            raise MemoryError from error
        cut = any(word in message.lower() for word in ("truncated", "premature", "not enough", "incomplete"))
        kind = "truncated" if cut or not _has_end(file, end or b"") or _is_short(file, head) else "unreadable"
        raise PhotoError(kind, message) from error


def _has_end(file: IO[bytes], end: bytes) -> bool:
    """Whether the file ends as its format demands (some writers pad, so the last bytes are searched)."""
    if not end:
        return True
    size = file.seek(0, 2)
    file.seek(max(0, size - 64))
    return end in file.read()


def _is_short(file: IO[bytes], head: bytes) -> bool:
    """Whether a file is shorter than its own header says: RIFF (WEBP), or boxes (AVIF, HEIC), or nearly nothing."""
    size = file.seek(0, 2)
    if head[:4] == b"RIFF":
        return size < int.from_bytes(head[4:8], "little") + 8
    at = 0
    while head[4:8] == b"ftyp" and at < size:
        file.seek(at)
        box = file.read(16)
        length = int.from_bytes(box[:4], "big")
        length = int.from_bytes(box[8:16], "big") if length == 1 else length or size - at  # 0: up to the end
        at += max(8, length)
    return at > size or size < 16


def _note_orientation(image: Image.Image, header: dict[str, Any]) -> None:
    header["orientation"] = _orientation(image)
    if header["orientation"] >= 5 and image.format != "TIFF":
        header["width"], header["height"] = image.size[::-1]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF must not cost the photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image) -> Pixels:
    """Any Pillow mode as uint8 [height, width, 3] RGB; 16 bits are scaled, transparency is laid on white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        grey = (np.clip(values, 0, 65535) // 257 if values.max(initial=0) > 255 else values).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image))
        grey = np.clip(floats * (255 if floats.max(initial=0) <= 1 else 1), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    text = " ".join((error.strerror or str(error) if isinstance(error, OSError) else str(error)).split())
    return text[:200] or type(error).__name__
