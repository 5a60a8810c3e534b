"""TensorBoard, Weights & Biases and MLflow, fed from metrics.jsonl, which stays the truth.

Each is an extra that is imported only when asked for. What a log has got so far is read from a small file beside the
metrics, so that a run that goes on adds what is new and nothing twice.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from maskprep.base import missing_extra, read_json, write_json
from masktrain.config.sections import LOGS
from masktrain.runs import folder as runs

SENT = "logged.json"
"""Last epoch that each log has got, and the name by which it knows the run."""

SIGNS = {">=": "ge ", "<=": "le ", ">": "gt ", "<": "lt ", "=": "eq "}
"""What stands in MLflow's keys for signs that it refuses."""


class Log(NamedTuple):
    """An open log: the name by which it knows the run, what takes the numbers of an epoch, and what ends it."""

    name: str
    add: Callable[[Mapping[str, float], int], object]
    close: Callable[[], object]


def tensorboard(run: Path, settings: Mapping[str, Any], known: str) -> Log:
    """Event files in the run's folder ``tensorboard/``."""
    from torch.utils.tensorboard import SummaryWriter

    folder = str(run / "tensorboard")
    writer: Any = SummaryWriter(folder)
    if not known:
        writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in settings.items()))

    def add(values: Mapping[str, float], epoch: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, epoch)

    return Log(folder, add, writer.close)


def wandb(run: Path, settings: Mapping[str, Any], known: str) -> Log:
    """A run of Weights & Biases; with WANDB_MODE=offline it stays in the folder ``wandb/`` of the run."""
    import wandb as package

    about = {"project": "masktrain", "name": run.resolve().name, "dir": str(run), "config": dict(settings)}
    made: Any = package.init(id=known or None, resume="allow", **about)
    return Log(str(made.id), lambda values, epoch: made.log(dict(values), step=epoch), made.finish)


def mlflow(run: Path, settings: Mapping[str, Any], known: str) -> Log:
    """A run of MLflow, where MLFLOW_TRACKING_URI says."""
    import mlflow as package

    name = known
    if known:
        package.start_run(run_id=known)
    else:
        package.set_experiment("masktrain")
        name = str(package.start_run(run_name=run.resolve().name).info.run_id)
        package.log_params({k: str(v) for k, v in settings.items()})

    def add(values: Mapping[str, float], epoch: int) -> None:
        package.log_metrics({mlflow_key(key): value for key, value in values.items()}, step=epoch)

    return Log(name, add, package.end_run)


def mlflow_key(key: str) -> str:
    """A name that MLflow takes, another one for every name: ``class_f1/>=60`` becomes ``class_f1/ge 60``."""
    for sign, word in SIGNS.items():
        key = key.replace(sign, word)
    return re.sub(r"[^\w/. -]", lambda found: f"_{ord(found[0]):x}_", key)


KINDS: dict[str, Callable[[Path, Mapping[str, Any], str], Log]] = dict(
    zip(LOGS, (tensorboard, wandb, mlflow), strict=True)
)


class Loggers:
    """The logs of a run, some of ``sections.LOGS``, each up to date with metrics.jsonl after every :meth:`update`."""

    def __init__(self, run: Path, kinds: tuple[str, ...]) -> None:
        file, hint = run / SENT, "Delete it; the run is then sent as a new one."
        self._run, self._sent = run, read_json(file, {}, hint) if file.is_file() else {}
        settings = {f"{s}.{k}": v for s, held in runs.read_settings(run).items() for k, v in held.items()}
        self._logs = {k: KINDS[k](run, settings, self._sent.get(k, {}).get("name", "")) for k in dict.fromkeys(kinds)}

    def update(self) -> None:
        """Send the epochs that are not there yet."""
        if not self._logs:
            return
        records = runs.read_metrics(self._run)
        for kind, log in self._logs.items():
            last = self._sent.get(kind, {}).get("epoch", 0)
            for record in (r for r in records if r["epoch"] > last):
                log.add(flat(record), record["epoch"])
                last = record["epoch"]
            self._sent[kind] = {"epoch": last, "name": log.name}
        write_json(self._run / SENT, self._sent)

    def close(self) -> None:
        """End them all."""
        for log in self._logs.values():
            log.close()


@contextmanager
def logging(run: Path, kinds: tuple[str, ...]) -> Iterator[Loggers]:
    """The logs of a run while it is trained, up to date from the start and closed however that ends."""
    check(kinds)
    logs = Loggers(run, kinds)
    try:
        logs.update()
        yield logs
    finally:
        logs.close()


def check(kinds: tuple[str, ...]) -> None:
    """Make sure that the packages of some logs are installed.

    Raises:
        UserError: one is not, naming the extra.
    """
    for kind in kinds:
        if importlib.util.find_spec(kind) is None:
            raise missing_extra(kind, kind)


def flat(record: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """The numbers of an epoch's record by name: ``attributes/age/macro_f1``."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and above + key != "epoch":
            found[above + key] = float(value)
    return found
