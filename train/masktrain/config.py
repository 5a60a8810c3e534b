"""Every setting of a fit: its default, its help and where it comes from, in one place.

The command line, config.yaml, the checkpoints and the documentation all read this tree. Light imports only: the
command line needs it for ``--help``.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskprep.errors import UsageError

RECIPES = ("none", "light")
CLASS_WEIGHTS = ("none", "sqrt", "inverse")
AMP = ("auto", "off", "bf16", "fp16")


def setting(
    default: Any,
    help: str,
    source: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    choices: Sequence[str] = (),
) -> Any:
    """A dataclass field with what there is to know about it.

    Args:
        help: one line for the command line and the documentation.
        source: paper, checklist item or measurement that the setting or its default comes from.
        low, high: limits, both allowed; with ``open_low`` the lower one is not.
        choices: the allowed names.
    """
    limits = {"low": low, "high": high, "open_low": open_low, "choices": tuple(choices)}
    return field(default=default, metadata={"help": help, "source": source, **limits})


class Section:
    """Checks a section's fields against their types and limits."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(typing.cast(Any, self)):
            object.__setattr__(self, f.name, _checked(f, hints[f.name], getattr(self, f.name)))


@dataclass(frozen=True)
class DataConfig(Section):
    """Which crops, and who is held out."""

    view: str | None = setting(None, "View of the cache to train on (default: the only one, or 'face').", "S4.35")
    val_ratio: float = setting(
        0.2, "Share of the people held out for validation.", "S1.33", low=0, high=0.5, open_low=True
    )
    split_seed: int = setting(
        0,
        "Which split of the people; apart from --seed, so that seeds can be compared.",
        "S0.28",
        low=0,
        high=2**32 - 1,
    )
    train_bins: str | None = setting(
        None,
        "Other limits for a number in training, such as age=30,58; everything is scored by the schema's.",
        "S4.9, S4.31: ages near 60 are hard to tell apart",
    )
    drop_intervals: str | None = setting(
        None, "Numbers not to train on, both ends too, such as age=28-29,57-59.", "S1.23; teams dropped 28-29 and 57-59"
    )
    label_margin: str | None = setting(
        None, "Do not train on numbers nearer than this to a limit, such as age=2 (58, 59, 60, 61).", "S1.23"
    )


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    name: str = setting("tf_efficientnet_lite0", "Name of a timm model.", "S3.10; ImageNet weights at hand offline")
    pretrained: bool = setting(True, "Start from pretrained weights.", "timm")
    dropout: float = setting(0.2, "Dropout before the classifier.", "EfficientNet, arXiv 1905.11946", low=0, high=0.95)


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimiser, schedule and loss."""

    epochs: int = setting(8, "Passes over the training images.", "S1.41: 10 are enough in practice", low=1)
    batch_size: int = setting(16, "Images per step.", "more updates than 32; not measured on its own", low=1)
    optimizer: str = setting("adamw", "Name of a timm optimiser.", "AdamW, arXiv 1711.05101; S0.7")
    lr: float = setting(
        1e-3,
        "Peak learning rate; a tenth or less for transformers.",
        "measured: 3e-4 is too low for EfficientNet-Lite0, 1e-3 to 3e-3 are alike at batches of 32",
        low=0,
        open_low=True,
    )
    weight_decay: float = setting(0.02, "Weight decay; none on biases and norms.", "timm", low=0)
    warmup: float = setting(0.1, "Share of the steps that warm up.", "AutoGluon's default", low=0, high=1)
    label_smoothing: float = setting(
        0.1, "Target mass spread evenly over all classes (eps/C each, the true class too).", "S4.46", low=0, high=0.9
    )
    class_weights: str = setting(
        "sqrt",
        "Weight of a class in the loss by its count n: none, sqrt (n^-1/2) or inverse (1/n).",
        "S4.22",
        choices=CLASS_WEIGHTS,
    )
    clip: float = setting(1.0, "Largest norm of the gradient; 0 for no limit.", "AutoGluon's default", low=0)


@dataclass(frozen=True)
class AugmentConfig(Section):
    """What training images go through; validation never does."""

    recipe: str = setting("light", "Augmentation: none or light.", "S0.30, S1.24", choices=RECIPES)


@dataclass(frozen=True)
class RunConfig(Section):
    """How it is run."""

    seed: int = setting(0, "Seed of every random draw of the training.", "DESIGN 6", low=0, high=2**32 - 1)
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", "torch")
    amp: str = setting("auto", "Mixed precision on CUDA: auto, off, bf16 or fp16.", "S4.5", choices=AMP)


@dataclass(frozen=True)
class FitConfig:
    """All settings of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every value, as kept in config.yaml and in the checkpoints."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Read nested settings; what is not given keeps its default.

        Raises:
            UsageError: an unknown key (names the nearest known one), or a value of the wrong type or size.
        """
        sections = {}
        for name, given in values.items():
            if name not in SECTIONS:
                raise _unknown(".".join([name, *list(given if isinstance(given, Mapping) else ())[:1]]))
            if not isinstance(given, Mapping):
                raise UsageError(f"'{name}' must hold settings, such as {next(keys(name))}; it is {given!r}.")
            for key in given:
                if f"{name}.{key}" not in set(keys(name)):
                    raise _unknown(f"{name}.{key}")
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
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "augment": AugmentConfig,
    "run": RunConfig,
}


def keys(*sections: str) -> Iterator[str]:
    """Dotted names of the settings of some sections, or of all."""
    for section in sections or SECTIONS:
        yield from (f"{section}.{f.name}" for f in dataclasses.fields(SECTIONS[section]))


def describe(key: str) -> dataclasses.Field[Any]:
    """The field behind a dotted name, with its default and its metadata."""
    section, _, name = key.partition(".")
    return next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == name)


def nearest(name: str, known: Sequence[str], count: int = 1) -> list[str]:
    """The known names most like a misspelt one."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def _unknown(key: str) -> UsageError:
    known = list(keys())
    bare = {k.partition(".")[2]: k for k in known}
    near = nearest(key, known) or [bare[n] for n in nearest(key.rpartition(".")[2], list(bare))]
    return UsageError(f"Unknown setting '{key}'.", f"Did you mean '{near[0]}'?" if near else "")


def _checked(f: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """A value of the field's type and within its limits; whole numbers become floats where a float is meant."""
    kinds = typing.get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("nothing" if k is type(None) else k.__name__ for k in kinds)
        raise UsageError(f"'{f.name}' must be {wanted}, not {value!r}.")
    about = f.metadata
    if about["choices"] and value not in about["choices"]:
        near = nearest(value, about["choices"])
        raise UsageError(
            f"'{f.name}' must be one of {', '.join(about['choices'])}, not '{value}'.",
            f"Did you mean '{near[0]}'?" if near else "",
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = about["low"] < value if about["open_low"] else about["low"] <= value
        if not (inside and value <= about["high"]):  # false for NaN too
            above = f"above {about['low']:g}" if about["open_low"] else f"at least {about['low']:g}"
            most = "" if about["high"] == math.inf else f" and at most {about['high']:g}"
            raise UsageError(f"'{f.name}' must be {above}{most}, not {value}.")
        if not math.isfinite(value):
            raise UsageError(f"'{f.name}' must be a finite number.")
    return value
