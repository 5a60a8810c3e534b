"""What a GPU makes of masktrain: one command of at most 8 minutes on a machine with CUDA, torch and timm.

    python benchmarks/gpu.py [--models tf_efficientnet_lite0,convnext_tiny,swin_base_patch4_window7_224] [--images 4096]
                             [--seconds 4] [--out table.md]

It needs no photos: crops are made up. It shows, in this order:

1. that 30 steps of every target wait for nothing (torch.cuda.set_sync_debug_mode),
2. how busy the GPU is (torch.profiler over 20 steps),
3. images per second of each model with ``light`` and with cutmix, eager and compiled, beside (a) the same step on one
   batch that lies ready on the device and (b) timm's loader over the same crops as JPEG files, with the peak memory,
4. that a fit stopped in mid-epoch and gone on with ends with the same bytes (BatchNorm and transformer, deterministic),
5. that running out of memory halves the part of a batch that is on the device, and
6. that ``ordinal`` trains with run.deterministic.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from maskprep.labels import Attribute, Schema
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.study import fit as fitting
from masktrain.study.fit import fit, resume
from masktrain.train import checkpoint, loop
from masktrain.train.device import choose_device
from masktrain.train.pixels import Batch
from masktrain.train.torchvision_ops import ensure_torchvision

MODELS = "tf_efficientnet_lite0,convnext_tiny,swin_base_patch4_window7_224"
SIZE = (224, 224)


def made_up(folder: Path, images: int, size: tuple[int, int]) -> Path:
    """A cache of made-up crops of 5 photos for each person: mask, gender, and ages of 20 to 69 years."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "train"))
    synthetic: ModuleType = __import__("synthetic")
    cache: Path = synthetic.write_cache(folder, people=images // 5, eval_people=2, size=size)
    schema = Schema((*synthetic.SCHEMA.attributes, Attribute("age", bins=(30, 60))))
    labels = pd.read_parquet(cache / "labels.parquet")
    labels["age"] = pd.to_numeric(labels["person"]) % 50 + 20.0
    values = labels[["mask", "gender", "age"]].astype(object).where(labels["person"].notna(), None)
    labels["label"] = pd.Series([schema.label(v) for v in values.to_dict("records")], dtype="Int64")
    labels.to_parquet(cache / "labels.parquet")
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps({**dataset, "schema": schema.to_dict()}))
    return cache


def config_of(cache: Path, **given: Any) -> FitConfig:
    """Settings by keys with two underscores for the dot."""
    plain = {"model.pretrained": False, "run.device": "cuda", "data.view": "face", "optim.epochs": 1}
    return FitConfig.from_keys(plain | {k.replace("__", "."): v for k, v in given.items()})


class Bench:
    """A fit that is ready for its first step."""

    def __init__(self, cache: Path, config: FitConfig) -> None:
        self.device = choose_device("cuda", deterministic=config.run.deterministic)
        self.data = TrainSet.open(open_view_of(cache, config), config)
        self.config = fitting.settled(self.data, config, self.device)
        mean, std = np.full(3, 0.5), np.full(3, 0.25)
        self.state = fitting.make_state(self.config, self.data, mean, std, self.device, pretrained=False)
        self.feed, _ = fitting.feeds(self.data, self.config, [128, 128, 128], self.device)
        loop.set_train_mode(self.state, 1)

    def batches(self) -> Iterator[Batch]:
        """Epoch after epoch."""
        epoch = 0
        while True:
            epoch += 1
            yield from self.feed.epoch(epoch)

    def step(self, batch: Batch) -> None:
        """One update."""
        loop.train_step(self.state, batch, self.feed.augmenter)


def rate(step: Callable[[], int], seconds: float, warm: int = 5) -> float:
    """Images per second."""
    for _ in range(warm):
        step()
    torch.cuda.synchronize()
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            images += step()
        torch.cuda.synchronize()
    return images / (time.perf_counter() - started)


def waits(cache: Path) -> list[str]:
    """Whether 30 steps of each target wait for the device."""
    lines = []
    for kind in ("joint", "heads", "ordinal", "number"):
        bench = Bench(cache, config_of(cache, model__name="resnet18", target__kind=kind, optim__batch_size=32))
        batches = bench.batches()
        for _ in range(3):
            bench.step(next(batches))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(min(30, bench.feed.steps - 4)):
                bench.step(next(batches))
            said = "no wait"
        except RuntimeError as error:
            said = f"WAITS: {str(error).splitlines()[0]}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        lines.append(f"{kind:8} {said}")
    return lines


def busy(cache: Path, model: str, batch: int, compiled: bool) -> str:
    """Share of the time in which the GPU works, over 20 steps."""
    from torch.profiler import ProfilerActivity, profile

    bench = Bench(cache, config_of(cache, model__name=model, optim__batch_size=batch, run__compile=compiled))
    batches = bench.batches()
    for _ in range(8):
        bench.step(next(batches))
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        started = time.perf_counter()
        for _ in range(20):
            bench.step(next(batches))
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    worked = sum(e.self_device_time_total for e in seen.key_averages()) / 1e6
    return f"{model} {'compiled' if compiled else 'eager'}: busy {min(1.0, worked / seconds):.0%} of {seconds:.2f} s"


