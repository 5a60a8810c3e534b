"""Opening photos: upright 8-bit sRGB pixels, or one named reason why not.

Every photo passes through :class:`PhotoFile`, so orientation, colour profiles, alpha, palettes, 16 bits and CMYK are
handled in one place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maskprep.base import RowError
from maskprep.photos.colour import upright
from maskprep.photos.phash import perceptual_hash

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .heic .heif .avif .gif .ppm .pgm".split()  # noqa: SIM905
)
"""File names that are taken for photos; everything else is counted as ignored."""

MAX_MEGAPIXELS = 120.0
"""Default limit on the decoded size. A photo takes 7 to 8 bytes a pixel at its peak (JPEG, PNG, palettes, HEIC), 10 as
TIFF, AVIF, progressive JPEG without subsampling and with 16 bits, 16 as WEBP: at 120 megapixels 0.9, 1.2 and 1.9 GB in
each worker."""

PILLOW_LIMIT = 178.0
"""Pillow itself refuses anything larger, so no setting may exceed it (megapixels)."""

OUT_OF_MEMORY = "out of memory"
"""What Pillow's decoders say when memory ran out."""

MAX_BYTES = 2 << 30
"""Larger files are not read into memory; no photo within the limit on pixels is."""

ORIENTATION_TAG = 0x0112

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

SCALED = ("JPEG", "MPO")
"""Formats whose decoder can reduce a photo."""

SEARCH_SIDE = 1000
"""Pixels that the longer side of a JPEG keeps for the search for faces. Of 158 street photos enlarged to 4,000 pixels,
the face searched at 1,000 pixels held a labelled one as often as at full size (157 times), at 500 once less, and the
subject changed in 2 and in 13."""

MAX_SCANS = 100
"""Most scans of a JPEG, each a pass over all its pixels; progressive ones have about 10."""

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
    """What the index keeps of one file. None is what is not known.

    Args:
        content: BLAKE2b-128 of the file's bytes, hexadecimal; empty when the file cannot be read at all.
        bytes: file size.
        format: what the file holds (JPEG, PNG, ...), whatever its name says.
        width, height: pixels of the upright image.
        orientation: EXIF orientation 1..8, 1 when absent.
        colour_profile: name of the profile that the colours were brought to sRGB from, None where they are as stored.
        error: None, or the kind of :class:`PhotoError`.
        detail: what the decoder said of an error.
        phash: what it looks like (:func:`maskprep.photos.phash.perceptual_hash`).
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
def _reading() -> Iterator[None]:
    """Errors of the disk and a lack of memory are not the photo's: PhotoError NOT_READ."""
    try:
        yield
    except OSError as error:
        raise PhotoError(NOT_READ, _one_line(error)) from error
    except MemoryError as error:
        raise PhotoError(NOT_READ, OUT_OF_MEMORY) from error


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
    """The pixels of one photo, see :meth:`PhotoFile.pixels`."""
    return PhotoFile(path, max_megapixels).pixels()


