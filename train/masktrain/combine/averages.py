"""Mean weights: of the last epochs of a fit (SWA, arXiv 1803.05407), and of runs as one network (2203.05482)."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError, UserError, read_json, write_json
from maskprep.dataset import open_view
from masktrain.answer import model as answering
from masktrain.combine import voting
from masktrain.combine.members import Candidate
from masktrain.config.sections import SelectConfig
from masktrain.data import tasks
from masktrain.runs import folder as runs
from masktrain.runs.predictions import Predictions
from masktrain.score import metrics
from masktrain.train import checkpoint, criteria
from masktrain.train.loop import normalise
from masktrain.train.optim import average_weights
from masktrain.train.pixels import Crops

FOLDER = "epochs"
FILE, OF = "soup.json", "mean of"
BATCH = 64

State = dict[str, Tensor]
Table = NDArray[np.float32]


@torch.no_grad()
def recompute_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Compute the running statistics of batch norms anew: those of mean weights are no mean of statistics.

    Args:
        batches: normalised training images [n, 3, H, W], all of them once; not read by a model without batch norms.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    model.eval()
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for pixels in batches:
        model(pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def keep_epoch(run: Path, epoch: int, state: Mapping[str, Tensor], config: SelectConfig) -> None:
    """Keep the weights of the epoch that is done if it is one of ``select.every``, and no more than ``select.last``."""
    from safetensors.torch import save_file

    if not config.last or epoch % config.every:
        return
    (run / FOLDER).mkdir(exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    checkpoint.write_weights(weights_of(run, epoch), lambda part: save_file(tensors, part))
    for file in (run / FOLDER).glob("[0-9]*.safetensors"):
        if int(file.stem) <= epoch - config.last * config.every:
            file.unlink()


def kept(run: Path) -> list[int]:
    """The epochs whose weights a run has kept, in order."""
    return sorted(int(f.stem) for f in (run / FOLDER).glob("[0-9]*.safetensors"))


def weights_of(run: Path, epoch: int) -> Path:
    """The file of a kept epoch."""
    return run / FOLDER / f"{epoch:05d}.safetensors"


@dataclasses.dataclass(frozen=True)
class Averaged:
    """Mean weights: of which epochs, what they answer to the validation images [n, C], and the scores of that."""

    epochs: list[int]
    state: State
    probabilities: Table
    scores: dict[str, Any]


def choose(
    run: Path,
    scores: Sequence[float],
    config: SelectConfig,
    predict: Callable[[State], Table],
    evaluate: Callable[[Table], dict[str, Any]],
    settle: Callable[[State], State] = lambda state: state,
) -> Averaged | None:
    """The average of the epochs that are kept, if it scores higher than the best of all epochs (``select.epoch=last``:
    whatever it scores).

    ``uniform`` takes all that are kept; ``greedy`` begins with the best of them and takes each further one, best first,
    if the average then scores no lower.

    Args:
        scores: of all epochs done, by the criterion.
        predict: validation probabilities [n, C] with some weights.
        evaluate: their scores.
        settle: averaged weights with statistics of batch norms recomputed, see :func:`recompute_norms`.
    """
    from safetensors.torch import load_file

    told = [e for e in kept(run) if e <= len(scores)]
    if config.soup == "none" or len(told) < 2:
        return None

    def averaged(epochs: list[int]) -> Averaged:
        states = [load_file(weights_of(run, e)) for e in epochs]
        state = settle(average_weights(states)) if len(states) > 1 else states[0]
        probabilities = predict(state)
        return Averaged(epochs, state, probabilities, evaluate(probabilities))

    def worth(made: Averaged) -> float:
        return criteria.criterion(made.scores, config.by)

    ranked = sorted(told, key=lambda e: (-scores[e - 1], e))
    if config.soup == "uniform":
        best = averaged(told)
    else:
        best = averaged(ranked[:1])
        for epoch in ranked[1:]:
            if worth(tried := averaged(sorted([*best.epochs, epoch]))) >= worth(best):
                best = tried
    better = config.epoch == "last" or worth(best) > max(scores)
    return best if len(best.epochs) > 1 and better else None


def alike(
    run: Path, epoch: int, labels: NDArray[np.int64], predict: Callable[[State], Table]
) -> tuple[list[int], NDArray[np.float64]]:
    """The epochs up to one that a run has kept, and how their errors on labelled images correlate [epochs, epochs]."""
    from safetensors.torch import load_file

    told = [e for e in kept(run) if e <= epoch]
    wrong = [predict(load_file(weights_of(run, e))).argmax(1) != labels for e in told]
    return told, voting.error_correlation(np.array(wrong))


def advice(told: Sequence[int], correlation: NDArray[np.float64], limit: float = voting.ALIKE) -> str:
    """A sentence about epochs that err on the same images, and what to do; empty where they do not.

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
        " combining them gains little. Keep epochs that are further apart: --set "
        f"select.every={2 * apart}, or at the ends of cycles:"
        " --schedule restarts"
    )


