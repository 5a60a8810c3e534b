"""The trials of a sweep, as they stand in Optuna's journal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskprep.base import UserError

if TYPE_CHECKING:
    import optuna

JOURNAL = "optuna.journal"
STARTUP = 4
"""So many trials must have come to an epoch before one is pruned there."""
PRUNERS = ("median", "halving", "none")
"""When a trial is given up: below the median of the others at the same epoch; not among the best third of those that
have come to 1, 3, 9, ... epochs (successive halving, arXiv 1810.05934); or never."""
KEPT = 3
"""Of so many trials one goes on at each rung of successive halving."""
STATES = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass(frozen=True)
class Trial:
    """One finished fit of a sweep.

    Attributes:
        number: from 1 on.
        values: of the varied settings.
        score: macro-F1 on the held-out people, 0..1; of a pruned trial its best so far, None of one that failed.
        state: ``done``, ``pruned`` (was given up) or ``failed``.
        seconds: it took.
        epochs: macro-F1 after each epoch, folds after one another.
        why: it failed.
    """

    number: int
    values: dict[str, Any]
    score: float | None
    state: str
    seconds: float
    epochs: list[float]
    why: str = ""


def folder(number: int) -> str:
    """Name of a trial's run in the folder of the sweep."""
    return f"trial-{number:03}"


def journal(out: Path, prune: str) -> optuna.Study:
    """Optuna's study in the folder of a sweep, which several processes may open.

    Args:
        prune: one of :data:`PRUNERS`.

    Raises:
        UserError: it cannot be read.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file, pruners = str(out / JOURNAL), optuna.pruners
    pruner: pruners.BasePruner = pruners.NopPruner()
    if prune == "median":
        pruner = pruners.MedianPruner(STARTUP, n_min_trials=STARTUP)
    elif prune == "halving":
        pruner = pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=KEPT)
    try:
        storage = JournalStorage(JournalFileBackend(file, JournalFileOpenLock(file)))
        return optuna.create_study(
            storage=storage, pruner=pruner, study_name="sweep", direction="maximize", load_if_exists=True
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error!r}.", "Choose another --out.") from error


def finished(study: optuna.Study) -> list[Trial]:
    """The finished trials of a study, in order."""
    made = []
    for each in (t for t in study.get_trials(deepcopy=False) if t.state.name in STATES):
        epochs = [score for _, score in sorted(each.intermediate_values.items())]
        score = max(epochs) if each.state.name == "PRUNED" else each.value
        kept: dict[str, Any] = {"values": {}, "seconds": 0.0, "why": ""} | each.user_attrs
        made.append(Trial(each.number + 1, score=score, state=STATES[each.state.name], epochs=epochs, **kept))
    return made