def examine(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """The facts of one photo, see :meth:`PhotoFile.examine`."""
    return PhotoFile(path, max_megapixels).examine()


def reduction_of(width: int, height: int) -> int:
    """The largest of 1, 2, 4, 8 by which a JPEG may be reduced so that its longer side keeps at least SEARCH_SIDE
    pixels."""
    return max(r for r in (1, 2, 4, 8) if r == 1 or (max(width, height) >= r * SEARCH_SIDE and min(width, height) >= r))


class PhotoFile:
    """A photo that is read once, and decoded once per reduction.

    Args:
        path: the file.
        max_megapixels: a larger photo is not decoded (too_large).
    """

    def __init__(self, path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> None:
        self.path = path
        self._max_megapixels = max_megapixels
        self._header: dict[str, Any] = {}  # what is known of the columns format to colour_profile of Photo
        self._pixels: dict[int, Pixels] = {}

    @cached_property
    def _data(self) -> bytes:
        """The file is in memory before it is decoded, so what a decoder raises is never an error of the disk."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            if size > MAX_BYTES:
                raise PhotoError("too_large", f"{size / 2**30:.1f} GiB, the limit is {MAX_BYTES / 2**30:g}")
            file.seek(0)
            return file.read()

    @_reading()
    def examine(self) -> Photo:
        """Hash the file, read its header and decode it once, at its :meth:`reduction`. What the file holds is no
        exception but the photo's ``error``; only NOT_READ is raised."""
        try:
            data = self._data
        except PhotoError as error:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                return Photo(digest.hexdigest(), file.tell(), error=error.kind, detail=error.detail)
        content, size = hashlib.blake2b(data, digest_size=16).hexdigest(), len(data)
        try:
            pixels = self.pixels(self.reduction())
        except PhotoError as error:
            if error.kind == NOT_READ:
                raise
            return Photo(content, size, **self._header, error=error.kind, detail=error.detail or None)
        return Photo(content, size, **self._header, phash=perceptual_hash(pixels))

    @_reading()
    def reduction(self) -> int:
        """How far the photo may be reduced for searching: by :func:`reduction_of` for JPEG, 1 for all other formats and
        where the header cannot be read.

        Raises:
            PhotoError: NOT_READ.
        """
        if not self._header:
            with contextlib.suppress(PhotoError), _decoding(self._data):
                self._open()
        scaled = self._header.get("format") in SCALED
        return reduction_of(self._header["width"], self._header["height"]) if scaled else 1

    @_reading()
    def pixels(self, reduction: int = 1) -> Pixels:
        """The photo as uint8 [height, width, 3], sRGB, upright, transparency laid on white. Not to be written to.

        Args:
            reduction: 1, 2, 4 or 8: each side of a JPEG is divided by it and rounded up, in the decoder. Other formats
                are not reduced.

        Raises:
            PhotoError: the file is empty, truncated, no image, too large or otherwise unreadable, or was not read.
        """
        if reduction not in self._pixels:
            with _decoding(self._data):
                image = self._open()
                if reduction > 1:  # does nothing to other formats
                    image.draft(None, (image.width // reduction or 1, image.height // reduction or 1))
                image.load()
                if "orientation" not in self._header:
                    self._note_orientation(image)
                turn = 1 if image.format == "TIFF" else self._header["orientation"]  # Pillow turns TIFF by itself
                self._pixels[reduction], self._header["colour_profile"] = upright(image, turn)
        return self._pixels[reduction]

    def _open(self) -> Image.Image:
        """The photo before it is decoded, and its header."""
        if not self._data:
            raise PhotoError("empty")
        image = Image.open(io.BytesIO(self._data), formats=_formats())
        self._header = {"format": image.format, "width": image.width, "height": image.height}
        if image.format != "PNG" or "exif" in image.info:  # else it may follow the pixels: not to be asked for now
            self._note_orientation(image)
        megapixels = image.width * image.height / 1e6
        if megapixels > self._max_megapixels:
            raise PhotoError("too_large", f"{megapixels:.0f} megapixels, the limit is {self._max_megapixels:g}")
        if image.format in SCALED and (scans := _scans(self._data)) > MAX_SCANS:
            raise PhotoError("unreadable", f"too many scans ({scans})")
        return image

    def _note_orientation(self, image: Image.Image) -> None:
        try:
            value = image.getexif().get(ORIENTATION_TAG, 1)
        except MemoryError:
            raise
        except Exception:  # broken EXIF must not cost the photo
            value = 1
        self._header["orientation"] = value if isinstance(value, int) and 1 <= value <= 8 else 1
        if self._header["orientation"] >= 5 and image.format != "TIFF":
            self._header["width"], self._header["height"] = self._header["height"], self._header["width"]


@contextlib.contextmanager
def _decoding(data: bytes) -> Iterator[None]:
    """Whatever Pillow raises on a file's bytes as PhotoError. It warns of half-broken metadata and of large images: we
    decide."""
    end = next((end for at, first, end in _SIGNATURES if data[at : at + len(first)] == first), None)
    whole = (end or b"") in data[-64:] and not _is_short(data)  # some writers pad, so the last bytes are searched
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (PhotoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError("too_large", _one_line(error)) from error
    except UnidentifiedImageError as error:
        if end is None:
            raise PhotoError("not_an_image") from error
        if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis") and not heic_available():
            raise PhotoError("unreadable", "HEIC needs an optional package: pip install 'maskprep[heic]'") from error
        raise PhotoError("unreadable" if whole else "truncated", "the header cannot be read") from error
    except Exception as error:  # a decoder may raise anything on broken bytes; the row says what it was
        message = _one_line(error)
        if OUT_OF_MEMORY in message.lower():
            raise MemoryError from error
        cut = any(word in message.lower() for word in ("truncated", "premature", "not enough", "incomplete"))
        raise PhotoError("truncated" if cut or not whole else "unreadable", message) from error


def _is_short(data: bytes) -> bool:
    """Whether a file is shorter than its own header says: RIFF (WEBP), or boxes (AVIF, HEIC), or nearly nothing."""
    size, at = len(data), 0
    if data[:4] == b"RIFF":
        return size < int.from_bytes(data[4:8], "little") + 8
    while data[4:8] == b"ftyp" and at < size:
        length = int.from_bytes(data[at : at + 4], "big")
        length = int.from_bytes(data[at + 8 : at + 16], "big") if length == 1 else length or size - at  # 0: to the end
        at += max(8, length)
    return at > size or size < 16


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Of a JPEG: what begins a segment with a length, or ends the picture (ITU-T T.81, B.1.1). Within the data of a scan FF
is followed by 00 or by a restart marker only."""


def _scans(data: bytes) -> int:
    """How many scans a JPEG has, exact where they are more than MAX_SCANS."""
    count = data.count(b"\xff\xda")
    if count <= MAX_SCANS:  # metadata and what follows the picture may hold these bytes too, so there are no more
        return count
    count, at = 0, 0
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        count += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return count


def _one_line(error: BaseException) -> str:
    text = " ".join((error.strerror or str(error) if isinstance(error, OSError) else str(error)).split())
    return text[:200] or type(error).__name__
