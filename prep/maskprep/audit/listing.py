"""Findings for the terminal and for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from maskprep.audit.examine import Audit
from maskprep.audit.findings import CHECKS, LIKELY, Finding, Outcome
from maskprep.audit.rulings import State
from maskprep.base.csv_files import guard
from maskprep.base.text import counted

FORMATS = ("table", "csv", "json")
COLUMNS = ("image", "check", "severity", "detail")


def findings_csv(outcome: Outcome) -> str:
    """One line per finding, the most severe first. Cells that a spreadsheet would compute begin with an apostrophe."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([guard(str(getattr(f, name))) for name in COLUMNS] for f in outcome.findings)
    return out.getvalue()


def findings_json(outcome: Outcome) -> str:
    """``{"findings": [...], "not_run": {check: why}}``, exactly as found."""
    return json.dumps({"findings": [vars(f) for f in outcome.findings], "not_run": outcome.not_run}, indent=1)


def print_overview(out: Console, audit: Audit, top: int) -> None:
    """Counts per check, then the worst images with their reasons, sized to the terminal."""
    found = audit.open
    width = max(60, min(out.width, 200))
    checks = Table(width=width)
    longest = max((len(f.check) for f in found.findings), default=5)
    checks.add_column("check", no_wrap=True, min_width=longest)
    for name in ("found", "likely"):
        checks.add_column(name, justify="right", no_wrap=True, min_width=6)
    room = width - longest - 2 * 6 - 13  # three spaces or lines for each column, and one line
    checks.add_column("what it looks for", no_wrap=True, overflow="ellipsis", max_width=room)
    total = Counter(f.check for f in found.findings)
    likely = Counter(f.check for f in found.findings if f.severity > LIKELY)
    for name in sorted(total, key=lambda n: (-likely[n], -total[n], n)):
        checks.add_row(name, str(total[name]), str(likely[name]), escape(CHECKS[name].about))
    if total:
        out.print(checks)
    images = found.images()
    by_image: dict[str, list[Finding]] = {}
    for f in found.findings:
        by_image.setdefault(f.image, []).append(f)
    if images and top:
        worst = Table(width=width)
        worst.add_column("", justify="right", no_wrap=True)
        worst.add_column("severity", justify="right", no_wrap=True)
        worst.add_column("image", overflow="fold", max_width=max(24, width // 3))
        worst.add_column("why", overflow="fold")
        for i, image in enumerate(images[:top], 1):
            mine = by_image[image]
            why = "\n".join(f"{f.check}: {f.detail}" for f in mine[:3]) + ("\n..." if len(mine) > 3 else "")
            worst.add_row(str(i), f"{mine[0].severity:.2f}", Text(printable(image)), Text(printable(why, "\n")))
        out.print(worst)
    quiet = len(CHECKS) - len(total) - len(found.not_run)
    out.print(
        f"{counted(len(found.findings), 'finding')} on {len(images)} of {counted(len(audit.context.images), 'image')},"
        f" {sum(likely.values())} likely (above {LIKELY:g}); {counted(quiet, 'check')} found nothing"
    )
    if audit.ruled:
        verb = "is" if len(audit.ruled) == 1 else "are"
        out.print(f"{counted(len(audit.ruled), 'image')} {verb} ruled and left out")
    for why in sorted(set(found.not_run.values())):
        names = ", ".join(name for name, reason in found.not_run.items() if reason == why)
        out.print(f"not run: {names}: {escape(why)}")


def print_rulings(out: Console, found: list[State]) -> None:
    """Every ruling with what became of it, and their counts."""
    table = Table(width=max(60, min(out.width, 200)))
    for name in ("line", "state", "verdict", "image", "by", "why"):
        table.add_column(name, overflow="fold", no_wrap=name in ("line", "state"))
    for each in found:
        d = each.decision
        texts = (f"{d.verdict} {d.value}".strip(), d.image, d.by, each.why or d.reason)
        table.add_row(str(d.line), each.state, *(Text(printable(text)) for text in texts))
    if found:
        out.print(table)
    told = Counter(each.state for each in found)
    out.print(counted(len(found), "ruling") + "".join(f", {n} {state}" for state, n in sorted(told.items())))


def printable(text: str, but: str = "") -> str:
    """A text without characters that move the cursor or break the line."""
    return "".join(ch if ch.isprintable() or ch in but else repr(ch)[1:-1] for ch in text)


def shown(path: Path) -> str:
    """A path as one puts it into a command."""
    import shlex

    return shlex.quote(str(path))
