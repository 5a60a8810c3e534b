"""Build a timm model, with pretrained weights where they can be had."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from masktrain.config.settings import nearest
from masktrain.train.torchvision_ops import ensure_torchvision

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
    size: tuple[int, int],
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
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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
            f"The pretrained weights of {name} ({where}) are neither on this machine nor to be had from the hub"
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
