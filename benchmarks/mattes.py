"""Mattes: crops per second beside rembg's, how threads are best used, quick variants of the model, and how right it is.

    python benchmarks/mattes.py PHOTOS [--limit 96] [--rounds 2] [--size 224] [--rembg-python PYTHON]

- maskprep, 1 and 2 workers: from the finished crops of a cache to committed planes, starting the workers included
- rembg loop: rembg.remove with one session, one thread, the same crops, each cut-out written as PNG
- rembg p: its own folder command over the same crops; its extra wants older packages than ours, so it may live in an
  environment of its own, whose Python --rembg-python names
- floor: the bare ONNX session on inputs prepared beforehand; and in one process with two threads, or two with one each
- int8 (onnxruntime's static quantisation, calibrated on other crops) and OpenVINO: speed, and IoU against fp32
- composites: cut-outs (mattes of u2net) before other backgrounds, so that the truth is known; with a second person too

Every part that needs a package that is not installed says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import maskprep as api
from maskprep.crops.compositing import SOLID, empty_ground, foreground, over
from maskprep.crops.geometry import map_points
from maskprep.dataset.view import View, open_view
from maskprep.errors import UserError
from maskprep.mattes import planes
from maskprep.mattes.models import locate
from maskprep.mattes.rules import face_mask, finish
from maskprep.mattes.runtime import matte_of, open_model
from maskprep.photos.folder import walk

MEAN, STD = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepared(crops: np.ndarray) -> np.ndarray:
    """Inputs of the network, float32 [n, 1, 3, 320, 320]."""
    resized = [np.asarray(Image.fromarray(c).resize((320, 320), Image.Resampling.LANCZOS), np.float32) for c in crops]
    return np.stack([((r / max(r.max(), 1e-6) - MEAN) / STD).transpose(2, 0, 1)[None] for r in resized])


def session_of(path: Path | str, threads: int = 1) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def runner(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    entry, first = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda batch: session.run([first], {entry: batch})[0]


def bare(path: str, inputs: np.ndarray, threads: int) -> float:
    """Seconds for a session to run over prepared inputs; loading it is not counted."""
    run = runner(session_of(path, threads))
    run(inputs[0])
    return seconds(lambda: [run(batch) for batch in inputs])


def rembg_loop(crops: np.ndarray, home: Path, out: Path) -> float:
    os.environ["U2NET_HOME"] = str(home)
    os.environ["OMP_NUM_THREADS"] = "1"  # what rembg sets its threads by
    from rembg import new_session, remove

    session = new_session("u2netp", providers=["CPUExecutionProvider"])
    pictures = [Image.fromarray(c) for c in crops]
    remove(pictures[0], session=session)
    return seconds(lambda: [remove(p, session=session).save(out / f"{i}.png") for i, p in enumerate(pictures)])


def rembg_command(python: str, crops: np.ndarray, home: Path, folder: Path) -> float:
    (folder / "in").mkdir()
    for i, crop in enumerate(crops):
        Image.fromarray(crop).save(folder / "in" / f"{i}.png")
    command = [python, "-c", "from rembg.cli import main; main()", "p", "-m", "u2netp"]
    environment = {**os.environ, "U2NET_HOME": str(home), "OMP_NUM_THREADS": "1"}
    ran = []

    def work() -> None:
        given = [*command, str(folder / "in"), str(folder / "out")]
        ran.append(subprocess.run(given, env=environment, capture_output=True, text=True))

    taken = seconds(work)
    if ran[0].returncode or len(list((folder / "out").glob("*.png"))) != len(crops):
        raise UserError((ran[0].stderr.strip().splitlines() or ["no result"])[-1])
    return taken


def forget_mattes(cache: Path) -> None:
    for folder in (cache / "views").iterdir():
        for path in [*folder.glob("alpha-*"), folder / planes.MATTES, folder / planes.DESCRIPTION]:
            path.unlink(missing_ok=True)


def quantised(model: Path, inputs: np.ndarray, out: Path) -> Path:
    """int8 by onnxruntime's static quantisation (QDQ, per channel)."""
    import logging

    logging.disable(logging.WARNING)
    import onnx.version_converter
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    entry = session_of(model).get_inputs()[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {entry: batch}

    ready = out.with_name("ready.onnx")
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(model)), 17), str(ready))  # scales per channel: 13
    quant_pre_process(str(ready), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(out),
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
    )
    return out


