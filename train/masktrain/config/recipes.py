"""Settings by name and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskprep.base import UsageError, parse_yaml, read_yaml
from masktrain.config.config import FitConfig, flat, meant
from masktrain.config.settings import nearest

FOLDER = Path(__file__).with_name("recipes")


def names() -> list[str]:
    """The recipes that come with masktrain."""
    return sorted(f.stem for f in FOLDER.glob("*.yaml"))


def text(name: str) -> str:
    """The file of a recipe; its first line says what it is.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in names():
        near = nearest(name, names())
        hint = f"Did you mean '{near[0]}'?" if near else "See them with: masktrain recipes"
        raise UsageError(f"There is no recipe '{name}'.", hint)
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read(source: str | Path) -> dict[str, Any]:
    """Flat settings of a recipe (by name) or of a YAML file (by path), checked.

    Raises:
        UsageError: no such recipe or file, not YAML, or a setting that is unknown or of the wrong type.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"{source} does not exist.")
    content = read_yaml(source) if isinstance(source, Path) else parse_yaml(text(source), source)
    try:
        values = {key: meant(key, value) for key, value in flat({} if content is None else content, source).items()}
        FitConfig.from_keys(values)
    except UsageError as error:
        raise error if str(source) in error.message else UsageError(f"{source}: {error.message}", error.hint) from error
    return values
