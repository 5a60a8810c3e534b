"""How much of what is known to be wrong the audit finds, and how it copes with 20,000 images.

    python benchmarks/audit.py CACHE --truth mask18/truth [--predictions oof.parquet ...] [--large]

The truth is that of mask18 (label_errors.csv with person, file, field; file_faults.csv with file, fault). No threshold
of the audit was chosen by it. ``--large`` repeats the cache's rows under new names and audits and writes the report of
20,000 images; pixels are read only for what the cache has not measured yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from maskprep.audit.context import Context
from maskprep.audit.examine import CHECKS, Audit
from maskprep.audit.findings import Outcome, run_checks
from maskprep.audit.page import page_data, render
from maskprep.base import Silent
from maskprep.pipeline.session import Session

PREFIX = "train/images/"
LARGE = 20_000


def ranks(outcome: Outcome, kinds: tuple[str, ...]) -> list[str]:
    """Images by their worst finding among some checks, the worst first."""
    chosen = tuple(f for f in outcome.findings if CHECKS[f.check].kind in kinds or f.check in kinds)
    return Outcome(chosen, {}).images()


def average_precision(ranking: list[str], wanted: set[str]) -> float:
    """Mean over the wanted of the precision at their rank; 0 for those that are not listed."""
    seen, total = 0, 0.0
    for rank, image in enumerate(ranking, 1):
        if image in wanted:
            seen += 1
            total += seen / rank
    return total / max(1, len(wanted))


def report(title: str, outcome: Outcome, ranking: list[str], wanted: set[str], images: int) -> None:
    """Where the wanted images stand in the list, and which check put them there."""
    at = sorted(ranking.index(image) + 1 for image in wanted if image in set(ranking))
    by: dict[str, int] = {}
    for f in outcome.findings:
        if f.image in wanted:
            by[f.check] = by.get(f.check, 0) + 1
    print(f"{title}: {len(at)} of {len(wanted)} listed, average precision {average_precision(ranking, wanted):.3f}")
    within = {f"{share:.0%}": sum(r <= share * images for r in at) for share in (0.01, 0.05, 0.1)}
    print(f"   within the first {within}; ranks {at[:24]}{' ...' if len(at) > 24 else ''}; by {by}")


def against_truth(audit: Audit, truth: Path) -> None:
    """Planted label errors and file faults, and false alarms on people without any."""
    c, outcome = audit.context, audit.open
    errors = pd.read_csv(truth / "label_errors.csv", dtype=str)
    faults = pd.read_csv(truth / "file_faults.csv")
    count = len(c.images)
    everything = outcome.images()
    swapped = {PREFIX + f for f in errors["file"].dropna()}
    people = set(errors["person"][errors["file"].isna()])
    genders = {i for person in people for i in c.people.get(person, ())}
    broken = {PREFIX + r.file for r in faults.itertuples() if r.fault in ("empty", "truncated")}
    report("broken files", outcome, everything, broken, count)
    for fault, rows in faults.groupby("fault"):
        report(f"   of these and the odd ones: {fault}", outcome, everything, {PREFIX + f for f in rows["file"]}, count)
    report("swapped normal and incorrect, whole list", outcome, everything, swapped, count)
    report("swapped, list of label and model checks", outcome, ranks(outcome, ("labels", "model")), swapped, count)
    report("people of the wrong gender, whole list", outcome, everything, genders, count)
    report("wrong gender, list of model checks", outcome, ranks(outcome, ("model",)), genders, count)
    first = {c.person_of.get(image, "") for image in everything[: count // 10]}
    print(f"   people of the wrong gender with a photo in the first 10%: {len(people & first)} of {len(people)}")
    wrong = set(errors["person"])
    odd = {PREFIX + f for f in faults["file"]}
    clean = [i for i in c.images["image"] if c.person_of.get(i) not in wrong and i not in odd]
    loud = {f.image for f in outcome.findings if f.severity > 0.5}
    print(f"false alarms above 0.5: {len(loud & set(clean))} of {len(clean)} clean images")


def repeated(c: Context, times: int) -> Context:
    """The same rows several times, each time under other names and people."""

    def copies(table: pd.DataFrame) -> pd.DataFrame:
        parts = []
        for k in range(times):
            part = table.copy()
            part["image"] = [f"{k:02d}/{name}" for name in part["image"]]
            if "person" in part:
                part["person"] = [f"{k:02d}-{p}" if isinstance(p, str) else None for p in part["person"]]
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    tables = {name: copies(getattr(c, name)) for name in ("images", "faces", "subjects", "labels", "measures")}
    rng = np.random.default_rng(0)
    patches = np.concatenate(
        [np.clip(c.patches.astype(np.int16) + rng.integers(-8, 9, 3), 0, 255).astype(np.uint8) for _ in range(times)]
    )
    return dataclasses.replace(
        c, **tables, patches=patches, predictions=(), embeddings=None, duplicates=None, mattes={}
    )


def large(cache: Path) -> None:
    """Audit and report of 20,000 images, without reading pixels."""
    audit = Session(cache).audit()
    times = -(-LARGE // len(audit.context.images))
    c = repeated(audit.context, times)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    outcome = run_checks(c, CHECKS.values())
    checked = time.perf_counter()
    page = render(page_data(Audit(audit.cache, audit.photos, c, outcome, []), Silent()))
    path = audit.folder / "large.html"
    path.write_text(page)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "images": len(c.images),
                "checks_s": round(checked - began, 1),
                "page_s": round(ended - checked, 1),
                "page_MB": round(len(page) / 1e6, 1),
                "before_MiB": round(before),
                "peak_MiB": round(peak),
                "page": str(path),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--predictions", type=Path, nargs="*", default=[])
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    if args.truth:
        against_truth(Session(args.cache).audit(args.predictions), args.truth)
    if args.large:
        large(args.cache)


if __name__ == "__main__":
    main()
