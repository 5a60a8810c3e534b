"""Images per second of `masktrain predict`, beside the model alone and beside finding the faces alone.

    python benchmarks/predict.py RUN CACHE [--photos FOLDER] [--images 2000] [--batch-size 64] [--rounds 3]

- model alone: forward passes over normalised batches that are in memory
- cache: reading, normalising, forward passes, probabilities (what `masktrain predict` does once the model is loaded)
- cache, whole: masktrain predict as a function, with loading the model and writing the table
- photos: masktrain predict from raw photos, with the run's own preprocessing
- detection: maskprep detect of the same photos, a fresh cache: decoding and finding faces, without crops and model

The best of the rounds counts; rounds of all rows alternate, so that a busy moment hits them alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from maskprep.photos.folder import walk
from maskprep.pipeline import config as configuration
from maskprep.pipeline import session as pipeline
from maskprep.pipeline.session import Session
from maskprep.store.tables import read_table
from masktrain.answer import predict
from masktrain.answer.graph import Network
from masktrain.answer.model import load, open_for


def alone(network: Network, size: tuple[int, int], images: int, batch_size: int) -> Callable[[], int]:
    """Forward passes over as many images as the cache has, one batch in memory."""
    batch = torch.randn(min(batch_size, images), 3, *size, device=network.precision.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    steps = -(-images // batch_size)

    def one() -> int:
        with torch.inference_mode(), network.precision.context():
            for _ in range(steps):
                for _ in range(2 if "mirror" in network.looks else 1):
                    last = network.model(batch)
        last.float().sum().item()  # wait for the device
        return steps * len(batch)

    return one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    predictor = load(options.run)
    if len(predictor.graph.networks) > 1:
        parser.error("RUN must be a single run, so that there is one model to compare with")
    view = open_for(predictor, options.cache)
    rows = np.arange(min(options.images, len(view)))
    size = (int(view.size[0]), int(view.size[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def cached() -> int:
            predictor(view, rows, options.batch_size)
            return len(rows)

        def whole() -> int:
            return predict.predict(options.run, options.cache, folder / "p.csv", batch_size=options.batch_size).rows

        work: dict[str, Callable[[], int]] = {
            "model alone": alone(predictor.graph.networks[0], size, len(rows), options.batch_size),
            "cache": cached,
        }
        work["cache, whole"] = whole
        if options.photos is not None:
            linked = folder / "photos"
            linked.mkdir()
            for k, file in enumerate(walk(options.photos).files[: options.images]):
                shutil.copy2(options.photos / file.image, linked / f"{k:06d}{Path(file.image).suffix}")
            settings = predictor.spec.settings

            def from_photos() -> int:
                return predict.predict(options.run, linked, folder / "q.csv", batch_size=options.batch_size).rows

            def detection() -> int:
                fresh = folder / "detection"
                shutil.rmtree(fresh, ignore_errors=True)
                job = Session(linked, fresh)
                job.config = configuration.parse(settings)
                pipeline.bring(job, views=())
                return len(read_table(job.cache.images))

            work |= {"photos": from_photos, "detection": detection}
        best = dict.fromkeys(work, 0.0)
        for number in range(options.rounds + 1):
            for what, one in work.items():
                started = time.perf_counter()
                images = one()
                if number or what in ("photos", "detection"):  # these have nothing to warm up
                    best[what] = max(best[what], images / (time.perf_counter() - started))
                print(f"round {number}: {what}", flush=True)
    model = predictor.spec.members[0].model
    print(f"\n{model}, {size[0]}x{size[1]}, {len(rows)} images, batches of {options.batch_size}\n")
    print("| what | images per second | of its bound |\n|---|---:|---:|")
    for what, rate in best.items():
        bound = best["detection"] if what == "photos" else best["model alone"]
        print(f"| {what} | {rate:,.1f} | {'' if what in ('model alone', 'detection') else f'{rate / bound:.0%}'} |")


if __name__ == "__main__":
    main()
