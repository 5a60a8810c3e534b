"""Worker processes that one bad photo cannot stop.

Every worker has a pipe of its own and reports each row before it works on it. A worker that dies, or takes too long,
costs that row: its task is done again by another worker, without the row. There is no lock and no shared memory that a
killed worker could hold, and no thread. Workers end with the process that started them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

from maskprep.errors import UsageError, UserError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

ENGINES = ("serial", "processes")
ROW_SECONDS = 300.0
"""A row that takes longer is given up: the worker at it is killed."""

POLL_SECONDS = 0.1
MOST_STARTS = 2
"""So many workers may die at one task before they begin its first row."""

At = Callable[[int], None]
"""Called with the number of a row before the row is worked on."""


class Work(Protocol[T_contra, R_co]):
    """What workers do. It is pickled; a worker keeps it open for all tasks of a run."""

    def open(self) -> AbstractContextManager[Callable[[T_contra, At, Mapping[int, str]], R_co]]:
        """Load what is needed. The function takes a task, ``at``, and the rows to leave out: number -> why."""
        ...


def check(engine: str, workers: int | None) -> None:
    """Refuse an engine that there is not, and fewer than one worker; None stands for as many as there are cores.

    Raises:
        UsageError: saying what there is.
    """
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine '{engine}'.", f"Known engines: {', '.join(ENGINES)}.")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}.")


@dataclass
class _Job(Generic[T]):
    """A task on its way.

    Args:
        number: of the task.
        task: itself.
        dead: rows at which a worker died or ran out of time, with why.
        ticked: how many of its rows were reported.
        starts: how many workers died before its first row.
    """

    number: int
    task: T
    dead: dict[int, str] = field(default_factory=dict)
    ticked: int = 0
    starts: int = 0


class _Worker:
    """One process and its pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _no_interrupts():
            self.process.start()
        theirs.close()
        self.work: Any = None
        self.job: _Job[Any] | None = None
        self.row: int | None = None
        self.since = 0.0

    def give(self, work: Any, job: _Job[Any]) -> None:
        """Hand over a task."""
        self.job, self.row = job, None
        with contextlib.suppress(OSError):  # it has died: the pipe says so next
            if self.work != work:
                self.work = work
                self.pipe.send(work)
            self.pipe.send((job.task, job.dead))

    def kill(self) -> None:
        """End it at once, whatever it does: everything it writes gets its name only when it is whole."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool:
    """The workers of one command. They are started when they are first needed, and kept.

    Args:
        workers: how many processes at most.
        engine: one of ENGINES; ``serial`` works in this process, where native code that crashes ends the command.
        seconds: time for one row, see ROW_SECONDS.
    """

    def __init__(self, workers: int = 1, engine: str = "processes", seconds: float = ROW_SECONDS) -> None:
        self._most, self._engine, self._seconds = workers, engine, seconds
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            self._workers.pop().kill()

    def run(self, work: Work[T, R], tasks: Sequence[T], advance: Callable[[int], None]) -> list[R]:
        """Do all tasks.

        Args:
            work: what is done.
            tasks: what it is done to.
            advance: called with the number of rows that were begun since the last call.

        Returns:
            The results, in the order of the tasks.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when every worker has ended. A second Ctrl-C ends this process.
            UserError: the workers cannot be started.
            Exception: what ``work`` has raised.
        """
        if self._engine == "serial" or not tasks:
            return self._run_here(work, tasks, advance)
        results: dict[int, R] = {}
        todo = deque(_Job(number, task) for number, task in enumerate(tasks))
        with _interrupts() as interrupted:
            try:
                while len(results) < len(tasks):
                    self._hand_out(work, todo)
                    for worker in list(self._workers):
                        self._listen(worker, results, todo, advance)
                    if interrupted():
                        raise KeyboardInterrupt
                    wait([worker.pipe for worker in self._workers if worker.job], POLL_SECONDS)
            except BaseException:
                self.__exit__()
                raise
        return [results[number] for number in range(len(tasks))]

    def _run_here(self, work: Work[T, R], tasks: Sequence[T], advance: Callable[[int], None]) -> list[R]:
        if not tasks:
            return []
        with work.open() as make:
            return [make(task, lambda row: advance(1), {}) for task in tasks]

    def _hand_out(self, work: Any, todo: deque[_Job[Any]]) -> None:
        idle = [worker for worker in self._workers if worker.job is None]
        while todo and (idle or len(self._workers) < self._most):
            if not idle:
                idle.append(_Worker())
                self._workers.append(idle[-1])
            idle.pop().give(work, todo.popleft())

    def _listen(
        self, worker: _Worker, results: dict[int, Any], todo: deque[_Job[Any]], advance: Callable[[int], None]
    ) -> None:
        """Take in what a worker has to say, or that it has died."""
        failure: BaseException | None = None
        try:
            while worker.job is not None and failure is None and worker.pipe.poll():
                kind, value = worker.pipe.recv()
                if kind == "at":
                    worker.row, worker.since = value, time.monotonic()
                    if value >= worker.job.ticked:
                        advance(value + 1 - worker.job.ticked)
                        worker.job.ticked = value + 1
                elif kind == "result":
                    results[worker.job.number] = value
                    worker.job = worker.row = None
                else:
                    failure = value
        except (EOFError, ConnectionError):
            worker.process.join()
            self._lost(worker, _how_it_ended(worker.process.exitcode), todo)
            return
        if failure is not None:
            raise failure
        if worker.row is not None and time.monotonic() - worker.since > self._seconds:
            self._lost(worker, f"it took longer than {self._seconds:g} s", todo)

    def _lost(self, worker: _Worker, why: str, todo: deque[_Job[Any]]) -> None:
        """Give up the row at which a worker was, and let another do the rest of its task."""
        job, row = worker.job, worker.row
        assert job is not None
        self._workers.remove(worker)
        worker.kill()
        if row is not None:
            job.dead[row] = why
        else:
            job.starts += 1
            if job.starts >= MOST_STARTS:
                raise UserError(
                    f"Worker processes end before they begin to work: {why}.",
                    "There may be too little memory: run the command again with fewer --workers, or with --engine "
                    'serial. (A script of your own must call it under: if __name__ == "__main__".)',
                )
        todo.appendleft(job)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
        memory = "; memory may have run out" if name == "SIGKILL" else ""
        return f"a worker process died while working on it ({name}{memory})"
    return f"a worker process died while working on it (exit code {code})"


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C instead of raising at any instruction, for the time of a run. Gives what tells whether it came.

    A second one ends the process: all that is on disk is whole.
    """
    noted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            os._exit(128 + number)
        noted = True

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: there is no Ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while a worker is started: it inherits that, so it is not hit before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first start of a process would bring it up, and lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- in the worker


def _serve(pipe: Connection) -> None:
    """What a worker does until the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError), contextlib.ExitStack() as stack:
        make: Any = None
        while True:
            message = pipe.recv()
            try:
                if isinstance(message, tuple):
                    pipe.send(("result", make(message[0], lambda row: pipe.send(("at", row)), message[1])))
                else:
                    stack.close()
                    make = stack.enter_context(message.open())
            except (EOFError, ConnectionError):
                raise
            except BaseException as error:
                pipe.send(("error", _portable(error)))


def _portable(error: BaseException) -> BaseException:
    """An exception that can be sent through a pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
