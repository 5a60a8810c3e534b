"""One fit for each part of the label, and a composition of them all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from maskprep.base import UsageError, read_json, write_json
from maskprep.store import Cache
from masktrain.combine import compose as composing
from masktrain.config.config import FitConfig
from masktrain.study import crossfit, resume
from masktrain.study.progress import Progress

ABOUT = "parts.json"


def fit_parts(
    cache: Path,
    parts: Mapping[str, tuple[str, FitConfig]],
    out: Path,
    *,
    folds: bool = False,
    note: str = "",
    route: str = "soft",
    progress: Progress | None = None,
) -> composing.Composed:
    """Fit every part in a folder beside ``out`` (``<out>-parts/<name>``), then compose them.

    Called again after a stop it goes on: parts that are finished are not fitted again.

    Args:
        parts: of each its name, the attributes that it answers (``mask,gender``), and its settings.
        out: folder of the composition, new or empty.
        folds: fit all folds of each part.
        note: what the fits are to find out.
        route: how their answers are combined, see :func:`masktrain.combine.compose.compose`.

    Raises:
        UsageError: ``out`` is there, or the parts beside it were begun with other settings.
        UserError: as :func:`masktrain.study.fit.fit` and :func:`masktrain.combine.compose.compose`.
    """
    progress = progress or Progress()
    Cache(cache).clear_of_photos(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists.", "Choose another --out.")
    for _, config in parts.values() if folds else ():
        crossfit.check(config)
    folder = out.with_name(out.name + "-parts")
    about = {"folds": folds, "parts": {name: config.hash() for name, (_, config) in parts.items()}}
    if (folder / ABOUT).is_file():
        if read_json(folder / ABOUT, {}, "Choose another --out.") != about:
            raise UsageError(f"The parts in {folder} were begun with other settings.", "Choose another --out.")
    elif folder.exists():
        raise UsageError(f"{folder} already exists and holds no parts.", "Choose another --out.")
    write_json(folder / ABOUT, about)
    for name, (task, config) in parts.items():
        run = folder / name
        if resume.done(run):
            progress.say(f"part    {name} ({task}) is finished: {run}")
            continue
        progress.say(f"part    {name} ({task})")
        resume.fit_or_resume(cache, config, run, folds, progress, note)
    return composing.compose([f"{task}={folder / name}" for name, (task, _) in parts.items()], out, route=route)
