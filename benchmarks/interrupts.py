"""Ctrl-C at random moments while other processes keep the cores busy: does the command end in time, and do its workers?

    python benchmarks/interrupts.py PHOTOS [COUNT]     maskprep run PHOTOS, into a cache in a temporary folder
    python benchmarks/interrupts.py --pool [COUNT]     a pool of four workers alone, with 2,000 small tasks

Every command has a process group of its own, and all processes of the group are interrupted at once, as by a terminal.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LIMIT = 2.0
LATEST = 4.0
"""Seconds from the start of a command to its interrupt, at most."""

HANG = 30.0


@dataclass(frozen=True)
class Busy:
    """Work of a few milliseconds a row."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[range, Callable[[int], None], Mapping[int, str]], int]]:
        def make(rows: range, at: Callable[[int], None], dead: Mapping[int, str]) -> int:
            for row in rows:
                at(row)
                sum(range(50_000))
            return len(rows)

        yield make


def pool() -> None:
    """The command of ``--pool``."""
    from maskprep.base import entry
    from maskprep.store.pool import Pool

    def work() -> None:
        with Pool(4) as pool:
            pool.run(Busy(), [range(4)] * 2000, lambda n: None)

    entry.run(work, "Interrupted.", seconds=2)


def group_of(leader: int) -> list[int]:
    """Living processes of a process group."""
    living = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state not in "ZX":
                living.append(int(stat.parent.name))
    return living


def interrupt(command: list[str], moment: float) -> tuple[str, float]:
    """Start a command and interrupt it. Returns what happened, and how long it took from the interrupt to its end."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        process.wait(moment)
        assert process.stderr is not None
        return (f"ended before with status {process.returncode}", 0.0)
    except subprocess.TimeoutExpired:
        pass
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "hung", HANG
    seconds = time.monotonic() - start
    left = bool(group_of(process.pid)) and (time.sleep(LIMIT) or bool(group_of(process.pid)))
    if left:
        os.killpg(process.pid, signal.SIGKILL)
    what = "left workers" if left else f"status {process.returncode}"
    if "Traceback" in stderr:
        what += ", traceback"
        print(stderr, file=sys.stderr)
    return what, seconds


def main() -> None:
    where, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    random.seed(0)
    outcomes: Counter[str] = Counter()
    took = []
    try:
        for _ in range(count):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, __file__, "--work"]
                if where != "--pool":
                    main = "from maskprep.cli import main; main()"
                    command = [sys.executable, "-c", main, "run", where, "--cache", folder + "/cache"]
                what, seconds = interrupt(command, random.uniform(0.1, LATEST))
            outcomes[what] += 1
            took.append(seconds)
    finally:
        for process in load:
            process.kill()
    took.sort()
    late = sum(seconds > LIMIT for seconds in took)
    print(f"{count} interrupts, {late} ended after more than {LIMIT:g} s;", end=" ")
    print(f"median {took[count // 2]:.2f} s, longest {took[-1]:.2f} s")
    for what, number in outcomes.most_common():
        print(f"  {number:4} {what}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        import interrupts  # under its own name: workers do not load the main module

        interrupts.pool()
    else:
        main()
