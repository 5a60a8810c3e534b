"""What was trained as one torch module, crops uint8 in and probabilities out: for predictions, scores and exports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.base import UsageError
from maskprep.labels import Schema
from masktrain.config.settings import hint
from masktrain.config.where import Where
from masktrain.train import checkpoint
from masktrain.train import device as devices
from masktrain.train.checkpoint import Sidecar
from masktrain.train.loop import normalise

LOOKS = ("none", "mirror", "shifts", "mirror+shifts")
"""Test-time augmentation: the crop alone, with its mirror image, moved to four sides, or all."""

MEANS = ("probability", "logit")
SHIFT = 1 / 24
"""How far the shifted crops are moved, relative to the crop: less than the margin of any face."""

KINDS = ("soft", "hard", "weighted", "greedy", "stack")
PRODUCT, ROUTED = "product", "routed"
"""Groups that each answer a part of the joint label, see :class:`JointMap`."""
TINY = 1e-6
"""Probabilities below this count as this where logarithms are taken."""


class JointMap(nn.Module):
    """A linear map from a network's probabilities [n, K] to a factor for every joint class [n, C].

    The factor of a joint class is the probability of its classes of the attributes that the network answers; for joint
    classes that the network is not asked about it is 1. The product of the factors of networks that answer every
    attribute once is a table of joint probabilities.

    Args:
        matrix: [K, C].
        offset: [C], 1 where the network is not asked.
        own: the network's class that stands for each joint class, int64 [C].
        attributes: those that the network answers for.
    """

    matrix: Tensor
    offset: Tensor

    def __init__(
        self,
        matrix: NDArray[np.bool_],
        offset: NDArray[np.bool_],
        own: NDArray[np.int64],
        attributes: Sequence[str],
    ) -> None:
        super().__init__()
        self.own, self.asked, self.attributes = own, ~offset, attributes
        self.register_buffer("matrix", torch.from_numpy(matrix).float())
        self.register_buffer("offset", torch.from_numpy(offset).float())

    def forward(self, table: Tensor) -> Tensor:
        """Factors [n, C] of probabilities [n, K]."""
        return table @ self.matrix + self.offset


def joint_map(whole: Schema, own: Schema, attributes: Sequence[str], where: Where | None = None) -> JointMap:
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
    return JointMap(same(attributes) & asked, ~asked, same(shared).argmax(0).astype(np.int64), attributes)


class Combination(nn.Module):
    """Combines members that belong to groups: the folds of one setting are one group and speak as their mean.

    - soft: mean of the groups; weighted, greedy: their weighted mean.
    - hard: every member has one vote, the class with most votes wins, a tie goes to the tied class with the higher
      mean probability (then to the lower index). The table is (votes + mean) / (members + 1).
    - product: of the groups, which answer for parts of the joint label.
    - routed: the same, where the first group's most probable class alone counts, as if it were sure.
    - stack: softmax of a linear function of the groups' log-probabilities.

    Args:
        kind: one of :data:`KINDS`, PRODUCT or ROUTED.
        groups: number of each member's group [m], from 0.
        weights: of the groups, for weighted and greedy; they sum to 1.
        coefficients: for stack, [C, groups * C]; ``intercepts`` [C].
    """

    def __init__(
        self,
        kind: str,
        groups: Sequence[int],
        weights: Sequence[float] | None = None,
        coefficients: Any = None,
        intercepts: Any = None,
    ) -> None:
        super().__init__()
        if kind not in (*KINDS, PRODUCT, ROUTED):
            raise ValueError(f"no combination '{kind}'")
        self.kind = kind
        count = max(groups) + 1
        share = torch.zeros(count, len(groups), dtype=torch.float64)
        for member, group in enumerate(groups):
            share[group, member] = 1.0
        share /= share.sum(1, keepdim=True)
        voice = torch.full((count,), 1 / count, dtype=torch.float64)
        if weights is not None:
            voice = torch.tensor(list(weights), dtype=torch.float64)
        self.register_buffer("share", share.float())
        self.register_buffer("voice", voice.float())
        if kind == "stack":
            self.register_buffer("coefficients", torch.as_tensor(coefficients).float())
            self.register_buffer("intercepts", torch.as_tensor(intercepts).float())

    @property
    def weights(self) -> Tensor:
        """Each member's weight in a mean over the groups [m]."""
        return self.get_buffer("voice") @ self.get_buffer("share")

    def forward(self, tables: Tensor) -> Tensor:
        """Probabilities [n, C] of the members' probabilities [m, n, C]."""
        grouped = torch.einsum("gm,mnc->gnc", self.get_buffer("share"), tables)
        if self.kind == ROUTED:  # joint classes that the first group does not tell apart have the same factor
            first = grouped[:1]
            grouped = torch.cat([(first == first.amax(2, keepdim=True)).to(first.dtype), grouped[1:]])
        if self.kind in (PRODUCT, ROUTED):
            return grouped.prod(0)
        mean = torch.einsum("g,gnc->nc", self.get_buffer("voice"), grouped)
        if self.kind == "hard":
            votes = nn.functional.one_hot(tables.argmax(2), tables.shape[2]).to(tables.dtype).sum(0)
            return (votes + mean) / (tables.shape[0] + 1)
        if self.kind == "stack":
            logs = grouped.clamp(min=TINY).log().permute(1, 0, 2).flatten(1)
            return (logs @ self.get_buffer("coefficients").T + self.get_buffer("intercepts")).softmax(1)
        return mean


