"""F1 of each class epoch by epoch, and which classes are the weakest (S3.6). Light: the terminal shows it, too."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MOST = 3
"""Classes that stand out."""

MANY = 40
"""Classes whose curves are all drawn; of more only the weakest and the middle."""

COLOURS = ("#c2571a", "#8a4f9e", "#2f6db3")


def weakest(class_f1: Mapping[str, float], present: Collection[str], most: int = MOST) -> list[tuple[str, float]]:
    """The classes with the lowest F1 and their F1, the lowest first; of equals the first of the schema.

    Args:
        class_f1: class -> F1 of an epoch, in the order of the schema.
        present: classes that held-out images have; others have no F1.
        most: so many of them, but never more than half.
    """
    known = [(name, f1) for name, f1 in class_f1.items() if name in present]
    return sorted(known, key=lambda item: item[1])[: min(most, len(known) // 2)]


def line(record: Mapping[str, Any], present: Collection[str]) -> str:
    """The weakest classes of an epoch in words; empty where there are too few classes to tell any apart."""
    found = weakest(record["class_f1"], present)
    return f"weakest {', '.join(f'{name} {f1:.2f}' for name, f1 in found)}" if found else ""


def curves(records: Sequence[Mapping[str, Any]], present: Collection[str], width: int = 500, height: int = 260) -> str:
    """F1 of the classes over the epochs as SVG: all in grey, those that end up weakest in colour with their names.

    Args:
        records: the epochs of a fit; the weakest are those of the best epoch.
        present: as for :func:`weakest`.
    """
    best = next((r for r in records if r["epoch"] == records[-1]["best_epoch"]), records[-1])
    found = weakest(best["class_f1"], present)
    if not found:
        return ""
    named = {name for name, _ in found}
    names = [name for name in best["class_f1"] if name in present]
    grey = [[r["class_f1"][name] for r in records] for name in names if name not in named]
    if len(grey) > MANY:
        grey = [[sorted(column)[len(column) // 2] for column in zip(*grey, strict=True)]]
    parts = [f'<svg width="{width}" height="{height}" role="img">']
    parts += [_path(values, "#999", 1, 0.45, width, height) for values in grey]
    for k, (name, f1) in enumerate(found):
        values = [r["class_f1"][name] for r in records]
        colour = COLOURS[k % len(COLOURS)]
        parts.append(_path(values, colour, 2.5, 1, width, height))
        said = f"{html.escape(name)}: {f1:.2f} in epoch {best['epoch']}"
        parts.append(f'<text x="50" y="{12 + 13 * k}" style="fill:{colour}">{said}</text>')
    rest = "all other classes" if len(names) - len(found) <= MANY else f"median of {len(names) - len(found)} others"
    parts.append(f'<text x="50" y="{12 + 13 * len(found)}">grey: {rest}</text>')
    parts.append(f'<text x="2" y="{height - 16}">0</text><text x="2" y="{_top(height) + 4}">1</text>')
    return "".join(parts) + f'<text x="50" y="{height - 2}">F1 of classes, epoch 1 to {len(records)}</text></svg>'


def _top(height: int) -> int:
    return 20 + 13 * (MOST + 1) if height > 100 else 0


def _path(values: Sequence[float], colour: str, stroke: float, opacity: float, width: int, height: int) -> str:
    step, top = (width - 70) / max(len(values) - 1, 1), _top(height)
    points = [(50 + i * step, height - 20 - v * (height - 20 - top)) for i, v in enumerate(values) if math.isfinite(v)]
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" fill="{colour}" opacity="{opacity}"/>'
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{stroke}" opacity="{opacity}"/>'
