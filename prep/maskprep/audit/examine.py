"""The audit of one cache: open its tables, run the checks, leave out what was decided, write it down."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from maskprep.audit import faces, identity, labels, mattes, model, pixels  # noqa: F401  (registers checks)
from maskprep.audit.context import Context
from maskprep.audit.decisions import DecisionState, decided_images, decision_states
from maskprep.audit.embedding import vectors
from maskprep.audit.findings import CHECKS, Outcome, run_checks
from maskprep.audit.measure import COLUMNS
from maskprep.audit.predictions import read_predictions
from maskprep.base import Progress, counted, html_table
from maskprep.crops import Crop, read_geometry
from maskprep.faces import Choose
from maskprep.labels import Schema
from maskprep.photos import PhotoFolder
from maskprep.store import Cache, Tables, allowed_pairs, read_decisions, read_table, write_table

SHOWN = 20
"""Findings that a notebook shows."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        cache: that was looked at.
        photos: opens its photos.
        context: what the checks looked at.
        outcome: what they found, decided or not.
        decisions: every decision and what became of it.
    """

    cache: Cache
    photos: PhotoFolder
    context: Context
    outcome: Outcome
    decisions: list[DecisionState]

    @property
    def folder(self) -> Path:
        """Where findings, page and small pictures are."""
        return self.cache.root / "audit"

    @cached_property
    def decided(self) -> set[str]:
        """Images that a decision settles."""
        return decided_images(self.decisions)

    @cached_property
    def open(self) -> Outcome:
        """What nobody has decided yet."""
        return Outcome(tuple(f for f in self.outcome.findings if f.image not in self.decided), self.outcome.not_run)

    def _repr_html_(self) -> str:
        """For notebooks: the most severe findings."""
        findings = self.open.findings
        caption = (
            f"{counted(len(findings), 'finding')} on {counted(len(self.open.images()), 'image')}, the most severe first"
        )
        return html_table(caption, [vars(finding) for finding in findings[:SHOWN]])


def run_audit(
    tables: Tables, photos: PhotoFolder, schema: Schema, progress: Progress, predictions: Sequence[Path] = ()
) -> Audit:
    """Audit a cache that is up to date, measurements included; writes audit/findings.parquet.

    Args:
        schema: what is classified.
        predictions: oof.parquet files or run folders.

    Raises:
        UserError: anything the user can mend.
    """
    choose = tables.stages["choose"]
    assert isinstance(choose, Choose)
    decisions = read_decisions(tables.cache.decisions)
    context = open_context(tables, photos.root, schema, choose, allowed_pairs(decisions), predictions)
    progress.start("checks", len(CHECKS))
    outcome = run_checks(context, CHECKS.values(), progress.advance)
    states = decision_states(decisions, choose.subjects(tables), context.labels)
    audit = Audit(tables.cache, photos, context, outcome, states)
    write_table(audit.folder / "findings.parquet", audit.open.table())
    return audit


def open_context(
    tables: Tables,
    root: Path,
    schema: Schema,
    choose: Choose,
    allowed: Collection[frozenset[str]],
    predictions: Sequence[Path],
) -> Context:
    """What the checks look at: the tables of an up-to-date cache, but duplicates without pairs that are ``allowed`` to
    stay (contents) or whose photos are gone."""
    cache, images = tables.cache, tables.table("images")
    rows = tables.rows("measure")
    measures = pd.DataFrame(columns=["image", *COLUMNS.names]) if rows is None else pd.DataFrame(rows.to_pandas())
    views = cache.views()
    crops = [stage for stage in tables.stages.values() if isinstance(stage, Crop) and stage.view in views]
    duplicates = None
    if (path := cache.root / "duplicates.parquet").is_file():
        duplicates = read_table(path)
        content = dict(zip(images["image"], images["content"], strict=True))
        pairs = zip(duplicates["image_a"].map(content.get), duplicates["image_b"].map(content.get), strict=True)
        duplicates = duplicates.loc[[None not in pair and frozenset(pair) not in allowed for pair in pairs]]
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
        {view: read_table(path) for view in views if (path := cache.view(view) / "mattes.parquet").is_file()},
        duplicates,
        tuple(read_predictions(path, schema, set(images["image"])) for path in predictions),
        twins(root, images["image"].tolist()),
        {stage.view: read_geometry(cache, stage.view) for stage in crops},
    )


def twins(root: Path, images: Sequence[str]) -> frozenset[str]:
    """Photos beside which a hidden file ``._<name>`` lies, as macOS leaves them in archives."""
    folders = {PurePosixPath(image).parent for image in images}
    hidden = {str(folder / path.name[2:]) for folder in folders for path in (root / folder).glob("._*")}
    return frozenset(hidden.intersection(images))
