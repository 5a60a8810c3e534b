"""The stages of a cache, in the order in which data flows: the one place where a stage is added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskprep.audit import Embed, Measure, model_file
from maskprep.base import BOX_COLUMNS
from maskprep.crops import Crop, Stats
from maskprep.faces import Choose, Detect, Faces
from maskprep.labels import Described, Duplicates, Images, Index, Labels, gather
from maskprep.mattes import MatteSettings, MatteStage, Overlap
from maskprep.photos import Walk
from maskprep.pipeline.config import Config
from maskprep.store import Stage, of_faces, read_decisions


@dataclass(frozen=True)
class Photos:
    """The photo folder as a command met it: its files and what its layout says of them."""

    walk: Walk
    described: Described


def plan(
    photos: Photos,
    config: Config,
    decisions: Path,
    *,
    faces_sought: bool = True,
    audit: bool = False,
) -> list[Stage]:
    """The stages of one cache. ``decisions`` is the path of decisions.csv; with ``audit`` photos are measured, too."""
    table = photos.described.table
    boxed = table[table[BOX_COLUMNS[0]].notna()].index if BOX_COLUMNS[0] in table else ()
    files = tuple(photos.walk.files)
    given = frozenset(files[number].image for number in boxed)
    fixes = config.labels
    crops = [Crop(view, settings) for view, settings in config.views.items()]
    matte = config.matte
    mattes = [MatteStage(crop, matte, faces_sought) for crop in crops if matte and matte.covers(crop.view)]
    face_model = model_file() if audit else None
    return [
        Index(config.index, files),
        Images(table),
        *([Detect(config.detect, given)] if faces_sought else []),
        *([Overlap(matte or MatteSettings())] if faces_sought and config.choose.matte else []),
        Faces(),
        Choose(config.choose, tuple(of_faces(read_decisions(decisions))), faces_sought),
        Labels(photos.described.schema, lambda: gather(fixes.fixes, fixes.preset, fixes.min_agree, decisions)),
        Duplicates(),
        *crops,
        *([Measure()] if audit else []),
        *([Embed(face_model)] if face_model else []),
        *mattes,
        Stats(tuple(config.views)),
    ]
