"""What a cache is made from: its settings and its photos as their layout describes them; dataset.json records both."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from maskprep.base import UserError, some
from maskprep.labels import Schema, layouts
from maskprep.mattes import planes
from maskprep.photos import Walk, walk
from maskprep.pipeline.config import CONFIG_NAME, Config, differences, load, named_views, parse
from maskprep.pipeline.plan import Photos
from maskprep.store import Cache, Stage, is_cache, to_json


@dataclass(frozen=True)
class Opened:
    """The settings of a cache, the maskprep.yaml in use (None without one), the views that the cache has and that file
    has no longer, and sentences for the user."""

    config: Config
    path: Path | None
    removed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_settings(cache: Cache, root: Path, path: Path | None) -> Opened:
    """The settings of a cache: as it remembers them, with the sections of maskprep.yaml in their place.

    Args:
        cache: it need not be there.
        root: the photo folder.
        path: a maskprep.yaml; None for the one that the cache was made with, or else the one of the photo folder.

    Raises:
        UserError: dataset.json or maskprep.yaml cannot be used.
    """
    base, source = Config(), dict[str, Any]()
    if is_cache(cache.root):
        recorded = cache.read()
        source = recorded["source"]
        try:
            base = parse({**recorded["settings"], "source": source["settings"]})
        except UserError as error:
            raise UserError(f"'{cache.dataset}' is damaged: {error.message}", "Restore it.") from error
        if source["schema_given"]:
            base = dataclasses.replace(base, schema=Schema.from_dict(recorded["schema"]))
    remembered = [Path(source["config"])] if source.get("config") else []
    path = path or next((file for file in (*remembered, root / CONFIG_NAME) if file.is_file()), None)
    config, removed, notes = base if path is None else load(path, base), list[str](), list[str]()
    if source and path:
        removed = [view for view in source.get("views", ()) if view not in named_views(path)]
        left = {name: view for name, view in config.views.items() if name not in removed}
        config = dataclasses.replace(config, views=left or Config().views)
    if source and (changed := differences(base, config)):
        notes.append(f"'{path}' is used in place of the settings that the cache was made with: {some(changed)}.")
    if config.matte is not None and config.matte is base.matte and not config.matte.views:  # not recorded once
        views = tuple(v for v in config.views if (cache.view(v) / planes.DESCRIPTION).is_file())
        config = dataclasses.replace(config, matte=dataclasses.replace(config.matte, views=views))
    return Opened(config, path.resolve() if path else None, removed, notes)


def look(cache: Cache, root: Path, config: Config) -> Photos:
    """The photo folder as it is now.

    Raises:
        UserError: it holds no photos, or they cannot be read as they were before.
    """
    found = walk(root)
    images = [file.image for file in found.files]
    if not images:
        seen = ", ".join(f"{n} {what}" for what, n in found.ignored.most_common(3)) or "nothing at all"
        raise UserError(f"There are no photos in '{root}' (found: {seen}).", "Give the folder that holds them.")
    described = _describe(cache, root, config, images)
    ignored = Counter(found.ignored)
    for name in described.lists:  # a table that was read is not passed over
        what = f"not a photo ({PurePosixPath(name).suffix.lower()})"
        if ignored[what] and (root / name).is_file():
            ignored[what] -= 1
    return Photos(Walk(found.files, +ignored, found.unlisted), described)


def _describe(cache: Cache, root: Path, config: Config, images: Sequence[str]) -> layouts.Described:
    """What the layout says of the photos. A cache keeps its layout: a new table does not replace its labels.

    Raises:
        UserError: the layout that is recognised by looking at the folder is another than before.
    """
    settings = config.source
    described = layouts.describe(root, images, settings, config.schema)
    before = cache.read()["source"].get("layout") if is_cache(cache.root) else None
    if settings.layout != "auto" or before in (None, described.layout):
        return described
    now, lists = described.layout, f" ('{described.lists[0]}' names them)" if described.lists else ""
    if (before, now) == ("flat", "folders"):
        note = "Some photos lie in folders now; if these are classes, give --layout folders."
        described = layouts.describe(root, images, dataclasses.replace(settings, layout=before), config.schema)
        return dataclasses.replace(described, notes=(note, *described.notes))
    raise UserError(
        f"The photos of '{cache.root}' were read as layout '{before}', and look like '{now}' now{lists}.",
        f"Choose one: maskprep index {cache.root} --layout {before}, or --layout {now} for new labels.",
    )


def record(
    cache: Cache, root: Path, config: Config, path: Path | None, described: layouts.Described, stages: Sequence[Stage]
) -> None:
    """Write dataset.json, before the first shard: an interrupted run goes on with it."""
    recipes = {}
    for stage in stages:
        try:
            recipes[stage.name] = to_json(stage.recipe.to_dict())
        except UserError:  # its weights are not here yet
            continue
    cache.root.mkdir(parents=True, exist_ok=True)
    cache.write(
        {
            "source": {
                "root": os.fspath(root),
                "layout": described.layout,
                "labels": {
                    "origins": described.origins,
                    "unused": described.unused,
                    "refused": described.refused,
                    "lists": [name for name in described.lists if (root / name).is_file()],
                },
                "settings": dataclasses.asdict(config.source),
                "schema_given": config.schema is not None,
                "config": os.fspath(path) if path else None,
                "views": named_views(path) if path else [],
            },
            "schema": described.schema.to_dict(),
            "settings": to_json(config.settings()),
            "stages": recipes,
        }
    )
