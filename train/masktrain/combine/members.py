"""Runs, or kept epochs of one, that take part in an ensemble: what they answer, what they cost, and their copies."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from maskprep.base import UsageError, write_json
from masktrain.answer.members import MEMBERS
from masktrain.runs import files, predictions
from masktrain.runs import folder as runs
from masktrain.runs.predictions import Predictions
from masktrain.train import checkpoint
from masktrain.train.checkpoint import BEST, SIDECAR, Sidecar, load_sidecar


@dataclass(frozen=True)
class Candidate:
    """A run that may take part: its sidecar, its held-out predictions, data.json and config.yaml.

    Args:
        weights: those of a kept epoch; None for the run's best.
    """

    folder: Path
    sidecar: Sidecar
    held: Predictions
    data: dict[str, Any]
    settings: dict[str, Any]
    weights: Path | None = None

    @property
    def name(self) -> str:
        """Of the run, and the epoch where it is one."""
        return self.folder.resolve().name + (f"-epoch-{self.weights.stem}" if self.weights else "")

    def network(self, device: torch.device) -> torch.nn.Module:
        """The network with these weights."""
        from safetensors.torch import load_file

        model, _ = checkpoint.load_best(self.folder, device)
        if self.weights is not None:
            model.load_state_dict(load_file(self.weights))
        return model

    def at_epoch(self, weights: Path, held: Predictions, score: float) -> Candidate:
        """The same run at a kept epoch."""
        sidecar = replace(self.sidecar, epoch=int(weights.stem), score=score)
        return replace(self, weights=weights, held=held, sidecar=sidecar)


def read_candidate(run: Path) -> Candidate:
    """A run with its held-out predictions.

    Raises:
        UserError: it is no run, has no such predictions, or cannot be read.
    """
    sidecar, data = load_sidecar(run), runs.read_data(run)
    return Candidate(run, sidecar, predictions.read(run), data, runs.read_settings(run))


def copy_in(out: Path, given: Sequence[Candidate]) -> list[str]:
    """Copy what it takes to use some runs into a folder, new or empty. Returns the places within it."""
    folders = []
    for number, member in enumerate(given):
        folders.append(folder := f"{MEMBERS}/{number:02d}-{member.name}")
        (out / folder).mkdir(parents=True)
        shutil.copy2(member.folder / runs.CONFIG, out / folder / runs.CONFIG)
        if member.weights is None:
            for file in (BEST, SIDECAR):
                shutil.copy2(member.folder / file, out / folder / file)
            member.held.write(out / folder / runs.OOF)  # whose answers agree tells wrong labels from errors
        else:
            checkpoint.save_best(
                out / folder, member.network(torch.device("cpu")).state_dict(), member.sidecar, member.settings
            )
    return folders


def check_preparation(team: Sequence[Candidate]) -> None:
    """Refuse runs that look for the subject in different ways."""
    first = team[0]
    for other in team[1:]:
        mine, theirs = ({k: v for k, v in m.sidecar.settings.items() if k != "views"} for m in (first, other))
        if mine != theirs:
            differ = ", ".join(sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k)))
            raise UsageError(
                f"{first.folder} and {other.folder} were trained on crops found with other settings ({differ}),"
                " so a photo cannot be prepared for both."
            )


def record(
    out: Path,
    team: Sequence[Candidate],
    made: Predictions,
    settings: dict[str, Any],
    counts: NDArray[np.int64] | None = None,
) -> None:
    """Write data.json, oof.parquet and config.yaml of what is made of runs.

    Args:
        made: its answers about people that no member was trained on.
        counts: training images of its classes, where these are not those of its members.
    """
    first, classes = team[0].data, made.schema.num_classes
    data: dict[str, Any] = {
        **first,
        "folds": None,
        "linked": [list(each) for each in made.linked],
        "people": {
            "train": sorted({p for m in team for p in m.data["people"]["train"]}),
            "val": sorted(set(made.people.tolist())),
        },
        "images": {**first["images"], "val": len(made)},
        "classes": {**first["classes"], "val": np.bincount(made.labels, minlength=classes).tolist()},
    }
    if counts is not None:
        data |= {"training": {}, "whole": {"schema": made.schema.to_dict(), "train": counts.tolist()}}
        data["images"]["train"], data["classes"]["train"] = int(counts.sum()), counts.tolist()
    write_json(out / runs.DATA, data)
    made.write(out / runs.OOF)
    text = yaml.safe_dump(settings, sort_keys=False)
    files.write_file(out / runs.CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


def cost(member: Candidate) -> tuple[int, float]:
    """Parameters of a member's network, and the billions of multiply-adds that it takes for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    model = member.network(torch.device("cpu"))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 3, *member.sidecar.size))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9


def affordable(costs: Sequence[float], groups: Sequence[int], budget: float) -> tuple[float, ...]:
    """What each group of members costs together, in billions of multiply-adds for an image.

    Raises:
        UsageError: not one of them is within the budget.
    """
    sums = tuple(sum(c for c, g in zip(costs, groups, strict=True) if g == k) for k in range(max(groups) + 1))
    if min(sums) > budget:
        raise UsageError(
            f"No member takes {budget:g} billion multiply-adds for an image or less; the smallest takes"
            f" {min(sums):.3g}.",
            "Raise --budget, or train a smaller model.",
        )
    return sums
