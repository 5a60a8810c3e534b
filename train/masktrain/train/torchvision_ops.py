"""Let torchvision be imported where its compiled library cannot load, as when it was built for another torch.

timm needs torchvision's pure Python parts only, but importing it fails as soon as it registers shape functions for
operators that the missing library should have defined. Declaring those operators is enough; calling them still fails.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""The operators that torchvision/_meta_registrations.py wants to exist (0.24 to 0.28)."""

_declared: list[object] = []  # a torch Library withdraws its operators when it is collected


def ensure_torchvision() -> bool:
    """Make ``import torchvision`` safe; call it before importing torchvision or timm.

    Where the compiled library loads, nothing is declared: doing so anyway ends the process.

    Returns:
        Whether torchvision's own compiled library is in use.
    """
    import torch

    if _declared:
        return False
    spec = find_spec("torchvision")
    if "torchvision" in sys.modules or spec is None or spec.origin is None:
        return spec is not None
    try:
        for library in sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(
            Path(spec.origin).parent.glob("_C*.pyd")
        ):
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            return True
    except OSError:
        pass
    fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        fragment.define(operator)  # type: ignore[no-untyped-call]
    _declared.append(fragment)
    return False
