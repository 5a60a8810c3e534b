"""Settings from files: recipes, which come with masktrain, and YAML files of one's own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, parse_yaml, read_yaml
from maskprep.crops import ViewSettings, parse_size
from masktrain.config.config import FitConfig, flat, meant
from masktrain.config.parts import PartPlan, parts_of
from masktrain.config.settings import nearest

FOLDER = Path(__file__).with_name("recipes")
SPACES = FOLDER / "spaces"
OWN = ("view", "parts", "route")
"""Sections of a recipe beside the settings of a fit."""


@dataclass(frozen=True)
class RecipeView:
    """The crops that a recipe is trained on.

    Attributes:
        name: of the view, before its size is added.
        geometry: of the crops; its size counts only where ``sized``.
        sized: whether the recipe gives the size; otherwise it is the one that the model's weights were trained at.
    """

    name: str
    geometry: ViewSettings
    sized: bool

    def at(self, native: tuple[int, int]) -> ViewSettings:
        """The geometry, of the size of the model (height, width) where the recipe gives none."""
        return self.geometry if self.sized else dataclasses.replace(self.geometry, size=native)

    def __str__(self) -> str:
        own, size = self.geometry, "model's size"
        if self.sized:
            size = "x".join(map(str, own.size))
        what = {"face": "face", "centre": "centre", "none": "whole photo"}[own.crop]
        return f"{what}, {size}" + (f", zoom {own.zoom:g}" if own.zoom != 1 else "")


@dataclass(frozen=True)
class Recipe:
    """A recipe that comes with masktrain.

    Attributes:
        name: of its file.
        title: what it is, in a line.
        about: from its comments: source, command, weights, time and scores, by name.
        settings: of the fit, flat.
        view: the crops that it needs; None for those that there are.
        parts: one fit for each part of the label; empty for one fit.
        route: how the answers of the parts are combined, see :func:`masktrain.combine.compose.compose`.
    """

    name: str
    title: str
    about: Mapping[str, str]
    settings: Mapping[str, Any]
    view: RecipeView | None
    parts: tuple[PartPlan, ...]
    route: str

    @property
    def target(self) -> str:
        """What is answered, in a word."""
        return f"{len(self.parts)} networks" if self.parts else str(self.settings.get("target.kind", "auto"))

    @property
    def space(self) -> Path | None:
        """The file of the sweep that belongs to it, if there is one."""
        file = SPACES / f"{self.name}.yaml"
        return file if file.is_file() else None


def names() -> list[str]:
    """The recipes that come with masktrain."""
    return sorted(f.stem for f in FOLDER.glob("*.yaml"))


def text(name: str) -> str:
    """The file of a recipe; its first line says what it is.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in names():
        near = nearest(name, names())
        hint = f"Did you mean '{near[0]}'?" if near else "See them with: masktrain recipes"
        raise UsageError(f"There is no recipe '{name}'.", hint)
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def recipe(name: str) -> Recipe:
    """A recipe that comes with masktrain.

    Raises:
        UsageError: there is none of this name.
    """
    content = text(name)
    title, *comments = [line[2:] for line in itertools.takewhile(lambda line: line[:1] == "#", content.splitlines())]
    about: dict[str, str] = {}
    for line in comments:
        if line.startswith(" ") and about:  # goes on with the entry before
            about[next(reversed(about))] += f" {line.strip()}"
        elif line.startswith(" "):
            title += f" {line.strip()}"
        else:
            key, _, value = line.partition(": ")
            about[key] = value
    given = parse_yaml(content, name)
    view = given.get("view")
    return Recipe(
        name,
        title,
        about,
        _settings({k: v for k, v in given.items() if k not in OWN}, name),
        None if view is None else _view(view),
        tuple(parts_of(given["parts"], name)) if "parts" in given else (),
        given.get("route", "soft"),
    )


def read(file: Path) -> dict[str, Any]:
    """Flat settings of a YAML file, checked.

    Raises:
        UsageError: no such file, not YAML, or a setting that is unknown or of the wrong type.
    """
    if not file.is_file():
        raise UsageError(f"{file} does not exist.")
    content = read_yaml(file)
    return _settings({} if content is None else content, file)


def _settings(given: Any, source: str | Path) -> dict[str, Any]:
    try:
        values = {key: meant(key, value) for key, value in flat(given, source).items()}
        FitConfig.from_keys(values)
    except UsageError as error:
        raise error if str(source) in error.message else UsageError(f"{source}: {error.message}", error.hint) from error
    return values


def _view(given: Mapping[str, Any]) -> RecipeView:
    own: dict[str, Any] = {
        key: parse_size(value) if key == "size" else value for key, value in given.items() if key != "name"
    }
    return RecipeView(given["name"], ViewSettings(**own), "size" in given)
