"""What a photo looks like in 256 bits, so that copies of it are recognised whatever file they are in.

The hash is the discrete cosine transform of the photo at 64x64 pixels: for each of its 16x16 lowest frequencies,
whether it is above the median (pHash, Zauner 2010, with 16x16 in place of 8x8). Two hashes are compared by the number
of bits in which they differ.

It is taken of the whole photo. Of the crop, it would depend on where a detector saw the face: when 120 photos were
saved again at JPEG quality 50, at half size or in other colours, every copy of the photo was within 6 bits, but half of
the copies of the crop were 10 to 26 bits away and more, as far as different photos of one sitting. And 8x8 bits are too
few: among 1,600 portraits, some of different people are 4 bits apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, FREQUENCIES = 64, 16
BITS = FREQUENCIES * FREQUENCIES
DIGITS = BITS // 4

LONGEST = 20
"""Distance from which on all hashes are compared: parts of a hash would have less than three digits."""

FLAT = 2.0
"""Standard deviation of the grey values (0..255) below which a photo shows nothing that could be recognised."""

_STEPS = np.arange(SIDE)
_COSINES: NDArray[np.float64] = np.cos(np.pi * (2 * _STEPS + 1) * np.arange(FREQUENCIES)[:, None] / (2 * SIDE))


def perceptual_hash(pixels: NDArray[np.uint8]) -> str | None:
    """The hash of a photo.

    Args:
        pixels: uint8 [H, W, 3] RGB, upright.

    Returns:
        64 hexadecimal digits; None for a photo of one colour.
    """
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.float64)
    if grey.std() < FLAT:
        return None
    strength = (_COSINES @ grey @ _COSINES.T).ravel()
    return np.packbits(strength > np.median(strength[1:])).tobytes().hex()


def words(hashes: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes as uint64 [n, 4], for :func:`distances`."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64).reshape(-1, BITS // 64)


def distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many bits hashes differ: uint64 [..., 4] each, broadcast -> int64 [...]."""
    bits: NDArray[np.int64] = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)
    return bits


def near_groups(hashes: Sequence[str], limit: int) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Groups of hashes in which each differs from some other in at most ``limit`` bits.

    Hashes are not compared where they are in one group already, so time and memory grow with their number and not with
    that of the pairs.

    Args:
        hashes: all different.

    Returns:
        A number for each hash, int64 [n], the same for those of one group; and pairs of rows within the limit that
        connect each group, one less than it has hashes.
    """
    table = words(hashes)
    group = np.arange(len(hashes))
    members = [[row] for row in range(len(hashes))]
    links: list[tuple[int, int]] = []
    for bucket in _buckets(hashes, limit):
        rows = np.array(bucket)
        if (group[rows] == group[rows[0]]).all():
            continue
        away = distances(table[rows], table[rows[0]])  # two hashes are at least as far apart as these differ
        rows, away = rows[np.argsort(away)], np.sort(away)
        ends = np.searchsorted(away, away + limit, side="right")
        for i, (row, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
            apart = rows[i + 1 : end][group[rows[i + 1 : end]] != group[row]]
            for other in apart[distances(table[apart], table[row]) <= limit].tolist():
                small, large = sorted((int(group[row]), int(group[other])), key=lambda g: len(members[g]))
                if small != large:
                    links.append((row, other))
                    group[members[small]] = large
                    members[large] += members[small]
    return group, links


def _buckets(hashes: Sequence[str], limit: int) -> Iterator[list[int]]:
    """Rows that may be near each other: hashes that differ in ``limit`` bits are equal in one of ``limit`` + 1 parts of
    them. Where these would be short, all rows are in one bucket."""
    cuts = [DIGITS * part // (limit + 1) for part in range(limit + 2)] if limit < LONGEST else [0, 0]
    for start, end in itertools.pairwise(cuts):
        buckets: dict[str, list[int]] = {}
        for row, value in enumerate(hashes):
            buckets.setdefault(value[start:end], []).append(row)
        yield from (rows for rows in buckets.values() if len(rows) > 1)
