"""What a run is computed with."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from maskprep.base import machine
from masktrain.config.config import FitConfig

RECORDED = (
    "maskprep",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pandas",
    "scikit-learn",
    "albumentations",
    "safetensors",
    "mediapipe",
    "onnxruntime",
    "pillow",
)


def describe(device: str) -> dict[str, Any]:
    """What the run was computed with: versions, machine, commit of the code."""
    import torch

    cuda = device.startswith("cuda")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: machine.installed(name) for name in RECORDED} | {"opencv": machine.opencv()},
        "cpu": {"name": machine.processor(), "cores": machine.cores(), "memory": machine.memory()},
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "device memory": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "driver": machine.graphics_driver() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git(),
        "defaults": FitConfig().to_dict(),
        "defaults hash": FitConfig().hash(),
    }


def _git() -> dict[str, Any] | None:
    """Commit of the code and whether it was changed since; None outside a repository."""
    folder = Path(__file__).parent
    try:
        run = [
            subprocess.run(["git", "-C", folder, *args], capture_output=True, text=True, timeout=5, check=True).stdout
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": run[0].strip(), "changed": bool(run[1].strip())}
