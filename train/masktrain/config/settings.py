"""What a setting is: a field of a dataclass with its help, its source and its limits, checked whenever one is made."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from maskprep.base import UsageError

SWITCHES = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


def setting(
    default: Any,
    help: str,
    source: str = "",
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    choices: Sequence[str] = (),
    prefix: str = "",
) -> Any:
    """A dataclass field with what there is to know about it.

    Args:
        help: one line for the command line and the documentation.
        source: paper or measurement that the setting or its default comes from, if any.
        low, high: limits, both allowed; with ``open_low`` the lower one is not.
        choices: the allowed names; plugins may add to a list.
        prefix: names that begin with it are allowed too.
    """
    limits = {"low": low, "high": high, "open_low": open_low, "choices": choices, "prefix": prefix}
    return field(default=default, metadata={"help": help, "source": source, **limits})


class Section:
    """Checks a section's fields against their types and limits."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(typing.cast(Any, self)):
            kinds, value = unfold(hints[f.name]), getattr(self, f.name)
            if tuple in kinds:
                if not isinstance(value, list | tuple):
                    raise UsageError(f"'{f.name}' must be a list of {kinds[0].__name__}, not {value!r}.")
                value = tuple(_checked(f, kinds[:1], each) for each in value)
            else:
                value = _checked(f, kinds, value)
            object.__setattr__(self, f.name, value)


def nearest(name: str, known: Sequence[str], count: int = 1) -> list[str]:
    """The known names most like a misspelt one."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)


def hint(name: str, known: Sequence[str], otherwise: str = "") -> str:
    """``Did you mean ...?`` with the known name most like a misspelt one, or another hint where none is."""
    near = nearest(name, known)
    return f"Did you mean '{near[0]}'?" if near else otherwise


def unfold(hint: Any) -> tuple[Any, ...]:
    """The types that a type hint allows; ``tuple`` among them if it holds several values."""
    if typing.get_origin(hint) is tuple:
        return (typing.get_args(hint)[0], tuple)
    return typing.get_args(hint) or (hint,)


def parsed(key: str, kinds: tuple[Any, ...], text: str) -> Any:
    """The value that text means for a setting of some kinds."""
    try:
        if bool in kinds:
            return SWITCHES[text.casefold()]
        return next((kind(text) for kind in (int, float) if kind in kinds), text)
    except (KeyError, ValueError):
        raise UsageError(f"'{key}' must be {_words(kinds)}, not '{text}'.") from None


def _words(kinds: tuple[Any, ...]) -> str:
    return " or ".join({type(None): "nothing", tuple: "several of them"}.get(k, k.__name__) for k in kinds)


def _checked(f: dataclasses.Field[Any], kinds: tuple[Any, ...], value: Any) -> Any:
    """A value of the field's type and within its limits; whole numbers become floats where a float is meant."""
    about = f.metadata
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"'{f.name}' must be {_words(kinds)}, not {value!r}.")
    open_end = about["prefix"] and str(value).startswith(about["prefix"])
    if about["choices"] and value not in about["choices"] and not open_end:
        known = about["choices"]
        raise UsageError(f"'{f.name}' must be one of {', '.join(known)}, not '{value}'.", hint(value, known))
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high, is_open = about["low"], about["high"], about["open_low"]
        if not ((low < value if is_open else low <= value) and value <= high):  # false for NaN too
            above = f"above {low:g}" if is_open else f"at least {low:g}"
            most = "" if high == math.inf else f" and at most {high:g}"
            raise UsageError(f"'{f.name}' must be {above}{most}, not {value}.")
        if not math.isfinite(value):
            raise UsageError(f"'{f.name}' must be a finite number.")
    return value
