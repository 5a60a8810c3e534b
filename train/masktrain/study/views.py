"""The crops that a recipe is trained on: found in the cache, or made by maskprep."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskprep.base import Progress as Bars
from maskprep.base import UserError, counted
from maskprep.crops import ViewSettings
from maskprep.dataset import open_view
from maskprep.pipeline import Session
from maskprep.pipeline import config as configuration
from maskprep.store import Cache
from masktrain.config import recipes
from masktrain.config.config import FitConfig
from masktrain.config.recipes import Recipe
from masktrain.study.progress import Progress
from masktrain.train.model import native_size_of


def recipe(
    cache: Path,
    name: str,
    changes: Mapping[str, Any] | None = None,
    *,
    progress: Progress | None = None,
    bars: Bars | None = None,
) -> dict[str, Any]:
    """Flat settings of a recipe for a cache, with some changed.

    The view that the recipe needs is made if the cache has none of its geometry, with mattes where the recipe changes
    the background. Its size is that of the model's weights unless the recipe says another. With ``data.view`` among the
    changes nothing is made.

    Args:
        changes: flat settings, over those of the recipe.
        progress: told which view is used or made.
        bars: progress of what maskprep makes.

    Raises:
        UserError: no such recipe; or a view must be made and cannot, with the command that makes it.
    """
    found = recipes.recipe(name)
    values = {**found.settings, **(changes or {})}
    if found.view is None or values.get("data.view"):
        return values
    return values | {"data.view": view_of(cache, found, values, progress or Progress(), bars)}


def view_of(cache: Path, found: Recipe, values: Mapping[str, Any], progress: Progress, bars: Bars | None) -> str:
    """Name of the view of a cache that a recipe with these settings is trained on; it is made if it is not there."""
    assert found.view is not None
    config = FitConfig.from_keys(values)
    wanted = found.view.at(native_size_of(config.model.name))
    matted = config.data.background != "original" or config.data.statistics == "foreground"
    size = "x".join(map(str, wanted.size))
    views, made = configuration.parse({"views": Cache(cache).read()["settings"]["views"]}).views, Cache(cache).views()
    name = next((n for n, own in views.items() if own == wanted and n in made), f"{found.view.name}-{size}")
    known = name in made and views.get(name) == wanted
    commands = [] if known else [_command(cache, name, wanted)]
    if matted and not (known and _has_mattes(cache, name)):
        commands.append(f"maskprep rembg {shlex.quote(str(cache))} --view {name}")
    if not commands:
        progress.say(f"view    {name} is the one of recipe {found.name}: {found.view}")
        return name
    advice = f"Make it with: {' && '.join(commands)}\nOr train on crops that there are: --view NAME"
    if not known and name in views:
        raise UserError(f"Recipe {found.name} needs crops of another geometry than those of view '{name}'.", advice)
    problem = f"Recipe {found.name} needs the view '{name}' ({found.view}), which {cache} does not have"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"{problem}; with several processes it must be there before.", advice)
    if not Cache(cache).photos().is_dir():
        raise UserError(f"{problem}, and its photos are not in {Cache(cache).photos()}.", advice)
    session = Session(cache, progress=bars)
    for text in commands:
        progress.say(f"view    {text}")
    if not known:
        own = {key: value for key, value in wanted.to_dict().items() if key != "size"}
        session.crop(name, size=wanted.size, **own)
    if matted:
        session.rembg(name)
    if session.failed:
        photos = counted(len(session.failed), "photo")
        progress.say(f"note    {photos} could not be read; to try again: maskprep run {shlex.quote(str(cache))}")
    return name


def _command(cache: Path, name: str, wanted: ViewSettings) -> str:
    """The maskprep command that makes a view."""
    usual, size = ViewSettings(), "x".join(map(str, wanted.size))
    options = [f"--view {name}", f"--size {size}"]
    for key in ("crop", "margin", "align", "border", "zoom"):
        if (value := getattr(wanted, key)) != getattr(usual, key):
            options.append(f"--{key} {value}")
    return f"maskprep crop {shlex.quote(str(cache))} {' '.join(options)}"


def _has_mattes(cache: Path, name: str) -> bool:
    view = open_view(cache, name)
    return not view.table["matte"].isna().any()
