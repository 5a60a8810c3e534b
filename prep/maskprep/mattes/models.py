"""The models that separate a person from the background: what each expects, under which licence, and where its file is.

The names are those of rembg's sessions. The files of those listed here are run directly: what a session does to a photo
before and after its network is a few numbers, and nobody has to wait for rembg's imports. Where rembg is installed it
fetches what is missing, and runs its other sessions itself. No model is ever asked over a network.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from maskprep.errors import UsageError, UserError
from maskprep.mattes import sessions
from maskprep.weights import fetch as weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
RELEASES = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
DEFAULT = "person"


@dataclass(frozen=True)
class MatteModel:
    """A model by name.

    Args:
        name: as given to ``--model``; a path for a file of the user's own.
        file: its name in the weights folder.
        licence: of the model, in words where there is no SPDX name.
        side: height and width of the network's input; 0 when the file says it.
        norm: mean and standard deviation of the input, after division by the photo's own largest value.
        sigmoid: whether the network gives logits; None when its values tell (a file of the user's own).
        stretch: whether rembg stretches the prediction to the full range; a calibrated model needs none.
        weight: name in the weights registry, where the file can be fetched from; empty for those that cannot.
        md5: rembg's own pin of a file that is not in the registry.
        address: name of the file among rembg's releases.
        multiple: the sides of its input are multiples of this and keep the picture's shape, the shorter one being
            ``side``, and values are divided by 255, not by the largest one; 0: a fixed input, as rembg has it.
        session: whether it is run by rembg's own session.
        then: name of the model that is asked where this one has missed the subject's face twice, the second time on a
            picture continued by its mirror image; empty: one look is all.
    """

    name: str
    file: str
    licence: str
    side: int = 320
    norm: tuple[tuple[float, float, float], tuple[float, float, float]] = IMAGENET
    sigmoid: bool | None = False
    stretch: bool = True
    weight: str = ""
    md5: str = ""
    address: str = ""
    multiple: int = 0
    session: bool = False
    then: str = ""


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
        return self.model.name if self.model.name in MODELS or self.model.session else self.path.name

    @property
    def weights(self) -> dict[str, str]:
        """Label -> sha256 of every file that is used."""
        return {self.label: self.sha256} | (self.then.weights if self.then else {})


def _released(name: str, licence: str, md5: str, side: int = 320, address: str = "") -> MatteModel:
    norm = HALF if name.startswith("isnet") else IMAGENET
    file, logits = f"{name}.onnx", name.startswith("birefnet")
    return MatteModel(name, file, licence, side, norm, logits, md5=md5, address=address or file)


_SELFIE = MatteModel("selfie", "selfie_segmenter.tflite", "Apache-2.0", 256, stretch=False, weight="selfie_segmenter")

_KNOWN = (
    dataclasses.replace(_SELFIE, name="person", then="u2netp"),
    _SELFIE,
    MatteModel("u2netp", "u2netp.onnx", "Apache-2.0", weight="u2netp"),
    MatteModel(
        "modnet", "modnet.onnx", "Apache-2.0", 512, (HALF[0], HALF[0]), stretch=False, weight="modnet", multiple=32
    ),
    MatteModel("u2net", "u2net.onnx", "Apache-2.0", weight="u2net"),
    _released("u2net_human_seg", "Apache-2.0", "c09ddc2e0104f800e3e1bb4652583d1f"),
    _released("silueta", "not stated; U-2-Net made smaller, itself Apache-2.0", "55e59e0d8062d2f5d013f4725ee84782"),
    _released("isnet-general-use", "Apache-2.0", "fc16ebd8b0c10d971d3513d564d01e29", 1024),
    _released(
        "birefnet-portrait",
        "MIT",
        "c3a64a6abf20250d090cd055f12a3b67",
        1024,
        "BiRefNet-portrait-epoch_150.onnx",
    ),
    _released(
        "birefnet-general",
        "MIT",
        "7a35a0141cbbc80de11d9c9a28f52697",
        1024,
        "BiRefNet-general-epoch_244.onnx",
    ),
    _released(
        "birefnet-general-lite",
        "MIT",
        "4fab47adc4ff364be1713e97b7e66334",
        1024,
        "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
    ),
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
        licence = "not stated; see rembg's list of models"
        return MatteModel(name, f"{name}.onnx", licence, sigmoid=None, stretch=False, session=True)
    for path in (Path(name).expanduser(), weights.folder() / name, weights.folder() / f"{name}.onnx"):
        if path.suffix == ".onnx" and path.is_file():
            full = str(path.resolve())
            return MatteModel(full, path.name, "yours to know: a file of your own", 0, sigmoid=None)
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
    if model.weight:
        then = locate(model.then, fetch) if model.then else None
        file = weights.locate(model.weight, offline=not fetch)
        return LocalModel(model, file, weights.REGISTRY[model.weight].sha256, then)
    if model.session:
        files = sessions.fetch(model.name, fetch)
        digests = [_digest(file, "sha256") for file in files]
        joined = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        return LocalModel(model, files[0], joined)
    if not model.md5:
        return LocalModel(model, Path(model.name), _digest(Path(model.name), "sha256"))
    path = next((path for path in _places(model) if path.is_file()), None)
    if path is None:
        try:
            path = sessions.fetch(name, fetch)[0]
        except UserError as error:
            address = f"{RELEASES}/{model.address}"
            also = "" if sessions.installed() else f"; or: pip install 'maskprep[{sessions.EXTRA}]'"
            raise UserError(
                error.message,
                f"Download {address} (md5 {model.md5}) and put it into {weights.folder()} as {model.file}{also}.",
            ) from error
    if _digest(path, "md5") != model.md5:
        raise UserError(f"'{path}' is not the model {name}: its md5 is not {model.md5}.", "Remove or replace it.")
    return LocalModel(model, path, _digest(path, "sha256"))


def known_weights(model: MatteModel) -> dict[str, str | None]:
    """Name -> sha256 of every file of a model, without fetching any; None for one that is not here and not in the
    registry."""
    if model.weight:
        then = known_weights(MODELS[model.then]) if model.then else {}
        return {model.name: weights.REGISTRY[model.weight].sha256, **then}
    try:
        return {model.name: locate(model.name, fetch=False).sha256}
    except UserError:
        return {model.name: None}


def _places(model: MatteModel) -> list[Path]:
    """Where a file may lie: in our folder, or where rembg keeps those it has fetched."""
    old = Path(os.environ.get("U2NET_HOME", "~/.u2net")).expanduser()
    new = Path(os.environ.get("REMBG_HOME", "~/.rembg")).expanduser() / "models" / model.name
    return [weights.folder() / model.file, new / model.file, old / model.file]


_digests: dict[tuple[str, str, int, int], str] = {}


def _digest(path: Path, kind: str) -> str:
    """A file's hash, remembered for this process as long as the file stays as it is."""
    info = path.stat()
    key = (kind, str(path), info.st_size, info.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, kind).hexdigest()
    return _digests[key]
