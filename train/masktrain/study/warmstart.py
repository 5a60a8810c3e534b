"""Weights to start from: those of another run, or of a file, for a network of the same model."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from maskprep.labels import Schema
from masktrain.config.config import FitConfig
from masktrain.config.sections import ModelConfig
from masktrain.data.trainset import TrainSet
from masktrain.runs import folder as runs
from masktrain.train import checkpoint
from masktrain.train.model import Paired, import_timm, known_name
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
        own, head = model.state_dict(), _classifier_names(model)
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


def start(model: nn.Module, data: TrainSet, config: FitConfig, target: Target, say: Callable[[str], None]) -> None:
    """Give a new network the weights of the run or file that the settings name, and say which.

    Raises:
        UsageError: there is no such run or file, or it is of another model.
        UserError: it cannot be read.
    """
    path = Path(config.model.start)
    given = _of_file(path) if not path.is_dir() else _of_run(path)
    if given.sidecar is not None:
        _same_model(path, given.sidecar, config.model)
    cosine = config.loss.scale if config.model.head == "cosine" else 0.0
    say(f"note    starts from {given.load(model, data.view.schema, target, cosine)}")
    for line in _seen(path, data):
        say(f"note    {line}")


def _of_run(path: Path) -> Start:
    """The best weights of a run.

    Raises:
        UsageError: it is none, or several.
    """
    if (path / runs.ENSEMBLE).is_file() or (path / runs.FOLDS).is_file():
        raise UsageError(f"{path} is several runs.", f"Start from one of them, such as --from {path / 'fold-1'}")
    sidecar = checkpoint.load_sidecar(path)
    return Start(path, checkpoint.load_weights(path, sidecar), sidecar)


def _same_model(path: Path, sidecar: checkpoint.Sidecar, wanted: ModelConfig) -> None:
    mine, theirs = (
        [known_name(n).partition(".")[0] for n in pair if n]
        for pair in ((wanted.name, wanted.second), (sidecar.model, sidecar.second))
    )
    if mine != theirs:
        second = f" --second {sidecar.second}" if sidecar.second else ""
        raise UsageError(
            f"{path} is of the model {sidecar.backbones}, not {' + '.join(mine)}.",
            f"Give its model: --model {sidecar.model}{second}",
        )


def _seen(path: Path, data: TrainSet) -> list[str]:
    """A sentence where people held out now were trained on by the run."""
    if not (path / runs.DATA).is_file():
        return []
    table = data.view.table.iloc[data.split.val]
    held, known = set(table["person"]), set(runs.read_data(path)["people"]["train"])
    if not (seen := len(held & known)):
        return []
    return [
        f"{path} was trained on {seen} of the {len(held)} held out now: the "
        "scores will be too high. Hold out those that it"
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


def _classifier_names(model: nn.Module) -> list[str]:
    """Names of the tensors of a network's classifier, in its state dict."""
    heads: Any = model.classifier if isinstance(model, Paired) else model.get_classifier()  # type: ignore[operator]
    parts = [id(m) for h in (heads if isinstance(heads, tuple | list) else [heads]) for m in h.modules()]
    named = [name for name, m in model.named_modules() if id(m) in parts]
    return [key for key in model.state_dict() if key.rpartition(".")[0] in named]
