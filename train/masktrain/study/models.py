"""Which network to choose: what timm's models cost, whether their weights are at hand, and what your runs scored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maskprep.base import UsageError, UserError, counted
from maskprep.labels import MASK_SCHEMA
from maskprep.weights import fetch as weights
from masktrain.answer import cost
from masktrain.config.config import FitConfig
from masktrain.config.settings import nearest
from masktrain.pages.compare import compare
from masktrain.train import lite, loop
from masktrain.train.augment import Augmenter
from masktrain.train.device import choose_device
from masktrain.train.losses import Objective
from masktrain.train.model import build, import_timm, known_name, native_size_of
from masktrain.train.pixels import Batch
from masktrain.train.targets import make_target

FAMILIES = {
    "EfficientNet-Lite: the first to try; fast on a CPU, and its weights need no hub.": (
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite1",
        "tf_efficientnet_lite2",
    ),
    "MobileNet: the smallest and fastest, for cameras and many frames.": ("mobilenetv3_large_100",),
    "ResNet: simple and well known; ResNet-18 is enough for the mask alone, not for all classes.": (
        "resnet18",
        "resnet50",
    ),
    "EfficientNet: high accuracy for few parameters, but slow; B4 needs larger crops.": (
        "efficientnet_b0",
        "tf_efficientnet_b4",
    ),
    "ConvNeXt: a strong CNN where there is a GPU.": ("convnext_tiny",),
    "ViT: attends to the whole face; needs pretrained weights, a GPU and memory (model.checkpointing).": (
        "vit_small_patch16_224",
    ),
    "Swin: a transformer for larger crops, with less memory than a ViT; a good partner of a CNN in an ensemble.": (
        "swin_tiny_patch4_window7_224",
    ),
}
"""When to use a family → models to begin with."""

STEPS = 2
"""Training steps that are timed, after one that sets things up."""


@dataclass(frozen=True)
class Cost:
    """What was measured at the native size: images per second, and bytes of activations for each image of a step."""

    trained: float
    answered: float
    activations: float


@dataclass(frozen=True)
class Entry:
    """A model: its parameters with the classifier it was published with, the size (height, width) and the licence of
    its weights (empty where nobody states one), and macro-F1 of own runs of it, best first.

    ``weights`` are ``here`` (on this machine), ``index`` (fetched from the package index when needed), ``hub`` or
    ``none``.
    """

    name: str
    parameters: int
    size: tuple[int, int]
    weights: str
    licence: str
    scores: tuple[float, ...] = ()


def choose(names: Sequence[str], own: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """Heading → models: those that names or globs mean, or some of each family, and then those of own runs.

    Raises:
        UsageError: nothing goes by such a name.
    """
    timm = import_timm()
    if not names:
        listed = {identity(name) for each in FAMILIES.values() for name in each}
        others = tuple(name for name in own if identity(name) not in listed)
        return FAMILIES | ({"Other models of your runs.": others} if others else {})
    found: list[str] = []
    for name in names:
        if not any(sign in name for sign in "*?["):
            known_name(name)
            found.append(name)
        elif meant := timm.list_pretrained(name) if "." in name else timm.list_models(name):
            found += meant
        else:
            near = nearest(name.replace("*", ""), timm.list_models(), 3)
            raise UsageError(f"timm has no model like '{name}'.", f"Near names: {', '.join(near)}." if near else "")
    return {"": tuple(dict.fromkeys(found))}


def identity(name: str) -> str:
    """One name for all the names of the same model and weights."""
    known = known_name(name)
    config = import_timm().models.get_pretrained_cfg(known)
    return f"{known.partition('.')[0]}.{config.tag if config is not None else ''}"


def look_up(name: str, scored: Mapping[str, list[float]] | None = None) -> Entry:
    """What is known about a model without running it; ``scored`` as :func:`own_scores` has it."""
    timm, known = import_timm(), known_name(name)
    with torch.device("meta"):  # no memory, no random numbers
        parameters = sum(p.numel() for p in timm.create_model(known).parameters())
    config, base = timm.models.get_pretrained_cfg(known), known.partition(".")[0]
    licence = (config.license if config is not None else "") or ""
    if base in lite.BLOCKS_PER_STAGE:
        file = base.removeprefix("tf_")
        where = "here" if weights.status(file).status == "present" else "index"
        licence = weights.find(file).licence
    elif config is None or not config.has_weights:
        where = "none"
    else:  # the hub's client knows what it has fetched before
        from huggingface_hub import try_to_load_from_cache

        found = config.hf_hub_id and try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
        where = "here" if isinstance(found, str) else "hub"
    scores = sorted((scored or {}).get(identity(name), ()), reverse=True)
    return Entry(name, parameters, native_size_of(name), where, licence, tuple(scores))


def own_scores(folder: Path) -> dict[str, list[float]]:
    """Macro-F1 of the runs in a folder by :func:`identity` of their model; those of several models are left out.

    Raises:
        UserError: there are no runs with a score, or they tell different classes.
    """
    found: dict[str, list[float]] = {}
    for entry in compare([folder]).rows:
        if import_timm().is_model(entry.model) and not entry.settings.get("model.second"):
            found.setdefault(identity(entry.model), []).append(entry.scores.macro_f1)
    return found


def measure(name: str, device: str = "auto", batch: int | None = None) -> Cost:
    """Train and ask a model at its native size, from random weights: the train step of a fit with default settings.

    Args:
        batch: images at once, by default as many as a fit takes.

    Raises:
        UserError: the device is not here, its memory does not do, or the model cannot be built.
    """
    given = {"model.name": name, "optim.batch_size": batch or 16, "optim.lr": 1e-3, "run.compile": False}
    config, where, size = FitConfig.from_keys(given), choose_device(device), native_size_of(name)
    n, target = config.optim.batch_size, make_target("joint", MASK_SCHEMA)
    objective = Objective(target, np.full(target.classes, float(n)), config.loss, config.target)
    model = build(name, target.outputs, size)
    state = loop.make_state(model, config, objective, np.full(3, 0.5), np.full(3, 0.2), where)
    loop.set_train_mode(state, 1)
    crops = np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)
    labels = torch.arange(n) % target.classes
    truth = torch.nn.functional.one_hot(labels, target.classes).float()
    images = Batch(torch.from_numpy(crops), truth, labels).to(where)
    augmenter = Augmenter(config.augment, MASK_SCHEMA, size, 0)
    kept: dict[int, int] = {}
    try:
        with cost.activations(state.model, kept):
            float(loop.train_step(state, images, augmenter)[0])
        started = time.perf_counter()
        for _ in range(STEPS):
            loss, _ = loop.train_step(state, images, augmenter)
        float(loss)  # waits for a GPU
        trained = STEPS * n / (time.perf_counter() - started)
        answered = 1 / cost.seconds_to_answer(state.model, size, state.precision, n)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"There is too little memory for {name} with {counted(n, 'image')}.", "Use --batch-size 1."
        ) from error
    return Cost(trained, answered, sum(kept.values()) / n)
