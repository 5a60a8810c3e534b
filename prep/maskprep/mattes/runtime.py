"""Running a matting model: one session per process, opened where it is used. Pixels in, prediction out."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskprep.base import UsageError, UserError, missing_extra, quiet, reason
from maskprep.mattes import sessions
from maskprep.mattes.models import LocalModel
from maskprep.photos import Pixels

Plane = NDArray[np.float32]
Predict = Callable[[Pixels], Plane]
"""uint8 [h, w, 3] RGB -> how much each pixel is the person, float32 0..1 at the network's own size."""

Look = Callable[[Pixels], tuple[Pixels, bool]]
"""uint8 [h, w, 3] RGB -> the soft matte uint8 [h, w], 255 = person, and whether there was enough contrast to be one."""

MIRRORED = 0.35
"""How far a picture is continued on every side for the second look, relative to its longer side: as far as a crop's
margin. A face that fills the frame is then seen as in a portrait."""

ARENA_BYTES = 32 << 20
"""Larger models run without onnxruntime's memory arena: slower by a little, smaller by hundreds of megabytes."""

CONTRAST = 0.5
"""A prediction whose range is smaller than this has found nothing. On empty pictures (one colour, a ramp, noise) the
range is below 0.1, on photos of people above 0.99, for u2netp and u2net."""


Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""float32 [1, 3, H, W] -> the first output."""

RUNTIMES = ("onnxruntime", "openvino")
"""What runs the networks. OpenVINO, in full precision, gives the same mattes (IoU 1 against onnxruntime's) sooner."""


@contextlib.contextmanager
def open_model(
    model: LocalModel, threads: int = 1, runtime: str = "onnxruntime", providers: Sequence[str] = ()
) -> Iterator[Predict]:
    """Load a model. To be called in the process that uses it. The selfie segmenter has a runtime of its own.

    Args:
        model: from :func:`maskprep.mattes.models.locate`.
        threads: of one prediction; one is best where there are several processes.
        runtime: one of RUNTIMES.
        providers: see :func:`execution_providers`.

    Raises:
        UserError: the file is no model that maps a picture to a plane, or the runtime is not installed, or has no such
            provider.
    """
    if model.path.suffix == ".tflite":
        with _open_selfie(model) as predict:
            yield predict
    elif model.model.session:
        if runtime != "onnxruntime":
            raise UsageError(f"The model {model.label} is run by rembg, which has onnxruntime and not {runtime}.")
        yield sessions.open_session(model.model.name, threads, execution_providers(providers))
    elif runtime == "openvino":
        yield _predict(model, *_openvino(model, threads))
    else:
        yield _predict(model, *_onnxruntime(model, threads, execution_providers(providers)))


@contextlib.contextmanager
def open_looks(
    model: LocalModel, threads: int = 1, runtime: str = "onnxruntime", providers: Sequence[str] = ()
) -> Iterator[list[Look]]:
    """What a model makes of a picture, in the order in which it is to be asked; see :func:`open_model`.

    One look; or three for a model that another is asked after: as it is, continued by its mirror image on all sides,
    and by the other model, which is loaded when it is first needed.
    """
    with contextlib.ExitStack() as stack:
        predict = stack.enter_context(open_model(model, threads, runtime, providers))

        def plain(pixels: Pixels) -> tuple[Pixels, bool]:
            return matte_of(predict(pixels), (pixels.shape[0], pixels.shape[1]), stretch=model.model.stretch)

        if (then := model.then) is None:
            yield [plain]
            return

        @cache
        def other() -> Look:
            return stack.enter_context(open_looks(then, threads, runtime, providers))[0]

        yield [plain, partial(_mirrored, plain), lambda pixels: other()(pixels)]


def _mirrored(look: Look, pixels: Pixels) -> tuple[Pixels, bool]:
    """A look at a picture that goes on as its mirror image beyond every side."""
    import cv2

    height, width = pixels.shape[:2]
    far = round(MIRRORED * max(height, width))
    alpha, clear = look(np.asarray(cv2.copyMakeBorder(pixels, far, far, far, far, cv2.BORDER_REFLECT), np.uint8))
    return np.ascontiguousarray(alpha[far : far + height, far : far + width]), clear


def check_runtime(runtime: str, providers: Sequence[str] = ()) -> None:
    """Raise UserError when a runtime is not installed, or onnxruntime lacks a provider that is asked for."""
    if importlib.util.find_spec(runtime) is None:
        raise missing_extra(runtime, runtime)
    if providers:
        if runtime != "onnxruntime":
            raise UsageError(f"matte.providers are those of onnxruntime, not of {runtime}.")
        execution_providers(providers)


def execution_providers(names: Sequence[str]) -> list[str]:
    """What onnxruntime is to run networks on, in order; the processor where nothing is named, and always last.

    Args:
        names: as onnxruntime has them, or short: ``cuda`` for ``CUDAExecutionProvider``.

    Raises:
        UsageError: the installed onnxruntime has no such provider; those it has are named.
    """
    import onnxruntime

    available = {short_provider(name): name for name in onnxruntime.get_available_providers()}
    for name in names:
        if short_provider(name) not in available:
            raise UsageError(
                f"The installed onnxruntime has no execution provider '{name}'.",
                f"It has: {', '.join(available)}. For cuda, install onnxruntime-gpu in place of onnxruntime.",
            )
    return [available[short] for short in dict.fromkeys([*map(short_provider, names), "cpu"])]


def short_provider(name: str) -> str:
    """``cuda`` for ``CUDAExecutionProvider``."""
    return name.lower().removesuffix("executionprovider")


def _openvino(model: LocalModel, threads: int) -> tuple[list[list[Any]], Network]:
    """The shapes of a network's inputs, and the network."""
    check_runtime("openvino")
    import openvino

    # full precision: by default processors with bf16 units use them, which costs 1 % of IoU
    wanted = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        with quiet():
            read = openvino.Core().read_model(str(model.path))
            shapes = [[d.get_length() if d.is_static else None for d in i.get_partial_shape()] for i in read.inputs]
            compiled = openvino.Core().compile_model(read, "CPU", wanted)
    except RuntimeError as error:
        raise UserError(f"'{model.path}' is no model that OpenVINO can run: {reason(error)}") from error
    return shapes, lambda batch: np.array(compiled([batch])[compiled.output(0)])


def _onnxruntime(model: LocalModel, threads: int, providers: list[str]) -> tuple[list[list[Any]], Network]:
    """The shapes of a network's inputs, and the network."""
    import onnxruntime

    options = sessions.options(threads)
    options.enable_cpu_mem_arena = model.path.stat().st_size <= ARENA_BYTES
    try:
        session = onnxruntime.InferenceSession(str(model.path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base
        raise UserError(f"'{model.path}' is no model that onnxruntime can run: {reason(error)}") from error
    if providers[0] not in session.get_providers():  # onnxruntime only warns, and goes on with the next
        raise UserError(
            f"onnxruntime could not start {providers[0]}.", "Install the libraries it needs, or change matte.providers."
        )
    inputs, output = session.get_inputs(), session.get_outputs()[0].name
    return [list(i.shape) for i in inputs], lambda batch: np.asarray(session.run([output], {inputs[0].name: batch})[0])


def _predict(model: LocalModel, shapes: list[list[Any]], run: Network) -> Predict:
    """A network with what comes before and after it."""
    if len(shapes) != 1:
        raise UserError(f"'{model.path}' takes {len(shapes)} inputs; a picture [1, 3, H, W] is needed.")
    (shape,) = shapes
    if len(shape) != 4 or (shape[1] not in (3, None) and not isinstance(shape[1], str)):
        raise UserError(f"'{model.path}' does not take a picture [1, 3, H, W] but {shape}.")
    side, multiple = model.model.side or 512, model.model.multiple
    fixed = [v if isinstance(v, int) else None for v in shape[2:]]
    mean, std = (np.array(v, np.float32) for v in model.model.norm)

    def predict(pixels: Pixels) -> Plane:
        free = _input_size(pixels, side, multiple) if multiple else (side, side)
        height, width = (known or wanted for known, wanted in zip(fixed, free, strict=True))
        values = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS), np.float32)
        values = (values / (255.0 if multiple else max(float(values.max()), 1e-6)) - mean) / std
        plane = run(np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32))
        if plane.ndim < 2 or plane.shape[-2] < 2 or plane.size < plane.shape[-1] * plane.shape[-2]:
            raise UserError(f"'{model.path}' gives {plane.shape} where a plane [1, 1, H, W] is needed.")
        plane = plane.reshape(-1, *plane.shape[-2:])[0].astype(np.float32)
        logits = model.model.sigmoid
        if logits is None:
            logits = bool(plane.min() < -0.01 or plane.max() > 1.01)
        return np.asarray(1 / (1 + np.exp(-plane)) if logits else plane, np.float32)

    return predict


