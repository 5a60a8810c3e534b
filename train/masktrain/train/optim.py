"""Optimisers by name, and sharpness-aware steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskprep.base import UsageError
from masktrain.config.sections import OptimConfig
from masktrain.config.settings import nearest


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """An optimiser of timm's factory, without weight decay on biases and norms.

    Raises:
        UsageError: timm has none of this name.
    """
    from masktrain.train.model import import_timm

    import_timm()
    import timm.optim

    known = timm.optim.list_optimizers()
    if config.optimizer.lower() not in known:
        near = nearest(config.optimizer.lower(), known)
        raise UsageError(f"timm has no optimiser '{config.optimizer}'.", f"Did you mean '{near[0]}'?" if near else "")
    made: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model,
        opt=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay if config.layer_decay < 1 else None,
    )
    return made


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, scaled where the group says so (layer-wise decay)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def climb(model: nn.Module, radius: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Move the weights to where the loss is highest within a radius, by their gradients (SAM, arXiv 2010.01412).

    Returns:
        The weights that were moved and what they were, for :func:`descend`.
    """
    learning = [p for p in model.parameters() if p.grad is not None]
    before = [(p, p.detach().clone()) for p in learning]
    grads = [p.grad for p in learning if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    scale = radius / (norm + 1e-12)
    for parameter, grad in zip(learning, grads, strict=True):
        parameter.add_(grad * scale)
    return before


@torch.no_grad()
def descend(before: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Put the weights back to what they were, exactly."""
    for parameter, value in before:
        parameter.copy_(value)
