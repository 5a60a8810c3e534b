"""What a fit writes: metrics, best weights, out-of-fold answers and snapshots; and when it is asked to stop.

Large files are written by a thread from copies, so that neither a GPU nor the next step waits for a disk.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UserError
from masktrain.combine import averages
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet
from masktrain.runs import folder as runs
from masktrain.runs import predictions
from masktrain.train import checkpoint
from masktrain.train import device as devices
from masktrain.train.loop import State

SHARE = 0.02
"""Snapshots take no more than this share of the time, however large the state and slow the disk."""

TOGETHER = 10
"""Steps between two questions whether another process was asked to stop."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Recorder:
    """Writes a run while it is trained; of several processes only the first one writes.

    Args:
        run: its folder.
        state: what is trained.
        sidecar: best.json without epoch and score.
        steps: of an epoch.
        update_logs: called when an epoch is written.
    """

    def __init__(self, run: Path, state: State, data: TrainSet, sidecar: checkpoint.Sidecar, steps: int) -> None:
        self.run, self.state, self.data, self.sidecar, self.steps = run, state, data, sidecar, steps
        self.config: FitConfig = state.config
        self.update_logs: Callable[[], None] = lambda: None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._writing: Future[None] | None = None
        self._asked, self._chances = 0, 0
        self._last, self._took = time.monotonic(), 0.0

    def epoch(self, record: dict[str, Any], probabilities: NDArray[np.float32]) -> None:
        """Write an epoch's metrics and, of the best one so far, weights and answers; then a snapshot."""
        if devices.rank():
            return
        runs.append_metrics(self.run, record)
        if self.state.best == record["epoch"]:
            self.best(record["epoch"], record["macro_f1"], probabilities)
        if (self.run.parent / runs.FOLDS).is_file():  # the other folds will say which epoch counts
            name = predictions.epoch_file(record["epoch"])
            predictions.write_oof(self.run, self.data.view, self.data.split.val, probabilities, name)
        averages.keep_epoch(self.run, self.state.epoch, self.state.scored.state_dict(), self.config.select)
        self.save()
        self.update_logs()

    def best(self, epoch: int, score: float, probabilities: NDArray[np.float32], weights: Any = None) -> None:
        """Write best.safetensors, best.json and oof.parquet."""
        named = dataclasses.replace(self.sidecar, epoch=epoch, score=score)
        weights = checkpoint.on_host(self.state.scored.state_dict() if weights is None else weights)
        self._write(lambda: checkpoint.save_best(self.run, weights, named, self.config.to_dict()))
        predictions.write_oof(self.run, self.data.view, self.data.split.val, probabilities)

    def save(self) -> None:
        """Write last.ckpt."""
        if devices.rank():
            return
        whole = {
            "format": checkpoint.STATE_FORMAT,
            "learner": checkpoint.on_host(self.state.to_dict()),
            "config": json.dumps(self.config.to_dict()),
            "config_hash": self.config.hash(),
            "sidecar": json.dumps(dataclasses.asdict(self.sidecar)),
        }
        self._write(lambda: checkpoint.save_last(self.run, whole))

    def pause(self) -> None:
        """To be called wherever the state is whole.

        Raises:
            UserError: someone asked the fit to stop; the state is kept. Or a file could not be written.
        """
        asked, seconds = self._agreed(), self.config.run.snapshot_seconds
        due = time.monotonic() >= self._last + (max(seconds, self._took / SHARE) if seconds else 0.0)
        if not asked and not due:
            return
        if not int(self.state.sums["skipped"]):  # a state that is lost must not take the place of a sound one
            self.save()
        if asked or not seconds:
            self.flush()
        if asked:
            raise UserError(
                f"Stopped in epoch {self.state.epoch + 1} of {self.config.optim.epochs}, after {self.state.step} of"
                f" {self.steps} steps; everything done so far is kept.",
                f"Go on with: masktrain fit --resume {self.run}",
                code=128 + asked,
            )
        self._last = time.monotonic()

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            UserError: it could not be written.
        """
        if self._writing is not None:
            self._writing.result()

    def _write(self, write: Callable[[], object]) -> None:
        """Have the thread write a copy that is on its way from the device; one at a time, in order."""
        self.flush()
        arrived = checkpoint.copied(self.state.device)

        def work() -> None:
            started = time.monotonic()
            arrived()
            write()
            self._took = time.monotonic() - started

        self._writing = self._thread.submit(work)

    def _agreed(self) -> int:
        """The signal that this process got, 0 for none; of several processes the same in all, every few steps."""
        if devices.world_size() == 1:
            return self._asked
        self._chances += 1
        return devices.all_reduce_max(self._asked, self.state.device) if self._chances % TOGETHER == 0 else 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take Ctrl-C, SIGTERM and SIGHUP for requests to stop; the second one of a kind ends the process at once.

        A hangup that is ignored, as by nohup, stays so.
        """
        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to that one only
            for number in SIGNALS:
                if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:
                    before[number] = signal.signal(number, self._ask)
        try:
            yield
            self.flush()
        finally:
            self._thread.shutdown()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
