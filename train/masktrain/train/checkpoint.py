"""What a fit leaves behind: the best weights to use, and the last state to go on from. Written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskprep.base import UsageError, UserError, write_json, write_with
from maskprep.crops import Background
from maskprep.labels import Schema
from masktrain.train.targets import Target, make_target

BEST, SIDECAR, LAST = "best.safetensors", "best.json", "last.ckpt"
FORMAT = 1
STATE_FORMAT = 2
"""Of last.ckpt, which goes with the version that wrote it."""


@dataclass(frozen=True)
class Sidecar:
    """All it takes to use the weights: nothing has to be typed again or guessed (kept as best.json).

    Attributes:
        model: timm's name.
        schema: what is classified; ``classes`` are the names of its joint classes in index order.
        view: name of the view, ``geometry`` its view.json, ``size`` height and width of its crops.
        mean, std: per channel, 0..1.
        settings: the preprocessing settings of the cache, to prepare raw photos in the same way.
        fallback: the most frequent training class, the answer for a photo without a crop.
        epoch, score: when and how good (validation macro-F1).
        target: what the outputs mean, see :mod:`masktrain.train.targets`.
        cosine: scale of a classifier by direction, 0 for a linear one.
        tta: ``mirror`` if the score is that of the mean over the crop and its mirror image.
        second: timm's name of the second backbone, empty for none.
        route: of a cascade, as earlier versions trained.
        limits: attribute -> limits of its classes in training, where they are not the schema's.
        background: what lay behind the subjects in training; ``colour`` R, G, B of ``mean`` and ``colour``.
        sha256: of best.safetensors; empty in runs of earlier versions, and in the header of that file.
    """

    model: str
    schema: dict[str, Any]
    classes: list[str]
    view: str
    size: list[int]
    geometry: dict[str, Any]
    mean: list[float]
    std: list[float]
    settings: dict[str, Any]
    fallback: int
    epoch: int = 0
    score: float = 0.0
    format: int = FORMAT
    target: str = "joint"
    cosine: float = 0.0
    tta: str = "none"
    background: str = "original"
    colour: list[int] = field(default_factory=lambda: [128, 128, 128])
    second: str = ""
    route: str = "soft"
    limits: dict[str, list[float]] = field(default_factory=dict)
    sha256: str = ""

    @property
    def backbones(self) -> str:
        """timm's names of its backbones, for people: ``a`` or ``a + b``."""
        return " + ".join(n for n in (self.model, self.second) if n)

    def labels(self) -> Schema:
        """The schema as an object."""
        return Schema.from_dict(self.schema)

    def behind(self) -> Background:
        """What is to lie behind the subjects of crops that are looked at; random ones are for training only."""
        return Background(self.background, (self.colour[0], self.colour[1], self.colour[2]))

    def answers(self) -> Target:
        """The target as an object."""
        return make_target(self.target, self.labels(), self.limits)


def save_best(run: Path, weights: Mapping[str, Tensor], sidecar: Sidecar, settings: Mapping[str, Any]) -> None:
    """Write best.safetensors and best.json; the sidecar is in the header of the weights too, and so is every setting
    of the fit, as in config.yaml.

    Args:
        weights: state dict of the network.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    about = {"sidecar": asdict(replace(sidecar, sha256="")), "settings": settings}
    # one key: the order of several changes from process to process, and so would the file's hash
    write_weights(run / BEST, lambda part: save_file(state, part, metadata={"run": json.dumps(about)}))
    write_json(run / SIDECAR, asdict(replace(sidecar, sha256=_sha256(run / BEST))))


def load_best(run: Path, device: torch.device) -> tuple[nn.Module, Sidecar]:
    """The best model of a run, ready to predict.

    Raises:
        UsageError: the folder is not a run with a best model.
        UserError: the weights do not fit the model that the sidecar names.
    """
    sidecar = load_sidecar(run)
    return build_best(run, sidecar, load_weights(run, sidecar)).to(device).eval(), sidecar


def build_best(run: Path, sidecar: Sidecar, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network that a sidecar names, with these weights of the run.

    Raises:
        UserError: the weights do not fit it.
    """
    from masktrain.train.model import assemble

    size = (sidecar.size[0], sidecar.size[1])
    outputs = sidecar.answers().outputs
    model = assemble(sidecar.model, outputs, size, second=sidecar.second, cosine=sidecar.cosine)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{run / BEST} cannot be used: {str(error).splitlines()[0]}") from error
    return model


