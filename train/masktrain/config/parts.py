"""Fits that each learn a part of the label, as a YAML file or a recipe lists them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, read_yaml
from masktrain.config.config import meant


@dataclass(frozen=True)
class PartPlan:
    """A part to fit: its name, the attributes that it answers, for which images, and settings by dotted name."""

    name: str
    task: tuple[str, ...]
    where: str
    settings: dict[str, Any]


def read_parts(file: Path) -> list[PartPlan]:
    """A parts file: a YAML list of ``name``, ``task`` (attributes, a list or with commas), ``where`` (ATTRIBUTE=CLASS,
    may be left out) and ``set`` (settings of the fit by dotted name, may be left out).

    Raises:
        UsageError: it cannot be read, or is no such list, with the number of the part.
    """
    return parts_of(read_yaml(file), str(file))


def parts_of(given: object, file: str) -> list[PartPlan]:
    """The parts that a list of mappings names; see :func:`read_parts`.

    Raises:
        UsageError: it is no such list.
    """
    if not isinstance(given, list) or not given:
        raise UsageError(f"{file} is no list of parts.", "Such as: - {name: age, task: age, set: {optim.epochs: 20}}")
    plans: list[PartPlan] = []
    for number, each in enumerate(given, 1):
        where = f"{file}, part {number},"
        if not isinstance(each, dict):
            raise UsageError(f"{where} is no mapping of name, task, where and set.")
        if unknown := [str(key) for key in each if key not in ("name", "task", "where", "set")]:
            raise UsageError(f"{where} has a key '{unknown[0]}'.", "A part has name, task, where and set.")
        task = each.get("task", "")
        names = tuple(str(t).strip() for t in (task if isinstance(task, list) else str(task).split(",")))
        name, settings = str(each.get("name", "")).strip(), each.get("set") or {}
        if not name or "/" in name or not all(names) or not isinstance(settings, dict):
            raise UsageError(f"{where} needs a name without '/', a task, and settings by name.")
        if fixed := [str(k) for k in settings if k in ("data.task", "data.where") or "." not in str(k)]:
            raise UsageError(f"{where} cannot set '{fixed[0]}'.", "Use task and where, and dotted names in set.")
        values = {str(key): meant(str(key), value) for key, value in settings.items()}
        plans.append(PartPlan(name, names, str(each.get("where") or ""), values))
    if twice := [p.name for k, p in enumerate(plans) if p.name in {q.name for q in plans[:k]}]:
        raise UsageError(f"{file} names two parts '{twice[0]}'.")
    return plans
