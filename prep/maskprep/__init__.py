"""maskprep: find the right face, clean the labels, cache the crops.

The commands are methods of a session: ``maskprep.open("photos", "cache/photos").crop(margin=0.2)``. Each is a function,
too, which opens a session and returns it: ``maskprep.run("photos")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["crop", "detect", "duplicates", "index", "open", "relabel", "rembg", "run", "stats"]

if TYPE_CHECKING:
    from maskprep.pipeline import Session as open  # noqa: N813
    from maskprep.pipeline import crop, detect, duplicates, index, relabel, rembg, run, stats


def __getattr__(name: str) -> Any:
    """Load the functions when they are first used: ``maskprep --help`` does not wait for them."""
    if name in __all__:
        from maskprep.pipeline import session

        return session.Session if name == "open" else getattr(session, name)
    raise AttributeError(f"module 'maskprep' has no attribute '{name}'")
