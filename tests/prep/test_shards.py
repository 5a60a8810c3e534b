"""Keyed shards: what is planned, what is live, what is deleted, and that interruptions leave no trace."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskprep.base import files
from maskprep.errors import UserError
from maskprep.store.cache import Cache
from maskprep.store.filling import refresh
from maskprep.store.pool import Pool
from maskprep.store.shards import PLAN, Pair, drop_damaged, plan, read_index, read_rows, select, shard_numbers, sweep
from maskprep.store.stage import Report, Stage, Tables
from maskprep.store.tables import read_table


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("toy_stage")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the stage."""
    return tmp_path / "toy"


def pairs_of(numbers: Any, version: int = 0) -> list[Pair]:
    return [(f"{n:04d}.jpg", f"k{version}-{n}") for n in sorted(int(n) for n in numbers)]


def planned(folder: Path, wanted: Sequence[Pair], size: int) -> list[Any]:
    return plan(folder, wanted, size, read_index(folder))


def bring(toy: ModuleType, stages: Sequence[Stage], root: Path, workers: int = 0) -> Report:
    report = Report()
    with Pool(max(1, workers), "processes" if workers else "serial") as pool:
        refresh(stages, Tables(Cache(root), stages), pool, toy.photo, report)
    return report


def fill(
    toy: ModuleType, folder: Path, wanted: Sequence[Pair], size: int, workers: int = 0, **trouble: str
) -> list[tuple[str, str]]:
    """Bring one stage up to date; n3="skip" makes trouble of image 0003.jpg. Returns what failed."""
    at = {f"{int(name[1:]):04d}.jpg": do for name, do in trouble.items()}
    stage = toy.Toy(tuple(wanted), at, rows_per_shard=size, name=folder.name)
    return sorted(bring(toy, [stage], folder.parent, workers).failed.items())


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file, but the hidden one that tells when the others were written."""
    files = sorted(path for path in folder.iterdir() if path.name != ".stage.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shards_of(folder: Path) -> dict[str, str]:
    """The hashes of shards alone."""
    return {name: h for name, h in hashes(folder).items() if name[0].isdigit()}


def assert_right(folder: Path, wanted: list[Pair]) -> None:
    live = select(read_index(folder), wanted)
    assert list(zip(live["image"], live["key"], strict=True)) == wanted
    table = read_rows(folder, live)
    if not wanted:
        assert table is None
        return
    assert table is not None
    numbers = [int(image[:4]) % 251 for image, _ in wanted]
    assert table.column("image").to_pylist() == [image for image, _ in wanted]
    assert table.column("value").to_pylist() == [2 * n for n in numbers]
    for (_, place), n in zip(live.iterrows(), numbers, strict=True):
        assert (np.load(folder / f"{place['shard']:05d}.npy")[place["row"]] == n).all()


def test_a_run_from_nothing(toy: ModuleType, tmp_path: Path) -> None:
    folder, wanted = tmp_path / "toy", pairs_of(range(10))
    fill(toy, folder, wanted, 4)
    files = [f"0000{i}.{s}" for i in range(3) for s in ("npy", "parquet")]
    assert sorted(p.name for p in folder.iterdir()) == [".stage.json", *files, "index.parquet", "stage.json"]
    assert_right(folder, wanted)
    assert planned(folder, wanted, 4) == []
    assert not (folder / PLAN).exists()


def test_nothing_wanted(toy: ModuleType, tmp_path: Path) -> None:
    fill(toy, tmp_path / "none", [], 4)
    assert_right(tmp_path / "none", [])
    fill(toy, tmp_path / "toy", pairs_of(range(5)), 4)
    fill(toy, tmp_path / "toy", [], 4)
    assert [p.name for p in sorted((tmp_path / "toy").iterdir())] == [".stage.json", "index.parquet", "stage.json"]


def test_only_what_is_missing_is_made_and_dead_shards_go(toy: ModuleType, folder: Path) -> None:
    fill(toy, folder, pairs_of(range(8)), 4)
    before = shards_of(folder)
    wanted = pairs_of([0, 1, 2, 3, 4, 8])  # 5, 6, 7 removed, 8 new: both shards keep a live row
    assert [chunk.pairs for chunk in planned(folder, wanted, 4)] == [tuple(pairs_of([8]))]
    fill(toy, folder, wanted, 4)
    assert {name: h for name, h in hashes(folder).items() if name in before} == before
    assert_right(folder, wanted)
    fill(toy, folder, pairs_of([4, 8]), 4)
    assert shard_numbers(folder) == [1, 2]
    assert not (folder / "00000.npy").exists()
    fill(toy, folder, pairs_of([4, 8], version=1), 4)
    assert shard_numbers(folder) == [3]
    assert_right(folder, pairs_of([4, 8], version=1))


def test_one_image_under_two_keys_is_live_once(toy: ModuleType, folder: Path) -> None:
    fill(toy, folder, pairs_of(range(4)), 4)
    wanted = [*pairs_of([0, 1, 2]), *pairs_of([3], version=1)]
    fill(toy, folder, wanted, 4)
    assert len(read_index(folder)) == 5
    assert_right(folder, wanted)


def test_a_row_that_could_not_be_made_is_tried_again(toy: ModuleType, folder: Path) -> None:
    wanted = pairs_of(range(6))
    assert fill(toy, folder, wanted, 3, n1="skip", n5="skip") == [
        ("0001.jpg", "it can no longer be read"),
        ("0005.jpg", "it can no longer be read"),
    ]
    assert_right(folder, pairs_of([0, 2, 3, 4]))
    assert [chunk.pairs for chunk in planned(folder, wanted, 3)] == [tuple(pairs_of([1, 5]))]
    assert fill(toy, folder, wanted, 3) == []
    assert_right(folder, wanted)


def test_a_shard_of_only_failures_does_not_stay(toy: ModuleType, folder: Path) -> None:
    fill(toy, folder, pairs_of(range(2)), 2)
    fill(toy, folder, pairs_of(range(3)), 2, n2="skip")
    assert shard_numbers(folder) == [0]
    assert sorted(p.suffix for p in folder.iterdir() if p.name[0] == "0") == [".npy", ".parquet"]


def test_a_committed_shard_is_never_written_again(
    toy: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is killed after a shard that lacks a row: pixels of one cut must never meet the table of another."""
    wanted = pairs_of(range(6))
    second = planned(folder, wanted, 3)[1]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        interrupt(patch, 7)  # after plan, pixels and table of the first shard
        fill(toy, folder, wanted, 3, n0="skip")
    before = shards_of(folder)
    assert sorted(before) == ["00000.npy", "00000.parquet"]
    again = planned(folder, wanted, 3)
    assert [(chunk.shard, chunk.pairs) for chunk in again] == [(1, second.pairs), (2, tuple(pairs_of([0])))]
    fill(toy, folder, wanted, 3)
    assert all(shards_of(folder)[name] == value for name, value in before.items())
    assert_right(folder, wanted)


