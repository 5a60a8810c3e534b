"""Faces in pictures that are in memory, as the preprocessing finds and cuts them in files. No torch.

A picture is treated like a photo that is alone in its folder: nothing is known about the person or the data set.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import Box, UserError
from maskprep.crops import Background, cut
from maskprep.faces import (
    CREDIBLE,
    NOT_SOUGHT,
    Choice,
    Detection,
    Face,
    Find,
    candidates,
    choose,
    find_faces,
    habit,
    open_detectors,
    place,
)
from maskprep.mattes import Look, MatteSettings, matte_crop, matte_within, open_looks
from maskprep.mattes import models as matte_models
from maskprep.photos import Pixels
from maskprep.pipeline import config as configuration
from masktrain.answering.manual import Manual

OTHER = "other"
"""Status of a face that is not the subject."""

SEEN = ("ok", "ambiguous")


@dataclass(frozen=True)
class Subject:
    """A face of a picture, ready to be looked at by a model.

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
class Eye:
    """Detectors (None where faces are not looked for) and, where a model needs mattes, what makes these; opened by
    :func:`open_eye`."""

    manual: Manual
    config: configuration.Config
    detectors: dict[str, Find] | None
    matte: list[Look] | None

    def look(self, pixels: Pixels, everyone: bool = False) -> list[Subject]:
        """The subject of a picture, then with ``everyone`` all other credible faces, the likeliest first.

        Args:
            pixels: uint8 [h, w, 3] RGB, upright.

        Returns:
            At least one; without crops where there is no face and the settings do not take the whole picture.
        """
        height, width = pixels.shape[:2]
        if self.detectors is None:
            return [self._subject(pixels, Choice("given", box=(0.0, 0.0, width, height), reason=NOT_SOUGHT), None)]
        faces = self._faces(pixels, self.detectors)
        first = candidates(faces, width, height)
        usual = habit([place(first[0].face.box, width, height)]) if first else None
        choice = choose(faces, width, height, None, usual, self.config.choose)
        ranked = candidates(faces, width, height, None, usual)
        marks = {c.face.faces[0]: c.mark for c in ranked}
        found = [self._subject(pixels, choice, marks.get(-1 if choice.face is None else choice.face))]
        if everyone:
            for candidate in ranked:
                face = candidate.face
                if face.faces[0] != choice.face and face.evidence >= CREDIBLE:
                    other = Choice(OTHER, face.faces[0], face.box, "", face.keypoints)
                    found.append(self._subject(pixels, other, candidate.mark))
        return found

    def _faces(self, pixels: Pixels, detectors: Mapping[str, Find]) -> list[Face]:
        settings = self.config.detect
        thresholds = {name: settings.threshold(name) for name in settings.detectors}
        detections, faces = find_faces(pixels, detectors, thresholds)
        if len(faces) > 1:
            detections = self._matted(pixels, detections)
            held = [statistics.median(detections[i].matte for i in face.faces) for face in faces]
            faces = [replace(face, matte=share) for face, share in zip(faces, held, strict=True)]
        return faces

    def _matted(self, pixels: Pixels, seen: list[Detection]) -> list[Detection]:
        """Detections with what the matte of the whole picture holds of each, where the cache was made with that."""
        if self.matte is None or not self.config.choose.matte:
            return seen
        alpha, clear = self.matte[0](pixels)
        shares = [matte_within(alpha, f.box) if clear else None for f in seen]
        return [replace(f, matte=math.nan if s is None else s) for f, s in zip(seen, shares, strict=True)]

    def _subject(self, pixels: Pixels, choice: Choice, mark: float | None) -> Subject:
        crops: dict[str, Pixels] = {}
        alphas: dict[str, Pixels] = {}
        shape = (pixels.shape[0], pixels.shape[1])
        for wanted in self.manual.inputs:
            view = self.config.views[wanted.view]
            made = cut(pixels, view, choice.box, choice.keypoints)
            if made is None:
                return Subject(choice.status, choice.box, choice.reason, mark=mark)
            crop = made.pixels
            if wanted.matted and self.matte is not None and self.config.matte is not None:
                force = choice.status in (*SEEN, OTHER)
                box = choice.box if self.detectors is not None else None
                matte = matte_crop(self.matte, self.config.matte, crop, pixels, made.transform, shape, box, force)
                alphas[wanted.view] = matte.alpha
                held = _Held(crop, matte.alpha, matte.status)
                crop = crop.copy()[None]
                Background(wanted.background, wanted.colour).lay(held, crop, np.zeros(1, np.int64), None)
                crop = crop[0]
            crops[wanted.view] = crop
        return Subject(choice.status, choice.box, choice.reason, crops, alphas, mark)


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
def open_eye(manual: Manual) -> Iterator[Eye]:
    """Load the detectors, and the matting model where it is needed, that made the crops a model was trained on.

    It is needed for crops before a background, and where mattes of whole photos helped to choose the subject.

    Raises:
        UserError: the model does not say how its crops were made, or weights cannot be had.
    """
    config = configuration.parse(manual.settings)
    if lost := [i.view for i in manual.inputs if i.view not in config.views]:
        raise UserError(f"The settings hold no view '{lost[0]}', only: {', '.join(config.views)}.")
    lowest = {n: min(config.detect.low, config.detect.threshold(n)) for n in config.detect.detectors}
    sought = any(config.needs_faces(i.view, i.matted) for i in manual.inputs)
    with contextlib.ExitStack() as stack:
        matte = None
        if any(i.matted for i in manual.inputs) and config.matte is None:
            raise UserError("The model needs mattes, and its settings do not say how to make them.")
        if config.choose.matte or any(i.matted for i in manual.inputs):
            settings = config.matte or MatteSettings()
            model = matte_models.locate(settings.model)
            matte = stack.enter_context(open_looks(model, runtime=settings.runtime))
        detectors = None
        if sought:
            detectors = stack.enter_context(open_detectors(list(config.detect.detectors), lowest))
        yield Eye(manual, config, detectors, matte)


def stack(manual: Manual, subjects: Sequence[Subject]) -> dict[str, NDArray[np.uint8]]:
    """The crops of some subjects as a model takes them: for each input uint8 [n, H, W, 3]."""
    return {i.view: np.stack([s.crops[i.view] for s in subjects]) for i in manual.inputs}
