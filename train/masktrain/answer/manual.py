"""What one must know to use a trained model: what goes in, what comes out. No torch: exported models carry it too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from maskprep.base import UserError
from maskprep.crops import Background
from maskprep.dataset import View
from maskprep.labels import Schema

FORMAT = 1
DERIVED = ("view", "fingerprint", "stage")
"""Entries of view.json that do not say what a crop looks like."""


@dataclass(frozen=True)
class Input:
    """One kind of crop that a model looks at.

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


@dataclass(frozen=True)
class Member:
    """One network: timm's name (``a + b`` for two backbones), the run it comes from, its view, and mean and standard
    deviation (0..1) per channel."""

    model: str
    run: str
    view: str
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class Manual:
    """All it takes to use what was trained.

    Args:
        schema: what is classified, as in dataset.json.
        inputs: the kinds of crops it looks at; the first one is the view that is meant where one is named.
        members: its networks; several for an ensemble.
        settings: the preprocessing that makes such crops out of photos, with every view of ``inputs``.
        fallback: the most frequent training class, the answer for a photo without a crop.
        combination: how the networks' probabilities become one, in words; empty for a single one.
    """

    schema: dict[str, Any]
    inputs: tuple[Input, ...]
    members: tuple[Member, ...]
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
    def from_json(cls, text: str, file: str) -> Manual:
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
            inputs = tuple(Input(**{**i, **tuples}) for i, tuples in pairs)
            members = tuple(Member(**m) for m in data.pop("members"))
            return cls(inputs=inputs, members=members, **data)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{file} does not say how it is to be used.", "Make it with: masktrain export RUN"
            ) from error