def load_weights(run: Path, sidecar: Sidecar) -> dict[str, Tensor]:
    """best.safetensors of a run, compared with the hash in its sidecar.

    Raises:
        UserError: it is damaged, or not the file that the sidecar was written with.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(run / BEST)
        same = not sidecar.sha256 or _sha256(run / BEST) == sidecar.sha256
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{run / BEST} cannot be used: {str(error).splitlines()[0]}") from error
    if not same:
        raise UserError(
            f"{run / BEST} is not the file that {SIDECAR} was written for: its sha256 is another one.",
            "Restore both from a copy; after a fit that was killed while it wrote them: masktrain fit --resume RUN",
        )
    return state


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def load_sidecar(run: Path) -> Sidecar:
    """best.json of a run."""
    if (run / SIDECAR).is_file() and not (run / BEST).is_file():
        raise UsageError(f"The weights of {run} are gone: it has no {BEST}.", "Restore the file, or train again.")
    if not (run / SIDECAR).is_file():
        started = (run / LAST).is_file()
        raise UsageError(
            f"{run} {'has no finished epoch yet' if started else 'is not a run: it has no ' + SIDECAR}.",
            f"Go on with it: masktrain fit --resume {run}" if started else "Make one with: masktrain fit CACHE",
        )
    try:
        return Sidecar(**json.loads((run / SIDECAR).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{run / SIDECAR} cannot be read: {error}") from error


def save_last(run: Path, state: dict[str, Any]) -> None:
    """Write last.ckpt: tensors and plain values only.

    Raises:
        UserError: see :func:`write_weights`.
    """
    write_weights(run / LAST, lambda part: torch.save(state, part))


def write_weights(file: Path, write: Callable[[Path], object]) -> None:
    """Write a large file of a run, whole or not at all; see :func:`maskprep.base.files.write_with`.

    Raises:
        UserError: it could not be written, most often as the disk is full; libraries say so in errors of their own.
    """
    from safetensors import SafetensorError

    try:
        write_with(file, write)
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(file.parent).free / 2**20
        raise UserError(
            f"'{file}' could not be written ({str(error).splitlines()[0]}); {free:.0f} MiB are free there.",
            "Make room and run the command again; a run that has begun goes on with: masktrain fit --resume RUN",
        ) from error


def on_host(value: Any) -> Any:
    """A copy of nested dicts and lists with all tensors on the CPU, in memory of their own.

    Copies from a GPU are only queued; they are whole when the device has come as far (see :func:`copied`).
    """
    if isinstance(value, Tensor):
        pinned = value.device.type == "cuda"
        return torch.empty_like(value, device="cpu", pin_memory=pinned).copy_(value.detach(), non_blocking=pinned)
    if isinstance(value, Mapping):
        return {k: on_host(v) for k, v in value.items()}
    return [on_host(v) for v in value] if isinstance(value, list | tuple) else value


def copied(device: torch.device) -> Callable[[], None]:
    """What waits until everything that is queued on a device now is done; for a thread that writes a copy."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


def load_last(run: Path) -> dict[str, Any]:
    """Read last.ckpt; nothing in it is ever executed.

    Raises:
        UsageError: there is none.
    """
    if not (run / LAST).is_file():
        raise UsageError(f"{run} cannot be resumed: it has no {LAST}.", "Start a run with: masktrain fit CACHE")
    try:
        state: dict[str, Any] = torch.load(run / LAST, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file shows in many ways
        raise UserError(f"{run / LAST} cannot be read: {str(error).splitlines()[0]}") from error
    if state.get("format") != STATE_FORMAT:
        raise UserError(
            f"{run} was begun by another version of masktrain, with other random draws, and cannot be resumed.",
            "Its best weights can be used as they are; for more training start a new run: masktrain fit CACHE",
        )
    return state


def weights_hash(state: dict[str, Tensor]) -> str:
    """Hash over the bytes of all tensors: equal means bit-identical weights."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
