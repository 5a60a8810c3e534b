"""Folders of runs, ensembles and compositions: ensemble.json, the members it names, and the graph of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UserError, check_shape, read_json, write_json
from maskprep.labels import Schema
from masktrain.answer.graph import Combination, Graph, JointMap, joint_map, load_run
from masktrain.answer.spec import CropSpec, ModelSpec, NetworkSpec
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


def load(run: Path, device: str, tta: str | None = None, mean: str = "probability") -> tuple[ModelSpec, Graph]:
    """The networks of a run, of all folds, an ensemble or a composition, with what must be known to use them.

    Raises:
        UsageError: the folder is not a run, or not all its folds are finished.
        UserError: ensemble.json or a member is broken.
    """
    if (run / runs.FOLDS).is_file():
        runs.members(run)
    if not (run / FILE).is_file():
        sidecar = load_sidecar(run)
        spec = ModelSpec(
            sidecar.schema,
            (crop_spec(sidecar),),
            (_network_spec(sidecar, run.resolve().name, sidecar.view),),
            sidecar.settings,
            sidecar.fallback,
        )
        return spec, Graph([load_run(run, device, tta, mean)])
    kept = read(run)
    try:
        about = kept["members"]
        groups = [m["group"] for m in about]
        combination = Combination(kept["kind"], groups, kept["weights"], kept["coefficients"], kept["intercepts"])
        sidecars = [load_sidecar(folder) for folder in folders(run)]
        loaded = [load_run(folder, device, tta, mean) for folder in folders(run)]
        schema = kept.get("schema", sidecars[0].schema)
        inputs: dict[str, CropSpec] = {}
        maps: list[JointMap | None] = []
        for member, sidecar in zip(about, sidecars, strict=True):
            inputs.setdefault(member["view"], crop_spec(sidecar, member["view"]))
            maps.append(_map(member["asked"], Schema.from_dict(schema), sidecar) if "asked" in member else None)
        spec = ModelSpec(
            schema=schema,
            inputs=tuple(inputs.values()),
            members=tuple(_network_spec(s, m["run"], m["view"]) for s, m in zip(sidecars, about, strict=True)),
            settings=kept["settings"],
            fallback=kept["fallback"],
            combination=WORDS[kept["kind"]],
        )
        places = [list(inputs).index(m["view"]) for m in about]
        return spec, Graph(loaded, combination, places, maps)
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{run / FILE} cannot be used: {error}", MEND) from error


def _map(asked: dict[str, Any], whole: Schema, sidecar: Sidecar) -> JointMap:
    where = None if asked["where"] is None else Where(asked["where"]["attribute"], tuple(asked["where"]["classes"]))
    return joint_map(whole, sidecar.labels(), asked["attributes"], where)


def _network_spec(sidecar: Sidecar, run: str, view: str) -> NetworkSpec:
    return NetworkSpec(sidecar.backbones, run, view, sidecar.mean, sidecar.std)


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
        groups: number of each one's group; see :class:`masktrain.answer.graph.Combination` for the rest.
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


def crop_spec(sidecar: Sidecar, view: str | None = None) -> CropSpec:
    """The crops that a run's model looks at, under its own name of the view or another."""
    return CropSpec(
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
    taken: list[tuple[str, CropSpec]] = []
    views: dict[str, Any] = {}
    for sidecar in sidecars:
        size = (sidecar.size[0], sidecar.size[1])
        wanted = crop_spec(sidecar)
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
