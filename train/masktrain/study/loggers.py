"""TensorBoard, Weights & Biases and MLflow, fed from metrics.jsonl, which stays the truth.

Each is an extra that is imported only when asked for. What a log has got so far is read from a small file beside the
metrics, so that a run that goes on adds what is new and nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from maskprep.base import missing_extra, read_json, write_json
from masktrain.config.sections import LOGS
from masktrain.runs import folder as runs

SENT = "logged.json"
"""Last epoch that each log has got, and the name by which it knows the run."""


class Log(Protocol):
    """Where numbers go."""

    name: str

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files in the run's folder ``tensorboard/``."""

    def __init__(self, run: Path, settings: Mapping[str, Any], known: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard") from error
        self.name = str(run / "tensorboard")
        self._writer: Any = SummaryWriter(self.name)
        if not known:
            self._writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in settings.items()))

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, epoch)

    def close(self) -> None:
        """Nothing more comes."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; with WANDB_MODE=offline it stays in the folder ``wandb/`` of the run."""

    def __init__(self, run: Path, settings: Mapping[str, Any], known: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "wandb") from error
        self._run: Any = wandb.init(
            project="masktrain",
            name=run.resolve().name,
            id=known or None,
            resume="allow",
            dir=str(run),
            config=dict(settings),
        )
        self.name = str(self._run.id)

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch."""
        self._run.log(dict(values), step=epoch)

    def close(self) -> None:
        """Nothing more comes."""
        self._run.finish()


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says, by default in ``mlruns``."""

    def __init__(self, run: Path, settings: Mapping[str, Any], known: str) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing_extra("mlflow", "mlflow") from error
        self._mlflow: Any = mlflow
        if known:
            mlflow.start_run(run_id=known)
            self.name = known
            return
        mlflow.set_experiment("masktrain")
        self.name = str(mlflow.start_run(run_name=run.resolve().name).info.run_id)
        mlflow.log_params({k: str(v) for k, v in settings.items()})

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """The numbers of an epoch."""
        self._mlflow.log_metrics(dict(values), step=epoch)

    def close(self) -> None:
        """Nothing more comes."""
        self._mlflow.end_run()


KINDS: dict[str, Callable[[Path, Mapping[str, Any], str], Log]] = dict(
    zip(LOGS, (TensorBoard, WeightsAndBiases, MLflow), strict=True)
)


class Loggers:
    """The logs of a run, each up to date with metrics.jsonl after every :meth:`update`.

    Args:
        run: folder of the run.
        kinds: some of ``sections.LOGS``.

    Raises:
        UserError: the package of one is not installed, naming the extra.
    """

    def __init__(self, run: Path, kinds: tuple[str, ...]) -> None:
        self._run, self._sent = run, _read(run)
        settings = {f"{s}.{k}": v for s, held in runs.read_settings(run).items() for k, v in held.items()}
        self._logs = {k: KINDS[k](run, settings, self._sent.get(k, {}).get("name", "")) for k in dict.fromkeys(kinds)}

    def update(self) -> None:
        """Send the epochs that are not there yet."""
        records = runs.read_metrics(self._run) if self._logs else []
        for kind, log in self._logs.items():
            last = self._sent.get(kind, {}).get("epoch", 0)
            for record in (r for r in records if r["epoch"] > last):
                log.add(record["epoch"], flat(record))
                last = record["epoch"]
            self._sent[kind] = {"epoch": last, "name": log.name}
        if self._logs:
            write_json(self._run / SENT, self._sent)

    def close(self) -> None:
        """Nothing more comes."""
        for log in self._logs.values():
            log.close()


@contextmanager
def logging(run: Path, kinds: tuple[str, ...]) -> Iterator[Loggers]:
    """The logs of a run while it is trained, up to date from the start and closed however that ends."""
    logs = Loggers(run, kinds)
    try:
        logs.update()
        yield logs
    finally:
        logs.close()


def check(kinds: tuple[str, ...]) -> None:
    """Make sure that the packages of some logs are installed, before anything is written.

    Raises:
        UserError: one is not, naming the extra.
    """
    from importlib.util import find_spec

    for kind in kinds:
        if find_spec(kind) is None:
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


def _read(run: Path) -> dict[str, Any]:
    file = run / SENT
    return read_json(file, {}, "Delete it; the run is then sent as a new one.") if file.is_file() else {}