def _input_size(pixels: Pixels, side: int, multiple: int) -> tuple[int, int]:
    """Height and width in the picture's shape, the shorter one ``side``, and the longer one at most four times that."""
    height, width = pixels.shape[:2]
    scale = side / min(height, width)
    sides = [min(4 * side, max(multiple, round(v * scale / multiple) * multiple)) for v in (height, width)]
    return sides[0], sides[1]


@contextlib.contextmanager
def _open_selfie(model: LocalModel) -> Iterator[Predict]:
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_buffer=model.path.read_bytes()), output_confidence_masks=True
    )
    with contextlib.ExitStack() as stack:
        with quiet():
            segmenter = stack.enter_context(vision.ImageSegmenter.create_from_options(options))
            segmenter.segment(mp.Image(mp.ImageFormat.SRGB, np.zeros((64, 64, 3), np.uint8)))

        def predict(pixels: Pixels) -> Plane:
            picture = mp.Image(mp.ImageFormat.SRGB, np.ascontiguousarray(pixels))
            masks = segmenter.segment(picture).confidence_masks
            return np.array(masks[-1].numpy_view(), np.float32).reshape(pixels.shape[:2])

        try:
            yield predict
        finally:
            with quiet():
                stack.close()


def matte_of(prediction: Plane, size: tuple[int, int], *, stretch: bool = True) -> tuple[Pixels, bool]:
    """The soft matte of a prediction, and whether it had enough contrast to be one.

    As rembg does it (stretch to 0..255, then a Lanczos filter to the picture's size), except that a prediction with a
    range below CONTRAST is kept as it is: stretching it would make a person out of nothing.

    Args:
        prediction: float32 [h, w], 0..1.
        size: height and width of the matte.
        stretch: see :class:`maskprep.mattes.models.MatteModel`.

    Returns:
        uint8 [H, W], 255 = person; False for a prediction without contrast.
    """
    low, high = float(prediction.min()), float(prediction.max())
    clear = high - low >= CONTRAST
    values = (prediction - low) / (high - low) if clear and stretch else np.clip(prediction, 0, 1)
    plane = Image.fromarray((values * 255).astype(np.uint8))
    if plane.size != (size[1], size[0]):
        plane = plane.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.array(plane), clear
