"""What one must know to use something trained: the crops it needs, and what its answers mean. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from maskprep.base import UsageError, UserError
from maskprep.crops import Background
from maskprep.dataset import View
from maskprep.labels import Schema

FORMAT = 1
DERIVED = ("view", "fingerprint", "stage")
"""Entries of view.json that do not say what a crop looks like."""

MATTE = ("model", "on", "refine")
"""Settings that decide what a matte looks like."""


@dataclass(frozen=True)
class CropSpec:
    """One kind of crop that a model sees.

    Args:
        view: its name in ``settings``.
        size: height and width, pixels.
        geometry: view.json of the cache that the model was trained on.
        background: what lies behind the subjects, one of :data:`maskprep.base.colours.BACKGROUNDS`.
        colour: R, G, B of the backgrounds ``mean`` and ``colour``.
    """

    view: str
    size: tuple[int, int]
    geometry: dict[str, Any]
    background: str = "original"
    colour: tuple[int, int, int] = (128, 128, 128)

    @property
    def matted(self) -> bool:
        """Whether such crops cannot be made without mattes; random backgrounds are for training only."""
        return self.background not in ("original", "random")

    @property
    def behind(self) -> tuple[Any, ...]:
        """What tells its background from another's."""
        if not self.matted:
            return ("original",)
        return (self.background, *(self.colour if self.background != "blur" else ()))

    def of(self, view: View) -> View:
        """A view before this background."""
        return view.before(Background(self.background, self.colour))

    def fits(self, info: Mapping[str, Any]) -> bool:
        """Whether a view.json describes the same crops, whatever the view is called."""
        mine, other = ({k: v for k, v in g.items() if k not in DERIVED} for g in (self.geometry, info))
        return mine == other

    def check_size(self, view: View) -> None:
        """Refuse crops of another size.

        Raises:
            UsageError: saying how to make such crops.
        """
        if tuple(view.size) != self.size:
            size = "x".join(map(str, self.size))
            raise UsageError(
                f"The model was trained on crops of {size}, view '{view.name}' of {view.path} has"
                f" {view.size[0]}x{view.size[1]}.",
                f"Make such a view with: maskprep crop {view.path} --size {size} --view NAME",
            )


@dataclass(frozen=True)
class NetworkSpec:
    """One network: timm's name (``a + b`` for two backbones), the run it comes from, its view, and mean and standard
    deviation (0..1) per channel."""

    model: str
    run: str
    view: str
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class ModelSpec:
    """All it takes to use what was trained: what goes in, what comes out. Exported files carry it too.

    Args:
        schema: what is classified, as in dataset.json.
        inputs: the kinds of crops it sees; the first one is the view that is meant where one is named.
        members: its networks; several for an ensemble.
        settings: the preprocessing that makes such crops out of photos, with every view of ``inputs``.
        fallback: the most frequent training class, the answer for a photo without a crop.
        combination: how the networks' probabilities become one, in words; empty for a single one.
    """

    schema: dict[str, Any]
    inputs: tuple[CropSpec, ...]
    members: tuple[NetworkSpec, ...]
    settings: dict[str, Any]
    fallback: int
    combination: str = ""
    format: int = field(default=FORMAT)

    def labels(self) -> Schema:
        """The schema as an object."""
        return Schema.from_dict(self.schema)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the joint classes in index order."""
        return self.labels().class_names

    @property
    def view(self) -> str:
        """Name of the first input's view."""
        return self.inputs[0].view

    def to_json(self) -> str:
        """The form kept in exported files; the class names are in it for other readers."""
        return json.dumps({"classes": list(self.classes), **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, file: str) -> ModelSpec:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: it is none, naming the file.
        """
        try:
            data = json.loads(text)
            data.pop("classes")
            if data["format"] != FORMAT:
                raise UserError(f"{file} was exported by another version of masktrain.", "Export the run again.")
            pairs = [(i, {"size": tuple(i["size"]), "colour": tuple(i["colour"])}) for i in data.pop("inputs")]
            inputs = tuple(CropSpec(**{**i, **tuples}) for i, tuples in pairs)
            members = tuple(NetworkSpec(**m) for m in data.pop("members"))
            return cls(inputs=inputs, members=members, **data)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise UserError(
                f"{file} does not say how it is to be used.", "Make it with: masktrain export RUN"
            ) from error


def differences(wanted: CropSpec, view: View, settings: Mapping[str, Any], sections: Sequence[str]) -> list[str]:
    """How the crops of a view were made otherwise than those a model was trained on, with both values.

    What only one of the two records names, being of another version, is passed over.

    Args:
        settings: the preprocessing of the crops that the model was trained on.
        sections: which of it counts; ``view`` is the geometry.
    """
    here = view.dataset.get("settings", {})
    faces = wanted.geometry.get("crop", "face") == "face"
    found = []
    for section in sections:
        mine, theirs = settings.get(section) or {}, here.get(section) or {}
        if section == "view":
            mine, theirs = ({k: v for k, v in g.items() if k not in DERIVED} for g in (wanted.geometry, view.info))
        elif section == "matte":
            mine = {k: v for k, v in mine.items() if k in MATTE and wanted.matted}
        elif not faces:
            continue
        found += [f"{section}.{k} is {theirs[k]}, the model's {v}" for k, v in mine.items() if theirs.get(k, v) != v]
    return found


def check_made_alike(wanted: CropSpec, view: View, settings: Mapping[str, Any], geometry: bool = True) -> None:
    """Refuse crops that were made by other detectors or settings than those a model was trained on.

    Args:
        geometry: whether the view's own settings count, too.

    Raises:
        UserError: naming the settings, with both values.
    """
    wanted.check_size(view)
    sections = ("detect", "choose", "matte", *(("view",) if geometry else ()))
    if differ := differences(wanted, view, settings, sections):
        raise UserError(
            f"View '{view.name}' of {view.path} was not made as the crops that the model was trained on:"
            f" {'; '.join(differ)}.",
            f"Make one with these settings: maskprep crop {view.path} --view NAME",
        )
