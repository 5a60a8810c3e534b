"""The stages of a cache, in the order in which data flows: the one place where a stage is added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskprep.audit.embedding import Embed, model_file
from maskprep.audit.measure import Measure
from maskprep.base.boxes import BOX_COLUMNS
from maskprep.crops.crop import Crop
from maskprep.crops.statistics import Stats
from maskprep.faces.detect import Detect, Faces
from maskprep.faces.subjects import Choose
from maskprep.labels.collect import gather
from maskprep.labels.duplicates import Duplicates
from maskprep.labels.images import Images, Index
from maskprep.labels.layouts import Described
from maskprep.labels.table import Labels
from maskprep.mattes.matte import MatteSettings, MatteStage
from maskprep.mattes.overlap import Overlap
from maskprep.photos.folder import Walk
from maskprep.pipeline.config import Config
from maskprep.store.decisions import of_faces, read_decisions
from maskprep.store.stage import Stage


@dataclass(frozen=True)
class Photos:
    """The photo folder as a command met it.

    Args:
        walk: its files.
        described: what its layout says of them.
    """

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
    """The stages of one cache.

    Args:
        photos: the photo folder.
        config: the settings.
        decisions: path of decisions.csv.
        faces_sought: whether faces are looked for.
        audit: whether photos are measured for an audit, too.
    """
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
