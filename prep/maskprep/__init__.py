"""maskprep: find the right face, clean the labels, cache the crops.

The commands are plain functions too: ``maskprep.run(Path("photos"))``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["crop", "detect", "duplicates", "index", "rembg", "run", "stats"]

if TYPE_CHECKING:
    from maskprep.pipeline.api import crop, detect, duplicates, index, rembg, run, stats


def __getattr__(name: str) -> Any:
    """Load the functions when they are first used: ``maskprep --help`` does not wait for them."""
    if name in __all__:
        from maskprep.pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module 'maskprep' has no attribute '{name}'")
