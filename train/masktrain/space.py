"""What a sweep varies: a YAML file of settings that are fixed and settings that have a range or a list of values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.errors import UsageError
from maskprep.store.documents import read_yaml
from masktrain.config import FitConfig, flat, kinds_of, meant
from masktrain.settings import nearest, parsed

RANGE = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Varied:
    """A setting that a sweep varies: one of ``values``, or a number from ``low`` to ``high``, both allowed.

    Attributes:
        key: dotted name of the setting.
        values: to choose from; empty for a range.
        low, high: limits of a range.
        log: whether its logarithm is drawn evenly.
        step: between the numbers of a range; None for any number.
        whole: whether the setting takes whole numbers only.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    def every(self) -> list[Any]:
        """All its values, for a grid.

        Raises:
            UsageError: a range without steps.
        """
        if self.values:
            return list(self.values)
        step = self.step or (1 if self.whole else None)
        if step is None:
            raise UsageError(f"A grid needs the values of {self.key}.", "Give a list, or a step for its range.")
        found = [self.low + i * step for i in range(int((self.high - self.low) / step + 1e-9) + 1)]
        return [int(v) if self.whole else round(v, 12) for v in found]

    def distribution(self) -> Any:
        """The same as an Optuna distribution; lists of settings travel as JSON."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values:
            return CategoricalDistribution([json.dumps(v) for v in self.values])
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def meant(self, drawn: Any) -> Any:
        """The value of the setting that Optuna's value stands for; numbers in six digits, so that a table shows all."""
        if self.values:
            return json.loads(drawn)
        return drawn if self.whole else float(f"{drawn:.6g}")

    def drawn(self, value: Any) -> Any:
        """What Optuna calls a value."""
        return json.dumps(value) if self.values else value


@dataclass(frozen=True)
class Space:
    """What a sweep tries: ``fixed`` settings, flat, and those that are ``varied``."""

    fixed: dict[str, Any]
    varied: tuple[Varied, ...]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last setting changing quickest."""
        names = [v.key for v in self.varied]
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*(v.every() for v in self.varied))]


def read(file: Path) -> Space:
    """Read a space.

    Raises:
        UsageError: no such file, not YAML, an unknown setting, a value or limit that the setting does not take,
            nothing varied.
    """
    if not file.is_file():
        raise UsageError(f"{file} does not exist.")
    content = read_yaml(file)
    example = "For example: space: {optim.lr: {low: 1e-4, high: 1e-2, log: true}, optim.batch_size: [16, 32]}"
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict) or not content["space"]:
        raise UsageError(f"{file} varies nothing: it has no section 'space'.", example)
    if unknown := [key for key in content if key not in ("fixed", "space")]:
        raise UsageError(f"{file} has a section '{unknown[0]}'; there are 'fixed' and 'space'.", example)
    fixed = {key: meant(key, value) for key, value in flat(content.get("fixed") or {}, file).items()}
    varied = tuple(_varied(key, given) for key, given in flat(content["space"], file).items())
    if twice := sorted(set(fixed) & {v.key for v in varied}):
        raise UsageError(f"{file} both fixes and varies {twice[0]}.")
    for each in varied:
        for value in each.values or (each.low, each.high):
            FitConfig.from_keys({each.key: int(value) if each.whole else value})
    FitConfig.from_keys(fixed)
    return Space(fixed, varied)


def _varied(key: str, given: Any) -> Varied:
    """One entry of the section ``space``."""
    kinds = kinds_of(key)
    if isinstance(given, list) and given:
        values = [meant(key, value) for value in given]
        return Varied(key, tuple(list(v) if isinstance(v, tuple) else v for v in values))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given):
        raise UsageError(f"{key} must be a list of values, or have 'low' and 'high'; it is {given!r}.")
    if unknown := sorted(set(map(str, given)) - set(RANGE)):
        near = nearest(unknown[0], RANGE)
        raise UsageError(f"{key}: unknown '{unknown[0]}'.", f"Did you mean '{near[0]}'?" if near else "")
    if not {int, float} & set(kinds) or bool in kinds:
        raise UsageError(f"{key} is no number; give a list of values.")
    whole = float not in kinds
    try:
        low, high = float(given["low"]), float(given["high"])
        step = None if given.get("step") is None else float(given["step"])
    except (TypeError, ValueError):
        raise UsageError(f"{key}: low, high and step must be numbers.") from None
    log = parsed(f"{key}: log", (bool,), str(given.get("log", False)))
    if not low < high or (step is not None and step <= 0) or (log and (low <= 0 or step is not None)):
        raise UsageError(f"{key}: low must be below high, a step above 0, and log takes limits above 0 and no step.")
    if whole and any(v is not None and v != int(v) for v in (low, high, step)):
        raise UsageError(f"{key} takes whole numbers only.")
    return Varied(key, low=low, high=high, log=log, step=step, whole=whole)