class Stopped(BaseException):
    """An interruption at any point."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Raise at the ``after``-th step of writing: before or after a file gets its final name or is deleted."""
    left = [after]
    replace, unlink = files.fsync_replace, Path.unlink

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    def counted_replace(temporary: Path, final: Path) -> None:
        count()
        replace(temporary, final)
        count()

    def counted_unlink(path: Path, missing_ok: bool = False) -> None:
        count()
        unlink(path, missing_ok)

    monkeypatch.setattr(files, "fsync_replace", counted_replace)
    monkeypatch.setattr(Path, "unlink", counted_unlink)


@pytest.mark.parametrize("seed", range(8))
def test_interruptions_leave_no_trace(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Random sets of photos one after another, through a stage and one that follows it, stopped at random steps of
    writing: as without a stop, byte for byte."""
    random = np.random.default_rng(seed)
    size = int(random.integers(1, 7))
    numbers = set(random.choice(40, random.integers(1, 30), replace=False).tolist())
    for version in range(3):
        wanted = pairs_of(numbers, version // 2)
        values = [2 * (int(image[:4]) % 251) for image, _ in wanted]
        after = [(image, f"f{v // 2}") for (image, _), v in zip(wanted, values, strict=True) if v % 8]
        both = [
            toy.Toy(tuple(wanted), rows_per_shard=size),
            toy.Toy(
                tuple(after), name="after", follows="toy", needs=("toy",), pixels=seed % 2 == 0, rows_per_shard=size
            ),
        ]
        bring(toy, both, tmp_path / "calm")
        for _ in range(300):
            with monkeypatch.context() as patch:
                interrupt(patch, int(random.integers(1, 60)))
                try:
                    for name in ("toy", "after"):
                        sweep(tmp_path / "rough" / name)
                    bring(toy, both, tmp_path / "rough")
                except Stopped:
                    continue
            break
        else:
            pytest.fail("it never came to an end")
        for name, pairs in (("toy", wanted), ("after", after)):
            assert shards_of(tmp_path / "rough" / name) == shards_of(tmp_path / "calm" / name)
            live = select(read_index(tmp_path / "rough" / name), pairs)
            assert list(zip(live["image"], live["key"], strict=True)) == pairs
        assert_right(tmp_path / "rough" / "toy", wanted)
        numbers = {n for n in numbers if random.random() < 0.7} | set(random.choice(60, 8).tolist())


def test_a_stage_that_follows_shares_the_decode(toy: ModuleType, tmp_path: Path) -> None:
    """New photos pass through both stages at once; what has a row already is not made again."""
    wanted = pairs_of(range(9))
    after = tuple((image, f"f{int(image[:4])}") for image, _ in wanted if int(image[:4]) % 4)
    both = [toy.Toy(tuple(wanted)), toy.Toy(after, name="after", follows="toy", needs=("toy",))]
    opened: list[str] = []
    report = Report()
    with Pool(engine="serial") as pool:
        refresh(both, Tables(Cache(tmp_path), both), pool, lambda image: opened.append(image) or image, report)
        assert sorted(opened) == [image for image, _ in wanted]
        assert report.computed == {"toy": 9, "after": 6}
        anew = [toy.Toy(tuple(pairs_of(range(9), 1))), both[1]]  # other keys, and the same pictures
        refresh(anew, Tables(Cache(tmp_path), anew), pool, toy.photo, report)
    assert report.computed == {"toy": 18, "after": 6}


def test_a_plan_of_other_photos_is_forgotten(toy: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        interrupt(patch, 7)  # after the plan and the first shard
        fill(toy, folder, pairs_of(range(9)), 3)
    assert shard_numbers(folder) == [0]
    wanted = pairs_of([1, 2, 4, 5, 6])
    assert [(c.shard, c.pairs) for c in planned(folder, wanted, 3)] == [(1, tuple(pairs_of([4, 5, 6])))]
    fill(toy, folder, wanted, 3)
    assert_right(folder, wanted)


@pytest.mark.parametrize("text", ["", "{", "[[1]]", '{"a": 1}', "[1]", "null"])
def test_a_damaged_plan_is_none(toy: ModuleType, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / PLAN).write_text(text)
    fill(toy, folder, pairs_of(range(3)), 2)
    assert_right(folder, pairs_of(range(3)))


def test_leftovers_are_swept(toy: ModuleType, folder: Path) -> None:
    fill(toy, folder, pairs_of(range(2)), 2)
    before = hashes(folder)
    for name in (".tmp-1-00007.npy", "00007.npy", "alpha-00007.npy"):
        (folder / name).write_bytes(b"x")
    (folder / "mine.npy").write_bytes(b"x")
    sweep(folder)
    assert hashes(folder).keys() == {*before, "mine.npy"}


def test_a_damaged_table_is_named(toy: ModuleType, folder: Path) -> None:
    fill(toy, folder, pairs_of(range(4)), 2)
    (folder / "00001.parquet").write_bytes(b"PAR1 rubbish PAR1")
    with pytest.raises(UserError, match=r"00001\.parquet' is damaged") as caught:
        read_index(folder)
    assert "Delete it" in caught.value.hint
    (folder / "00001.parquet").unlink()
    fill(toy, folder, pairs_of(range(4)), 2)
    assert_right(folder, pairs_of(range(4)))


def test_rows_that_are_made_again_are_found_where_they_lie(toy: ModuleType, folder: Path) -> None:
    wanted = pairs_of(range(9))
    fill(toy, folder, wanted, 4)
    (folder / "00000.parquet").unlink()
    fill(toy, folder, wanted, 4)
    assert shard_numbers(folder) == [1, 2, 3]
    index = read_table(folder / "index.parquet")
    pd.testing.assert_frame_equal(index, select(read_index(folder), wanted), check_dtype=False)


@pytest.mark.parametrize("damage", ["missing", "cut", "other shape", "empty"])
def test_lost_pixels_are_made_again(toy: ModuleType, folder: Path, damage: str) -> None:
    wanted = pairs_of(range(4))
    fill(toy, folder, wanted, 2)
    assert drop_damaged(folder, (2, 3)) == 0
    path = folder / "00001.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.zeros((1, 2, 3), np.uint8))
    assert drop_damaged(folder, (2, 3)) == 1
    fill(toy, folder, wanted, 2)
    assert_right(folder, wanted)


@pytest.mark.parametrize(("rows", "sizes"), [(400, [25] * 16), (1100, [64] * 17 + [12]), (10, [8, 2])])
def test_shards_are_small_enough_for_the_workers_to_end_together(folder: Path, rows: int, sizes: list[int]) -> None:
    assert [len(chunk.pairs) for chunk in planned(folder, pairs_of(range(rows)), 64)] == sizes
