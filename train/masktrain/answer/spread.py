"""What a network that answers a part of the question says about every joint class, so that parts can be multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskprep.labels import Schema
from masktrain.config.where import Where


@dataclass(frozen=True)
class Spread:
    """A linear map from a network's probabilities [n, K] to a factor for every joint class [n, C].

    The factor of a joint class is the probability of its classes of the attributes that the network answers; for
    joint classes that the network is not asked about it is 1. The product of the factors of networks that answer every
    attribute once is a table of joint probabilities.

    Attributes:
        matrix: float32 [K, C].
        offset: float32 [C], 1 where the network is not asked.
        own: the network's class that stands for each joint class, int64 [C].
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]
    own: NDArray[np.int64]

    def __call__(self, table: Tensor) -> Tensor:
        """Factors [n, C] of probabilities [n, K]."""
        matrix, offset = (torch.from_numpy(v).to(table.device) for v in (self.matrix, self.offset))
        return table @ matrix + offset


def spread(whole: Schema, own: Schema, attributes: Sequence[str], where: Where | None = None) -> Spread:
    """The map of a network.

    Args:
        whole: the schema of the joint classes.
        own: what the network classifies.
        attributes: those that it answers for, of both schemas; over its others it is summed.
        where: the classes of another attribute for which it is asked.
    """
    theirs = np.array([whole.decode(c) for c in range(whole.num_classes)])
    mine = np.array([own.decode(k) for k in range(own.num_classes)])

    def same(names: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the network's classes agree with which joint classes in some attributes [K, C]."""
        left, right = mine[:, [own.joint.index(n) for n in names]], theirs[:, [whole.joint.index(n) for n in names]]
        return np.asarray((left[:, None] == right[None]).all(2))

    shared = [n for n in own.joint if n in whole.joint]
    asked = np.ones(whole.num_classes, dtype=bool)
    if where is not None:
        classes = [whole[where.attribute].classes.index(c) for c in where.classes]
        asked = np.isin(theirs[:, whole.joint.index(where.attribute)], classes)
    matrix = (same(attributes) & asked).astype(np.float32)
    return Spread(matrix, (~asked).astype(np.float32), same(shared).argmax(0).astype(np.int64))
