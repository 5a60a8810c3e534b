"""Weights to start from: those of another run, or of a file, for a network of the same model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from maskprep.labels import Schema
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet
from masktrain.runs import folder as runs
from masktrain.train import checkpoint
from masktrain.train.model import classifier_names, import_timm, known_name
from masktrain.train.targets import Target

KINDS = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Start:
    """Weights by name, and the sidecar of the run they are from, if any."""

    path: Path
    weights: Mapping[str, Tensor]
    sidecar: checkpoint.Sidecar | None

    def load(self, model: nn.Module, schema: Schema, target: Target, cosine: float) -> str:
        """Copy all tensors that fit into a network; the classifier only where its answers mean the same.

        Returns:
            What was taken and what was not, in words.

        Raises:
            UsageError: most of the network has no weights here.
        """
        own, head = model.state_dict(), classifier_names(model)
        about = self.sidecar
        same = about is not None and (about.labels(), about.answers(), about.cosine) == (schema, target, cosine)
        fit = {
            k: v for k, v in self.weights.items() if k in own and v.shape == own[k].shape and (same or k not in head)
        }
        missing = [k for k in own if k not in fit and k not in head]
        if 2 * len(missing) > len(own):
            raise UsageError(
                f"{self.path} holds weights of another model: {len(missing)} of {len(own)} tensors do not fit, such as"
                f" {missing[0]}.",
                "Give the --model that they are of.",
            )
        model.load_state_dict(fit, strict=False)
        left = ["the classifier, as its classes or target are others"] * (not set(head) <= set(fit)) + missing
        shown = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        return f"{len(fit)} of {len(own)} tensors of {self.path}" + (f"; not {shown}" if left else "")


def read(config: FitConfig, data: TrainSet) -> tuple[Start | None, list[str]]:
    """The weights that a fit is to start from, if any, and what there is to know about them.

    Raises:
        UsageError: there is no such run or file, or it is of another model.
        UserError: it cannot be read.
    """
    if not config.model.start:
        return None, []
    path = Path(config.model.start)
    if not path.is_dir():
        start = _of_file(path)
    elif (path / runs.ENSEMBLE).is_file() or (path / runs.FOLDS).is_file():
        raise UsageError(f"{path} is several runs.", f"Start from one of them, such as --from {path / 'fold-1'}")
    else:
        sidecar = checkpoint.load_sidecar(path)
        start = Start(path, checkpoint.load_weights(path, sidecar), sidecar)
    about = start.sidecar
    if about is not None:
        mine, theirs = (
            [known_name(n).partition(".")[0] for n in pair if n]
            for pair in ((config.model.name, config.model.second), (about.model, about.second))
        )
        if mine != theirs:
            second = f" --second {about.second}" if about.second else ""
            raise UsageError(
                f"{path} is of the model {about.backbones}, not {' + '.join(mine)}.",
                f"Give its model: --model {about.model}{second}",
            )
    return start, _seen(path, data)


def _seen(path: Path, data: TrainSet) -> list[str]:
    """A sentence where people held out now were trained on by the run."""
    if not (path / runs.DATA).is_file():
        return []
    table = data.view.table.iloc[data.split.val]
    held, known = set(table["person"]), set(runs.read_data(path)["people"]["train"])
    if not (seen := len(held & known)):
        return []
    return [
        f"{path} was trained on {seen} of the {len(held)} held out now: the scores will flatter. Hold out those that it"
        " held out, with its --fold, --val-ratio and --split-seed."
    ]


def _of_file(path: Path) -> Start:
    """The weights of a file; one of best.safetensors knows its run.

    Raises:
        UsageError: there is none, or it is of another kind.
        UserError: it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"There is no run or file {path}.", "Give --from a run, or a .safetensors or .pth file.")
    if path.suffix not in KINDS:
        raise UsageError(f"{path} is no file of weights.", f"Known endings: {', '.join(KINDS)}")
    import_timm()
    from safetensors import SafetensorError, safe_open
    from timm.models import load_state_dict

    try:
        if path.suffix != ".safetensors":
            return Start(path, _tensors(load_state_dict(str(path), device="cpu", weights_only=True)), None)
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {}).get("run", "{}")).get("sidecar")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    return Start(path, weights, checkpoint.Sidecar(**told) if told else None)


def _tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    return {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
