"""The models that separate a person from the background: what each expects, and where its file is.

The names are those of rembg's sessions. The models listed here are run directly: what a session does to a photo before
and after its network is a few numbers, and nobody has to wait for rembg's imports. Other sessions are run by rembg
itself, where it is installed. No model is ever asked over a network.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from maskprep.base import UsageError, UserError
from maskprep.mattes import sessions
from maskprep.weights import fetch as weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
DEFAULT = "person"


@dataclass(frozen=True)
class MatteModel:
    """A model by name.

    Args:
        name: as given to ``--model``; the path of a file of the user's own.
        weight: name of its file in the weights registry; empty for a user's own file and for rembg's sessions.
        side: height and width of the network's input; 0 when the file says it.
        norm: mean and standard deviation of the input, after division by the photo's own largest value.
        sigmoid: whether the network gives logits; None when its values tell (a file of the user's own).
        stretch: whether rembg stretches the prediction to the full range; a calibrated model needs none.
        multiple: the sides of its input are multiples of this and keep the picture's shape, the shorter one being
            ``side``, and values are divided by 255, not by the largest one; 0: a fixed input, as rembg has it.
        session: whether it is run by rembg's own session.
        then: name of the model that is asked where this one has missed the subject's face twice, the second time on a
            picture continued by its mirror image; empty: one look is all.
    """

    name: str
    weight: str = ""
    side: int = 320
    norm: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    sigmoid: bool | None = False
    stretch: bool = True
    multiple: int = 0
    session: bool = False
    then: str = ""

    @property
    def file(self) -> str:
        """Name of its file."""
        return weights.REGISTRY[self.weight].file if self.weight else Path(self.name).with_suffix(".onnx").name

    @property
    def licence(self) -> str:
        """Of the model, in words where there is no SPDX name."""
        if self.weight:
            return weights.REGISTRY[self.weight].licence
        return "not stated; see rembg's list of models" if self.session else "not known, as it is a file of your own"


@dataclass(frozen=True)
class LocalModel:
    """A model whose file is here, with the sha256 that its mattes are known by, and the one asked after it."""

    model: MatteModel
    path: Path
    sha256: str
    then: LocalModel | None = None

    @property
    def label(self) -> str:
        """What tables call it: the name, or a user's own file without its folder."""
        return self.model.name if self.model.weight or self.model.session else self.path.name

    @property
    def weights(self) -> dict[str, str]:
        """Label -> sha256 of every file that is used."""
        return {self.label: self.sha256} | (self.then.weights if self.then else {})


_SELFIE = MatteModel("selfie", "selfie_segmenter", 256, stretch=False)
_LIKE_REMBG = ("u2netp", "u2net", "u2net_human_seg", "silueta")
_BIREFNET = ("birefnet-portrait", "birefnet-general", "birefnet-general-lite")

_KNOWN = (
    replace(_SELFIE, name="person", then="u2netp"),
    _SELFIE,
    MatteModel("modnet", "modnet", 512, (HALF[0], HALF[0]), stretch=False, multiple=32),
    *(MatteModel(name, name) for name in _LIKE_REMBG),
    MatteModel("isnet-general-use", "isnet-general-use", 1024, HALF),
    *(MatteModel(name, name, 1024, sigmoid=True) for name in _BIREFNET),
)

MODELS: dict[str, MatteModel] = {model.name: model for model in _KNOWN}


def find(name: str) -> MatteModel:
    """A known model, a session of the installed rembg, or a file of the user's own: a path, or ``NAME.onnx`` in the
    weights folder.

    Raises:
        UsageError: none of these is there; the nearest names are given.
    """
    if name in MODELS:
        return MODELS[name]
    theirs = [] if name.endswith(".onnx") else sessions.names()
    if name in theirs:
        return MatteModel(name, sigmoid=None, stretch=False, session=True)
    for path in (Path(name).expanduser(), weights.folder() / name, weights.folder() / f"{name}.onnx"):
        if path.suffix == ".onnx" and path.is_file():
            return MatteModel(str(path.resolve()), side=0, sigmoid=None)
    if name.endswith(".onnx"):
        raise UsageError(f"There is no model file '{name}', neither here nor in {weights.folder()}.")
    names = list(dict.fromkeys([*MODELS, *theirs]))
    near = difflib.get_close_matches(name, names, n=2)
    more = "" if sessions.installed() else f" pip install 'maskprep[{sessions.EXTRA}]' adds those of rembg."
    known = f"Known: {', '.join(names)}; or the path of an ONNX file.{more}"
    likely = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"There is no model named '{name}'.", likely + known)


def locate(name: str, fetch: bool = True) -> LocalModel:
    """A model with its file, fetched if it can be and ``fetch`` allows it.

    Raises:
        UsageError: no such model.
        UserError: its file is not here and cannot be fetched, or has other bytes than it must have.
    """
    model = find(name)
    then = locate(model.then, fetch) if model.then else None
    if model.weight:
        files = [weights.locate(model.weight, offline=not fetch)]
    else:
        files = sessions.fetch(model.name, fetch) if model.session else [Path(model.name)]
    digests = [weights.sha256_of(file) for file in files]
    joined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return LocalModel(model, files[0], joined, then)


def known_weights(model: MatteModel) -> dict[str, str | None]:
    """Name -> sha256 of every file of a model, without fetching any; None for one that is not here and whose sha256
    the registry does not know."""
    sha256: str | None = weights.REGISTRY[model.weight].sha256 if model.weight else None
    if not sha256:
        try:
            sha256 = locate(model.name, fetch=False).sha256
        except UserError:
            sha256 = None
    return {model.name: sha256, **(known_weights(MODELS[model.then]) if model.then else {})}
