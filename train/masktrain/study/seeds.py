"""The same fit with several seeds: how much of a score is chance."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from maskprep.base import UsageError, read_json, write_json
from maskprep.store import Cache
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import crossfit, resume
from masktrain.study.progress import Progress

ABOUT = "seeds.json"
SHAPE = {"cache": str, "settings": dict, "macro_f1": dict}


@dataclass(frozen=True)
class Seeded:
    """Macro-F1 of the run of each seed in a folder; ``spread`` is the standard deviation, 0 of a single one."""

    folder: Path
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.scores.values())

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else 0.0


def fit_seeds(
    cache: Path,
    configs: Mapping[int, FitConfig],
    *,
    out: Path | None = None,
    folds: bool = False,
    note: str = "",
    progress: Progress | None = None,
) -> Seeded:
    """Fit once for each seed, each an ordinary run ``seed-<n>`` in one folder.

    Args:
        configs: the settings for each seed.
        out: the folder, new or empty; by default a new one under ``runs/``.
        folds: fit all folds with each seed.

    Raises:
        UsageError: ``out`` exists.
        UserError: as :func:`masktrain.study.fit.fit`.
    """
    for config in configs.values() if folds else ():
        crossfit.check(config)
    Cache(cache).clear_of_photos(out)
    first = next(iter(configs.values()))
    out = out or Path("runs") / f"{first.model.name}-seeds-{secrets.token_hex(3)}"
    runs.need_new(out, f"Choose another --out, or go on with it: masktrain fit --resume {out}")
    settings = {str(seed): config.to_dict() for seed, config in configs.items()}
    about = {"cache": str(cache.resolve()), "folds": folds, "note": note, "settings": settings, "macro_f1": {}}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / ABOUT, about)
    return resume_seeds(out, progress=progress)


def resume_seeds(folder: Path, cache: Path | None = None, *, progress: Progress | None = None) -> Seeded:
    """Go on with the seeds that are not finished.

    Args:
        cache: where the cache is now, if it has moved.

    Raises:
        UserError: seeds.json cannot be used.
    """
    about = read_json(folder / ABOUT, SHAPE, "Fit anew: masktrain fit CACHE --seeds 0,1,2")
    progress = progress or Progress()
    where = runs.need_cache(cache or Path(about["cache"]), folder, f"masktrain fit NEW_CACHE --resume {folder}")
    scores = {}
    for seed, settings in about["settings"].items():
        run, config = folder / f"seed-{seed}", FitConfig.from_dict(settings)
        if seed in about["macro_f1"] and resume.done(run):
            progress.say(f"seed    {seed} is finished: {run}")
        else:
            progress.say(f"seed    {seed}")
            about["macro_f1"][seed] = resume.fit_or_resume(
                where, config, run, about["folds"], progress, about.get("note", "")
            )
        scores[int(seed)] = float(about["macro_f1"][seed])
        made = Seeded(folder, scores)
        write_json(folder / ABOUT, about | {"mean": made.mean, "standard deviation": made.spread})
    return made


def parse(text: str) -> list[int]:
    """Seeds as ``0,1,2``.

    Raises:
        UsageError: they are no different whole numbers, or fewer than two.
    """
    parts = [part.strip() for part in text.split(",")]
    seeds = [int(part) for part in parts if part.isdecimal()]
    if len(seeds) < max(2, len(parts)) or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds takes different whole numbers, at least two, not '{text}'.", "Such as --seeds 0,1,2")
    return seeds
