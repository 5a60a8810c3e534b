"""Settings by name and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskprep.errors import UsageError, UserError
from masktrain.config import FitConfig, parse
from masktrain.settings import nearest

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
        UsageError: no such recipe or file, or a setting that is unknown or of the wrong type.
        UserError: not YAML.
    """
    import yaml

    if isinstance(source, Path) and not source.is_file():
        raise UsageError(f"{source} does not exist.")
    content = source.read_text(encoding="utf-8") if isinstance(source, Path) else text(source)
    try:
        nested = yaml.safe_load(content) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(nested, dict):
        raise UsageError(f"{source} must hold sections of settings, such as optim: {{epochs: 3}}.")
    for section, values in nested.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, str):  # YAML reads 1e-3 as text
                values[key] = parse(f"{section}.{key}", value)
    FitConfig.from_dict(nested)
    return {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}
