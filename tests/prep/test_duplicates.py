"""Photos that are there twice: the hash, the pairs, the people with two numbers, the command."""

from __future__ import annotations

import io
import itertools
import shutil
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.labels import duplicates
from maskprep.photos.phash import perceptual_hash
from maskprep.pipeline.explain import explain, survey
from maskprep.pipeline.session import Session

Cli = Callable[..., Any]


def bits(value: str) -> int:
    return int(value, 16)


def apart(a: str, b: str) -> int:
    return (bits(a) ^ bits(b)).bit_count()


def hex_of(*ones: int) -> str:
    """A hash with the given bits set."""
    return f"{sum(1 << i for i in ones):064x}"


# ---------------------------------------------------------------- the hash


def test_the_hash_is_the_transform_that_opencv_computes(portrait: Image.Image) -> None:
    import cv2

    pixels = np.asarray(portrait.resize((256, 192)))
    small = np.asarray(portrait.resize((256, 192)).resize((64, 64), Image.Resampling.BOX).convert("L"))
    reference = cv2.dct(small.astype(np.float64))
    reference *= np.sqrt(2) ** ((np.arange(64) == 0).astype(int)[:, None] + (np.arange(64) == 0))  # ours is unscaled
    low = reference[:16, :16].ravel()
    expected = "".join(str(int(v > np.median(low[1:]))) for v in low)
    found = perceptual_hash(pixels)
    assert found is not None and f"{bits(found):0256b}" == expected


def test_copies_are_near_and_other_photos_are_not(portrait: Image.Image) -> None:
    from skimage import data

    photo = portrait.resize((300, 400))
    original = perceptual_hash(np.asarray(photo))
    buffer = io.BytesIO()
    photo.resize((150, 200)).save(buffer, "JPEG", quality=50)
    copy = perceptual_hash(np.asarray(Image.open(buffer)))
    others = [perceptual_hash(np.asarray(p)) for p in (data.coffee(), data.chelsea(), np.asarray(photo)[:, ::-1])]
    assert original is not None and copy is not None
    assert apart(original, copy) <= duplicates.NEAR
    assert all(other is not None and apart(original, other) > 40 for other in others)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_photo_is_like_nothing(value: int) -> None:
    blank = np.full((40, 50, 3), value, np.uint8)
    noise = np.random.default_rng(0).integers(-1, 2, (40, 50, 3))
    assert perceptual_hash(blank) is None and perceptual_hash(np.clip(blank + noise, 0, 255).astype(np.uint8)) is None


# ---------------------------------------------------------------- the table


def table(*rows: tuple[str, str, str | None, str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["image", "content", "phash", "split", "error"])


def found(images: pd.DataFrame, people: list[str | None], limit: int = 10) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in duplicates.assemble(images, people, limit).to_pylist()]


def test_the_table_of_pairs() -> None:
    images = table(
        ("b.jpg", "1", hex_of(), "train", None),
        ("a.jpg", "1", hex_of(), "train", None),
        ("c.jpg", "2", hex_of(), "train", None),  # the same picture in another file
        ("d.jpg", "3", hex_of(*range(10)), "eval", None),
        ("e.jpg", "4", hex_of(*range(11)), "train", None),
        ("f.jpg", "5", None, "train", None),  # blank
        ("g.jpg", "6", None, "train", None),
        ("h.jpg", "7", hex_of(), "train", "truncated"),
    )
    people = ["p", "p", "q", None, None, "p", "p", "p"]
    assert found(images, people) == [
        ("a.jpg", "b.jpg", "exact", 0, True, "train", "train"),
        ("a.jpg", "c.jpg", "near", 0, False, "train", "train"),
        ("a.jpg", "d.jpg", "near", 10, False, "train", "eval"),
        ("b.jpg", "c.jpg", "near", 0, False, "train", "train"),
        ("b.jpg", "d.jpg", "near", 10, False, "train", "eval"),
        ("c.jpg", "d.jpg", "near", 10, False, "train", "eval"),
        ("d.jpg", "e.jpg", "near", 1, False, "eval", "train"),
    ]
    assert [row[:3] for row in found(images, people, -1)] == [("a.jpg", "b.jpg", "exact")]
    shuffled = images.sample(frac=1, random_state=3)
    assert found(shuffled, [people[i] for i in shuffled.index]) == found(images, people)
    pairs = duplicates.assemble(images, people, 10).to_pandas()
    assert duplicates.crossing(pairs)["image_b"].tolist() == ["c.jpg", "d.jpg", "c.jpg", "d.jpg", "d.jpg", "e.jpg"]


def test_none_at_all() -> None:
    assert found(table(("a", "1", None, "train", None)), [None]) == []
    assert duplicates.assemble(table(), []).num_rows == 0


def family(rng: np.random.Generator, *turned: int) -> list[int]:
    """A random hash, and others that differ from it in so many bits."""
    base = int.from_bytes(rng.bytes(32), "big")
    return [base ^ sum(1 << int(i) for i in rng.choice(256, bits, replace=False)) for bits in turned]


