"""Engines: the same bytes whatever the workers, and what happens when one dies."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maskprep.errors import UserError
from maskprep.store.pool import Crew, Task, run
from maskprep.store.shards import plan, shard_numbers


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("toy_stage")


def tasks_of(folder: Path, count: int, size: int, trouble: dict[int, str] | None = None) -> list[Task]:
    pairs = [(f"{n:03d}.jpg", f"k{n}") for n in range(count)]
    tasks = []
    for chunk in plan(folder, pairs, size):
        rows: list[dict[str, Any]] = [{"n": int(image[:3])} for image, _ in chunk.pairs]
        for row in rows:
            row["do"] = (trouble or {}).get(row["n"])
        tasks.append(Task(folder, chunk, tuple(rows)))
    return tasks


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.suffix != ".json"}


@pytest.mark.parametrize("pixels", [True, False])
def test_bytes_do_not_depend_on_the_workers(toy: ModuleType, tmp_path: Path, pixels: bool) -> None:
    stage = toy.ToyStage(pixels)
    for name, workers, engine in (("a", 1, "processes"), ("b", 2, "processes"), ("c", 3, "serial")):
        steps: list[int] = []
        trouble = {3: "skip", 9: "skip"}
        failed = run(
            stage, tasks_of(tmp_path / name, 20, 4, trouble), workers=workers, engine=engine, advance=steps.append
        )
        assert [image for image, _ in failed] == ["003.jpg", "009.jpg"]
        assert sum(steps) == 20
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")
    assert len(hashes(tmp_path / "a")) == (10 if pixels else 5)


def no_children() -> bool:
    """Whether all workers are gone; the pool's own thread may take a moment to collect the last one."""
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return multiprocessing.active_children() == []


def test_models_are_loaded_once_per_worker_and_closed(toy: ModuleType, tmp_path: Path) -> None:
    stage = toy.ToyStage(opened=str(tmp_path))
    run(stage, tasks_of(tmp_path / "x", 12, 1, dict.fromkeys(range(12), "sleep")), workers=2)
    opened = (tmp_path / "opened").read_text().split()
    assert len(opened) == len(set(opened)) <= 2
    assert {path.name for path in tmp_path.glob("closed-*")} == {f"closed-{pid}" for pid in opened}


def test_stages_share_the_workers_but_not_their_models(toy: ModuleType, tmp_path: Path) -> None:
    pids = []
    with Crew(2) as crew:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            stage = toy.ToyStage(opened=str(tmp_path / name))
            tasks = tasks_of(tmp_path / name / "x", 12, 1, dict.fromkeys(range(12), "sleep"))
            assert crew.run(stage, tasks, lambda n: None) == []
            pids.append(set((tmp_path / name / "opened").read_text().split()))
        # whoever works for the second stage has let go of the first one's models
        closed = {path.name.removeprefix("closed-") for path in (tmp_path / "first").glob("closed-*")}
        assert pids[1] & pids[0] <= closed
        assert pids[0] | pids[1] == {str(process.pid) for process in multiprocessing.active_children()}
    assert len(pids[0] | pids[1]) <= 2
    assert no_children()


def test_nothing_to_do_loads_nothing(toy: ModuleType, tmp_path: Path) -> None:
    assert run(toy.ToyStage(opened=str(tmp_path)), []) == []
    assert not (tmp_path / "opened").exists()


def test_a_worker_that_dies_is_an_error_for_people(toy: ModuleType, tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, 8, 2, {5: "die"})
    with pytest.raises(UserError, match="worker process died") as caught:
        run(toy.ToyStage(), tasks, workers=2)
    assert "--workers" in caught.value.hint
    assert no_children()
    rest = tasks_of(tmp_path, 8, 2)
    assert 2 in [task.chunk.shard for task in rest], "the shard of the death is not there"
    run(toy.ToyStage(), rest, workers=2)
    assert shard_numbers(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_makes_a_stage_fail_costs_its_own_row_only(toy: ModuleType, tmp_path: Path, workers: int) -> None:
    failed = run(toy.ToyStage(), tasks_of(tmp_path, 30, 2, {21: "raise"}), workers=workers)
    assert [image for image, _ in failed] == ["021.jpg"] and "trouble" in failed[0][1]
    assert no_children()
    assert shard_numbers(tmp_path) == list(range(15))
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_the_workers(toy: ModuleType, tmp_path: Path, workers: int) -> None:
    def press(steps: int) -> None:
        raise KeyboardInterrupt

    tasks = tasks_of(tmp_path, 400, 100, dict.fromkeys(range(400), "sleep"))
    with pytest.raises(KeyboardInterrupt):
        run(toy.ToyStage(), tasks, workers=workers, advance=press)
    assert no_children()
    assert shard_numbers(tmp_path) == []
    assert not list(tmp_path.glob(".tmp-*"))
