"""Faces in pictures that are in memory, found and cut as the preprocessing does it with files. No torch.

A picture is treated like a photo that is alone in its folder: nothing is known about the person or the data set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import Box, UserError
from maskprep.crops import Background, cut
from maskprep.faces import CREDIBLE, Choice, Find, Subjects, find_faces, open_detectors
from maskprep.mattes import Look, MatteSettings, matte_crop, matte_within, open_looks
from maskprep.mattes import models as matte_models
from maskprep.photos import Pixels
from maskprep.pipeline import config as configuration
from masktrain.answer.spec import ModelSpec

OTHER = "other"
"""Status of a face that is not the subject."""

SEEN = ("ok", "ambiguous", OTHER)
"""Statuses of a face that a detector saw."""

IMAGE = "picture"
"""What the picture is called in tables of one row."""


@dataclass(frozen=True)
class Subject:
    """A face of a picture, ready for a model.

    Args:
        status: as in subjects.parquet, or ``other`` for a face that is not the subject.
        box: x0, y0, x1, y1 in the picture's pixels.
        reason: why, in words; empty for a clear case.
        crops: for each input of the model by name: uint8 [H, W, 3] RGB, before its background.
        mattes: uint8 [H, W] for the inputs that need one.
        mark: how likely the face is the subject, 0..1; None where no face was seen.
    """

    status: str
    box: Box | None
    reason: str = ""
    crops: dict[str, Pixels] = field(default_factory=dict, repr=False)
    mattes: dict[str, Pixels] = field(default_factory=dict, repr=False)
    mark: float | None = None


@dataclass(frozen=True)
class FaceFinder:
    """Detectors (None where faces are not looked for) and, where a model needs mattes, what makes these; opened by
    :func:`open_finder`."""

    spec: ModelSpec
    config: configuration.Config
    detectors: dict[str, Find] | None
    matte: list[Look] | None

    def find(self, pixels: Pixels, everyone: bool = False) -> list[Subject]:
        """The subject of a picture, then with ``everyone`` all other credible faces, the likeliest first.

        Args:
            pixels: uint8 [h, w, 3] RGB, upright.

        Returns:
            At least one; without crops where there is no face and the settings do not take the whole picture.
        """
        subjects = self._subjects(pixels)
        choice, ranked = subjects.choose(IMAGE), subjects.candidates(IMAGE)
        marks = {c.face.faces[0]: c.mark for c in ranked}
        found = [self._cut(pixels, choice, None if choice.face is None else marks.get(choice.face))]
        for other in ranked if everyone else ():
            face = other.face
            if face.faces[0] != choice.face and face.evidence >= CREDIBLE:
                found.append(self._cut(pixels, Choice(OTHER, face.faces[0], face.box, "", face.keypoints), other.mark))
        return found

    def _subjects(self, pixels: Pixels) -> Subjects:
        """The picture and its faces as the tables of a cache with one photo."""
        height, width = pixels.shape[:2]
        about = {"image": IMAGE, "width": width, "height": height}
        images = pd.DataFrame([about | dict.fromkeys(("person", "error", "detail", "content"))])
        faces = pd.DataFrame(self._faces(pixels) if self.detectors is not None else [], columns=FACE)
        return Subjects(images, faces, self.config.choose, sought=self.detectors is not None)

    def _faces(self, pixels: Pixels) -> list[dict[str, Any]]:
        """Rows of faces.parquet; with mattes where the cache was made with those of whole photos."""
        assert self.detectors is not None
        settings = self.config.detect
        thresholds = {name: settings.threshold(name) for name in settings.detectors}
        seen, faces = find_faces(pixels, self.detectors, thresholds)
        shares: list[float | None] = [None] * len(seen)
        if len(faces) > 1 and self.matte is not None and self.config.choose.matte:
            alpha, clear = self.matte[0](pixels)
            shares = [matte_within(alpha, d.box) if clear else None for d in seen]
        rows = []
        for face in faces:
            for i in face.faces:
                d = seen[i]
                own = (d.detector, d.search_pass, d.score, *d.box, d.keypoints.ravel(), d.sharpness)
                matte = np.nan if shares[i] is None else shares[i]
                values = (IMAGE, i, face.faces[0], *own, matte, face.evidence, face.confirmed)
                rows.append(dict(zip(FACE, values, strict=True)))
        return rows

    def _cut(self, pixels: Pixels, choice: Choice, mark: float | None) -> Subject:
        crops: dict[str, Pixels] = {}
        alphas: dict[str, Pixels] = {}
        shape = (pixels.shape[0], pixels.shape[1])
        for wanted in self.spec.inputs:
            made = cut(pixels, self.config.views[wanted.view], choice.box, choice.keypoints)
            if made is None:
                return Subject(choice.status, choice.box, choice.reason, mark=mark)
            crop = made.pixels
            if wanted.matted and self.matte is not None and self.config.matte is not None:
                box = choice.box if self.detectors is not None else None
                matte = matte_crop(
                    self.matte, self.config.matte, crop, pixels, made.transform, shape, box, choice.status in SEEN
                )
                alphas[wanted.view] = matte.alpha
                held, crop = _Held(crop, matte.alpha, matte.status), crop.copy()
                Background(wanted.background, wanted.colour).lay(held, crop[None], np.zeros(1, np.int64), None)
            crops[wanted.view] = crop
        return Subject(choice.status, choice.box, choice.reason, crops, alphas, mark)


FACE = (
    *("image", "face", "group", "detector", "rung", "score", "x0", "y0", "x1", "y1"),
    *("keypoints", "sharpness", "matte", "evidence", "confirmed"),
)
"""Columns of faces.parquet."""


@dataclass(frozen=True)
class _Held:
    """One crop with its matte, as backgrounds are laid behind it."""

    crop: Pixels
    alpha: Pixels
    status: str

    def gather_original(self, indices: Any, out: Pixels | None = None) -> Pixels:
        return self.crop[None]

    def gather_alpha(self, indices: Any, out: Pixels | None = None) -> Pixels:
        return self.alpha[None]

    def matte_statuses(self, indices: Any) -> list[str | None]:
        return [self.status]


@contextlib.contextmanager
def open_finder(spec: ModelSpec) -> Iterator[FaceFinder]:
    """Load the detectors, and the matting model where it is needed, that made the crops a model was trained on.

    It is needed for crops before a background, and where mattes of whole photos helped to choose the subject.

    Raises:
        UserError: the model does not say how its crops were made, or weights cannot be had.
    """
    config, matted = configuration.parse(spec.settings), any(i.matted for i in spec.inputs)
    if lost := [i.view for i in spec.inputs if i.view not in config.views]:
        raise UserError(f"The settings hold no view '{lost[0]}', only: {', '.join(config.views)}.")
    if matted and config.matte is None:
        raise UserError("The model needs mattes, and its settings do not say how to make them.")
    lowest: dict[str, float] = {n: min(config.detect.low, config.detect.threshold(n)) for n in config.detect.detectors}
    with contextlib.ExitStack() as opened:
        matte = detectors = None
        if matted or config.choose.matte:
            settings = config.matte or MatteSettings()
            matte = opened.enter_context(open_looks(matte_models.locate(settings.model), runtime=settings.runtime))
        if any(config.needs_faces(i.view, i.matted) for i in spec.inputs):
            detectors = opened.enter_context(open_detectors(list(config.detect.detectors), lowest))
        yield FaceFinder(spec, config, detectors, matte)


def stack(spec: ModelSpec, subjects: Sequence[Subject]) -> dict[str, NDArray[np.uint8]]:
    """The crops of some subjects as a model takes them: for each input uint8 [n, H, W, 3]."""
    return {i.view: np.stack([s.crops[i.view] for s in subjects]) for i in spec.inputs}
