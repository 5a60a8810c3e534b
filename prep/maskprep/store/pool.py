"""Worker processes that one bad photo cannot stop.

Every worker has a pipe of its own and reports each row before it works on it. A worker that dies, or takes too long,
costs that row: its task is done again by another worker, without the row. There is no lock and no shared memory that a
killed worker could hold, and no thread. A worker ends with the process that started it, when it comes to its next row.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeVar

from maskprep.base import UsageError, UserError, hold_interrupts

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

ENGINES = ("serial", "processes")
ROW_SECONDS = 300.0
"""A row that takes longer is given up: the worker at it is killed."""

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0
"""How long a killed process is waited for."""

At = Callable[[int], None]
"""Called with the number of a row before the row is worked on."""


class Work(Protocol[T_contra, R_co]):
    """What workers do. It is pickled; a worker keeps it open until other work (compared with ``==``) comes."""

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


@dataclass(eq=False)
class _Job(Generic[T]):
    """A task on its way: rows at which a worker died or ran out of time, with why; how many of its rows were reported;
    and what was made of it, None before."""

    task: T
    dead: dict[int, str] = field(default_factory=dict)
    begun: int = 0
    result: Any = None


class _Worker:
    """One process and its pipe. ``job`` and ``row`` are what it is at, None for nothing; ``since`` is of the row."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _no_main_module(), _no_interrupts():
            self.process.start()
        theirs.close()
        self.ready = False
        self.work: Any = None
        self.job: _Job[Any] | None = None
        self.row: int | None = None
        self.since = 0.0

    def give(self, work: Any, job: _Job[Any]) -> None:
        """Hand over a task, to a worker that is ready to read it."""
        self.job = job
        with contextlib.suppress(OSError):  # it has died: the pipe says so next
            if self.work != work:
                self.work = work
                self.pipe.send(("open", work))
            self.pipe.send(("make", (job.task, job.dead)))

    def end(self) -> None:
        """Kill it, whatever it does: everything it writes gets its name only when it is whole."""
        self.process.kill()
        self.process.join(GRACE_SECONDS)
        self.pipe.close()


