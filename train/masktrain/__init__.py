"""masktrain: a lean trainer on the crops that maskprep caches.

The commands are plain functions too, with the same names and defaults: ``masktrain.fit(Path("cache/photos"))``. All of
them: ``masktrain.api``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Load the functions when they are first used: ``masktrain --help`` does not wait for them."""
    if name != "api":
        api = import_module("masktrain.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'masktrain' has no attribute '{name}'")
