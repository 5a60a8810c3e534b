"""Where a network looks: class activation maps through the grad-cam library, for any of timm's families.

Selvaraju et al. 2017 (Grad-CAM) and its kin; https://github.com/jacobgil/pytorch-grad-cam.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError, missing_extra
from maskprep.labels import Schema
from masktrain.answer.graph import Network
from masktrain.config.settings import nearest
from masktrain.train.loop import normalise
from masktrain.train.model import Paired, Several
from masktrain.train.targets import Head, Target
from masktrain.train.torchvision_ops import ensure_torchvision

METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
}
"""Name for people → class of the grad-cam library."""

FAMILIES = ("cnn", "vit", "swin")

Maps = NDArray[np.float32]
Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """The layer whose activations are mapped, found by the form of the network's features.

    Args:
        family: ``cnn`` (features [n, C, h, w]), ``swin`` ([n, h, w, C]) or ``vit`` ([n, tokens, C]).
        module: the layer.
        reshape: its output as [n, C, h, w]; None where it is already.
    """

    family: str
    module: nn.Module
    reshape: Reshape | None


def find_layer(model: nn.Module, name: str, size: tuple[int, int]) -> Layer:
    """The last layer of a timm model that knows where things are.

    Of a vision transformer it is the norm before the last attention: after it only the class token counts.

    Args:
        model: on its device.
        name: timm's name, for the error.
        size: height and width of its crops.

    Raises:
        UsageError: its features have no places.
    """
    if not hasattr(model, "forward_features"):
        raise UsageError(f"{name} does not tell its features from its answers, so nothing can be shown of it.")
    device = next(model.parameters()).device
    last: list[tuple[nn.Module, Any]] = []
    hooks = [
        m.register_forward_hook(lambda module, _, out: last.append((module, getattr(out, "shape", None))))
        for m in model.modules()
        if not list(m.children())
    ]
    try:
        with torch.no_grad():
            features = model.forward_features(torch.zeros(1, 3, *size, device=device))  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()
    channels = int(getattr(model, "num_features", 0))
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) == 3 and hasattr(model, "blocks"):
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        grid = _grid(model, shape[1] - prefix, size)
        block = model.blocks[-1]  # type: ignore[index]
        if grid is not None and hasattr(block, "norm1"):
            return Layer("vit", block.norm1, _Tokens(prefix, grid))
    if len(shape) == 4:
        flipped = shape[-1] == channels and (shape[1] != channels or getattr(model, "output_fmt", "") == "NHWC")
        wanted = shape[1:3] if flipped else shape[2:]
        if min(wanted) >= 2:
            module = next((m for m, s in reversed(last) if s is not None and tuple(s) == shape), None)
        else:  # small crops end in a single place: the last layer that has more
            module = next((m for m, s in reversed(last) if not flipped and s is not None and _has_places(s)), None)
        if module is not None:
            return Layer("swin", module, _to_front) if flipped else Layer("cnn", module, None)
    raise UsageError(f"The features of {name} have no places that could be shown.")


def _has_places(shape: Any) -> bool:
    return len(shape) == 4 and min(shape[2:]) >= 2


@dataclass(frozen=True)
class _Tokens:
    """Tokens [n, prefix + h * w, C] as [n, C, h, w]."""

    prefix: int
    grid: tuple[int, int]

    def __call__(self, tokens: Tensor) -> Tensor:
        places = tokens[:, self.prefix :]
        return places.reshape(len(places), *self.grid, places.shape[2]).permute(0, 3, 1, 2)


def _to_front(features: Tensor) -> Tensor:
    return features.permute(0, 3, 1, 2)


def _grid(model: nn.Module, places: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of a transformer's tokens."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is None:
        return None
    height, width = (patch, patch) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
    grid = (size[0] // height, size[1] // width)
    return grid if grid[0] * grid[1] == places else None


def networks_of(part: Network) -> list[tuple[nn.Module, list[Layer]]]:
    """The networks of a part, each with the layer that is mapped; two layers where it has two backbones.

    Raises:
        UsageError: see :func:`find_layer`.
    """
    sidecar, model = part.sidecar, part.model.eval()
    size = (sidecar.size[0], sidecar.size[1])
    found: list[tuple[nn.Module, list[Layer]]] = []
    for net in model.nets if isinstance(model, Several) else [model]:
        if isinstance(net, Paired):
            backbones = zip(net.nets, (sidecar.model, sidecar.second), net.sizes, strict=True)
            found.append((net, [find_layer(*each) for each in backbones]))
        else:
            found.append((net, [find_layer(net, sidecar.model, size)]))
    return found


@dataclass(frozen=True)
class Answer:
    """What is explained of one network: how much its outputs for a crop speak for classes (sum of heads' logits).

    Args:
        heads: of the network.
        classes: one for each head.
    """

    heads: tuple[Head, ...]
    classes: tuple[int, ...]

    def __call__(self, outputs: Tensor) -> Tensor:
        """A number; ``outputs`` [outputs] or [1, outputs]."""
        parts = torch.split(outputs.reshape(1, -1).float(), [h.outputs for h in self.heads], 1)
        scores = [h.logits(o)[0, k] for h, o, k in zip(self.heads, parts, self.classes, strict=True)]
        return torch.stack(scores).sum()


def answers(target: Target, schema: Schema, label: int) -> dict[int, Answer]:
    """What speaks for a joint class: the number of each network that has a say, and what it is to say.

    In a cascade these are the first network and the one for the label's class of the first attribute.
    """
    left = iter(target.heads)
    heads = [tuple(next(left) for _ in range(count)) for count in target.networks]
    if target.kind == "joint":
        return {0: Answer(heads[0], (label,))}
    classes = schema.decode(label)
    if target.kind == "cascade":
        own = 1 + classes[0]
        return {0: Answer(heads[0], classes[:1]), own: Answer(heads[own], classes[1:])}
    rest = iter(classes)
    return {k: Answer(each, tuple(next(rest) for _ in each)) for k, each in enumerate(heads)}


def check(method: str) -> None:
    """Refuse what cannot be drawn.

    Raises:
        UsageError: no such method.
        UserError: the grad-cam library is not installed.
    """
    if method not in METHODS:
        near = nearest(method, tuple(METHODS))
        raise UsageError(
            f"There is no --method '{method}'.",
            f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(METHODS)}.",
        )
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        raise missing_extra("grad-cam", "explain")


def maps(
    part: Network, crops: NDArray[np.uint8], labels: NDArray[np.int64], method: str = "gradcam", batch_size: int = 16
) -> Maps:
    """How much each place of a crop speaks for a joint class.

    Of several networks, and of two backbones, it is the mean of their maps; the second network of a cascade counts
    as much as its answer does (by the first one's probability, or not at all where a hard route leads elsewhere).

    Args:
        part: the network, or its networks.
        crops: uint8 [n, H, W, 3] RGB, as the network is shown them.
        labels: the class to explain for each crop, int64 [n].
        method: one of METHODS.

    Returns:
        float32 [n, H, W], from 0 to 1 for each crop.

    Raises:
        UsageError: see :func:`check` and :func:`find_layer`.
    """
    check(method)
    ensure_torchvision()  # the library imports it
    labels = part.own[labels]
    sidecar, networks = part.sidecar, networks_of(part)
    device = next(part.model.parameters()).device
    target, schema = sidecar.answers(), sidecar.labels()
    mean, std = (
        torch.tensor(v, dtype=torch.float64).mul(255).float().view(1, 3, 1, 1).to(device)
        for v in (sidecar.mean, sidecar.std)
    )
    found = np.zeros((len(crops), *crops.shape[1:3]), np.float32)
    for start in range(0, len(crops), batch_size):
        part_of = slice(start, start + batch_size)
        pixels = torch.from_numpy(np.ascontiguousarray(crops[part_of])).permute(0, 3, 1, 2).to(device)
        shown = normalise(pixels, mean, std.clamp(min=1.0)).contiguous()
        asked = [answers(target, schema, int(k)) for k in labels[part_of]]
        say = np.array([[float(k in each) for each in asked] for k in range(len(networks))])
        if target.kind == "cascade":
            with torch.inference_mode():
                say[1:] *= target.routes(networks[0][0](shown).float()).T.cpu().numpy()
        for k, (net, layers) in enumerate(networks):
            if not len(rows := np.flatnonzero(say[k])):
                continue
            own = [_mapped(net, layer, shown[rows], [asked[i][k] for i in rows], method) for layer in layers]
            found[part_of][rows] += np.mean(own, 0) * (say[k] / say.sum(0))[rows, None, None]
    part.model.zero_grad(set_to_none=True)
    return found


def _mapped(net: nn.Module, layer: Layer, shown: Tensor, asked: list[Answer], method: str) -> Maps:
    """What one layer of a network has to say about pixels [n, 3, H, W], float32 [n, H, W]."""
    import pytorch_grad_cam

    made: Any = getattr(pytorch_grad_cam, METHODS[method])
    with made(model=net, target_layers=[layer.module], reshape_transform=layer.reshape) as cam:
        return np.asarray(np.nan_to_num(cam(input_tensor=shown, targets=asked)), np.float32)


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