def openvino_runner(model: Path, precision: str = "f32") -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(str(model), "CPU", settings)
    return lambda batch: np.asarray(compiled([batch])[compiled.output(0)])


def solid(plane: np.ndarray) -> np.ndarray:
    return matte_of(plane.reshape(plane.shape[-2:]).astype(np.float32), (320, 320))[0] >= SOLID


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def quick_variants(model: Path, crops: np.ndarray, folder: Path) -> list[str]:
    half = len(crops) // 2
    calibration, inputs = prepared(crops[:half][:32]), prepared(crops[half:])
    exact = runner(session_of(model))
    truth = [solid(exact(batch)) for batch in inputs]
    lines = ["", "| model, one thread | crops per second | IoU against fp32: mean | least |", "|---|---:|---:|---:|"]
    variants: dict[str, Callable[[], Callable[[np.ndarray], np.ndarray]]] = {
        "fp32, onnxruntime": lambda: exact,
        "int8, onnxruntime": lambda: runner(session_of(quantised(model, calibration, folder / "int8.onnx"))),
        "fp32, OpenVINO": lambda: openvino_runner(model),
        "bf16, OpenVINO": lambda: openvino_runner(model, "bf16"),
        "int8, OpenVINO": lambda: openvino_runner(folder / "int8.onnx"),
    }
    for name, open_variant in variants.items():
        try:
            run = open_variant()
        except Exception as error:
            lines.append(f"| {name} | not run: {type(error).__name__}: {str(error).splitlines()[0][:80]} | | |")
            continue
        run(inputs[0])
        found: list[np.ndarray] = []
        taken = seconds(lambda run=run, found=found: found.extend(run(batch) for batch in inputs))
        scores = [iou(solid(f), t) for f, t in zip(found, truth, strict=True)]
        lines.append(f"| {name} | {len(inputs) / taken:.2f} | {np.mean(scores):.4f} | {min(scores):.4f} |")
    return lines


def composites(view: View, count: int) -> list[str]:
    """Cut-outs before other photos' backgrounds, alone and with another person apart from them."""
    subjects = pd.read_parquet(view.path / "subjects.parquet").set_index("image")
    folder = view.path / "views" / view.name
    shards = pd.concat(pd.read_parquet(p) for p in folder.glob("[0-9]*.parquet")).set_index("image")
    random = np.random.default_rng(0)
    size = view.size
    with open_model(locate("u2net")) as fine, open_model(locate("u2netp")) as small:

        def face_of(row: int) -> tuple[float, float, float, float]:
            image = view.table["image"][row]
            x0, y0, x1, y1 = subjects.loc[image, ["x0", "y0", "x1", "y1"]].astype(float)
            corners = map_points(np.reshape(shards.loc[image, "transform"], (2, 3)), np.array([[x0, y0], [x1, y1]]))
            return (corners[0, 0], corners[0, 1], corners[1, 0], corners[1, 1])

        def cut(row: int) -> tuple[np.ndarray, np.ndarray]:
            pixels = view.gather([row])[0]
            alpha = finish(*matte_of(fine(pixels), size), face_mask(face_of(row), size)).alpha
            return foreground(pixels, alpha), alpha

        scores: dict[str, list[tuple[float, float]]] = {"alone": [], "with a second person": []}
        for row in random.permutation(len(view))[:count].tolist():
            other, behind = (int(v) for v in random.integers(0, len(view), 2))
            person, alpha = cut(row)
            ground = empty_ground(*(view.gather([behind])[0], cut(behind)[1]))
            shrink = 0.62  # the subject a little smaller and to one side, so that somebody has room beside
            paste = lambda p, s, x: shifted(p, s, x, size)  # noqa: E731
            truth, colours = paste(alpha, shrink, 0.0), paste(person, shrink, 0.0)
            box = tuple(v * shrink + (size[0] * (1 - shrink) if i % 2 else 0) for i, v in enumerate(face_of(row)))
            single = over(colours, truth, ground)
            second, their = cut(other)
            crowd = over(paste(second, 0.36, 0.64), paste(their, 0.36, 0.64), ground)
            for name, pixels in (("alone", single), ("with a second person", over(colours, truth, crowd))):
                raw, clear = matte_of(small(np.ascontiguousarray(pixels)), size)
                ours = finish(raw, clear, face_mask(box, size)).alpha  # type: ignore[arg-type]
                scores[name].append((iou(raw >= SOLID, truth >= SOLID), iou(ours >= SOLID, truth >= SOLID)))
    lines = ["", "| composites | network alone: mean IoU | with our rules: mean IoU | least |", "|---|---:|---:|---:|"]
    for name, values in scores.items():
        raw_scores, our_scores = zip(*values, strict=True)
        lines.append(
            f"| {len(values)} {name} | {np.mean(raw_scores):.4f} | {np.mean(our_scores):.4f} | {min(our_scores):.4f} |"
        )
    return lines


