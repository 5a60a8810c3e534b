"""Keyed shards: what is planned, what is live, what is deleted, and that interruptions leave no trace."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from maskprep.errors import UserError
from maskprep.store import pool as engine
from maskprep.store.pool import Task, run
from maskprep.store.shards import (
    PLAN,
    Pair,
    drop_damaged,
    finish,
    live_rows,
    plan,
    read_index,
    read_rows,
    shard_numbers,
    sweep,
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("toy_stage")


def pairs_of(numbers: Any, version: int = 0) -> list[Pair]:
    return [(f"{n:04d}.jpg", f"k{version}-{n}") for n in sorted(int(n) for n in numbers)]


def rows_of(pairs: Any, **trouble: str) -> tuple[dict[str, Any], ...]:
    return tuple({"n": int(image[:4]) % 251, "do": trouble.get(f"n{int(image[:4])}")} for image, _ in pairs)


def fill(stage: Any, folder: Path, wanted: list[Pair], size: int, workers: int = 1, **trouble: str) -> int:
    chunks = plan(folder, wanted, size)
    tasks = [Task(folder, chunk, rows_of(chunk.pairs, **trouble)) for chunk in chunks]
    failed = run(stage, tasks, workers=workers)
    finish(folder, wanted)
    return failed


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def assert_right(folder: Path, wanted: list[Pair]) -> None:
    live = live_rows(folder, wanted)
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
    wanted = pairs_of(range(10))
    fill(toy.ToyStage(), tmp_path, wanted, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"0000{i}.{s}" for i in range(3) for s in ("npy", "parquet")]
    assert_right(tmp_path, wanted)
    assert plan(tmp_path, wanted, 4) == []
    assert not (tmp_path / PLAN).exists()


def test_nothing_wanted(toy: ModuleType, tmp_path: Path) -> None:
    fill(toy.ToyStage(), tmp_path / "none", [], 4)
    assert_right(tmp_path / "none", [])
    fill(toy.ToyStage(), tmp_path, pairs_of(range(5)), 4)
    fill(toy.ToyStage(), tmp_path, [], 4)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_only_what_is_missing_is_made_and_dead_shards_go(toy: ModuleType, tmp_path: Path) -> None:
    stage = toy.ToyStage()
    fill(stage, tmp_path, pairs_of(range(8)), 4)
    before = hashes(tmp_path)
    wanted = pairs_of([0, 1, 2, 3, 4, 8])  # 5, 6, 7 removed, 8 new: both shards keep a live row
    assert [chunk.pairs for chunk in plan(tmp_path, wanted, 4)] == [tuple(pairs_of([8]))]
    fill(stage, tmp_path, wanted, 4)
    assert {name: h for name, h in hashes(tmp_path).items() if name in before} == before
    assert_right(tmp_path, wanted)
    fill(stage, tmp_path, pairs_of([4, 8]), 4)
    assert shard_numbers(tmp_path) == [1, 2]
    assert not (tmp_path / "00000.npy").exists()
    fill(stage, tmp_path, pairs_of([4, 8], version=1), 4)
    assert shard_numbers(tmp_path) == [3]
    assert_right(tmp_path, pairs_of([4, 8], version=1))


def test_one_image_under_two_keys_is_live_once(toy: ModuleType, tmp_path: Path) -> None:
    stage = toy.ToyStage()
    fill(stage, tmp_path, pairs_of(range(4)), 4)
    wanted = [*pairs_of([0, 1, 2]), *pairs_of([3], version=1)]
    fill(stage, tmp_path, wanted, 4)
    assert len(read_index(tmp_path)) == 5
    assert_right(tmp_path, wanted)


def test_a_row_that_could_not_be_made_is_tried_again(toy: ModuleType, tmp_path: Path) -> None:
    wanted = pairs_of(range(6))
    assert fill(toy.ToyStage(), tmp_path, wanted, 3, n1="skip", n5="skip") == [
        ("0001.jpg", "it can no longer be read"),
        ("0005.jpg", "it can no longer be read"),
    ]
    assert_right(tmp_path, pairs_of([0, 2, 3, 4]))
    assert [chunk.pairs for chunk in plan(tmp_path, wanted, 3)] == [tuple(pairs_of([1, 5]))]
    assert fill(toy.ToyStage(), tmp_path, wanted, 3) == []
    assert_right(tmp_path, wanted)


def test_a_shard_of_only_failures_does_not_stay(toy: ModuleType, tmp_path: Path) -> None:
    fill(toy.ToyStage(), tmp_path, pairs_of(range(2)), 2)
    fill(toy.ToyStage(), tmp_path, pairs_of(range(3)), 2, n2="skip")
    assert shard_numbers(tmp_path) == [0]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".npy", ".parquet"]


def test_a_committed_shard_is_never_written_again(toy: ModuleType, tmp_path: Path) -> None:
    """A run is killed after a shard that lacks a row: pixels of one cut must never meet the table of another."""
    wanted = pairs_of(range(6))
    chunks = plan(tmp_path, wanted, 3)
    run(toy.ToyStage(), [Task(tmp_path, chunks[0], rows_of(chunks[0].pairs, n0="skip"))])
    before = hashes(tmp_path)
    again = plan(tmp_path, wanted, 3)
    assert [(chunk.shard, chunk.pairs) for chunk in again] == [(1, chunks[1].pairs), (2, tuple(pairs_of([0])))]
    fill(toy.ToyStage(), tmp_path, wanted, 3)
    assert all(hashes(tmp_path)[name] == before[name] for name in ("00000.npy", "00000.parquet"))
    assert_right(tmp_path, wanted)


class Stopped(BaseException):
    """An interruption at any point."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    """Raise at the ``after``-th step of writing: before or after the pixels or the table get their final name."""
    left = [after]
    original = engine.fsync_replace

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    def replace(temporary: Path, final: Path) -> None:
        count()
        original(temporary, final)
        count()

    monkeypatch.setattr(engine, "fsync_replace", replace)
    monkeypatch.setattr("maskprep.store.tables.fsync_replace", replace)
    return count


@pytest.mark.parametrize("seed", range(6))
def test_interruptions_leave_no_trace(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Random sets of photos one after another, stopped at random steps: as without a stop, byte for byte."""
    random = np.random.default_rng(seed)
    stage, size = toy.ToyStage(), int(random.integers(1, 7))
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    numbers = set(random.choice(40, random.integers(1, 30), replace=False).tolist())
    for version in range(3):
        wanted = pairs_of(numbers, version // 2)
        fill(stage, calm, wanted, size)
        for _ in range(200):
            with monkeypatch.context() as patch:
                tick = interrupt(patch, int(random.integers(1, 60)))
                try:
                    sweep(rough)
                    chunks = plan(rough, wanted, size)
                    tasks = [Task(rough, c, rows_of(c.pairs)) for c in chunks]
                    order = random.permutation(len(tasks))  # as workers may finish them
                    run(stage, [tasks[i] for i in order], advance=lambda n, tick=tick: tick())
                except Stopped:
                    continue
            finish(rough, wanted)
            break
        else:
            pytest.fail("it never came to an end")
        assert hashes(rough) == hashes(calm)
        assert_right(rough, wanted)
        numbers = {n for n in numbers if random.random() < 0.7} | set(random.choice(60, 8).tolist())


def test_a_plan_of_other_photos_is_forgotten(toy: ModuleType, tmp_path: Path) -> None:
    chunks = plan(tmp_path, pairs_of(range(9)), 3)
    run(toy.ToyStage(), [Task(tmp_path, chunks[1], rows_of(chunks[1].pairs))])
    wanted = pairs_of([1, 2, 4, 5, 6])
    assert [(c.shard, c.pairs) for c in plan(tmp_path, wanted, 3)] == [(2, tuple(pairs_of([1, 2, 6])))]
    fill(toy.ToyStage(), tmp_path, wanted, 3)
    assert_right(tmp_path, wanted)


@pytest.mark.parametrize("text", ["", "{", "[[1]]", '{"a": 1}', "[1]", "null"])
def test_a_damaged_plan_is_none(toy: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    fill(toy.ToyStage(), tmp_path, pairs_of(range(3)), 2)
    assert_right(tmp_path, pairs_of(range(3)))


def test_leftovers_are_swept(toy: ModuleType, tmp_path: Path) -> None:
    fill(toy.ToyStage(), tmp_path, pairs_of(range(2)), 2)
    before = hashes(tmp_path)
    for name in (".tmp-1-00007.npy", "00007.npy", "alpha-00007.npy"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "mine.npy").write_bytes(b"x")
    sweep(tmp_path)
    assert hashes(tmp_path).keys() == {*before, "mine.npy"}


def test_a_damaged_table_is_named(toy: ModuleType, tmp_path: Path) -> None:
    fill(toy.ToyStage(), tmp_path, pairs_of(range(4)), 2)
    (tmp_path / "00001.parquet").write_bytes(b"PAR1 rubbish PAR1")
    with pytest.raises(UserError, match=r"00001\.parquet' is damaged") as caught:
        read_index(tmp_path)
    assert "Delete it" in caught.value.hint
    (tmp_path / "00001.parquet").unlink()
    fill(toy.ToyStage(), tmp_path, pairs_of(range(4)), 2)
    assert_right(tmp_path, pairs_of(range(4)))


@pytest.mark.parametrize("damage", ["missing", "cut", "other shape", "empty"])
def test_lost_pixels_are_made_again(toy: ModuleType, tmp_path: Path, damage: str) -> None:
    wanted = pairs_of(range(4))
    fill(toy.ToyStage(), tmp_path, wanted, 2)
    assert drop_damaged(tmp_path, (2, 3)) == 0
    path = tmp_path / "00001.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.zeros((1, 2, 3), np.uint8))
    assert drop_damaged(tmp_path, (2, 3)) == 1
    fill(toy.ToyStage(), tmp_path, wanted, 2)
    assert_right(tmp_path, wanted)


@pytest.mark.parametrize(("rows", "sizes"), [(400, [25] * 16), (1100, [64] * 17 + [12]), (10, [8, 2])])
def test_shards_are_small_enough_for_the_workers_to_end_together(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    assert [len(chunk.pairs) for chunk in plan(tmp_path, pairs_of(range(rows)), 64)] == sizes