def photos(hashes: list[int]) -> pd.DataFrame:
    """Photos with these hashes, each another file."""
    return table(*((f"{i:05d}.jpg", f"c{i}", f"{value:064x}", "train", None) for i, value in enumerate(hashes)))


def by_hand(hashes: list[int], limit: int) -> dict[tuple[int, int], int]:
    """All pairs within the limit and their distances."""
    distances = {(i, j): (hashes[i] ^ hashes[j]).bit_count() for i, j in itertools.combinations(range(len(hashes)), 2)}
    return {pair: bits for pair, bits in distances.items() if bits <= limit}


def numbered(images: pd.DataFrame, limit: int) -> dict[tuple[int, int], int]:
    rows = found(images, [None] * len(images), limit)
    return {(int(a[:5]), int(b[:5])): bits for a, b, _, bits, *_ in rows}


def connected(pairs: Iterable[tuple[int, int]], count: int) -> set[frozenset[int]]:
    groups = {i: frozenset([i]) for i in range(count)}
    for a, b in pairs:
        joined = groups[a] | groups[b]
        groups |= dict.fromkeys(joined, joined)
    return set(groups.values())


@pytest.mark.parametrize("limit", [0, 1, 8, 10, 19, 20, 40, 64])
def test_every_near_pair_is_found_and_no_other(limit: int) -> None:
    rng = np.random.default_rng(limit)
    hashes = [value for _ in range(60) for value in family(rng, 0, 0, 3, 8, 10, 11, 20, 30)]
    random = [hashes[i] for i in rng.permutation(len(hashes))]
    assert numbered(photos(random), limit) == by_hand(random, limit)


