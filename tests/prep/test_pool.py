"""The pool: what a worker does that dies, hangs, fails or is interrupted."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from maskprep.errors import UsageError, UserError
from maskprep.store.pool import Pool, check

TASKS = [[0, 1, 2], [3, 4], [5, 6, 7, 8], [9]]
DOUBLED = [[0, 2, 4], [6, 8], [10, 12, 14, 16], [18]]


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("toy_work")


@pytest.mark.parametrize(("workers", "engine"), [(1, "processes"), (2, "processes"), (3, "serial")])
def test_results_come_in_the_order_of_the_tasks(toy: ModuleType, workers: int, engine: str) -> None:
    steps: list[int] = []
    with Pool(workers, engine) as pool:
        assert pool.run(toy.ToyWork({0: "sleep"}), TASKS, steps.append) == DOUBLED
        assert pool.run(toy.ToyWork(), [], steps.append) == []
    assert sum(steps) == 10
    assert multiprocessing.active_children() == []


def test_workers_are_kept_and_open_a_work_once(toy: ModuleType, tmp_path: Path) -> None:
    pids = []
    with Pool(2) as pool:
        for name in ("first", "second"):
            work = toy.ToyWork(dict.fromkeys(range(10), "sleep"), opened=str(tmp_path / name))
            pool.run(work, [[n] for n in range(10)], lambda n: None)
            opened = (tmp_path / name).read_text().split()
            assert len(opened) == len(set(opened)) <= 2
            pids.append(set(opened))
        assert pids[0] | pids[1] == {str(process.pid) for process in multiprocessing.active_children()}


@pytest.mark.parametrize(
    ("number", "do", "why"),
    [
        (0, "die", "exit code 3"),
        (4, "kill", "SIGKILL; memory may have run out"),
        (6, "crash", "SIGSEGV"),
        (9, "die", "exit code 3"),
    ],
)
def test_a_worker_that_dies_costs_its_row(toy: ModuleType, do: str, why: str, number: int) -> None:
    steps: list[int] = []
    with Pool(2) as pool:
        results = pool.run(toy.ToyWork({number: do}), TASKS, steps.append)
    flat, dead = [value for result in results for value in result], f"died while working on it ({why})"
    assert flat.pop(number) == f"a worker process {dead}"
    assert flat == [2 * n for n in range(10) if n != number] and sum(steps) == 10


def test_one_task_and_two_deadly_rows(toy: ModuleType) -> None:
    with Pool(2) as pool:
        (result,) = pool.run(toy.ToyWork({1: "die", 3: "kill"}), [[0, 1, 2, 3]], lambda n: None)
    assert [type(value) for value in result] == [int, str, int, str]


def test_a_row_that_takes_too_long_is_given_up(toy: ModuleType) -> None:
    with Pool(2, seconds=0.5) as pool:
        results = pool.run(toy.ToyWork({4: "hang"}), TASKS, lambda n: None)
    assert results == [[0, 2, 4], [6, "it took longer than 0.5 s"], [10, 12, 14, 16], [18]]


def test_workers_that_cannot_begin_are_an_error_for_people(toy: ModuleType) -> None:
    with Pool(2) as pool, pytest.raises(UserError, match="ended before their first photo") as caught:
        pool.run(toy.ToyWork(fails="die"), TASKS, lambda n: None)
    assert "--workers" in caught.value.hint
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("engine", ["processes", "serial"])
@pytest.mark.parametrize("where", [{"do": {4: "raise"}}, {"fails": "raise"}])
def test_what_the_work_raises_ends_the_run(toy: ModuleType, engine: str, where: dict[str, str]) -> None:
    with Pool(2, engine) as pool, pytest.raises(RuntimeError, match="trouble"):
        pool.run(toy.ToyWork(**where), TASKS, lambda n: None)
    assert multiprocessing.active_children() == []


def test_ctrl_c_stops_the_workers(toy: ModuleType) -> None:
    pressed: list[int] = []

    def press(steps: int) -> None:
        if not pressed:  # the second one would end this process
            pressed.append(steps)
            os.kill(os.getpid(), signal.SIGINT)

    with Pool(2) as pool, pytest.raises(KeyboardInterrupt):
        pool.run(toy.ToyWork(dict.fromkeys(range(100), "sleep")), [list(range(50)), list(range(50, 100))], press)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
from toy_work import ToyWork
from maskprep.store.pool import Pool
with Pool(2) as pool:
    pool.run(ToyWork({0: "hang", 1: "hang"}), [[0], [1]], lambda n: print("at", n, flush=True))
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        ENDLESS.replace('{0: "hang", 1: "hang"}', 'dict.fromkeys(range(2000), "sleep")').replace(
            "[[0], [1]]", "[list(range(1000)), list(range(1000, 2000))]"
        )
    )
    parent = subprocess.Popen([sys.executable, script, Path(__file__).parent], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("at")
    workers = children(parent.pid)
    assert workers
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        pytest.skip("this system does not list the children of a process")
    return [int(child) for child in path.read_text().split()]


def test_two_interrupts_end_a_command_that_is_at_work(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    parent = subprocess.Popen([sys.executable, script, Path(__file__).parent], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("at")
    parent.send_signal(signal.SIGINT)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) != 0


def test_ctrl_c_stays_ignored_where_it_was(toy: ModuleType) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job in the background
    try:
        with Pool(engine="serial") as pool:
            pool.run(toy.ToyWork(), TASKS, lambda n: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_the_last_row_is_not_lost(toy: ModuleType) -> None:
    with Pool(engine="serial") as pool, pytest.raises(KeyboardInterrupt):
        pool.run(toy.ToyWork(), [[0]], lambda n: os.kill(os.getpid(), signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_outside_the_main_thread(toy: ModuleType) -> None:
    with Pool(2) as pool, ThreadPoolExecutor(1) as threads:
        assert threads.submit(pool.run, toy.ToyWork({4: "die"}), TASKS, lambda n: None).result()[3] == [18]


def test_work_that_goes_on_dying_at_a_dead_row_is_an_error(toy: ModuleType) -> None:
    with Pool(2) as pool, pytest.raises(RuntimeError, match="row 1 again"):
        pool.run(toy.ToyWork({1: "die"}, stubborn=True), [[0, 1]], lambda n: None)


@pytest.mark.parametrize("error", ["ConnectionResetError", "EOFError", "Unpicklable"])
def test_an_error_of_the_work_is_not_taken_for_a_death(toy: ModuleType, error: str) -> None:
    with Pool(2) as pool, pytest.raises(Exception, match="trouble") as caught:
        pool.run(toy.ToyWork({1: error}), [[0, 1]], lambda n: None)
    assert caught.type.__name__ == error.replace("Unpicklable", "RuntimeError")


def test_time_for_which_everything_was_stopped_counts_for_no_row(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, step = time.monotonic, [0.0]

    def stop(steps: int) -> None:
        step[0] += 3600  # Ctrl-Z, and fg after an hour

    monkeypatch.setattr(time, "monotonic", lambda: clock() + step[0])
    with Pool(2, seconds=30) as pool:
        assert pool.run(toy.ToyWork(dict.fromkeys(range(10), "sleep")), TASKS, stop) == DOUBLED


@pytest.mark.parametrize(("engine", "workers"), [("threads", 1), ("processes", 0)])
def test_what_there_is_not_is_refused(engine: str, workers: int) -> None:
    with pytest.raises(UsageError):
        check(engine, workers)
