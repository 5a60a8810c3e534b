"""An ensemble's folder as a source of probabilities: ensemble.json and the members it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.base import UserError, check_shape, read_json, write_json
from maskprep.labels import Schema
from masktrain.answer import inference
from masktrain.answer.combination import Combination
from masktrain.answer.manual import Input, Manual, Member
from masktrain.answer.predictor import Sights
from masktrain.answer.spread import Spread, spread
from masktrain.config.where import Where
from masktrain.runs import folder as runs
from masktrain.train.checkpoint import Sidecar, load_sidecar

FILE, MEMBERS = runs.ENSEMBLE, "members"
FORMAT = 1
SHAPE = {"format": int, "kind": str, "members": list, "fallback": int, "settings": dict}
MEMBER = {"folder": str, "run": str, "group": int, "view": str}
MEND = "Make the ensemble again."

WORDS = {
    "soft": "mean of the probabilities",
    "hard": "one vote each, ties to the higher mean probability",
    "weighted": "weighted mean of the probabilities, weights fitted for likelihood",
    "greedy": "weighted mean of the probabilities, members taken greedily for macro-F1",
    "product": "product of the probabilities of its parts",
    "routed": "product of the probabilities of its parts, for the most probable class of the first part alone",
    "stack": "logistic regression on the log-probabilities",
}


@dataclass(frozen=True)
class Parts:
    """Of members that each answer a part: the whole schema, its likeliest class, and the attributes that each answers,
    for all images or where another attribute has some classes."""

    schema: Schema
    fallback: int
    asked: tuple[tuple[tuple[str, ...], Where | None], ...]


@dataclass(frozen=True)
class Several:
    """The networks of an ensemble, the view each looks at, and what combines them."""

    members: tuple[inference.Predictor, ...]
    views: tuple[str, ...]
    combination: Combination
    spreads: tuple[Spread | None, ...] = ()

    def __call__(self, sights: Sights, batch_size: int) -> NDArray[np.float32]:
        """Probabilities of the images."""
        tables = [torch.from_numpy(m(*sights[v], batch_size)) for m, v in zip(self.members, self.views, strict=True)]
        with torch.inference_mode():
            if self.spreads:
                tables = [t if s is None else s(t) for s, t in zip(self.spreads, tables, strict=True)]
            return np.asarray(self.combination(torch.stack(tables)).numpy())


def read(run: Path) -> dict[str, Any]:
    """ensemble.json.

    Raises:
        UserError: it cannot be used.
    """
    kept = read_json(run / FILE, SHAPE, MEND)
    if kept["format"] != FORMAT:
        raise UserError(f"{run / FILE} was written by another version of masktrain.", MEND)
    for number, member in enumerate(kept["members"], 1):
        check_shape(member, MEMBER, f"{run / FILE}, member {number},", MEND)
    return kept


def folders(run: Path) -> list[Path]:
    """Those of an ensemble's members.

    Raises:
        UserError: ensemble.json cannot be used.
    """
    return [run / member["folder"] for member in read(run)["members"]]


def load(run: Path, device: str, tta: str | None = None, mean: str = "probability") -> tuple[Manual, Several]:
    """An ensemble, with what must be known to use it.

    Raises:
        UserError: ensemble.json or a member is broken.
    """
    kept = read(run)
    try:
        views = tuple(m["view"] for m in kept["members"])
        combination = Combination(
            kept["kind"],
            [m["group"] for m in kept["members"]],
            kept["weights"],
            kept["coefficients"],
            kept["intercepts"],
        )
        loaded = tuple(inference.load(folder, device, tta=tta, mean=mean) for folder in folders(run))
        inputs: dict[str, Input] = {}
        for member, view in zip(loaded, views, strict=True):
            inputs.setdefault(view, input_of(member.sidecar, view))
        schema = kept.get("schema", loaded[0].sidecar.schema)
        spreads = tuple(
            _spread(m["asked"], Schema.from_dict(schema), p.sidecar.labels())
            for m, p in zip(kept["members"], loaded, strict=True)
            if "asked" in m
        )
        manual = Manual(
            schema=schema,
            inputs=tuple(inputs.values()),
            members=tuple(
                Member(p.sidecar.backbones, m["run"], m["view"], p.sidecar.mean, p.sidecar.std)
                for m, p in zip(kept["members"], loaded, strict=True)
            ),
            settings=kept["settings"],
            fallback=kept["fallback"],
            combination=WORDS[kept["kind"]],
        )
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{run / FILE} cannot be used: {error}", MEND) from error
    return manual, Several(loaded, views, combination.eval(), spreads)


def _spread(asked: dict[str, Any], whole: Schema, own: Schema) -> Spread:
    where = None if asked["where"] is None else Where(asked["where"]["attribute"], tuple(asked["where"]["classes"]))
    return spread(whole, own, asked["attributes"], where)


def write(
    out: Path,
    kind: str,
    folders: Sequence[str],
    groups: Sequence[int],
    weights: Sequence[float] | None = None,
    coefficients: Sequence[Sequence[float]] | None = None,
    intercepts: Sequence[float] | None = None,
    *,
    parts: Parts | None = None,
) -> None:
    """Write ensemble.json, by which a folder that holds runs is an ensemble.

    Args:
        folders: of the members, within ``out``.
        groups: number of each one's group; see :class:`masktrain.answer.combination.Combination` for the rest.
        parts: of a product, what each member answers.
    """
    sidecars = [load_sidecar(out / folder) for folder in folders]
    views, settings = name_views(sidecars)
    fallbacks = [s.fallback for s in sidecars]
    kept: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "members": [
            {"folder": folder, "run": Path(folder).name, "group": g, "view": view}
            for folder, g, view in zip(folders, groups, views, strict=True)
        ],
        "fallback": max(sorted(set(fallbacks)), key=fallbacks.count),
        "settings": settings,
        "weights": weights,
        "coefficients": coefficients,
        "intercepts": intercepts,
    }
    if parts is not None:
        kept |= {"schema": parts.schema.to_dict(), "fallback": parts.fallback}
        kept["members"] = [
            m | {"asked": {"attributes": list(names), "where": None if where is None else asdict(where)}}
            for m, (names, where) in zip(kept["members"], parts.asked, strict=True)
        ]
    write_json(out / FILE, kept)


def input_of(sidecar: Sidecar, view: str | None = None) -> Input:
    """The crops that a run's model looks at, under its own name of the view or another."""
    return Input(
        view or sidecar.view,
        (sidecar.size[0], sidecar.size[1]),
        sidecar.geometry,
        sidecar.background,
        (sidecar.colour[0], sidecar.colour[1], sidecar.colour[2]),
    )


def name_views(sidecars: Sequence[Sidecar]) -> tuple[list[str], dict[str, Any]]:
    """A name for each member's crops, the same for the same crops, and the preprocessing settings with all of them.

    Views of one name and different geometry or background get their size appended, and a number if need be.
    """
    names: list[str] = []
    taken: list[tuple[str, Input]] = []
    views: dict[str, Any] = {}
    for sidecar in sidecars:
        size = (sidecar.size[0], sidecar.size[1])
        wanted = input_of(sidecar)
        alike = (n for n, i in taken if (i.size, i.behind) == (size, wanted.behind) and i.fits(sidecar.geometry))
        same = next(alike, None)
        if same is None:
            candidates = [sidecar.view, f"{sidecar.view}-{size[0]}x{size[1]}"]
            candidates += [f"{candidates[1]}-{k}" for k in range(2, len(sidecars) + 2)]
            same = next(name for name in candidates if name not in {n for n, _ in taken})
            taken.append((same, wanted))
            if sidecar.view in sidecar.settings.get("views", {}):
                views[same] = sidecar.settings["views"][sidecar.view]
        names.append(same)
    return names, {**sidecars[0].settings, "views": views}