class Bench:
    """A run's network, to answer with other weights for the people that the run held out.

    Args:
        cache: where the crops are if the cache has moved.
        others: runs that were trained on the same images.

    Raises:
        UserError: the cache is gone, or has changed since one of the runs was trained.
    """

    def __init__(self, run: Candidate, cache: Path | None, device: str, others: Sequence[Candidate] = ()) -> None:
        where = cache or Path(run.data["cache"])
        if not (where / "dataset.json").is_file():
            raise UsageError(f"The cache of {run.folder} is no longer at {where}.", "Say where it is: --cache CACHE")
        view = tasks.like(open_view(where, run.sidecar.view), run.sidecar.labels())
        for member in (run, *others):
            if runs.changed(view, member.data, member.sidecar.background):
                raise UserError(
                    f"The cache {where} has changed since {member.folder} was trained: other crops, mattes, labels or"
                    " people.",
                    "Use --kind soft with several runs, which needs no cache, or "
                    "give the unchanged cache: --cache CACHE",
                )
        rows = view.table.reset_index().set_index("image")["index"].reindex(run.held.images)
        if rows.isna().any():
            raise UserError(f"{where} lacks images that {run.folder} held out.")
        self.rows = rows.to_numpy(dtype=np.int64)
        trained = view.table["person"].isin(run.data["people"]["train"]) & view.table["label"].notna()
        self.trained = np.flatnonzero(trained & (view.table["split"] == "train"))
        self.view = view.before(run.sidecar.behind())
        graph = answering.load(run.folder, device).graph
        self.graph, self.network = graph, graph.networks[0]

    def predict(self, state: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Probabilities [n, C] of the held-out images with some weights."""
        self.network.model.load_state_dict(state)
        parts = [
            self.graph.answer([crops.numpy()])[0] for crops in Crops(self.view, self.rows, BATCH, torch.device("cpu"))
        ]
        return np.concatenate(parts).astype(np.float64)

    def settle(self, state: Mapping[str, Tensor]) -> State:
        """Weights with the statistics of batch norms recomputed on the training images."""
        network = self.network
        network.model.load_state_dict(state)
        mean, std = network.get_buffer("mean"), network.get_buffer("std")
        crops = Crops(self.view, self.trained, BATCH, network.precision.device)
        recompute_norms(network.model, (normalise(batch, mean, std) for batch in crops))
        return {k: v.detach().cpu().clone() for k, v in network.model.state_dict().items()}


def epochs_of(run: Candidate, cache: Path | None, device: str) -> list[Candidate]:
    """Each epoch that a run has kept as a candidate of its own, with its answers for the people the run held out."""
    from safetensors.torch import load_file

    bench = Bench(run, cache, device)
    found = []
    for epoch in kept(run.folder):
        held = run.held.saying(bench.predict(load_file(weights_of(run.folder, epoch))))
        score = metrics.macro_f1(metrics.confusion(held.labels, held.answers, held.schema.num_classes))
        found.append(run.at_epoch(weights_of(run.folder, epoch), held, score))
    return found


def mean_of(members: Sequence[Candidate], cache: Path | None, device: str) -> tuple[State, Predictions]:
    """The mean weights of runs of one architecture that held out the same people, and its answers for these.

    Raises:
        UserError: different networks, crops or held-out people; the cache is gone or has changed.
    """
    first = members[0]
    for other in members[1:]:
        if other.held.images.tolist() != first.held.images.tolist():
            raise UsageError(
                f"{first.folder} and {other.folder} held out different people, so "
                "their average was trained on all of them.",
                "Use --kind soft, or train them with the same --split-seed.",
            )
        for what in ("model", "second", "target", "cosine", "size", "geometry", "mean", "std", "background", "colour"):
            if getattr(other.sidecar, what) != getattr(first.sidecar, what):
                raise UsageError(
                    f"Weights can only be averaged for runs with the same {what}; "
                    f"{first.folder} and {other.folder} differ.",
                    "Use --kind soft.",
                )
    states = [m.network(torch.device("cpu")).state_dict() for m in members]
    if any({k: v.shape for k, v in s.items()} != {k: v.shape for k, v in states[0].items()} for s in states):
        raise UsageError("Weights can only be averaged for networks of the same shape; those of the runs differ.")
    bench = Bench(first, cache, device, members[1:])
    state = bench.settle(average_weights(states))
    return state, first.held.saying(bench.predict(state))


def write_mean(members: Sequence[Candidate], state: State, made: Predictions, out: Path) -> None:
    """Write mean weights as a plain run."""
    first = members[0]
    out.mkdir(parents=True, exist_ok=True)
    for file in (runs.DATA, runs.CONFIG):
        shutil.copy2(first.folder / file, out / file)
    write_json(out / FILE, {OF: [m.name for m in members]})
    made.write(out / runs.OOF)
    matrix = metrics.confusion(made.labels, made.answers, made.schema.num_classes)
    sidecar = dataclasses.replace(first.sidecar, epoch=0, score=metrics.macro_f1(matrix))
    checkpoint.save_best(out, state, sidecar, runs.read_settings(out))


def read(run: Path) -> list[str]:
    """Names of the runs that mean weights are made of.

    Raises:
        UserError: it is no such run, or soup.json is damaged.
    """
    return list(read_json(run / FILE, {OF: list}, "Make the soup again: masktrain ensemble RUN... --kind soup")[OF])
