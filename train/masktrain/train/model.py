"""Build a timm model, with pretrained weights where they can be had."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from masktrain.config.settings import nearest
from masktrain.train.torchvision_ops import ensure_torchvision

Size = tuple[int, int]

HUB_TIMEOUT = 10
"""Seconds to wait for the hub's first answer."""


class Cosine(nn.Linear):
    """A classifier by direction: ``scale`` times the cosine between features and each class's weights."""

    def __init__(self, features: int, outputs: int, scale: float) -> None:
        super().__init__(features, outputs, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Outputs [n, outputs] of features [n, features]."""
        unit = nn.functional.normalize
        return self.scale * nn.functional.linear(unit(features, dim=1), unit(self.weight, dim=1))


def build(
    name: str,
    num_classes: int,
    size: Size,
    *,
    pretrained: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    cosine: float = 0.0,
) -> nn.Module:
    """A timm model with a fresh classifier of ``num_classes``, in channels_last.

    Args:
        name: timm's name of the model, or one it had before.
        size: height and width of the crops; models of a fixed input size are built for it.
        pretrained: start from weights: those of maskprep's registry, otherwise timm's from the hub.
        cosine: scale of a classifier by direction; 0 for the linear one.

    Raises:
        UsageError: timm has no such model, it cannot take crops of this size, or its classifier cannot be replaced.
        UserError: the weights cannot be had.
    """
    timm, name = import_timm(), known_name(name)
    kwargs: dict[str, Any] = {"num_classes": num_classes, "drop_rate": dropout}
    if drop_path:
        kwargs["drop_path_rate"] = drop_path
    if timm.models.get_pretrained_cfg_value(name.partition(".")[0], "fixed_input_size"):
        kwargs["img_size"] = size
    try:
        model = _create(timm, name, kwargs, pretrained)
    except (AssertionError, TypeError, ValueError) as error:
        if "drop_path_rate" in str(error):
            raise UsageError(f"{name} has no residual branches to drop.", "Set model.drop_path=0.") from error
        raise _misfit(name, size, error) from error
    if cosine:
        classifier = model.get_classifier()  # type: ignore[operator]
        where = next((n for n, m in model.named_modules() if m is classifier), "")
        if not isinstance(classifier, nn.Linear) or not where:
            raise UsageError(f"{name} has no single linear classifier, so its head cannot be cosine.")
        parent, _, last = where.rpartition(".")
        setattr(model.get_submodule(parent), last, Cosine(classifier.in_features, num_classes, cosine))
    elif pretrained and num_classes:
        _start_at_zero(model.get_classifier())  # type: ignore[operator]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _start_at_zero(classifier: nn.Module) -> None:
    """A new linear classifier of features that were learnt: at first all classes are as likely as each other.

    timm draws the classifier of an EfficientNet so large that the loss of the first steps is twice that of chance, and
    their gradients harm the features; a short fit does not make up for it. Source: Kolesnikov et al. 2020 (BiT).
    """
    if isinstance(classifier, nn.Linear):
        nn.init.zeros_(classifier.weight)
        if classifier.bias is not None:
            nn.init.zeros_(classifier.bias)


def known_name(name: str) -> str:
    """timm's name of a model today; a name that timm has given up leads to the one in its place.

    Raises:
        UsageError: timm has no such model, or no such weights of it.
    """
    timm = import_timm()
    if not timm.is_model(name):
        near = nearest(name, timm.list_models(), 3)
        raise UsageError(f"timm has no model '{name}'.", f"Near names: {', '.join(near)}." if near else "")
    base, _, tag = name.partition(".")
    former = timm.models.get_deprecated_models()
    if base in former:
        if not former[base]:
            near = nearest(base, timm.list_models(), 3)
            raise UsageError(f"timm has removed the model '{base}'.", f"Near names: {', '.join(near)}." if near else "")
        base, _, current = former[base].partition(".")
        tag = tag or current
    if tag and f"{base}.{tag}" not in (tagged := timm.list_pretrained(f"{base}.*")):
        raise UsageError(f"{base} has no weights '{tag}'.", f"It has: {', '.join(tagged) or 'none'}.")
    return f"{base}.{tag}" if tag else base


def import_timm() -> Any:
    """timm, importable also beside a torchvision built for another torch."""
    ensure_torchvision()
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_TIMEOUT))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(HUB_TIMEOUT))
    import timm
    import timm.models

    return timm


def check_size(model: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Send one black crop through, so that a size the model cannot take is found before anything is written.

    Raises:
        UsageError: it cannot take crops of this size.
    """
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _misfit(name, size, error) from error


def native_size(model: nn.Module) -> tuple[int, int]:
    """Height and width the model's weights were trained at."""
    height, width = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:]
    return int(height), int(width)


