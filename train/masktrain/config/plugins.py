"""Code of one's own that adds losses, augmentations, schedules and ways of sampling under new names.

A plugin is imported only where a person names it, never because a run, a checkpoint or a file of settings does.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from maskprep.base import UsageError, UserError

F = TypeVar("F", bound=Callable[..., object])

_loaded: dict[str, str] = {}
_added: list[str] = []


class Registry(dict[str, F], Generic[F]):
    """What plugins have added to the choices of a setting; called with a name it is the decorator that adds one.

    Args:
        what: is added, in words.
        choices: the names that the setting allows, to which new ones are added.
    """

    def __init__(self, what: str, choices: list[str]) -> None:
        super().__init__()
        self.what, self.choices = what, choices

    def __call__(self, name: str) -> Callable[[F], F]:
        """Add a function under a new name.

        Raises:
            UsageError: the name is taken.
        """
        if name in self.choices:
            raise UsageError(f"There is a {self.what} '{name}' already.", "Give yours another name.")

        def add(function: F) -> F:
            self[name] = function
            self.choices.append(name)
            _added.append(name)
            return function

        return add


def load(names: Sequence[str]) -> tuple[str, ...]:
    """Import plugins; to be done before settings are checked.

    Args:
        names: files (``mine.py``) or modules that can be imported.

    Returns:
        Name and hash of each (``mine.py@3f0c...``), as settings keep them.

    Raises:
        UsageError: there is no such file or module, or two that are called alike.
        UserError: it cannot be imported, or adds nothing.
    """
    return tuple(_load(name) for name in dict.fromkeys(names))


def need(wanted: Iterable[str]) -> None:
    """Make sure that the plugins of some settings have been loaded, and are what they were.

    Raises:
        UsageError: one has not been, or its code has changed since.
    """
    for entry in wanted:
        name, _, digest = entry.partition("@")
        if name not in _loaded:
            raise UsageError(
                f"These settings use the plugin {name}. It is code, so it is only loaded where you name it.",
                f"Add: --plugin {name}" + (" (with its folder)" if name.endswith(".py") else ""),
            )
        if digest != _loaded[name]:
            raise UsageError(
                f"The plugin {name} has changed: its hash is {_loaded[name]}, these settings have {digest}.",
                "Restore the file, or start a new run with it.",
            )


def _load(given: str) -> str:
    file = Path(given)
    name = file.name if file.suffix == ".py" else given
    found = file if file.suffix == ".py" else _file_of(given)
    if not found.is_file():
        raise UsageError(f"There is no plugin {given}.", "Give a Python file, or a module that can be imported.")
    digest = hashlib.sha256(found.read_bytes()).hexdigest()[:16]
    if name in _loaded:
        if _loaded[name] != digest:
            raise UsageError(f"Two plugins are called {name}.", "Rename one of them.")
        return f"{name}@{digest}"
    before = len(_added)
    try:
        if file.suffix == ".py":
            spec = importlib.util.spec_from_file_location(f"masktrain_plugin_{file.stem}", file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            importlib.import_module(given)
    except UserError as error:
        raise UsageError(f"The plugin {given} cannot be used: {error.message}", error.hint) from error
    except Exception as error:  # it is anyone's code
        raise UserError(f"The plugin {given} cannot be imported: {type(error).__name__}: {error}") from error
    if len(_added) == before:
        raise UserError(f"The plugin {given} adds nothing.", "See docs/plugins.md for how a plugin adds something.")
    _loaded[name] = digest
    return f"{name}@{digest}"


def _file_of(module: str) -> Path:
    """The file of a module, without importing it; packages above it are."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return Path(spec.origin) if spec is not None and spec.origin is not None else Path(module)
