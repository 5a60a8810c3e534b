"""What a sweep varies: a YAML file of settings that are fixed and settings that have a range or a list of values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, read_yaml
from masktrain.config.config import FitConfig, flat, kinds_of, meant
from masktrain.config.settings import nearest, parsed

RANGE = ("low", "high", "log", "step")
EXAMPLE = "For example: space: {optim.lr: {low: 1e-4, high: 1e-2, log: true}, optim.batch_size: [16, 32]}"
MOST_COMBINATIONS = 10_000
"""A grid with more is taken for a mistake."""
MOST_STEPS = 10**9
TRIED = 1000
"""With so many choices of the others a value is tried before it is said to go with none."""


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

    def grid(self) -> Sequence[Any]:
        """Optuna's parameter for each of its values, in order: JSON of a listed value, the place of a stepped number.

        Raises:
            UsageError: a range without steps.
        """
        if self.values:
            return [json.dumps(value) for value in self.values]
        if self.step is not None:
            return range(int((self.high - self.low) / self.step + 1e-9) + 1)
        if self.whole:
            return range(int(self.low), int(self.high) + 1)
        raise UsageError(f"A grid needs the values of {self.key}.", "Give a list, or a step for its range.")

    def suggest(self, trial: Any) -> Any:
        """Its value in a trial of Optuna's; numbers in six digits, so that a table shows all of them."""
        if self.values:
            return json.loads(trial.suggest_categorical(self.key, self.grid()))
        if self.step is not None:
            value = self.low + self.step * trial.suggest_int(self.key, 0, len(self.grid()) - 1)
            return int(value) if self.whole else min(float(f"{value:.12g}"), self.high)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        value = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return min(max(float(f"{value:.6g}"), self.low), self.high)

    def ends(self) -> list[Any]:
        """Its values, or the first and the last one of a range."""
        if self.values:
            return list(self.values)
        return [int(v) if self.whole else v for v in (self.low, self.high)]


@dataclass(frozen=True)
class Space:
    """What a sweep tries: ``fixed`` settings, flat, and those that are ``varied``."""

    fixed: dict[str, Any]
    varied: tuple[Varied, ...]

    def grid(self) -> list[dict[str, Any]]:
        """Optuna's parameters of every combination, the last setting changing quickest.

        Raises:
            UsageError: a range without steps, or more combinations than anyone can try.
        """
        total = math.prod(len(v.grid()) for v in self.varied)
        if total > MOST_COMBINATIONS:
            raise UsageError(
                f"The grid has {total:,} combinations, more than the {MOST_COMBINATIONS:,} that are taken.",
                "Give fewer values or larger steps, or draw some of them: --kind random --trials 50.",
            )
        names = [v.key for v in self.varied]
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*(v.grid() for v in self.varied))]

    def some(self) -> Iterator[dict[str, Any]]:
        """Combinations of values and of the ends of ranges, no more than :data:`TRIED`."""
        names = [v.key for v in self.varied]
        every = itertools.product(*(v.ends() for v in self.varied))
        return (dict(zip(names, each, strict=True)) for each in itertools.islice(every, TRIED))

    def check(self) -> None:
        """See that every value goes with what is fixed, alone or with some choice of the others in its section.

        Raises:
            UsageError: naming the value, and why it is none.
        """
        FitConfig.from_keys(self.fixed)
        for one in self.varied:
            section = one.key.partition(".")[0]
            others = tuple(v for v in self.varied if v is not one and v.key.partition(".")[0] == section)
            for value in one.ends():
                problem: UsageError | None = None
                for chosen in itertools.chain([{}], Space({}, others).some()):
                    try:
                        FitConfig.from_keys({**self.fixed, **chosen, one.key: value})
                        break
                    except UsageError as error:
                        problem = problem or error
                else:
                    assert problem is not None
                    raise UsageError(f"{one.key}={value} cannot be tried: {problem.message}", problem.hint)


def read(file: Path) -> Space:
    """Read a space. Whether the values can be had is another question, see :meth:`Space.check`.

    Raises:
        UsageError: no such file, not YAML, an unknown setting, a range that is none, nothing varied.
    """
    if not file.is_file():
        raise UsageError(f"{file} does not exist.")
    content = read_yaml(file)
    if not isinstance(content, dict) or not isinstance(content.get("space"), dict) or not content["space"]:
        raise UsageError(f"{file} varies nothing: it has no section 'space'.", EXAMPLE)
    if unknown := [key for key in content if key not in ("fixed", "space")]:
        raise UsageError(f"{file} has a section '{unknown[0]}'; there are 'fixed' and 'space'.", EXAMPLE)
    fixed = {key: meant(key, value) for key, value in flat(content.get("fixed") or {}, file).items()}
    varied = tuple(_varied(key, given) for key, given in flat(content["space"], file).items())
    if twice := sorted(set(fixed) & {v.key for v in varied}):
        raise UsageError(f"{file} both fixes and varies {twice[0]}.")
    return Space(fixed, varied)


def _varied(key: str, given: Any) -> Varied:
    """One entry of the section ``space``."""
    kinds = kinds_of(key)
    if isinstance(given, list) and given:
        values = [meant(key, value) for value in given]
        return Varied(key, tuple(list(v) if isinstance(v, tuple) else v for v in values))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given):
        raise UsageError(f"{key} must be a list of values, or have 'low' and 'high'; it is {given!r}.")
    if unknown := [str(name) for name in given if name not in RANGE]:
        near = nearest(unknown[0], RANGE)
        raise UsageError(f"{key}: unknown '{unknown[0]}'.", f"Did you mean '{near[0]}'?" if near else "")
    if not {int, float} & set(kinds) or bool in kinds:
        raise UsageError(f"{key} is no number; give a list of values.")
    whole, stepped = float not in kinds, given.get("step") is not None
    numbers = [given["low"], given["high"], given["step"] if stepped else 1]
    try:
        low, high, step = (math.nan if isinstance(v, bool) else float(v) for v in numbers)
    except (TypeError, ValueError, OverflowError):
        low = high = step = math.nan
    if not all(map(math.isfinite, (low, high, step))):
        raise UsageError(f"{key}: low, high and step must be numbers, and none of them infinite.")
    log = parsed(f"{key}: log", (bool,), str(given.get("log", False)))
    if not low < high or step <= 0 or (log and (low <= 0 or stepped)):
        raise UsageError(f"{key}: low must be below high, a step above 0, and log takes limits above 0 and no step.")
    if whole and not all(v.is_integer() for v in (low, high, step)):
        raise UsageError(f"{key} takes whole numbers only.")
    if stepped and (high - low) / step > MOST_STEPS:
        raise UsageError(f"{key}: the step {step:g} is too small for a range from {low:g} to {high:g}.")
    return Varied(key, low=low, high=high, log=log, step=step if stepped else None, whole=whole)