def _misfit(name: str, size: tuple[int, int], error: Exception) -> UsageError:
    return UsageError(
        f"{name} cannot be built for crops of {size[0]}x{size[1]}: {str(error).strip()[:200]}",
        "Choose another --model, or make a view of its size with: maskprep crop --size HxW",
    )


def _create(timm: Any, name: str, kwargs: Mapping[str, Any], pretrained: bool) -> nn.Module:
    if not pretrained:
        return timm.create_model(name, **kwargs)  # type: ignore[no-any-return]
    from masktrain.train import lite

    if name.partition(".")[0] in lite.BLOCKS_PER_STAGE:
        model: nn.Module = timm.create_model(name, **kwargs)
        lite.load_lite(model, name)
        return model
    way_on = "Start from random weights with --no-pretrained."
    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"There are no pretrained weights for {name}.", way_on)
    if _without_hub():
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True  # files fetched earlier are still found
    try:
        return timm.create_model(name, pretrained=True, **kwargs)  # type: ignore[no-any-return]
    except (AssertionError, TypeError):
        raise
    except Exception as error:  # the hub's clients raise errors of many libraries
        where = config.hf_hub_id or config.url
        raise UserError(
            f"The pretrained weights of {name} ({where}) are not on this machine "
            "and could not be downloaded from the hub"
            f" ({type(error).__name__}).",
            f"{way_on} Or choose tf_efficientnet_lite0, whose weights need no hub.",
        ) from error


def _without_hub() -> bool:
    """Whether the hub is out of reach; asked once and briefly, as its client would retry for most of a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    try:
        with urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT):
            return False
    except urllib.error.HTTPError:
        return False  # it answered
    except OSError:
        return True


class Paired(nn.Module):
    """Two backbones whose features are put side by side before one classifier.

    For timm's optimisers and :mod:`masktrain.train.freezing` it is like a network of timm; layers are counted back from
    the last ones, so that the classifiers are one stage.

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
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.pretrained_cfg = getattr(nets[0], "pretrained_cfg", {})
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


def resized(pixels: Tensor, size: Size) -> Tensor:
    """Pixels [n, 3, H, W] at another size, bilinear."""
    if pixels.shape[2:] == size:
        return pixels
    return nn.functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def assemble(
    name: str,
    outputs: int,
    size: Size,
    *,
    second: str = "",
    pretrained: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    cosine: float = 0.0,
) -> nn.Module:
    """A network of one backbone or of two, in channels_last.

    Args:
        name: timm's name of the model.
        outputs: of the classifier.
        size: height and width of the crops.
        second: another model whose features are put beside those of the first; each then sees the crops at the size
            its weights were trained at.

    Raises:
        UsageError, UserError: as :func:`build`.
    """
    if not second:
        return build(name, outputs, size, pretrained=pretrained, dropout=dropout, drop_path=drop_path, cosine=cosine)
    sizes = [native_size_of(each) for each in (name, second)]
    nets = [
        build(each, 0, own, pretrained=pretrained, drop_path=drop_path)
        for each, own in zip((name, second), sizes, strict=True)
    ]
    return Paired(nets, sizes, outputs, dropout, cosine).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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
        raise UsageError(f"timm has no mean and std for {name}.", "Set data.statistics=whole.")
    return np.array(config.mean, dtype=np.float64), np.array(config.std, dtype=np.float64)


def recompute(model: nn.Module) -> None:
    """Have a network keep only what its blocks are given: activations are computed again (arXiv 1604.06174).

    Raises:
        UsageError: timm cannot do so with this network.
    """
    if isinstance(model, Paired):
        for net in model.nets:
            recompute(net)
        return
    turn_on: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        if turn_on is None:
            raise NotImplementedError
        turn_on(True)
    except (AssertionError, AttributeError, NotImplementedError):
        raise UsageError(
            f"{type(model).__name__} cannot compute its activations anew.",
            "Set model.checkpointing=false, and optim.micro_batch to as many images as the memory can hold.",
        ) from None


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: what is computed anew must not count twice."""
    buffers = list(model.buffers())
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
