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

from maskprep.backgrounds import BACKGROUNDS, parse_colour
from maskprep.errors import UsageError

RECIPES = ("none", "light")
TARGETS = ("joint", "heads", "ordinal")
LOSSES = ("ce", "focal", "f1", "ce_f1", "ldam", "bce", "soft_margin")
CLASS_WEIGHTS = ("none", "sqrt", "inverse", "log", "effective")
HEADS = ("linear", "cosine")
MIRRORS = ("none", "mirror")
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
    """Which crops, before which background, and who is held out."""

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
    background: str = setting(
        "original",
        "Behind the subject: original, mean (the data set's colour), colour, blur, or random (only in training).",
        "S4.12; needs mattes",
        choices=BACKGROUNDS,
    )
    colour: str = setting("grey", "The colour of --background colour: #rrggbb, r,g,b or a name.", "S4.12")
    statistics: str = setting(
        "whole",
        "Normalise by the mean and std of whole crops, or of the foreground alone (whole or foreground).",
        "needs mattes for foreground",
        choices=("whole", "foreground"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_colour(self.colour)


@dataclass(frozen=True)
class ModelConfig(Section):
    """The network."""

    name: str = setting("tf_efficientnet_lite0", "Name of a timm model.", "S3.10; ImageNet weights at hand offline")
    pretrained: bool = setting(True, "Start from pretrained weights.", "timm")
    dropout: float = setting(0.2, "Dropout before the classifier.", "EfficientNet, arXiv 1905.11946", low=0, high=0.95)
    head: str = setting(
        "linear",
        "Classifier: linear, or cosine (normalised features and weights, outputs times loss.scale; for LDAM).",
        "S4.22; arXiv 1906.07413",
        choices=HEADS,
    )


@dataclass(frozen=True)
class TargetConfig(Section):
    """What the network answers."""

    kind: str = setting(
        "joint",
        "joint (one answer per joint class), heads (one per attribute) or ordinal (heads that know the order of bins).",
        "S0.6, S4.27, S4.30",
        choices=TARGETS,
    )
    weights: tuple[float, ...] = setting(
        (), "Weight of each head's loss, in the order of the attributes (default: alike).", "S0.6; 0.8/1/1.7", low=0
    )
    losses: tuple[str, ...] = setting(
        (), "Loss of each head, in the order of the attributes (default: --loss).", "S4.29", choices=LOSSES
    )


@dataclass(frozen=True)
class LossConfig(Section):
    """What is minimised."""

    name: str = setting(
        "ce",
        "ce, focal, f1 (soft F1), ce_f1 (both), ldam, bce (summed over classes) or soft_margin (their mean).",
        "S0.8, S4.6, S4.22, S1.28",
        choices=LOSSES,
    )
    label_smoothing: float = setting(
        0.1,
        "Target mass spread evenly over all classes (eps/C each, the true class too); not in soft F1.",
        "S4.46",
        low=0,
        high=0.9,
    )
    class_weights: str = setting(
        "sqrt",
        "Weight of a class by its count n: none, sqrt (n^-1/2), inverse (1/n), log (1/log(1+n)) or effective number.",
        "S4.22",
        choices=CLASS_WEIGHTS,
    )
    beta: float = setting(
        0.9999, "Of the effective number, (1-beta)/(1-beta^n).", "arXiv 1901.05555", low=0, high=0.999999
    )
    defer: float = setting(
        0.0, "Share of the training after which class weights begin to count.", "DRW, arXiv 1906.07413", low=0, high=1
    )
    gamma: float = setting(2.0, "Focus of the focal loss.", "arXiv 1708.02002", low=0, high=10)
    f1_share: float = setting(0.7, "Share of soft F1 in ce_f1.", "S4.7: 0.3 CE + 0.7 F1", low=0, high=1)
    margin: float = setting(0.5, "LDAM's margin of the rarest class.", "arXiv 1906.07413", low=0, high=1)
    scale: float = setting(
        30.0, "LDAM's scale of the margins, and of the cosine head's outputs.", "arXiv 1906.07413", low=0, open_low=True
    )


@dataclass(frozen=True)
class OptimConfig(Section):
    """Optimiser and schedule."""

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
    clip: float = setting(1.0, "Largest norm of the gradient; 0 for no limit.", "AutoGluon's default", low=0)
    ema: float = setting(
        0.0,
        "Decay of the running average of the weights, which is then what is scored and kept; 0 for none.",
        "S2.6; warm-up (1+t)/(10+t)",
        low=0,
        high=0.99999,
    )


@dataclass(frozen=True)
class AugmentConfig(Section):
    """What training images go through; validation never does."""

    recipe: str = setting("light", "Augmentation: none or light.", "S0.30, S1.24", choices=RECIPES)


@dataclass(frozen=True)
class RunConfig(Section):
    """How it is run."""

    seed: int = setting(0, "Seed of every random draw of the training.", "DESIGN 6", low=0, high=2**32 - 1)
    snapshot_seconds: float = setting(
        60.0,
        "Seconds between two snapshots within an epoch, from which --resume goes on; the result does not depend on it.",
        "issue 6: exact resume",
        low=0,
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...", "torch")
    tta: str = setting(
        "none",
        "Average over the crop and its mirror image when scoring and predicting: none or mirror.",
        "S4.21",
        choices=MIRRORS,
    )
    amp: str = setting("auto", "Mixed precision on CUDA: auto, off, bf16 or fp16.", "S4.5", choices=AMP)


@dataclass(frozen=True)
class FitConfig:
    """All settings of a fit."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
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
    "target": TargetConfig,
    "loss": LossConfig,
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


def parse(key: str, text: str) -> Any:
    """The value of a setting as text means it: ``none`` for no value, commas between several.

    Raises:
        UsageError: no such setting, or no value of its type.
    """
    if key not in set(keys()):
        raise _unknown(key)
    kinds = _kinds(key)
    if type(None) in kinds and text.casefold() in ("none", "null", ""):
        return None
    if tuple in kinds:
        return tuple(_parsed(key, kinds, part.strip()) for part in text.strip("[]()").split(",") if part.strip())
    return _parsed(key, kinds, text)


def _parsed(key: str, kinds: tuple[Any, ...], text: str) -> Any:
    try:
        if bool in kinds:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.casefold()]
        return next((kind(text) for kind in (int, float) if kind in kinds), text)
    except (KeyError, ValueError):
        raise UsageError(f"'{key}' must be {_words(kinds)}, not '{text}'.") from None


def _kinds(key: str) -> tuple[Any, ...]:
    """The types a setting may have; ``tuple`` among them if it holds several values."""
    section, _, name = key.partition(".")
    return _unfold(typing.get_type_hints(SECTIONS[section])[name])


def _unfold(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is tuple:
        return (typing.get_args(hint)[0], tuple)
    return typing.get_args(hint) or (hint,)


def _words(kinds: tuple[Any, ...]) -> str:
    return " or ".join({type(None): "nothing", tuple: "several of them"}.get(k, k.__name__) for k in kinds)


def _checked(f: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """A value of the field's type and within its limits; whole numbers become floats where a float is meant."""
    kinds = _unfold(hint)
    if tuple in kinds:
        if not isinstance(value, list | tuple):
            raise UsageError(f"'{f.name}' must be a list of {kinds[0].__name__}, not {value!r}.")
        return tuple(_one_checked(f, kinds[:1], v) for v in value)
    return _one_checked(f, kinds, value)


def _one_checked(f: dataclasses.Field[Any], kinds: tuple[Any, ...], value: Any) -> Any:
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"'{f.name}' must be {_words(kinds)}, not {value!r}.")
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
