"""Averages of the weights of the last epochs, made when a fit is done (SWA, arXiv 1803.05407; soups, 2203.05482)."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from maskprep.dataset import open_view
from masktrain.combine import voting
from masktrain.config.sections import SelectConfig
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.train import checkpoint, loop
from masktrain.train.criteria import criterion
from masktrain.train.optim import mean_state
from masktrain.train.pixels import Crops

FOLDER = "epochs"


@dataclasses.dataclass(frozen=True)
class Soup:
    """Averaged weights: of which epochs, their scores, validation probabilities [n, C], and the network."""

    epochs: list[int]
    scores: dict[str, Any]
    probabilities: NDArray[np.float32]
    model: nn.Module


def keep(run: Path, learner: loop.State, config: SelectConfig) -> None:
    """Keep the weights of the epoch that is done if it is one of ``select.every``, and no more than ``select.last``."""
    from safetensors.torch import save_file

    if not config.last or learner.epoch % config.every:
        return
    (run / FOLDER).mkdir(exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in learner.scored.state_dict().items()}
    checkpoint.write_weights(_file(run, learner.epoch), lambda part: save_file(state, part))
    for file in (run / FOLDER).glob("[0-9]*.safetensors"):
        if int(file.stem) <= learner.epoch - config.last * config.every:
            file.unlink()


def cook(
    run: Path,
    learner: loop.State,
    config: SelectConfig,
    val: Crops,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
) -> Soup | None:
    """The average of the epochs that are kept, if it scores higher than the best of all epochs.

    ``uniform`` takes all that are kept; ``greedy`` begins with the best of them and takes each further one, best first,
    if the average then scores no lower. Running statistics of norms are averaged as the weights are.
    """
    from safetensors.torch import load_file

    told = [e for e in kept(run) if e <= learner.epoch]
    if config.soup == "none" or len(told) < 2:
        return None

    def scored(epochs: list[int]) -> Soup:
        states: list[dict[str, Tensor]] = [load_file(_file(run, e)) for e in epochs]
        net = copy.deepcopy(learner.scored)
        net.load_state_dict(mean_state(states))
        probabilities, loss = loop.predict(learner, val, network=net)
        return Soup(epochs, {"val_loss": loss, **evaluate(probabilities)}, probabilities, net)

    def worth(soup: Soup) -> float:
        return criterion(soup.scores, config.by)

    ranked = sorted(told, key=lambda e: (-learner.scores[e - 1], e))
    if config.soup == "uniform":
        best = scored(told)
    else:
        best = scored(ranked[:1])
        for epoch in ranked[1:]:
            if worth(tried := scored(sorted([*best.epochs, epoch]))) >= worth(best):
                best = tried
    return best if len(best.epochs) > 1 and worth(best) > max(learner.scores) else None


def kept(run: Path) -> list[int]:
    """The epochs whose weights a run has kept, in order."""
    return sorted(int(f.stem) for f in (run / FOLDER).glob("[0-9]*.safetensors"))


@contextmanager
def apart(run: Path, cache: Path | None = None) -> Iterator[list[Path]]:
    """Each epoch that a run has kept as a run of its own, in folders that are gone afterwards.

    Every epoch answers for the people the run held out, so that it can be scored and combined like any run.

    Args:
        cache: where the crops are if the cache has moved.

    Raises:
        UserError: the run is not finished, or its cache is gone or has changed.
    """
    from safetensors.torch import load_file

    from masktrain.answer import model
    from masktrain.runs import predictions as heldout

    held, data, sidecar = heldout.read(run), runs.read_data(run), checkpoint.load_sidecar(run)
    where = cache or Path(data["cache"])
    if not (where / "dataset.json").is_file():
        raise UsageError(f"The cache of {run} is no longer at {where}.", "Say where it is: --cache CACHE")
    view = open_view(where, sidecar.view)
    if view.fingerprint() != data["fingerprint"]:
        raise UserError(f"The cache {where} has changed since {run} was trained: other crops, labels or people.")
    rows = view.table.reset_index().set_index("image")["index"].reindex(held.images).to_numpy(dtype=np.int64)
    predictor = model.load(run, "cpu")
    network = predictor.graph.network
    with tempfile.TemporaryDirectory(prefix="epochs-") as folder:
        found = []
        for epoch in kept(run):
            network.load_state_dict(load_file(_file(run, epoch)))
            told = dataclasses.replace(held, probabilities=predictor(view, rows).astype(np.float64))
            matrix = metrics.confusion(held.labels, told.probabilities.argmax(1), told.probabilities.shape[1])
            own = Path(folder) / f"{run.resolve().name}-epoch-{epoch:05d}"
            own.mkdir()
            for name in (runs.DATA, runs.CONFIG):
                shutil.copy2(run / name, own / name)
            heldout.to_frame(told).to_parquet(own / runs.OOF, compression="zstd", index=False)
            named = dataclasses.replace(sidecar, epoch=epoch, score=metrics.macro_f1(matrix))
            checkpoint.save_best(own, network.state_dict(), named, runs.read_settings(run))
            found.append(own)
        yield found


def alike(run: Path, learner: loop.State, val: Crops) -> tuple[list[int], NDArray[np.float64]]:
    """The epochs that a run has kept, and how their errors on the held-out people correlate [epochs, epochs]."""
    from safetensors.torch import load_file

    told = [e for e in kept(run) if e <= learner.epoch]
    wrong = []
    for epoch in told:
        net = copy.deepcopy(learner.scored)
        net.load_state_dict(load_file(_file(run, epoch)))
        probabilities, _ = loop.predict(learner, val, network=net)
        wrong.append(probabilities.argmax(1) != val.labels)
    return told, voting.error_correlation(np.array(wrong))


def advice(told: Sequence[int], correlation: NDArray[np.float64], limit: float = voting.ALIKE) -> str:
    """A sentence about epochs that err on the same images, and what to do; empty where they do not (S2.21).

    Args:
        told: the epochs.
        correlation: of their errors, [epochs, epochs].
        limit: mean correlation of neighbours above which they add little to each other.
    """
    near = [float(correlation[i, i + 1]) for i in range(len(told) - 1)]
    if not near or (mean := sum(near) / len(near)) <= limit:
        return ""
    apart = min(b - a for a, b in itertools.pairwise(told))
    return (
        f"Epochs {', '.join(map(str, told))} err on the same images (mean correlation of neighbours {mean:.2f}), so"
        f" little is to be gained. Keep them further apart: --set select.every={2 * apart}, or at the ends of cycles:"
        " --schedule restarts"
    )


def _file(run: Path, epoch: int) -> Path:
    return run / FOLDER / f"{epoch:05d}.safetensors"
