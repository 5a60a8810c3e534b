"""Training images per second, end to end, against peers in one run.

    python benchmarks/training.py CACHE [--view NAME] [--model tf_efficientnet_lite0] [--batch-size 32] [--images 1000]
                                  [--seconds 20] [--rounds 3] [--device auto] [--set KEY=VALUE]

All train the same network with the same optimiser and loss in batches of one size:
- masktrain: as `masktrain fit` does, from the cache, with its augmentation;
- synthetic: the same steps on one batch that lies ready on the device: what the network alone takes;
- timm: timm's dataset and loader over the same crops as JPEG files (quality 95), its usual augmentation, 2 workers;
- folder: torchvision's ImageFolder over these files, the augmentation of masktrain, torch's DataLoader, 2 workers.
They take turns, so that a busy machine is as busy for all; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image
from torch import nn

from maskprep.dataset import View
from maskprep.errors import UserError
from maskprep.labels import Schema
from masktrain.config.config import FitConfig, assignments
from masktrain.config.images import AugmentConfig
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.study import fit as fitting
from masktrain.train import device as devices
from masktrain.train import loop
from masktrain.train.augment import Augmenter
from masktrain.train.draws import AUGMENT, keys
from masktrain.train.pixels import Batch, Feed
from masktrain.train.torchvision_ops import ensure_torchvision

Step = Callable[[], int]


class Augmented:
    """A recipe of masktrain for an image of torchvision's ImageFolder; normalised float32 [3, H, W]."""

    def __init__(self, recipe: str, size: tuple[int, int], mean: np.ndarray, std: np.ndarray) -> None:
        self.augmenter, self.count = Augmenter(AugmentConfig(recipe=recipe), Schema(()), size, 0), 0
        self.mean, self.std = (v.astype(np.float32) for v in (mean, std))

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        """One augmented image."""
        pixels, first = np.array(picture)[None], torch.zeros(1, dtype=torch.int64)
        self.count += 1
        what = self.augmenter.transforms(keys(0, 1, first + self.count, first, AUGMENT), first)
        self.augmenter.apply_on_host(pixels, what, first.numpy())
        return torch.from_numpy(((pixels[0] / np.float32(255) - self.mean) / self.std).transpose(2, 0, 1))


def write_jpegs(view: View, rows: np.ndarray, folder: Path) -> None:
    """The crops as JPEG files, a folder per class."""
    labels = view.table["label"].fillna(-1).to_numpy(dtype=np.int64)
    for row in rows.tolist():
        place = folder / f"{labels[row]:03d}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(view.gather([row])[0]).save(place / f"{row:06d}.jpg", quality=95)


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def ours(state: loop.State, feed: Feed) -> Step:
    """A step as `masktrain fit` does it."""
    feeding = (batch for epoch in count(1) for batch in feed.epoch(epoch))

    def step() -> int:
        batch = next(feeding)
        loop.train_step(state, batch, feed.augmenter)
        return len(batch)

    return step


def synthetic(state: loop.State, feed: Feed) -> Step:
    """A step on a batch that is there already."""
    n, classes = feed.batch, state.objective.target.classes
    pixels = torch.randint(0, 256, (n, *feed.view.size, 3), dtype=torch.uint8, device=state.device)
    labels = torch.arange(n, device=state.device) % classes
    numbers = None if feed.numbers is None else feed.numbers[:n]
    batch = Batch(pixels, nn.functional.one_hot(labels, classes).float(), labels, numbers)

    def step() -> int:
        loop.train_step(state, batch, feed.augmenter)
        return n

    return step


def plain(state: loop.State, config: FitConfig, loader: Any) -> Step:
    """A step on what another loader gives: normalised pixels and labels."""
    feeding, device = endless(loader), state.device
    classes = state.objective.target.classes

    def step() -> int:
        pixels, labels = next(feeding)
        pixels = pixels.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        truth = nn.functional.one_hot(labels.to(device, non_blocking=True), classes).float()
        with state.precision.context():
            outputs = state.model(pixels)
        state.scaler.scale(state.objective(outputs, truth)).backward()
        if config.optim.clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        return len(labels)

    return step


def timm_loader(folder: Path, size: tuple[int, int], config: FitConfig, device: torch.device) -> Any:
    """timm's loader with the augmentation of its training script's defaults."""
    ensure_torchvision()
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=str(folder), is_training=True),
        input_size=(3, *size),
        batch_size=config.optim.batch_size,
        is_training=True,
        scale=(0.8, 1.0),
        color_jitter=0.2,
        num_workers=2,
        use_prefetcher=False,
        persistent_workers=True,
        device=device,
    )


def folder_loader(folder: Path, size: tuple[int, int], config: FitConfig, mean: np.ndarray, std: np.ndarray) -> Any:
    """ImageFolder, albumentations and torch's DataLoader."""
    ensure_torchvision()
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    return DataLoader(
        ImageFolder(str(folder), transform=Augmented(config.augment.recipe, size, mean, std)),
        batch_size=config.optim.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )


def rate(step: Step, device: torch.device, seconds: float) -> float:
    """Images per second over some time, after two steps that do not count."""
    for _ in range(2):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        images += step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - started)


def main() -> None:
    """Let them take turns, then print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--view")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=1000, help="crops written as JPEG files")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    args = parser.parse_args()
    chosen = {"model.name": args.model, "model.pretrained": False, "run.device": args.device}
    chosen |= {"data.view": args.view} if args.view else {}
    config = FitConfig.from_keys(chosen | {"optim.batch_size": args.batch_size} | assignments(args.settings))
    data = TrainSet.open(open_view_of(args.cache, config), config)
    device, view = devices.choose_device(config.run.device), data.view
    config = fitting.settled(data, config, device)
    mean, std = fitting.statistics(data, config)
    feed, _ = fitting.feeds(data, config, fitting.colour(data, config), device)

    def state() -> loop.State:
        made = fitting.make_state(config, data, mean, std, device, pretrained=False)
        loop.set_train_mode(made, 1)
        return made

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jpegs(view, data.split.train[: args.images], folder)
        # folders of classes that occur are numbered from 0, as the labels of the loss need no meaning here
        steps: dict[str, Step] = {
            "masktrain": ours(state(), feed),
            "synthetic": synthetic(state(), feed),
            "timm": plain(state(), config, timm_loader(folder, view.size, config, device)),
            "folder": plain(state(), config, folder_loader(folder, view.size, config, mean, std)),
        }
        rates: dict[str, list[float]] = {n: [] for n in steps}
        for _ in range(args.rounds):
            for n, step in steps.items():
                rates[n].append(rate(step, device, args.seconds))
    medians = {n: statistics.median(v) for n, v in rates.items()}
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{args.model}, {view.size[0]}x{view.size[1]}, batches of {args.batch_size}, {named}")
    for n, value in medians.items():
        spread = f"{min(rates[n]):.1f} to {max(rates[n]):.1f}"
        print(f"{n:10} {value:8.1f} images/s ({spread})   masktrain is {medians['masktrain'] / value:.2f} of it")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