@pytest.mark.parametrize("limit", [1, 8, 19])
def test_near_pairs_are_found_wherever_they_differ(limit: int) -> None:
    """The bits that differ lie far apart: there is one stretch without them, in one place after another."""
    for gap in range(limit + 1):
        ones = [256 * (2 * part + 1) // (2 * limit + 2) for part in range(limit + 1) if part != gap]
        assert numbered(photos([0, sum(1 << bit for bit in ones)]), limit) == {(0, 1): limit}, gap


def test_a_large_group_is_paired_with_its_first_photo_and_stays_connected() -> None:
    """A camera that turns slowly, three times: 200 photos, each 3 bits from the last, the ends nothing alike.

    Every photo within the limit of the first is paired with it; no pair is further apart.
    """
    rng = np.random.default_rng(0)
    bits = rng.permutation(256)
    film = [sum(1 << int(bit) for bit in bits[: 3 * (i % 80)]) for i in range(200)]
    hashes = [*film, *family(rng, 0, 5, 8)]  # and a small group
    expected, pairs = by_hand(hashes, 8), numbered(photos(hashes), 8)
    assert pairs.items() <= expected.items() and len(pairs) < 2 * len(hashes) < len(expected)
    assert connected(pairs, len(hashes)) == connected(expected, len(hashes))
    assert {p for p in expected if p[0] == 0} <= pairs.keys()
    assert {p for p in expected if p[0] >= 200} <= pairs.keys()


def test_groups_of_up_to_64_photos_have_all_their_pairs() -> None:
    for size, count in ((64, 64 * 63 // 2), (65, 64)):
        copies = [(f"{i:02d}.jpg", "same", hex_of(1), "train", None) for i in range(size)]
        assert len(found(table(*copies), [None] * size)) == count
        assert len(numbered(photos([1] * size), 8)) == count


def test_the_frames_of_a_still_camera_make_as_many_pairs_as_there_are_frames() -> None:
    """Each a few bits from the others: 72 million pairs. The memory for the pairs that remain grows with the frames."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 32, dtype=np.uint8)
    turned = np.array([rng.permutation([1] * 3 + [0] * 253) for _ in range(12_000)], dtype=np.uint8)
    hashes = np.packbits(np.unpackbits(base) ^ turned, axis=1)
    frames = [(f"{i:05d}.jpg", f"c{i}", value.tobytes().hex(), "train", None) for i, value in enumerate(hashes)]
    peaks = []
    for count in (3000, 12_000):
        images = table(*frames[:count])
        tracemalloc.start()
        pairs = duplicates.assemble(images, [None] * count).to_pandas()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(pairs) == count - 1 and set(pairs["image_a"]) == {"00000.jpg"}
    assert peaks[1] < 5 * peaks[0] and peaks[1] < 3000 * 12_000
    sentences = duplicates.notes(pairs, [], [])
    assert "11999 photos are nearly identical to 00000.jpg; each is paired with it only." in sentences


def test_photos_for_evaluation_that_are_alike_cross_nothing() -> None:
    images = table(("a", "1", None, "eval", None), ("b", "1", None, "eval", None))
    assert len(duplicates.crossing(duplicates.assemble(images, [None, None]).to_pandas())) == 0


def test_numbers_that_differ_in_a_suffix() -> None:
    people = ["003397-1", "003397", "3398", "003398", "001498-1", None, "anna", "anna-1", "003397"]
    assert duplicates.same_ids(people) == [("003397", "003397-1"), ("003398", "3398")]


def test_one_number_with_two_folders() -> None:
    images = ["i/003397_male_Asian_25/a.jpg", "i/003397_female_Asian_40/a.jpg", "i/1_male_Asian_25/a.jpg", "x/y/a.jpg"]
    people = ["003397", "003397", "1", "1"]
    assert duplicates.shared_ids(images, people) == {"003397": ["003397_female_Asian_40", "003397_male_Asian_25"]}
    assert duplicates.shared_ids(images, ["003397", "003397-1", "1", "1"]) == {}


# ---------------------------------------------------------------- the command


@pytest.fixture
def twins(tmp_path: Path, make_photos: Callable[..., list[Path]], quick: Path, yunet: None) -> Path:
    """Two people, one photo of the first also under the second, one saved again in eval."""
    first, second = tmp_path / "photos/train/images/000001_male_Asian_20", tmp_path / "photos/train/images"
    photos = make_photos(first, 2)
    photos[0].rename(first / "mask1.jpg")
    photos[1].rename(first / "normal.jpg")
    other = second / "000001-1_female_Asian_59"
    (made,) = make_photos(other, 1, first=2)
    made.rename(other / "mask1.jpg")
    shutil.copy(first / "mask1.jpg", other / "mask2.jpg")
    (tmp_path / "photos/eval/images").mkdir(parents=True)
    with Image.open(first / "normal.jpg") as photo:
        photo.resize((200, 160)).save(tmp_path / "photos/eval/images/x.png")
    return tmp_path


def test_copies_are_found_said_kept_and_shown(twins: Path, quick: Path, cli: Cli) -> None:
    job = api.run(twins / "photos", twins / "cache", quick, engine="serial")
    assert [n for n in job.notes if "filed under" in n or "suffix" in n] == [
        "2 pairs of identical or nearly identical photos, filed under different people or splits; list them with:"
        " maskprep duplicates CACHE",
        "1 group of people whose numbers differ only in a suffix: 000001, 000001-1.",
    ]
    pairs = pd.read_parquet(twins / "cache/duplicates.parquet")
    assert pairs["kind"].tolist() == ["near", "exact"] and pairs["same_person"].tolist() == [False, False]
    assert pairs[["split_a", "split_b"]].to_numpy().tolist() == [["eval", "train"], ["train", "train"]]
    assert not +api.run(twins / "cache", engine="serial").computed
    open_again = Session(twins / "cache")
    assert next(s for s in survey(open_again).stages if s.name == "duplicates").missing == 0
    lines = explain(open_again, "eval/images/x.png")
    assert any(x.startswith("copy      train/images/000001_male_Asian_20/normal.jpg (nearly identical") for x in lines)

    shown = cli("duplicates", twins / "cache", env={"COLUMNS": "200"})
    assert shown.returncode == 0
    assert "000001-1_female_Asian_59/mask2.jpg = train/images/000001_male_Asian_20/mask1.jpg (the same file)" in (
        shown.stdout
    )
    assert "people 000001, 000001-1: numbers that differ only in a suffix" in shown.stdout
    assert "bits apart" in shown.stdout
    nearest = cli("duplicates", twins / "cache", "--distance", "0", env={"COLUMNS": "200"})
    assert nearest.stdout.count(" = ") == 1 + int(pairs["distance"].max() == 0)

    images = pd.read_parquet(twins / "cache/images.parquet").set_index("image")["content"]
    a, b = "train/images/000001-1_female_Asian_59/mask2.jpg", "eval/images/x.png"
    head = "content,image,verdict,value,expected,reason,by,when\n"
    normal = "train/images/000001_male_Asian_20/normal.jpg"
    (twins / "cache/decisions.csv").write_text(f"{head}{images[b]},{b},keep,duplicate:{images[normal]},,,,\n")
    after = api.duplicates(twins / "cache", engine="serial").pairs
    assert after["allowed"].tolist() == [True, False] and after["crossing"].all()
    assert after["person_a"].tolist() == [None, "000001-1"] and after["image_a"].tolist() == [b, a]
    statuses = pd.read_parquet(twins / "cache/subjects.parquet").set_index("image")["status"]
    a_too = cli("duplicates", twins / "cache", "--allow", "mask2.jpg", "--reason", "twins")
    assert a_too.returncode == 0 and a_too.stdout.count("allowed") == 2
    lines = (twins / "cache/decisions.csv").read_text().splitlines()
    assert len(lines) == 3 and ",allow_duplicate," in lines[2] and ",twins," in lines[2]
    assert cli("duplicates", twins / "cache", "--allow", "mask2.jpg").returncode == 0
    assert (twins / "cache/decisions.csv").read_text().splitlines() == lines
    none = cli("duplicates", twins / "cache", "--allow", "000001-1_female_Asian_59/mask1.jpg")
    assert none.returncode == 2 and "has no copy across" in none.stderr
    assert statuses[b] != "decided"  # the ruling is about the pair, not about the face
