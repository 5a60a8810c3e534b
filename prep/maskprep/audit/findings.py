"""Findings and the registry of checks.

A check is a pure function from a :class:`~maskprep.audit.context.Context` to (image, severity, detail). Severities of
all checks share one meaning, so that one list can be sorted: about how likely a person who looks will change
something.

=========  ==================================================================
severity   meaning
=========  ==================================================================
1.0        certain: the file is broken, one photo lies in train and in eval
0.5 ..     more likely wrong than right
0.2 ..     unusual; worth a look when there is time
below 0.2  not reported
=========  ==================================================================
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from maskprep.base import Box, UsageError, guard, nearest
from maskprep.store import schema_of

if TYPE_CHECKING:
    from maskprep.audit.context import Context

KINDS = ("faces", "identity", "pixels", "mattes", "labels", "model")

LOWEST = 0.2
"""Findings below this severity are not reported."""

LIKELY = 0.5
"""From this severity on a finding is more likely right than wrong."""

TABLE = schema_of([("image", pa.string()), ("check", pa.string()), ("severity", pa.float64()), ("detail", pa.string())])
"""audit/findings.parquet, the most severe first."""

Hit = tuple[str, float, str]
"""image, severity 0..1 (below LOWEST: no finding), and why, in words."""


class NotRunError(Exception):
    """A check that cannot say anything about this data set; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check. Name and kind (of KINDS) are those of findings.parquet and ``--fail-on``; ``about`` is for people."""

    name: str
    kind: str
    about: str
    find: Callable[[Context], Iterable[Hit]]

    def hits(self, context: Context) -> Iterator[Hit]:
        """What the check finds that is severe enough to be reported."""
        return (hit for hit in self.find(context) if hit[1] >= LOWEST)


@dataclass(frozen=True)
class Finding:
    """What a check has to say about one image."""

    image: str
    check: str
    severity: float
    detail: str


@dataclass(frozen=True)
class Outcome:
    """All findings, the most severe first, and for each check that was not run, why."""

    findings: tuple[Finding, ...]
    not_run: dict[str, str]

    def table(self) -> pa.Table:
        """findings.parquet."""
        return pa.Table.from_pylist([vars(f) for f in self.findings], schema=TABLE)

    def csv(self) -> str:
        """The same as CSV. Cells that a spreadsheet would compute begin with an apostrophe."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(TABLE.names)
        writer.writerows([guard(str(value)) for value in vars(f).values()] for f in self.findings)
        return out.getvalue()

    def json(self) -> str:
        """``{"findings": [...], "not_run": {check: why}}``."""
        return json.dumps({"findings": [vars(f) for f in self.findings], "not_run": self.not_run}, indent=1) + "\n"

    def images(self) -> list[str]:
        """The images with findings, worst first: by their worst finding, then by the sum of all."""
        worst: dict[str, float] = {}
        total: dict[str, float] = {}
        for f in self.findings:
            worst[f.image] = max(worst.get(f.image, 0.0), f.severity)
            total[f.image] = total.get(f.image, 0.0) + f.severity
        return sorted(worst, key=lambda image: (-worst[image], -total[image], image))


CHECKS: dict[str, Check] = {}


def check(about: str) -> Callable[[Callable[[Context], Iterable[Hit]]], Check]:
    """Register a check under the name of its function; its module is its kind, its docstring says what is measured."""

    def register(find: Callable[[Context], Iterable[Hit]]) -> Check:
        name = getattr(find, "__name__", "")
        CHECKS[name] = Check(name, find.__module__.rpartition(".")[2], about, find)
        return CHECKS[name]

    return register


def run_checks(context: Context, checks: Iterable[Check], advance: Callable[[int], None] = lambda n: None) -> Outcome:
    """Run checks and sort what they found: the most severe first, ties by image and check. Of several hits of one check
    on one image the worst is kept."""
    worst: dict[tuple[str, str], Finding] = {}
    not_run: dict[str, str] = {}
    for each in checks:
        try:
            for image, severity, detail in each.hits(context):
                key = (image, each.name)
                if key not in worst or severity > worst[key].severity:
                    worst[key] = Finding(image, each.name, round(min(1.0, float(severity)), 4), detail)
        except NotRunError as reason:
            not_run[each.name] = str(reason)
        advance(1)
    return Outcome(tuple(sorted(worst.values(), key=lambda f: (-f.severity, f.image, f.check))), not_run)


def ramp(value: float, low: float, high: float, bottom: float = 0.0, top: float = 1.0) -> float:
    """From ``bottom`` at ``low`` straight to ``top`` at ``high``, level beyond; 0 below ``low``. ``low`` may be the
    larger number. NaN gives 0."""
    share = (value - low) / (high - low)
    return bottom + (top - bottom) * min(1.0, share) if share >= 0 else 0.0


def longer_side(box: Box) -> float:
    """Of width and height."""
    return max(box[2] - box[0], box[3] - box[1])


def robust(values: Iterable[float], floor: float) -> tuple[float, float]:
    """Median and spread of some numbers: 1.4826 times the median absolute deviation, but at least ``floor``."""
    known = np.asarray([v for v in values if not math.isnan(v)], np.float64)
    if not len(known):
        return math.nan, floor
    middle = float(np.median(known))
    return middle, max(floor, 1.4826 * float(np.median(np.abs(known - middle))))


def scored(values: Mapping[str, float], floor: float) -> Iterator[tuple[str, float, float, float]]:
    """Each image with its value, how many spreads that is above the median, and the median; see :func:`robust`."""
    usual, spread = robust(values.values(), floor)
    for image, value in values.items():
        yield image, value, (value - usual) / spread, usual


@dataclass(frozen=True)
class FailOn:
    """What --fail-on takes: ``CHECK``, ``KIND`` or ``any``, with ``:SEVERITY`` (default 0.5)."""

    name: str
    severity: float

    @classmethod
    def parse(cls, text: str) -> FailOn:
        """Read what was given.

        Raises:
            UsageError: no such check, or no severity from 0 to 1.
        """
        name, _, number = text.partition(":")
        known = [*CHECKS, *KINDS, "any"]
        if name not in known:
            raise UsageError(f"There is no check '{name}'.{nearest(name, known)}", f"Known: {', '.join(known)}.")
        try:
            severity = float(number) if number else LIKELY
        except ValueError:
            severity = math.nan
        if not 0 <= severity <= 1:
            raise UsageError(f"'{number}' is no severity.", "A severity is a number from 0 to 1.")
        return cls(name, severity)

    def reached(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings that reach it."""
        severe = (f for f in findings if f.severity >= self.severity)
        return [f for f in severe if self.name in ("any", f.check, CHECKS[f.check].kind)]