def speeds(cache: Path, folder: Path, models: list[str], batch: int, seconds: float) -> list[str]:
    """Images per second and peak memory, a line per model, augmentation and way of running."""
    lines = ["| model | augmentation | step | images/s | of a ready batch | of timm's loader | peak GiB |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for model in models:
        timm = timm_rate(cache, folder, model, batch, seconds)
        for name, given in (("light", {}), ("light, cutmix .5", {"augment__cutmix": 0.5})):
            for compiled in (False, True):
                torch.cuda.reset_peak_memory_stats()
                config = config_of(cache, model__name=model, optim__batch_size=batch, run__compile=compiled, **given)
                try:
                    bench = Bench(cache, config)
                    batches = bench.batches()
                    ours = rate(lambda b=batches, k=bench: stepped(k, next(b)), seconds, warm=8)
                    one = replace(next(batches), what=None, others=None, other_what=None, how=None)
                    ready = rate(lambda k=bench, o=one: stepped(k, o), seconds, warm=8)
                except Exception as error:  # a table with a hole is better than none
                    lines.append(f"| {model} | {name} | {'compiled' if compiled else 'eager'} | {error!r:.80} | | | |")
                    continue
                finally:
                    torch._dynamo.reset()
                peak = torch.cuda.max_memory_allocated() / 2**30
                lines.append(
                    f"| {model} | {name} | {'compiled' if compiled else 'eager'} | {ours:.0f} | {ours / ready:.2f}"
                    f" | {ours / timm:.2f} | {peak:.1f} |"
                )
                print(lines[-1], flush=True)
    return lines


def stepped(bench: Bench, batch: Batch) -> int:
    """An update; how many images it had."""
    bench.step(batch)
    return len(batch)


def timm_rate(cache: Path, folder: Path, model: str, batch: int, seconds: float) -> float:
    """Images per second of timm's loader, its model and a plain loop in bf16 over the crops as JPEG files."""
    ensure_torchvision()
    from PIL import Image
    from timm import create_model
    from timm.data import create_dataset, create_loader

    config = config_of(cache, model__name=model)
    data = TrainSet.open(open_view_of(cache, config), config)
    if not folder.exists():
        for row, label in zip(data.split.train.tolist(), data.labels.tolist(), strict=True):
            place = folder / f"{label:03d}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.view.gather([row])[0]).save(place / f"{row:06d}.jpg", quality=95)
    loader = create_loader(
        create_dataset("", root=str(folder), is_training=True), input_size=(3, *SIZE), batch_size=batch,
        is_training=True, color_jitter=0.2, num_workers=8, persistent_workers=True, device=torch.device("cuda"),
    )  # fmt: skip
    net = create_model(model, num_classes=data.view.schema.num_classes).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    feeding = endless()

    def step() -> int:
        pixels, labels = next(feeding)
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(pixels.contiguous(memory_format=torch.channels_last)), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return len(labels)

    return rate(step, seconds)


def same_bytes(cache: Path, folder: Path, model: str) -> str:
    """Whether a fit that is stopped in the middle of an epoch ends as one that is not."""
    given = config_of(
        cache, model__name=model, run__deterministic=True, run__snapshot_seconds=0.0, optim__epochs=2,
        optim__batch_size=32,
    )  # fmt: skip
    whole = fit(cache, given, out=folder / f"{model}-whole").run
    count, step = iter(range(10**6)), loop.train_step

    def stops(*args: Any) -> Any:
        if next(count) == 7:
            raise KeyboardInterrupt
        return step(*args)

    loop.train_step = stops
    try:
        fit(cache, given, out=folder / f"{model}-part")
    except KeyboardInterrupt:
        pass
    finally:
        loop.train_step = step
    resume(folder / f"{model}-part")
    one, two = (checkpoint.load_last(r)["learner"]["model"] for r in (whole, folder / f"{model}-part"))
    same = checkpoint.weights_hash(one) == checkpoint.weights_hash(two)
    return f"{model}: {'same bytes' if same else 'OTHER BYTES'}"


def out_of_memory(cache: Path) -> str:
    """What a batch that is too large for the GPU ends in."""
    bench = Bench(cache, config_of(cache, model__name="resnet50", optim__batch_size=4096))
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6 * 2**30 / total))
    try:
        bench.step(next(bench.batches()))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return f"batch of {bench.feed.batch} with 6 GiB: done in parts of {bench.state.micro or bench.feed.batch}"


def main() -> None:
    """Show everything, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU that torch can use.")
    lines = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = made_up(folder / "cache", args.images, SIZE)
        small = made_up(folder / "small", 500, (64, 64))
        parts: list[tuple[str, Callable[[], list[str]]]] = [
            ("Waits", lambda: waits(cache)),
            ("Ordinal, deterministic", lambda: [ordinal(small, folder)]),
            ("Stop and resume", lambda: [same_bytes(small, folder, m) for m in ("resnet18", "test_vit")]),
            ("Out of memory", lambda: [out_of_memory(cache)]),
            ("Busy", lambda: [busy(cache, m, args.batch_size, c) for m in args.models.split(",") for c in (0, 1)]),
            ("Speed", lambda: speeds(cache, folder / "jpeg", args.models.split(","), args.batch_size, args.seconds)),
        ]
        for title, part in parts:
            started = time.perf_counter()
            try:
                told = part()
            except Exception as error:  # the others are still worth knowing
                told = [f"FAILED: {type(error).__name__}: {error}"]
            lines += ["", f"## {title} ({time.perf_counter() - started:.0f} s)", "", *told]
            print("\n".join(lines[-len(told) - 3 :]), flush=True)
            if args.out:
                args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ordinal(cache: Path, folder: Path) -> str:
    """A fit of ordered classes with deterministic algorithms."""
    given = config_of(cache, model__name="resnet18", target__kind="ordinal", run__deterministic=True)
    return f"trained to loss {fit(cache, given, out=folder / 'ordinal').best['train_loss']:.3f}"


if __name__ == "__main__":
    main()