def shifted(pixels: np.ndarray, scale: float, x: float, size: tuple[int, int]) -> np.ndarray:
    """A picture made smaller and put at the bottom, ``x`` of the width from the left; zero elsewhere."""
    import cv2

    inner = (round(size[1] * scale), round(size[0] * scale))
    result = np.zeros((*size, *pixels.shape[2:]), np.uint8)
    left = min(round(x * size[1]), size[1] - inner[0])
    result[size[0] - inner[1] :, left : left + inner[0]] = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--composites", type=int, default=30)
    parser.add_argument("--rembg-python", default=sys.executable)
    options = parser.parse_args()
    model = locate("u2netp").path
    best: dict[str, float] = {}
    notes: list[str] = []

    def record(name: str, work: Callable[[], float]) -> None:
        try:
            taken = work()
        except (UserError, ImportError) as error:
            if f"{name}: not run" not in " ".join(notes):
                notes.append(f"{name}: not run, {error}")
            return
        best[name] = min(taken, best.get(name, taken))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in walk(options.photos).files[: options.limit]:
            copy = folder / "photos" / file.image
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(options.photos / file.image, copy)
        cache = folder / "cache"
        api.crop(folder / "photos", cache, size=(options.size, options.size), margin=0.35, workers=2)
        view = open_view(cache)
        crops = view.gather(range(len(view)))
        inputs = prepared(crops)
        for round_number in range(options.rounds):
            place = folder / f"round{round_number}"
            (place / "png").mkdir(parents=True)
            for workers in (1, 2):
                for runtime in ("onnxruntime", "openvino"):
                    forget_mattes(cache)
                    mattes = lambda w=workers, r=runtime: seconds(lambda: api.rembg(cache, workers=w, runtime=r))  # noqa: E731
                    also = " (OpenVINO)" * (runtime == "openvino")
                    record(f"maskprep rembg, {workers} workers{also}", mattes)
            record("floor: bare session, 1 process, 1 thread", lambda: bare(str(model), inputs, 1))
            record("floor: bare session, 1 process, 2 threads", lambda: bare(str(model), inputs, 2))
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                list(pool.map(os.path.basename, ["a", "b"]))
                parts = np.array_split(inputs, 2)
                pair = lambda pool=pool, parts=parts: max(pool.map(bare, [str(model)] * 2, parts, [1, 1]))  # noqa: E731
                record("floor: bare session, 2 processes, 1 thread each", pair)
            record("rembg.remove loop, PNG", lambda p=place: rembg_loop(crops, model.parent, p / "png"))
            record(
                "rembg p (folder command)", lambda p=place: rembg_command(options.rembg_python, crops, model.parent, p)
            )
        print(f"{len(crops)} crops of {options.size}x{options.size}, u2netp, best of {options.rounds}\n")
        print("| what | crops per second |\n|---|---:|")
        for what, taken in best.items():
            print(f"| {what} | {len(crops) / taken:.2f} |")
        for workers, floor in ((1, "1 process, 1 thread"), (2, "2 processes, 1 thread each")):
            ours, least = best[f"maskprep rembg, {workers} workers"], best[f"floor: bare session, {floor}"]
            print(f"\n{workers} workers: {least / ours:.3f} of the floor")
        print("\n".join(notes))
        print("\n".join(quick_variants(model, crops, folder)), flush=True)
        print("\n".join(composites(view, options.composites)))


if __name__ == "__main__":
    main()
