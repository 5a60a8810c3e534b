"""Gathering batches from a cache, against an ImageFolder of the same crops as JPEG files.

    python benchmarks/gather.py CACHE [--view NAME] [--images 2000] [--batch-size 64]

Both give batches of uint8 images, without augmentation, from files that the system has in memory: the cache as
the trainer reads it (one thread), the JPEG files (quality 95) through torchvision's ImageFolder and torch's DataLoader
with 0 and with 2 workers that stay alive. Best of several passes each; the faster DataLoader is the peer.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image

from maskprep.dataset.view import View, open_view
from masktrain.train.device import choose_device
from masktrain.train.pixels import Crops
from masktrain.train.torchvision_ops import ensure_torchvision


def write_jpegs(view: View, rows: np.ndarray, folder: Path) -> None:
    """The crops as JPEG files, a folder per class."""
    labels = view.table["label"].fillna(-1).to_numpy(dtype=np.int64)
    for row in rows.tolist():
        place = folder / f"{labels[row] + 1:03d}"
        place.mkdir(exist_ok=True)
        Image.fromarray(view.gather([row])[0]).save(place / f"{row:06d}.jpg", quality=95)


def rate(one_pass: Callable[[], int], least_seconds: float = 2.0, least_passes: int = 3) -> float:
    """Images per second of the best of several passes, after one that does not count."""
    one_pass()
    best, started, passes = 0.0, time.perf_counter(), 0
    while passes < least_passes or time.perf_counter() - started < least_seconds:
        begun = time.perf_counter()
        images = one_pass()
        best = max(best, images / (time.perf_counter() - begun))
        passes += 1
    return best


def image_folder(folder: Path, batch_size: int, workers: int) -> Callable[[], int]:
    """A pass over the JPEG files."""
    ensure_torchvision()
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    loader = DataLoader(
        ImageFolder(str(folder), transform=pil_to_tensor),
        batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda: sum(len(pixels) for pixels, _ in loader)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("--view")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    view = open_view(options.cache, options.view)
    rows = np.random.default_rng(0).permutation(len(view))[: options.images].astype(np.int64)
    height, width = view.size
    print(f"{len(rows)} crops of {height}x{width}, batches of {options.batch_size}, {os.cpu_count()} cores")
    batches = Crops(view, rows, options.batch_size, choose_device("cpu"))
    ours = rate(lambda: sum(len(pixels) for pixels in batches))
    print(f"cache, one thread            {ours:10,.0f} img/s  {1000 / ours:.4f} ms/img")
    peers = {}
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(view, rows, Path(folder))
        for workers in (0, 2):
            peers[workers] = rate(image_folder(Path(folder), options.batch_size, workers))
            shown = peers[workers]
            print(f"ImageFolder, {workers} workers       {shown:10,.0f} img/s  {1000 / shown:.4f} ms/img")
    print(f"ratio to the faster ImageFolder: {ours / max(peers.values()):.1f}")


if __name__ == "__main__":
    main()
