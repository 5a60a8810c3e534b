"""What torch can compute on, in words."""

from __future__ import annotations

import torch


def describe() -> str:
    """The GPUs with their memory and the version of CUDA, or ``CPU``, with what keeps a GPU from being used."""
    built = torch.version.cuda
    if not torch.cuda.is_available():
        return "CPU" + (f"; it was built for CUDA {built}, but there is no device that it can use" if built else "")
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(f'{g.name} ({g.total_memory / 2**30:.0f} GiB)' for g in found)}, CUDA {built}"
