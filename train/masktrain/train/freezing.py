"""Which layers learn. Stages are counted from the image on, as timm groups a model's parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from maskprep.base import UsageError
from masktrain.config.sections import ModelConfig


def stages(model: nn.Module) -> list[list[str]]:
    """Names of the parameters of each stage, from the stem to the classifier.

    Raises:
        UsageError: timm does not know the stages of this model.
    """
    from masktrain.train.model import import_timm

    timm = import_timm()
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        raise UsageError(f"The stages of {type(model).__name__} are not known, so it cannot be frozen.")
    groups = timm.models.group_parameters(model, matcher(coarse=True))
    return [list(names) for _, names in sorted(groups.items())]


def frozen_stages(epoch: int, epochs: int, count: int, freeze: int, thaw: float) -> int:
    """How many of the first stages do not learn in an epoch.

    Args:
        epoch: from 1.
        count: stages of the model, the classifier among them; that one always learns.
        freeze: how many are frozen at first, -1 for all but the classifier.
        thaw: share of the epochs over which they thaw one after another from the top; 0 for never.

    Raises:
        UsageError: the model has fewer stages.
    """
    if freeze >= count:
        raise UsageError(f"The model has {count} stages, so at most {count - 1} can be frozen, not {freeze}.")
    first = count - 1 if freeze < 0 else freeze
    if not thaw:
        return first
    return max(0, math.ceil(first * (1 - (epoch - 1) / (epochs * thaw)) - 1e-9))


def check(config: ModelConfig, patience: int) -> None:
    """Refuse settings of freezing and thawing that do not go together.

    Args:
        patience: ``select.patience``.

    Raises:
        UsageError: thawing on a plateau of nothing, by two rules, or without a patience.
    """
    if not config.thaw_on_plateau:
        return
    if not config.freeze or config.thaw:
        what = "model.thaw is set, too" if config.freeze else "nothing is frozen"
        raise UsageError(f"model.thaw_on_plateau: {what}.", "Give --freeze, and no model.thaw.")
    if not patience:
        raise UsageError("model.thaw_on_plateau thaws when half of the patience is spent.", "Give it: --patience 4")


def thawed(scores: Sequence[float], patience: int) -> bool:
    """Whether a score (higher is better) has ever stood still for half of the patience, in epochs, rounded up.

    A function of the scores so far, which a checkpoint keeps, so that what is thawed stays so when a fit goes on.
    """
    best, still = -math.inf, 0
    for score in scores:
        still = 0 if score > best else still + 1
        best = max(best, score)
        if still >= math.ceil(patience / 2):
            return True
    return False


def freeze(model: nn.Module, groups: list[list[str]], count: int) -> None:
    """Keep the first ``count`` stages as they are: no gradients, and norms that neither learn nor count.

    Call it after ``model.train()``, which wakes all norms.
    """
    still = {name for group in groups[:count] for name in group}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in still)
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{n}" if prefix else n for n, _ in module.named_parameters(recurse=False)]
        if own and all(name in still for name in own):
            module.eval()
