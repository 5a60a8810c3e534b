"""Running a stage over chunks: in this process, or in several that each load the models once.

Workers write their shards themselves, so no pixels travel between processes, and a worker's memory is one shard.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskprep.base.files import fsync_replace, temporary_name
from maskprep.errors import RowError, UsageError, UserError
from maskprep.store.shards import Chunk, shard_path
from maskprep.store.tables import write_table

Row = dict[str, Any]
Output = tuple[Row, NDArray[np.uint8] | None]
Compute = Callable[[Row], Output | None]

KEYED = (pa.field("image", pa.string()), pa.field("key", pa.string()), pa.field("row", pa.int64()))
"""The columns that every row has before those of its stage."""

ENGINES = ("serial", "processes")
POLL_SECONDS = 0.1
GRACE_SECONDS = 1.0


def check(engine: str, workers: int | None) -> None:
    """Refuse an engine that there is not, and fewer than one worker; None stands for as many as there are cores.

    Raises:
        UsageError: saying what there is.
    """
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine '{engine}'.", f"Known engines: {', '.join(ENGINES)}.")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}.")


class Stage(Protocol):
    """A named, versioned pure function from one input row to one output row (and one array).

    Objects are pickled to the workers, so they hold settings and paths only; ``open`` loads the models.
    """

    @property
    def columns(self) -> pa.Schema:
        """Columns of the output rows besides image, key and row."""
        ...

    @property
    def array_shape(self) -> tuple[int, ...] | None:
        """Shape of the uint8 array of one row, None for a stage without pixels."""
        ...

    def open(self) -> contextlib.AbstractContextManager[Compute]:
        """Load what the stage needs. The function returns None for a row that could not be made this time."""
        ...


@dataclass(frozen=True)
class Task:
    """One chunk with the input rows of its pairs, in order."""

    folder: Path
    chunk: Chunk
    rows: tuple[Row, ...]


Failure = tuple[str, str]
"""An image whose row could not be made this time, and why."""


class StopRunError(Exception):
    """The run was asked to stop; the shard at hand is not written."""


def fill_shard(stage: Stage, compute: Compute, task: Task, tick: Callable[[], None]) -> list[Failure]:
    """Make one shard and commit it: pixels first, the table last. Returns the rows that could not be made.

    A stage that fails on one image, in whatever way, costs that image's row and no more.
    """
    final = shard_path(task.folder, task.chunk.shard)
    pixels_final = final.with_suffix(".npy")
    pixels_temporary = temporary_name(pixels_final)
    made: list[Row] = []
    failed: list[Failure] = []
    arrays: NDArray[np.uint8] | None = None
    try:
        if stage.array_shape is not None:
            arrays = np.empty((len(task.rows), *stage.array_shape), np.uint8)
        for (image, key), row in zip(task.chunk.pairs, task.rows, strict=True):
            try:
                output = compute(row)
            except UserError:
                raise
            except Exception as error:
                output = None
                failed.append((image, _why(error)))
            else:
                if output is None:
                    failed.append((image, "it can no longer be read"))
            if output is not None:
                if arrays is not None and output[1] is not None:
                    arrays[len(made)] = output[1]
                made.append({"image": image, "key": key, "row": len(made), **output[0]})
            tick()
        if arrays is not None:
            with pixels_temporary.open("wb") as file:
                np.save(file, arrays[: len(made)])
            fsync_replace(pixels_temporary, pixels_final)
        write_table(final, pa.Table.from_pylist(made, schema=pa.schema([*KEYED, *stage.columns])))
    finally:
        pixels_temporary.unlink(missing_ok=True)
    return failed


def _why(error: Exception) -> str:
    """In words, why a row could not be made."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if isinstance(error, RowError) else f"{type(error).__name__}: {error}"


