"""Averages of the weights of the last epochs, made when a fit is done (SWA, arXiv 1803.05407; soups, 2203.05482)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from maskprep.store.files import write_with
from masktrain.learn import loop
from masktrain.learn.averaging import mean_state
from masktrain.learn.batches import Batches
from masktrain.sections import SelectConfig

FOLDER = "epochs"


@dataclasses.dataclass(frozen=True)
class Soup:
    """Averaged weights: of which epochs, their scores, validation probabilities [n, C], and the learner they are in."""

    epochs: list[int]
    scores: dict[str, Any]
    probabilities: NDArray[np.float32]
    learner: loop.Learner


def keep(run: Path, learner: loop.Learner, config: SelectConfig) -> None:
    """Keep the weights of the epoch that is done if it is one of ``select.every``, and no more than ``select.last``."""
    from safetensors.torch import save_file

    if not config.last or learner.epoch % config.every:
        return
    (run / FOLDER).mkdir(exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in learner.scored.state_dict().items()}
    write_with(_file(run, learner.epoch), lambda part: save_file(state, part))
    for file in (run / FOLDER).glob("[0-9]*.safetensors"):
        if int(file.stem) <= learner.epoch - config.last * config.every:
            file.unlink()


def cook(
    run: Path,
    learner: loop.Learner,
    config: SelectConfig,
    val: Batches,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
) -> Soup | None:
    """The average of the epochs that are kept, if it scores higher than the best of all epochs.

    ``uniform`` takes all that are kept; ``greedy`` begins with the best of them and takes each further one, best first,
    if the average then scores no lower. Running statistics of norms are averaged as the weights are.
    """
    from safetensors.torch import load_file

    kept = sorted(int(f.stem) for f in (run / FOLDER).glob("[0-9]*.safetensors"))
    kept = [e for e in kept if e <= learner.epoch]
    if config.soup == "none" or len(kept) < 2:
        return None

    def scored(epochs: list[int]) -> Soup:
        states: list[dict[str, Tensor]] = [load_file(_file(run, e)) for e in epochs]
        net = copy.deepcopy(learner.scored)
        net.load_state_dict(mean_state(states))
        own = dataclasses.replace(learner, average=net)
        probabilities, loss = loop.predict(own, val)
        return Soup(epochs, {"val_loss": loss, **evaluate(probabilities)}, probabilities, own)

    def worth(soup: Soup) -> float:
        return loop.criterion(soup.scores, config.by)

    ranked = sorted(kept, key=lambda e: (-learner.scores[e - 1], e))
    if config.soup == "uniform":
        best = scored(kept)
    else:
        best = scored(ranked[:1])
        for epoch in ranked[1:]:
            if worth(tried := scored(sorted([*best.epochs, epoch]))) >= worth(best):
                best = tried
    return best if len(best.epochs) > 1 and worth(best) > max(learner.scores) else None


def _file(run: Path, epoch: int) -> Path:
    return run / FOLDER / f"{epoch:05d}.safetensors"
