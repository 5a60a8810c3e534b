"""Class activation maps of timm's networks: Grad-CAM (Selvaraju et al. 2017) and LayerCAM (Jiang et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError
from maskprep.labels import Schema
from masktrain.answer.graph import Network
from masktrain.config.settings import nearest
from masktrain.train.loop import normalise
from masktrain.train.model import Paired
from masktrain.train.targets import Target

METHODS = ("gradcam", "layercam")
"""``gradcam`` weights channels by their mean gradient, ``layercam`` each place by its own positive gradient."""

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """The last layer of a network whose activations still have places.

    Args:
        module: the layer.
        spatial: its output, or the gradient of that, as [n, C, h, w].
    """

    module: nn.Module
    spatial: Callable[[Tensor], Tensor]


def find_layer(model: nn.Module, name: str, size: tuple[int, int]) -> Layer:
    """The layer to map, found by the form of the features: [n, C, h, w], [n, h, w, C] (Swin) or [n, tokens, C] (ViT).

    Of a vision transformer it is the norm before the last attention: after it only the class token counts.

    Args:
        model: on its device.
        name: timm's name, for the error.
        size: height and width of its crops.

    Raises:
        UsageError: its features have no places.
    """
    if not hasattr(model, "forward_features"):
        raise UsageError(f"{name} has no forward_features as timm's models have, so it has no map.")
    outputs: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        outputs.append((module, tuple(getattr(output, "shape", ()))))

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    try:
        with torch.no_grad():
            pixels = torch.zeros(1, 3, *size, device=next(model.parameters()).device)
            shape = tuple(model.forward_features(pixels).shape)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    if len(shape) == 3 and hasattr(model, "blocks") and hasattr(model, "patch_embed"):
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        grid = model.patch_embed.dynamic_feat_size(size)  # type: ignore[union-attr, operator]
        block = model.blocks[-1]  # type: ignore[index]
        if grid[0] * grid[1] == shape[1] - prefix and hasattr(block, "norm1"):
            return Layer(block.norm1, lambda t: t[:, prefix:].reshape(len(t), *grid, -1).permute(0, 3, 1, 2))
    if len(shape) == 4:
        channels = int(getattr(model, "num_features", 0))
        last = shape[3] == channels and (shape[1] != channels or getattr(model, "output_fmt", "") == "NHWC")
        if min(shape[1:3] if last else shape[2:]) >= 2:
            fitting = [module for module, each in outputs if each == shape]
        else:  # small crops end in a single place: the last layer that has more
            fitting = [m for m, each in outputs if not last and len(each) == 4 and min(each[2:]) >= 2]
        if fitting:
            return Layer(fitting[-1], (lambda t: t.permute(0, 3, 1, 2)) if last else (lambda t: t))
    raise UsageError(f"The features of {name} have no places that could be shown.")


def find_layers(part: Network) -> list[Layer]:
    """The layer of a network that is mapped; of two backbones one each.

    Raises:
        UsageError: see :func:`find_layer`.
    """
    sidecar, model = part.sidecar, part.model.eval()
    if isinstance(model, Paired):
        backbones = zip(model.nets, (sidecar.model, sidecar.second), model.sizes, strict=True)
        return [find_layer(*each) for each in backbones]
    return [find_layer(model, sidecar.model, (sidecar.size[0], sidecar.size[1]))]


def check(method: str) -> None:
    """Refuse a method that is not there.

    Raises:
        UsageError: no such method.
    """
    if method not in METHODS:
        near = nearest(method, METHODS)
        hint = f"Did you mean '{near[0]}'?" if near else f"Choose one of {', '.join(METHODS)}."
        raise UsageError(f"There is no --method '{method}'.", hint)


def maps(
    part: Network, crops: NDArray[np.uint8], labels: NDArray[np.int64], method: str = "gradcam", batch_size: int = 16
) -> Maps:
    """How much each place of a crop supports a joint class (the sum of the heads' logits); of two backbones the mean.

    Args:
        part: the network.
        crops: uint8 [n, H, W, 3] RGB, as the network gets them.
        labels: the class to explain for each crop, int64 [n].
        method: one of METHODS.

    Returns:
        float32 [n, H, W], from 0 to 1 for each crop.

    Raises:
        UsageError: see :func:`check` and :func:`find_layer`.
    """
    check(method)
    labels = part.own[labels]
    model, layers = part.model, find_layers(part)
    target, schema = part.sidecar.answers(), part.sidecar.labels()
    device, mean, std = part.precision.device, part.get_buffer("mean"), part.get_buffer("std")
    found = np.zeros((len(crops), *crops.shape[1:3]), np.float32)
    for start in range(0, len(crops), batch_size):
        rows = slice(start, start + batch_size)
        pixels = torch.from_numpy(np.ascontiguousarray(crops[rows])).to(device)
        shown = normalise(pixels, mean, std).contiguous().requires_grad_()
        activations: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, _: object, output: Tensor, kept: dict[nn.Module, Tensor] = activations) -> Tensor:
            kept[module] = output
            return output.clone()  # what follows may change its input in place

        hooks = [layer.module.register_forward_hook(keep) for layer in layers]
        try:
            with torch.enable_grad():
                evidence = _evidence(target, schema, model(shown), labels[rows])
                kept = [activations[layer.module] for layer in layers]
                gradients = torch.autograd.grad(evidence, kept)
        finally:
            for hook in hooks:
                hook.remove()
        each = [_map(la, a, g, method) for la, a, g in zip(layers, kept, gradients, strict=True)]
        sized = [nn.functional.interpolate(m, crops.shape[1:3], mode="bilinear") for m in each]
        found[rows] = torch.stack([_to_unit(m) for m in sized]).mean((0, 2)).cpu().numpy()
    return found


def _evidence(target: Target, schema: Schema, outputs: Tensor, labels: NDArray[np.int64]) -> Tensor:
    """Sum over crops and heads of the logit of the class in question; ``outputs`` [n, outputs], ``labels`` [n]."""
    asked = [(label,) if target.kind == "joint" else schema.decode(label) for label in labels.tolist()]
    classes = torch.tensor(asked, device=outputs.device)
    heads = zip(target.heads, target.split(outputs), classes.T, strict=True)
    return torch.stack([h.logits(o).gather(1, k[:, None]).sum() for h, o, k in heads]).sum()


def _map(layer: Layer, activations: Tensor, gradients: Tensor, method: str) -> Tensor:
    """One layer's map [n, 1, h, w] of its output and the gradient of that."""
    activations, gradients = layer.spatial(activations.detach()), layer.spatial(gradients)
    weights = gradients.mean((2, 3), keepdim=True) if method == "gradcam" else gradients.relu()
    return (weights * activations).sum(1, keepdim=True).relu()


def _to_unit(values: Tensor) -> Tensor:
    """Each of [n, 1, H, W] moved and scaled to 0..1; all zeros where it is the same everywhere."""
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-30)


def background_share(attention: Maps, alphas: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the attention [n] that lies on the background: 0 all on the person, 1 all beside it; NaN without any.

    Args:
        attention: float32 [n, H, W].
        alphas: mattes uint8 [n, H, W], 255 = the person.
    """
    beside = (attention * (1 - alphas.astype(np.float64) / 255)).sum((1, 2))
    total = attention.sum((1, 2), dtype=np.float64)
    return np.asarray(np.divide(beside, total, out=np.full(len(total), np.nan), where=total > 0))


def overlay(crops: NDArray[np.uint8], attention: Maps, strength: float = 0.45) -> NDArray[np.uint8]:
    """Crops uint8 [n, H, W, 3] with maps from blue (nothing) to red drawn over them."""
    import cv2

    colours = [cv2.applyColorMap(np.rint(255 * m).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1] for m in attention]
    if not colours:
        return crops
    return np.rint(crops * (1 - strength) + np.stack(colours) * strength).astype(np.uint8)
