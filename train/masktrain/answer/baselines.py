"""What a run must beat: the most frequent class, chance, and a linear probe on features that were never trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.base import UserError
from maskprep.dataset import View
from masktrain.answer.model import Model, rows_of
from masktrain.data import folds
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.score.evalset import EvalSet, same_source
from masktrain.train import device as devices
from masktrain.train import loop
from masktrain.train.model import build

PROBE = "tf_efficientnet_lite0"
"""Network of the linear probe where the run did not start from pretrained weights; needs no hub."""

MOST = {"cpu": 400, "cuda": 5000}
"""Crops that a probe beside a fit is fitted on, at most: seconds on each device."""

Ints = NDArray[np.int64]


def rows(
    run: Path,
    model: Model,
    pictures: View,
    asked: EvalSet,
    data: dict[str, Any],
    *,
    probe: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> list[tuple[str, metrics.Answers]]:
    """Each baseline's name and its answers, [n] or shares [n, C]; what they know is from the run's training people.

    Args:
        probe: network of the linear probe, with its pretrained weights.

    Raises:
        UserError: the cache does not hold the people the run was trained on, or the weights cannot be had.
    """
    name = probe or _probe_of(run)
    parts = None
    if (run / runs.FOLDS).is_file():
        parts = [runs.read_data(member)["people"]["val"] for member in runs.members(run)]
    told = linear_probe(name, model, pictures, asked, data, parts=parts, batch_size=batch_size, device=device)
    counts = np.array(data["classes"]["train"], dtype=np.float64)
    return [*metrics.guesses(counts, len(asked)), (f"linear probe on frozen {name}", told)]


def linear_probe(
    name: str,
    model: Model,
    pictures: View,
    asked: EvalSet,
    data: dict[str, Any],
    *,
    parts: Sequence[Sequence[str]] | None = None,
    pretrained: bool = True,
    batch_size: int = 64,
    device: str = "auto",
) -> Ints:
    """Logistic regression on the features of a network that never saw these photos, fitted on the run's people.

    Args:
        parts: people held out by each fold of a run of all folds; each part is answered by a regression on the others.

    Raises:
        UserError: the cache does not hold these people.
    """
    if not same_source(pictures, data):
        raise UserError(
            f"The linear probe is fitted on the people the run was trained on; {pictures.path} holds others.",
            "Evaluate on the cache of the run, or leave --baselines out.",
        )
    usable, _ = folds.usable_rows(pictures)
    known = usable[pictures.table["person"].iloc[usable].isin(data["people"]["train"]).to_numpy()]
    known = known[~np.isin(pictures.table["image"].to_numpy()[known], asked.images["image"].to_numpy())]
    where = rows_of(pictures, asked.images["image"])
    cropped = where >= 0
    if not len(known) and parts is None:
        raise UserError(f"{pictures.path} has no training images besides those that are scored.")
    chosen = devices.choose_device(device)
    network = build(name, 0, pictures.size, pretrained=pretrained).to(chosen).eval()
    member = model.spec.members[0]
    told = np.full(len(asked), model.spec.fallback, dtype=np.int64)
    if len(known) and cropped.any():
        told[cropped] = probe_of(network, pictures, known, where[cropped], member.mean, member.std, chosen, batch_size)
    elif cropped.any():
        x = features(network, pictures, where[cropped], member.mean, member.std, chosen, batch_size)
        labels, people = asked.truth[cropped], asked.images["person"][cropped]
        answers = told[cropped]
        for part in parts or ():
            held = people.isin(part).to_numpy()
            if held.any() and not held.all():
                answers[held] = regress(x[~held], labels[~held], x[held])
        told[cropped] = answers
    return told


def probe_of(
    network: torch.nn.Module,
    view: View,
    known: Ints,
    asked: Ints,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    batch_size: int = 64,
) -> Ints:
    """Answers for some rows of a view, by logistic regression on the features of others, whose labels are known."""
    x, unknown = (features(network, view, part, mean, std, device, batch_size) for part in (known, asked))
    return regress(x, view.table["label"].iloc[known].to_numpy(dtype=np.int64), unknown)


def few(rows: Ints, device: torch.device) -> Ints:
    """As many of some rows, drawn at random, as a probe on a device takes in seconds."""
    most = MOST.get(device.type, MOST["cuda"])
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).permutation(rows)[:most])


def folded(view: View, rows: Ints, parts: Sequence[Ints], device: str = "auto") -> tuple[str, Ints, Ints]:
    """A linear probe over some rows of a view, each part answered by what the others tell.

    Returns:
        Its name, the rows that it took, and the answers for these.

    Raises:
        UserError: the weights of :data:`PROBE` cannot be had.
    """
    chosen = devices.choose_device(device)
    network = build(PROBE, 0, view.size, pretrained=True).to(chosen).eval()
    taken = few(rows, chosen)
    mean, std = view.mean_std(taken)
    x = features(network, view, taken, mean.tolist(), std.tolist(), chosen, 64)
    labels = view.table["label"].iloc[taken].to_numpy(dtype=np.int64)
    answers = np.zeros(len(taken), dtype=np.int64)
    for part in parts:
        held = np.isin(taken, part)
        if held.any() and not held.all():
            answers[held] = regress(x[~held], labels[~held], x[held])
    some = f", {len(taken)} of {len(rows)} crops" if len(taken) < len(rows) else ""
    return f"linear probe on frozen {PROBE}{some}", taken, answers


def features(
    network: torch.nn.Module,
    view: View,
    rows: Ints,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    batch_size: int,
) -> NDArray[np.float32]:
    """Features float32 [n, d] of some rows of a view."""
    scaled = (torch.tensor(v, dtype=torch.float64).mul(255).float().view(1, 3, 1, 1).to(device) for v in (mean, std))
    m, s = scaled
    parts = []
    with torch.inference_mode():
        for part in np.array_split(rows, max(1, -(-len(rows) // batch_size))):
            pixels = torch.from_numpy(view.gather(part)).to(device)
            parts.append(network(loop.normalise(pixels, m, s)).float().cpu())
    return np.asarray(torch.cat(parts).numpy())


def regress(x: NDArray[np.float32], labels: Ints, unknown: NDArray[np.float32]) -> Ints:
    """Logistic regression (scikit-learn's default ridge) on standardised features."""
    if len(np.unique(labels)) < 2:
        return np.full(len(unknown), labels[0], dtype=np.int64)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged to the last digit
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(x, labels)
    return np.asarray(model.predict(unknown), dtype=np.int64)


def _probe_of(run: Path) -> str:
    settings = runs.read_settings(run)
    model = settings.get("model", {})
    return str(model["name"]) if model.get("pretrained") and "name" in model else PROBE
