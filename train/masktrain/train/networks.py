"""Networks made of several: features of two backbones side by side, and one network for each part of a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError
from masktrain.train.model import Cosine, build, import_timm, known_name
from masktrain.train.targets import Target

Size = tuple[int, int]


class _Parts(nn.Module):
    """Networks side by side, for timm's optimisers and :mod:`masktrain.train.freezing` like a single one of theirs.

    Their layers are counted back from the last ones, so that the classifiers are one stage.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.pretrained_cfg = getattr(nets[0], "pretrained_cfg", {})

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Number of the stage of a parameter, or of its layer if not ``coarse``."""
        timm = import_timm()
        found: dict[str, int] = {}
        for k, net in enumerate(self.nets):
            matcher: Any = getattr(net, "group_matcher", None)
            if matcher is None:
                raise UsageError(f"The stages of {type(net).__name__} are not known, so it cannot be frozen.")
            layers = timm.models.group_parameters(net, matcher(coarse=coarse), reverse=True)
            found |= {f"nets.{k}.{name}": layer - max(layers.values()) for name, layer in layers.items()}
        return lambda name: found.get(name, 1)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not to decay."""
        found: set[str] = set()
        for k, net in enumerate(self.nets):
            still: Any = getattr(net, "no_weight_decay", set)
            found |= {f"nets.{k}.{name}" for name in still()}
        return found


class Several(_Parts):
    """Networks that look at the same crops; their outputs are put side by side."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Outputs [n, outputs] of pixels [n, 3, H, W]."""
        return torch.cat([net(pixels) for net in self.nets], 1)


class Paired(_Parts):
    """Two backbones whose features are put side by side before one classifier (S2.7).

    Args:
        nets: networks without classifiers.
        sizes: height and width at which each sees the crops.
        outputs: of the classifier.
        dropout: of the features.
        cosine: scale of a classifier by direction; 0 for a linear one.
    """

    def __init__(
        self, nets: Sequence[nn.Module], sizes: Sequence[Size], outputs: int, dropout: float, cosine: float
    ) -> None:
        super().__init__(nets)
        self.sizes, self.dropout = list(sizes), dropout
        with torch.inference_mode():
            width = sum(net.eval()(torch.zeros(1, 3, *s)).shape[1] for net, s in zip(nets, sizes, strict=True))
        self.classifier = Cosine(width, outputs, cosine) if cosine else nn.Linear(width, outputs)
        if not cosine:  # as timm begins its classifiers
            nn.init.trunc_normal_(self.classifier.weight, std=0.02)
            nn.init.zeros_(self.classifier.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Outputs [n, outputs] of pixels [n, 3, H, W]."""
        found = [net(resized(pixels, size)) for net, size in zip(self.nets, self.sizes, strict=True)]
        return self.classifier(nn.functional.dropout(torch.cat(found, 1), self.dropout, self.training))  # type: ignore[no-any-return]


def resized(pixels: Tensor, size: Size) -> Tensor:
    """Pixels [n, 3, H, W] at another size, bilinear."""
    if pixels.shape[2:] == size:
        return pixels
    return nn.functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def assemble(
    target: Target,
    name: str,
    size: Size,
    *,
    second: str = "",
    pretrained: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    cosine: float = 0.0,
) -> nn.Module:
    """The network of a target, or its networks side by side, in channels_last.

    Args:
        name: timm's name of the model.
        size: height and width of the crops.
        second: another model whose features are put beside those of the first; each then sees the crops at the size
            its weights were trained at.

    Raises:
        UsageError, UserError: as :func:`masktrain.train.model.build`.
    """

    def one(outputs: int) -> nn.Module:
        if not second:
            return build(
                name, outputs, size, pretrained=pretrained, dropout=dropout, drop_path=drop_path, cosine=cosine
            )
        nets, sizes = [], []
        for each in (name, second):
            own = native_size_of(each)
            nets.append(build(each, 0, own, pretrained=pretrained, drop_path=drop_path))
            sizes.append(own)
        return Paired(nets, sizes, outputs, dropout, cosine).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    if len(target.networks) == 1:
        return one(target.outputs)
    return Several([one(outputs) for outputs in target.network_outputs])


def native_size_of(name: str) -> Size:
    """Height and width that a model's weights were trained at, by timm's name of it.

    Raises:
        UsageError: as :func:`masktrain.train.model.known_name`.
    """
    config = import_timm().models.get_pretrained_cfg(known_name(name))
    size = (config.input_size if config is not None else (3, 224, 224))[1:]
    return int(size[0]), int(size[1])


def native_statistics(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (0..1, float64 [3]) that a model's weights were trained with, by timm's name of it.

    Raises:
        UsageError: as :func:`masktrain.train.model.known_name`, or timm knows none.
    """
    config = import_timm().models.get_pretrained_cfg(known_name(name))
    if config is None:
        raise UsageError(f"timm knows no mean and std of {name}.", "Set data.statistics=whole.")
    return np.array(config.mean, dtype=np.float64), np.array(config.std, dtype=np.float64)
