"""maskprep: find the right face, clean the labels, cache the crops.

The commands are methods of a session: ``maskprep.open("photos", "cache/photos").crop(margin=0.2)``. Each is a function,
too, which opens a session and returns it: ``maskprep.run("photos")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskprep.base.version import VERSION

__version__ = VERSION
__all__ = ["__version__", "crop", "detect", "duplicates", "index", "open", "relabel", "rembg", "run", "stats"]

if TYPE_CHECKING:
    from maskprep.pipeline import Session as open  # noqa: N813


def __getattr__(name: str) -> Any:
    """Load the functions when they are first used: ``maskprep --help`` does not wait for them."""
    if name in __all__:
        from maskprep.pipeline import Session, command

        return Session if name == "open" else command(name)
    raise AttributeError(f"module 'maskprep' has no attribute '{name}'")