class Pool:
    """The workers of one command. They are started when they are first needed, and kept.

    Args:
        workers: how many processes at most.
        engine: one of ENGINES; ``serial`` works in this process, where native code that crashes ends the command and
            no row has a limit of time.
        seconds: time for one row, see ROW_SECONDS; loading models does not count.
    """

    def __init__(self, workers: int = 1, engine: str = "processes", seconds: float = ROW_SECONDS) -> None:
        self._most, self._engine, self._seconds = workers, engine, seconds
        self._workers: list[_Worker] = []
        self._vain = 0  # workers in a row that died and had not begun a row
        self._clock = 0.0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        while self._workers:
            self._workers.pop().end()

    def run(self, work: Work[T, R], tasks: Sequence[T], advance: Callable[[int], None]) -> list[R]:
        """Do all tasks.

        Args:
            work: what is done.
            tasks: what it is done to, in the order of the results.
            advance: called with the number of rows that were begun since the last call.

        Raises:
            KeyboardInterrupt: after Ctrl-C, when every worker has ended.
            UserError: two workers in a row have died before they began a row.
            Exception: what ``work`` has raised.
        """
        if not tasks:
            return []
        with hold_interrupts() as raise_if_pressed:
            if self._engine == "serial":
                return _run_here(work, tasks, advance, raise_if_pressed)
            try:
                return self._run_in_workers(work, tasks, advance, raise_if_pressed)
            except BaseException:
                self.__exit__()
                raise

    def _run_in_workers(
        self,
        work: Work[T, R],
        tasks: Sequence[T],
        advance: Callable[[int], None],
        raise_if_pressed: Callable[[], None],
    ) -> list[R]:
        jobs = [_Job(task) for task in tasks]
        todo, self._vain, last = deque(jobs), 0, time.monotonic()
        while busy := len(todo) + sum(worker.job is not None for worker in self._workers):
            while len(self._workers) < min(self._most, busy):
                self._workers.append(_Worker())
            for worker in self._workers:
                if todo and worker.ready and worker.job is None:
                    worker.give(work, todo.popleft())
            wait([end for worker in self._workers for end in (worker.pipe, worker.process.sentinel)], POLL_SECONDS)
            raise_if_pressed()
            now = time.monotonic()
            self._clock += min(now - last, 1.0)  # time for which all processes were stopped (Ctrl-Z) is no row's
            last = now
            for worker in list(self._workers):
                self._listen(worker, todo, advance)
        return [job.result for job in jobs]

    def _listen(self, worker: _Worker, todo: deque[Any], advance: Callable[[int], None]) -> None:
        """Take in what a worker has to say, or that it has died."""
        ended, steps, failure = not worker.process.is_alive(), 0, None
        try:
            while failure is None and worker.pipe.poll():
                kind, value = worker.pipe.recv()
                if kind == "ready":
                    worker.ready = True
                elif kind == "error":
                    failure = value
                elif worker.job is not None:
                    self._vain = 0
                    if kind == "at":
                        worker.row, worker.since = value, self._clock
                        steps += max(0, value + 1 - worker.job.begun)
                        worker.job.begun = max(value + 1, worker.job.begun)
                    else:
                        worker.job.result = value
                        worker.job = worker.row = None
        except (EOFError, OSError):
            ended = True
        if steps:
            advance(steps)
        if failure is not None:
            raise failure
        if ended:
            worker.process.join(GRACE_SECONDS)
            how = _how_it_ended(worker.process.exitcode)
            self._lost(worker, f"a worker process died while working on it ({how})", todo)
        elif worker.row is not None and self._clock - worker.since > self._seconds:
            self._lost(worker, f"it took longer than {self._seconds:g} s", todo)

    def _lost(self, worker: _Worker, why: str, todo: deque[Any]) -> None:
        """Give up the row at which a worker was, and let another do the rest of its task."""
        self._workers.remove(worker)
        worker.end()
        if worker.job is not None:
            todo.appendleft(worker.job)
            if worker.row is not None:
                if worker.row in worker.job.dead:
                    raise RuntimeError(f"The work did row {worker.row} again: {worker.job.dead[worker.row]}.")
                worker.job.dead[worker.row] = why
                return
        self._vain += 1
        if self._vain == 2:
            raise UserError(
                f"The worker processes ended before their first photo ({_how_it_ended(worker.process.exitcode)}).",
                "There may be too little memory: run the command again with fewer --workers, or with --engine serial.",
            )


def _run_here(
    work: Work[T, R], tasks: Sequence[T], advance: Callable[[int], None], raise_if_pressed: Callable[[], None]
) -> list[R]:
    def at(row: int) -> None:
        raise_if_pressed()
        advance(1)

    with work.open() as make:
        return [make(task, at, {}) for task in tasks]


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
    return f"{name}; memory may have run out" if name == "SIGKILL" else name


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the main module while a worker is started. The worker would import it again: a script without
    ``if __name__ == "__main__"`` would run once more, and a command would load all of its interface."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while a worker is started: it inherits that, so it is not hit before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # or the first start would run it, which lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- in the worker


def _serve(pipe: Connection) -> None:
    """What a worker does until the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def at(row: int) -> None:
        try:
            pipe.send(("at", row))
        except OSError:  # not to be taken for an error of the work
            sys.exit(1)

    with contextlib.suppress(EOFError, OSError), contextlib.ExitStack() as models:
        make: Any = None
        pipe.send(("ready", None))
        while True:
            message = pipe.recv_bytes()
            answer = b""
            try:
                kind, value = pickle.loads(message)
                if kind == "open":
                    models.close()
                    make = models.enter_context(value.open())
                else:
                    task, dead = value
                    answer = pickle.dumps(("made", make(task, at, dead)))
            except Exception as error:
                answer = pickle.dumps(("error", _portable(error)))
            if answer:
                pipe.send_bytes(answer)


def _portable(error: Exception) -> Exception:
    """An exception that can be sent through a pipe, with a note of where it was raised."""
    if not isinstance(error, UserError):
        error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
