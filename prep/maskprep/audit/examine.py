"""The audit of one cache: bring it up to date, measure, run the checks, leave out what was ruled, write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from maskprep.audit import faces, identity, labels, mattes, measure, model, pixels  # noqa: F401  (registers checks)
from maskprep.audit.context import Context
from maskprep.audit.decisions import DecisionState, decided_images, decision_states
from maskprep.audit.embedding import vectors
from maskprep.audit.findings import CHECKS, Outcome, run_checks
from maskprep.audit.predictions import read_predictions
from maskprep.base import Progress
from maskprep.crops import Crop, read_geometry
from maskprep.faces import Choose
from maskprep.labels import Schema
from maskprep.photos import PhotoFolder
from maskprep.store import Cache, Tables, allowed_pairs, read_decisions, read_table, write_table

FOLDER = "audit"
FINDINGS = "findings.parquet"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        cache: that was looked at.
        photos: opens its photos.
        context: what the checks looked at.
        outcome: what they found, ruled or not.
        rulings: every ruling and what became of it.
        ruled: images that a ruling settles.
    """

    cache: Cache
    photos: PhotoFolder
    context: Context
    outcome: Outcome
    rulings: list[DecisionState]
    ruled: set[str]

    @property
    def open(self) -> Outcome:
        """What nobody has ruled on yet."""
        return Outcome(tuple(f for f in self.outcome.findings if f.image not in self.ruled), self.outcome.not_run)


def findings_path(cache: Cache) -> Path:
    """Where the findings of a cache are."""
    return cache.root / FOLDER / FINDINGS


def run_audit(
    tables: Tables, photos: PhotoFolder, schema: Schema, progress: Progress, predictions: Sequence[Path] = ()
) -> Audit:
    """Audit a cache that is up to date, measurements included; writes audit/findings.parquet.

    Args:
        tables: of the cache.
        photos: opens its photos.
        schema: what is classified.
        progress: where progress is reported.
        predictions: oof.parquet files or run folders.

    Raises:
        UserError: anything the user can mend.
    """
    context = open_context(tables, photos.root, schema, predictions)
    progress.start("checks", len(CHECKS))
    outcome = run_checks(context, CHECKS.values(), progress.advance)
    decisions, choose = read_decisions(tables.cache.decisions), tables.stages["choose"]
    assert isinstance(choose, Choose)
    found = decision_states(decisions, choose.subjects(tables), context.labels) if decisions else []
    audit = Audit(tables.cache, photos, context, outcome, found, decided_images(found))
    write_table(findings_path(tables.cache), audit.open.table())
    return audit


def open_context(tables: Tables, root: Path, schema: Schema, predictions: Sequence[Path] = ()) -> Context:
    """What the checks look at: the tables of an up-to-date cache."""
    cache, images = tables.cache, tables.table("images")
    choose = tables.stages["choose"]
    assert isinstance(choose, Choose)
    runs = tuple(read_predictions(path, schema, set(images["image"])) for path in predictions)
    measured = tables.rows("measure")
    names = ["image", *measure.COLUMNS.names]
    none = pd.DataFrame({name: [] for name in names})
    measures = none if measured is None else pd.DataFrame(measured.select(names).to_pandas())
    crops = [stage for stage in tables.stages.values() if isinstance(stage, Crop) and stage.view in cache.views()]
    return Context(
        images,
        tables.table("faces"),
        tables.table("choose"),
        tables.table("labels"),
        schema,
        choose.settings,
        {stage.view: stage.settings for stage in crops},
        measures,
        tables.pixels("measure"),
        vectors(tables, measures["image"].tolist()),
        {view: read_table(path) for view in cache.views() if (path := cache.view(view) / "mattes.parquet").is_file()},
        _duplicates(cache, images),
        runs,
        twins(root, images["image"].tolist()),
        {stage.view: read_geometry(cache, stage.view) for stage in crops},
    )


def _duplicates(cache: Cache, images: pd.DataFrame) -> pd.DataFrame | None:
    """duplicates.parquet without the pairs that a person let stay and those whose photos are gone."""
    path = cache.root / "duplicates.parquet"
    if not path.is_file():
        return None
    table = read_table(path)
    content = dict(zip(images["image"], images["content"], strict=True))
    allowed = allowed_pairs(read_decisions(cache.decisions))
    pairs = zip(table["image_a"], table["image_b"], strict=True)
    keep = [a in content and b in content and frozenset((content[a], content[b])) not in allowed for a, b in pairs]
    return table[keep].reset_index(drop=True)


def twins(root: Path, images: Sequence[str]) -> frozenset[str]:
    """Photos beside which a hidden file ``._<name>`` lies, as macOS leaves them in archives."""
    folders: dict[str, set[str]] = {}
    for image in images:
        folders.setdefault(str(PurePosixPath(image).parent), set()).add(image)
    found = set()
    for folder, members in folders.items():
        hidden = {path.name[2:] for path in (root / folder).glob("._*")}
        found |= {image for image in members if PurePosixPath(image).name in hidden}
    return frozenset(found)
