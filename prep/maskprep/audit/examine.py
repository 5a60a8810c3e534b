"""The audit of one cache: bring it up to date, measure, run the checks, leave out what was ruled, write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from maskprep.audit import faces, identity, labels, mattes, model, pixels  # noqa: F401  (importing registers checks)
from maskprep.audit.context import Context
from maskprep.audit.decision_states import DecisionState, decided_images, decision_states
from maskprep.audit.embedding import make_embeddings
from maskprep.audit.findings import CHECKS, Outcome, run_checks
from maskprep.audit.measure import make_measures
from maskprep.audit.predictions import read_predictions
from maskprep.labels.schema import Schema
from maskprep.pipeline import bring as pipeline
from maskprep.pipeline.crop_stage import geometry
from maskprep.pipeline.job import Job
from maskprep.store import pool as engines
from maskprep.store.cache import Cache
from maskprep.store.decisions import allowed_pairs, read_decisions
from maskprep.store.tables import read_table, write_table

FOLDER = "audit"
FINDINGS = "findings.parquet"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        context: what the checks looked at.
        outcome: what they found, ruled or not.
        rulings: every ruling and what became of it.
        ruled: images that a ruling settles.
    """

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


def examine(job: Job, predictions: Sequence[Path] = ()) -> Audit:
    """Audit a cache after bringing it up to date; writes audit/findings.parquet.

    Args:
        job: from :func:`maskprep.pipeline.job.open_job`.
        predictions: oof.parquet files or run folders.

    Raises:
        UserError: anything the user can mend.
    """
    pipeline.bring(job)
    with job.cache.lock(), engines.Crew(job.workers, job.engine) as job.crew:
        context = open_context(job, predictions)
        job.progress.start("checks", len(CHECKS))
        outcome = run_checks(context, CHECKS.values(), job.progress.advance)
    decisions = read_decisions(job.cache.decisions)
    found = decision_states(decisions, pipeline.open_subjects(job), context.labels) if decisions else []
    audit = Audit(context, outcome, found, decided_images(found))
    write_table(findings_path(job.cache), audit.open.table())
    return audit


def open_context(job: Job, predictions: Sequence[Path] = ()) -> Context:
    """The tables of an up-to-date cache; measures the photos that were not measured yet."""
    cache = job.cache
    images, subjects = read_table(cache.images), read_table(cache.subjects)
    schema = Schema.from_dict(cache.read()["schema"])
    known = set(images["image"])
    runs = tuple(read_predictions(path, schema, known) for path in predictions)
    measures, patches = make_measures(job, images, subjects)
    views = {name: view for name, view in job.config.views.items() if name in cache.views()}
    return Context(
        images,
        read_table(cache.faces),
        subjects,
        read_table(cache.labels),
        schema,
        job.config.choose,
        views,
        measures,
        patches,
        make_embeddings(job, images, subjects, measures["image"].tolist()),
        {view: read_table(path) for view in cache.views() if (path := cache.view(view) / "mattes.parquet").is_file()},
        _duplicates(cache, images),
        runs,
        twins(job.root, images["image"].tolist()),
        {name: geometry(cache, name, view, images) for name, view in views.items()},
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
