"""Settings of every stage: read from maskprep.yaml, from what a cache recorded, and from options. Strict.

Each default stands in one place, the data class of its section. A section that maskprep.yaml has is taken from there
as a whole; one that it lacks is as the cache remembers it; options change single values. Views that were added by an
option stay beside those of the file; one that is taken out of the file is deleted from the cache.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, nearest, read_yaml
from maskprep.crops import ViewSettings, parse_size
from maskprep.dataset import DEFAULT_VIEW
from maskprep.faces import ChooseSettings, DetectSettings
from maskprep.labels import IndexSettings, LabelSettings, Schema, SourceSettings
from maskprep.mattes import MatteSettings

CONFIG_NAME = "maskprep.yaml"


@dataclass(frozen=True)
class Config:
    """Everything that decides what a cache holds. Without a schema the layout tells it; ``matte`` None: no mattes."""

    source: SourceSettings = field(default_factory=SourceSettings)
    schema: Schema | None = None
    index: IndexSettings = field(default_factory=IndexSettings)
    detect: DetectSettings = field(default_factory=DetectSettings)
    choose: ChooseSettings = field(default_factory=ChooseSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    views: dict[str, ViewSettings] = field(default_factory=lambda: {DEFAULT_VIEW: ViewSettings()})
    matte: MatteSettings | None = None

    @property
    def shows_faces(self) -> bool:
        """Whether a view shows faces; else none need to be looked for."""
        return any(view.crop == "face" for view in self.views.values()) or not self.views

    def needs_faces(self, view: str, matted: bool) -> bool:
        """Whether the crops of one view need faces: to be cut, or for mattes that were made with faces known."""
        return self.views[view].crop == "face" or (matted and self.shows_faces)

    def settings(self) -> dict[str, Any]:
        """The sections that make crops of photos, as kept in dataset.json and inside a trained run."""
        names = ("index", "detect", "choose", "labels", "views", *(["matte"] if self.matte else []))
        views = {name: view.to_dict() for name, view in self.views.items()}
        return {name: views if name == "views" else dataclasses.asdict(getattr(self, name)) for name in names}


def parse(data: Mapping[str, Any], base: Config | None = None) -> Config:
    """A configuration from the form of maskprep.yaml; sections that are absent are those of ``base``.

    Raises:
        UsageError: an unknown key (naming the nearest known one), a wrong type or an invalid value.
    """
    base = base or Config()
    _check_keys(data, [f.name for f in dataclasses.fields(Config)], "")
    changes: dict[str, Any] = {}
    for name, section in data.items():
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise UsageError(f"'{name}' must be a group of settings, not {section!r}.")
        if name == "schema":
            changes[name] = _schema(section)
        elif name == "views":
            views = {str(v): _build(ViewSettings, s or {}, f"views.{v}") for v, s in section.items()}
            for view in views:
                check_view_name(view)
            changes[name] = {**base.views, **views} if base.views != Config().views else views
        elif name == "matte":
            changes[name] = _build(MatteSettings, section, name)
        else:
            changes[name] = _build(type(getattr(base, name)), section, name)
    return dataclasses.replace(base, **changes)


def load(path: Path, base: Config | None = None) -> Config:
    """Read maskprep.yaml.

    Raises:
        UsageError: it cannot be read or is not valid, naming the file.
    """
    data = read_yaml(path)
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise UsageError(f"'{path}' must hold named sections, not {type(data).__name__}.")
    try:
        parsed = parse(data, base)
        if "labels" in data:  # absolute, since the cache remembers them
            fixes = tuple(os.fspath((path.parent / file).resolve()) for file in parsed.labels.fixes)
            parsed = dataclasses.replace(parsed, labels=dataclasses.replace(parsed.labels, fixes=fixes))
        for view in parsed.matte.views if parsed.matte is not None and "matte" in data else ():
            if view not in parsed.views:
                raise UsageError(
                    f"matte.views names an unknown view '{view}'.{nearest(view, parsed.views)}",
                    f"Known views: {', '.join(parsed.views)}.",
                )
        return parsed
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def named_views(path: Path) -> list[str]:
    """Names of the views that a maskprep.yaml has. Raises UsageError where it cannot be read."""
    data = read_yaml(path)
    views = data.get("views") if isinstance(data, Mapping) else None
    return [str(name) for name in views] if isinstance(views, Mapping) else []


def differences(before: Config, now: Config) -> list[str]:
    """In words, which settings differ, such as ``views.face.margin 0.5 → 0.35``."""
    old, new = _flat(before.settings()), _flat(now.settings())
    return [f"{key} {old.get(key, 'unset')} → {new.get(key, 'unset')}" for key in new if old.get(key) != new[key]]


def _flat(nested: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{within}.{key}" if within else key
        found |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def check_view_name(name: str) -> None:
    """Raise UsageError unless a view's name is a folder name: letters, digits, dots, dashes and underscores."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise UsageError(f"'{name}' is no name for a view.", "Use letters, digits, '-', '_' and '.'.")


def _schema(data: Mapping[str, Any]) -> Schema:
    _check_keys(data, ("attributes", "joint"), "schema")
    attributes = data.get("attributes")
    if not isinstance(attributes, Mapping):
        raise UsageError("schema.attributes must name the attributes.", "For example: mask: {classes: [wear, none]}")
    for name, spec in attributes.items():
        if not isinstance(spec, Mapping):
            raise UsageError(f"schema.attributes.{name} must have classes or bins.")
        _check_keys(spec, ("classes", "bins"), f"schema.attributes.{name}")
        for key, kind in (("classes", (str, int, float)), ("bins", (int, float))):
            values = spec.get(key, [])
            if isinstance(values, list) and any(isinstance(v, bool) for v in values):
                raise UsageError(
                    f"schema.attributes.{name}.{key} holds true or false.", "YAML reads yes and no so; quote them."
                )
            if not isinstance(values, list) or not all(isinstance(v, kind) for v in values):
                raise UsageError(
                    f"schema.attributes.{name}.{key} must be a list of {'names' if key == 'classes' else 'numbers'}."
                )
    if not isinstance(data.get("joint", []), list):
        raise UsageError("schema.joint must be a list of attributes.")
    return Schema.from_dict(data)


def _build(cls: type[Any], data: Mapping[str, Any], where: str) -> Any:
    """A settings data class from a mapping, with types checked against its annotations."""
    if not isinstance(data, Mapping):
        raise UsageError(f"'{where}' must be a group of settings, not {data!r}.")
    hints = typing.get_type_hints(cls)
    _check_keys(data, hints, where)
    return cls(**{key: _coerce(value, hints[key], f"{where}.{key}") for key, value in data.items()})


def _coerce(value: Any, hint: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _coerce(value, next(a for a in args if a is not type(None)), where)
    if hint == tuple[int, int] and isinstance(value, str | int) and not isinstance(value, bool):
        return parse_size(str(value))
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(item, args[0], where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _coerce(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(hint, type) and origin is None and isinstance(value, hint)
    if plain and (hint is bool or not isinstance(value, bool)):
        return value
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    expected = names.get(hint, "a list" if origin is tuple else "a group of settings")
    raise UsageError(f"'{where}' must be {expected}, not {value!r}.")


def _check_keys(data: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    known = list(known)
    for key in data:
        if key not in known:
            inside = f" in '{where}'" if where else ""
            raise UsageError(
                f"Unknown key '{key}'{inside}.{nearest(str(key), known)}", f"Known keys: {', '.join(known)}."
            )