class Network(nn.Module):
    """One network: normalises crops uint8 [n, H, W, 3] and gives probabilities [n, K] and numbers [n, A], the mean over
    its looks.

    Args:
        model: in evaluation mode, on its device.
        sidecar: what it was trained for.
        looks: one of LOOKS; ``mean`` one of MEANS.

    Attributes:
        place: number of the graph's input that it sees.
        member: number of the graph's member that it belongs to.
        own: its class that stands for each class of the graph, int64 [C].
        asked: whether it has a say in each class of the graph, bool [C].
        numbers: the A attributes that it answers with a number.
    """

    def __init__(
        self,
        model: nn.Module,
        sidecar: Sidecar,
        precision: devices.Precision,
        looks: str = "none",
        mean: str = MEANS[0],
    ) -> None:
        super().__init__()
        self.model, self.sidecar, self.precision, self.looks, self.mean_of = model, sidecar, precision, looks, mean
        self.target = sidecar.answers()
        self.numbers = self.target.numbers
        for name, values in (("mean", sidecar.mean), ("std", sidecar.std)):
            scaled = torch.tensor(values, dtype=torch.float64).mul(255).float().view(1, 3, 1, 1)
            scaled = scaled.clamp(min=1.0) if name == "std" else scaled
            self.register_buffer(name, scaled.to(precision.device))
        self.place = self.member = 0
        self.own = np.arange(sidecar.labels().num_classes)
        self.asked = np.ones(len(self.own), dtype=bool)

    def forward(self, crops: Tensor) -> Tensor:
        """Probabilities of crops."""
        return self._table(self._outputs(crops))

    def read(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and numbers of crops."""
        outputs = self._outputs(crops)
        return self._table(outputs), torch.stack([self.target.values(o) for o in outputs]).mean(0)

    def _outputs(self, crops: Tensor) -> list[Tensor]:
        """Outputs of each look at crops."""
        pixels = normalise(crops, self.get_buffer("mean"), self.get_buffer("std"))
        with self.precision.context() if self.precision.dtype is not None else contextlib.nullcontext():
            return [self.model(view) for view in tta_views(pixels, self.looks)]

    def _table(self, outputs: Sequence[Tensor]) -> Tensor:
        tables = torch.stack([self.target.probabilities(o) for o in outputs])
        return tables.mean(0) if self.mean_of == "probability" else tables.clamp(min=1e-12).log().mean(0).softmax(1)


def tta_views(pixels: Tensor, looks: str) -> Iterator[Tensor]:
    """What a network is shown of crops [n, 3, H, W], one of LOOKS.

    A shifted crop is filled up with its own border, so that nothing is scaled.
    """
    height, width = pixels.shape[2:]
    dy, dx = max(1, round(SHIFT * height)), max(1, round(SHIFT * width))
    turned: list[Callable[[Tensor], Tensor]] = [lambda p: p]
    if "mirror" in looks:
        turned.append(lambda p: p.flip(3))
    places = [(dy, dx)]
    if "shifts" in looks:
        places += [(0, dx), (2 * dy, dx), (dy, 0), (dy, 2 * dx)]
    wide = nn.functional.pad(pixels, (dx, dx, dy, dy), mode="replicate") if len(places) > 1 else None
    for y, x in places:
        seen = pixels if wide is None else wide[:, :, y : y + height, x : x + width]
        for turn in turned:
            yield turn(seen)


class Graph(nn.Module):
    """All networks, what combines them, and a temperature.

    Args:
        members: networks, or graphs of several that see one kind of crops.
        combination: takes the members' probabilities [members, n, C] to one table; None for a single member.
        places: number of the input that each member sees.
        maps: of members that answer a part, to the whole joint label.

    Attributes:
        temperature: see :class:`masktrain.score.calibration.Calibration`; 1 for none.
        numbers: the attributes that any member answers with a number.
    """

    def __init__(
        self,
        members: Sequence[Network | Graph],
        combination: Combination | None = None,
        places: Sequence[int] | None = None,
        maps: Sequence[JointMap | None] | None = None,
    ) -> None:
        super().__init__()
        maps = maps or [None] * len(members)
        self.members, self.maps = nn.ModuleList(members), nn.ModuleList(m or nn.Identity() for m in maps)
        self.places, self.combination = list(places or [0] * len(members)), combination
        self.temperature = 1.0
        self.numbers: list[str] = list(
            dict.fromkeys(
                name
                for member, part in zip(members, maps, strict=True)
                for name in member.numbers
                if part is None or name in part.attributes
            )
        )
        for number, (member, place, to_joint) in enumerate(zip(members, self.places, maps, strict=True)):
            for network in _networks(member):
                network.place, network.member = place, number
                if to_joint is not None:
                    network.asked = network.asked[to_joint.own] & to_joint.asked
                    network.own = network.own[to_joint.own]
        self.to(self.device).eval()

    @property
    def networks(self) -> list[Network]:
        """All networks, member by member."""
        return _networks(self)

    @property
    def network(self) -> nn.Module:
        """The one that was trained, of a run with a single one.

        Raises:
            UsageError: there are several.
        """
        if len(self.networks) > 1:
            raise UsageError("Several networks are in this, and one is needed.", "Name a run of one network.")
        return self.networks[0].model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.networks[0].precision.device

    def forward(self, *crops: Tensor) -> Tensor:
        """Probabilities float32 [n, C] of crops uint8 [n, H, W, 3], one tensor for each input."""
        return self._combined([m(crops[place]) for m, place in zip(self.members, self.places, strict=True)])

    def _combined(self, tables: Sequence[Tensor]) -> Tensor:
        factors = [to_joint(table) for to_joint, table in zip(self.maps, tables, strict=True)]
        table: Tensor = factors[0] if self.combination is None else self.combination(torch.stack(factors))
        if self.temperature != 1.0:
            table = (table.clamp(min=1e-12).log() / self.temperature).softmax(1)
        return table

    def read(self, *crops: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities, and numbers float32 [n, A] of the attributes :attr:`numbers`.

        A number is the mean of the members that answer it, each by its weight and, where it is asked about some classes
        only, by their probability.
        """
        read = [m.read(crops[place]) for m, place in zip(self.members, self.places, strict=True)]  # type: ignore[operator]
        table = self._combined([table for table, _ in read])
        return table, self._numbers(table, [numbers for _, numbers in read])

    def _numbers(self, table: Tensor, told: Sequence[Tensor]) -> Tensor:
        """Numbers [n, A] of the joint probabilities [n, C] and of what each member says."""
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.numbers}
        for k, (member, to_joint, numbers) in enumerate(zip(self.members, self.maps, told, strict=True)):
            part = to_joint if isinstance(to_joint, JointMap) else None
            share = torch.ones_like(table[:, 0]) if part is None else table @ (1 - part.offset)
            if self.combination is not None:
                share = share * self.combination.weights[k]
            names: Sequence[str] = member.numbers  # type: ignore[assignment]
            for name, values in zip(names, numbers.unbind(1), strict=True):
                if part is None or name in part.attributes:
                    parts[name].append((share, share * values))
        sums = [[torch.stack(column).sum(0) for column in zip(*each, strict=True)] for each in parts.values()]
        return torch.stack([total / weight for weight, total in sums], 1) if sums else table[:, :0]

    def answer(self, crops: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """:meth:`read` of arrays, one for each input."""
        with torch.inference_mode():
            tensors = [torch.from_numpy(np.ascontiguousarray(c)).to(self.device) for c in crops]
            table, numbers = self.read(*tensors)
            return np.asarray(table.float().cpu().numpy()), np.asarray(numbers.float().cpu().numpy())


def _networks(member: nn.Module) -> list[Network]:
    return [module for module in member.modules() if isinstance(module, Network)]


def check_looks(looks: str | None, mean: str) -> None:
    """Refuse what is none of LOOKS, or of MEANS.

    Raises:
        UsageError: naming what there is.
    """
    for name, value, known in (("tta", looks, LOOKS), ("tta-mean", mean, MEANS)):
        if value not in (None, *known):
            raise UsageError(f"There is no --{name} '{value}'.", hint(str(value), known, f"Use {', '.join(known)}."))


def load_run(run: Path, device: str = "auto", looks: str | None = None, mean: str = MEANS[0]) -> Network | Graph:
    """The best networks of one run on a device.

    Args:
        looks: one of LOOKS; by default as the run was validated. ``mean`` is one of MEANS.

    Raises:
        UsageError: the folder is not a run, or the device is not here.
        UserError: the weights are damaged.
    """
    check_looks(looks, mean)
    precision = devices.choose_precision(devices.choose_device(device), "auto")
    sidecar = checkpoint.load_sidecar(run)
    looks = looks or sidecar.tta
    if sidecar.target not in SPLIT:
        model, _ = checkpoint.load_best(run, precision.device)
        return Network(model, sidecar, precision, looks, mean)
    networks, maps = [], []
    for part, to_joint, model in _split(run, sidecar):
        networks.append(Network(model.to(precision.device).eval(), part, precision, looks, mean))
        maps.append(to_joint)
    kind = ROUTED if sidecar.target == "cascade" and sidecar.route == "hard" else PRODUCT
    return Graph(networks, Combination(kind, range(len(networks))), None, maps)


SPLIT = ("separate", "cascade")
"""Targets of earlier versions, which had several networks in one file of weights."""


def _split(run: Path, sidecar: Sidecar) -> Iterator[tuple[Sidecar, JointMap, nn.Module]]:
    """The networks of a run of an earlier version as parts, each with its map to the joint label.

    ``separate`` had one network for each attribute, ``cascade`` one for the first attribute and then one for all others
    for each of its classes.
    """
    whole = sidecar.labels()
    first, *others = whole.joint
    parts: list[tuple[tuple[str, ...], Where | None]] = [((name,), None) for name in whole.joint]
    if sidecar.target == "cascade":
        states = [(tuple(others), Where(first, (state,))) for state in whole[first].classes]
        parts = [((first,), None), *states]
    state = checkpoint.load_weights(run, sidecar)
    for number, (names, where) in enumerate(parts):
        own = Schema(tuple(whole[name] for name in names))
        part = dataclasses.replace(
            sidecar, schema=own.to_dict(), classes=list(own.class_names), target="heads" if len(names) > 1 else "joint"
        )
        prefix = f"nets.{number}."
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        yield part, joint_map(whole, own, names, where), checkpoint.build_best(run, part, weights)
