"""Every setting of a fit as one tree, by keys and as text.

The command line, config.yaml, the checkpoints and the documentation all read this tree. Light imports only: the
command line needs it for ``--help``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskprep.base import UsageError
from masktrain.config import plugins
from masktrain.config.images import AugmentConfig, DataConfig, SampleConfig
from masktrain.config.sections import (
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SelectConfig,
    TargetConfig,
)
from masktrain.config.settings import nearest, parsed, unfold


@dataclass(frozen=True)
class FitConfig:
    """All settings of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every value, as kept in config.yaml and in the checkpoints."""
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Read nested settings; what is not given keeps its default.

        Raises:
            UsageError: an unknown key (names the nearest known one), a value of the wrong type or size, or plugins that
                have not been loaded.
        """
        run = values.get("run")
        wanted = run.get("plugins") if isinstance(run, Mapping) else None
        plugins.need(str(each) for each in (wanted if isinstance(wanted, list | tuple) else ()))
        known, sections = set(keys()), {}
        for name, given in values.items():
            if name in SECTIONS and not isinstance(given, Mapping):
                raise UsageError(f"'{name}' must hold settings, such as {next(keys(name))}; it is {given!r}.")
            for key in (f"{name}.{k}" for k in given) if isinstance(given, Mapping) else (name,):
                if key not in known:
                    raise _unknown(key)
            sections[name] = SECTIONS[name](**given)
        return cls(**sections)

    @classmethod
    def from_keys(cls, values: Mapping[str, Any]) -> FitConfig:
        """Read flat settings, ``{"optim.lr": 1e-3}``."""
        nested: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
        return cls.from_dict(nested)

    def hash(self) -> str:
        """Hash of every value: equal means the same settings."""
        return hash_of(self.to_dict())


def hash_of(values: Mapping[str, Any]) -> str:
    """Hash of every value of nested settings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


SECTIONS: dict[str, Any] = {f.name: f.default_factory for f in dataclasses.fields(FitConfig)}


def keys(*sections: str) -> Iterator[str]:
    """Dotted names of the settings of some sections, or of all."""
    for section in sections or SECTIONS:
        yield from (f"{section}.{f.name}" for f in dataclasses.fields(SECTIONS[section]))


def named(name: str) -> list[str]:
    """The settings that a name means: a section (``loss``), a key (``loss.gamma``) or its last part (``gamma``).

    Raises:
        UsageError: none, with the nearest known name.
    """
    if name in SECTIONS:
        return list(keys(name))
    found = [key for key in keys() if name in (key, key.partition(".")[2])]
    if not found:
        near = nearest(name, [*SECTIONS, *(key.partition(".")[2] for key in keys())])
        if "." in name or not near or near[0] not in SECTIONS:
            raise _unknown(name)
        raise UsageError(f"There is no setting or section '{name}'.", f"Did you mean '{near[0]}'?")
    return found


def describe(key: str) -> dataclasses.Field[Any]:
    """The field behind a dotted name, with its default and its metadata."""
    section, _, name = key.partition(".")
    return next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == name)


def _unknown(key: str) -> UsageError:
    known = list(keys())
    bare = {k.partition(".")[2]: k for k in known}
    near = nearest(key, known) or [bare[n] for n in nearest(key.rpartition(".")[2], list(bare))]
    return UsageError(f"Unknown setting '{key}'.", f"Did you mean '{near[0]}'?" if near else "")


def flat(given: Any, file: str | Path) -> dict[str, Any]:
    """Settings of a file by dotted name, whether written ``optim.lr: ...`` or ``optim: {lr: ...}``.

    Raises:
        UsageError: it is no mapping, a section holds no settings, a setting is unknown or there twice.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{file} must hold settings, such as optim: {{epochs: 3}}; one part is {given!r}.")
    bare = {key.partition(".")[2] for key in keys()}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in SECTIONS and not isinstance(value, Mapping):
            raise UsageError(f"{file}: '{name}' must hold settings, such as {next(keys(name))}; it is {value!r}.")
        nested = isinstance(value, Mapping) and "." not in str(name) and name not in bare
        for key, each in ((f"{name}.{k}", v) for k, v in value.items()) if nested else ((str(name), value),):
            if key in found:
                raise UsageError(f"{file} has {key} twice.")
            kinds_of(key)  # there is such a setting
            found[key] = each
    return found


def meant(key: str, value: Any) -> Any:
    """The value of a setting as a YAML file has it, which reads 1e-3 as text."""
    return parse(key, value) if isinstance(value, str) else value


def parse(key: str, text: str) -> Any:
    """The value of a setting as text means it: ``none`` for no value, commas between several.

    Raises:
        UsageError: no such setting, or no value of its type.
    """
    kinds = kinds_of(key)
    if type(None) in kinds and text.casefold() in ("none", "null", ""):
        return None
    if tuple in kinds:
        return tuple(parsed(key, kinds, part.strip()) for part in text.strip("[]()").split(",") if part.strip())
    return parsed(key, kinds, text)


def kinds_of(key: str) -> tuple[Any, ...]:
    """The types a setting may have; ``tuple`` among them if it holds several values.

    Raises:
        UsageError: no such setting.
    """
    if key not in set(keys()):
        raise _unknown(key)
    section, _, name = key.partition(".")
    return unfold(typing.get_type_hints(SECTIONS[section])[name])


def assignments(texts: list[str]) -> dict[str, Any]:
    """Settings given as ``key=value``.

    Raises:
        UsageError: no such setting, or no value of its type.
    """
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set needs KEY=VALUE, not '{text}'.", "For example: --set loss.gamma=3")
        values[key.strip()] = parse(key.strip(), value.strip())
    return values