class Crew:
    """The workers of one command. They are started by the first stage that needs them and kept for the next ones.

    Args:
        workers: how many processes at most.
        engine: one of ENGINES; ``serial`` starts none.
    """

    def __init__(self, workers: int = 1, engine: str = "processes") -> None:
        self._workers, self._engine = workers, engine
        self._context = multiprocessing.get_context("spawn")
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def run(self, stage: Stage, tasks: Sequence[Task], advance: Callable[[int], None]) -> list[Failure]:
        """Fill the shards of all tasks. Returns the rows that could not be made this time.

        One worker, or one task, runs in this process: there is nothing to win from another.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once every worker has stopped (within about two seconds).
            UserError: a worker died, naming the photos it was at.
        """
        if not tasks:
            return []
        if self._engine == "serial" or min(self._workers, len(tasks)) <= 1:
            with stage.open() as compute:
                return [failure for task in tasks for failure in fill_shard(stage, compute, task, lambda: advance(1))]
        if self._pool is None:
            self._counter, self._stop = self._context.Value("q", 0), self._context.Value("b", 0)
            given = (self._counter, self._stop)
            self._pool = ProcessPoolExecutor(self._workers, self._context, _start_worker, given)
        failed: list[Failure] = []
        processes: list[Any] = []
        start = self._counter.value
        try:
            with _interrupts_wait():
                futures = {self._pool.submit(_run_task, stage, task): task for task in tasks}
                processes = list((self._pool._processes or {}).values())  # the pool forgets them when it breaks
            for future in _finished(futures, self._counter, start, advance):
                try:
                    failed += future.result()
                except BrokenProcessPool as error:
                    at = futures[future].chunk.pairs
                    raise UserError(
                        f"A worker process died while working on photos such as '{at[0][0]}' .. '{at[-1][0]}'.",
                        "It may have run out of memory: run the command again with fewer --workers; finished work is"
                        " kept. (A script of your own must call it under: if __name__ == '__main__'.)",
                    ) from error
        except BaseException:
            self._end(processes)
            raise
        return failed

    def _end(self, processes: Sequence[Any]) -> None:
        """Stop the workers at once."""
        assert self._pool is not None
        self._stop.value = 1
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = None
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()
                process.join(GRACE_SECONDS)


def run(
    stage: Stage,
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    engine: str = "processes",
    advance: Callable[[int], None] = lambda n: None,
) -> list[Failure]:
    """:meth:`Crew.run` with workers of its own."""
    with Crew(workers, engine) as crew:
        return crew.run(stage, tasks, advance)


# ---------------------------------------------------------------- worker processes

_worker: dict[str, Any] = {}


def _start_worker(counter: Any, stop: Any) -> None:
    """Set a worker up: no Ctrl-C of its own, ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker.update(counter=counter, stop=stop, stage=None, stack=contextlib.ExitStack())
    Finalize(None, lambda: _worker["stack"].close(), exitpriority=100)  # models are closed before the interpreter ends


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _run_task(stage: Stage, task: Task) -> list[Failure]:
    """One shard; the models stay loaded until a task of another stage comes."""
    if _worker["stage"] != stage:
        _worker["stack"].close()
        _worker.update(stage=None, stack=contextlib.ExitStack())
        _worker.update(compute=_worker["stack"].enter_context(stage.open()), stage=stage)

    def tick() -> None:
        with _worker["counter"].get_lock():
            _worker["counter"].value += 1
        if _worker["stop"].value:
            raise StopRunError

    return fill_shard(stage, _worker["compute"], task, tick)


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back while workers are started: they inherit that, so none is hit before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finished(
    futures: Mapping[Future[list[Failure]], Task], counter: Any, start: int, advance: Callable[[int], None]
) -> Iterator[Future[list[Failure]]]:
    """Futures as they end, with progress reported in between."""
    pending: set[Future[list[Failure]]] = set(futures)
    seen = start
    while pending:
        done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
        now = counter.value
        if now > seen:
            advance(now - seen)
            seen = now
        yield from done
    advance(counter.value - seen)


class Pool:
    """Temporary."""

    def __init__(self, workers: int = 1, engine: str = "processes") -> None:
        pass

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, work: Any, tasks: Sequence[Any], advance: Callable[[int], None]) -> list[Any]:
        with work.open() as make:
            return [make(task, lambda n: advance(1), {}) for task in tasks]
