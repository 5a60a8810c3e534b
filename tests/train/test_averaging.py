"""The running average of the weights, and the mean over a crop and its mirror image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from masktrain.train.averaging import average_of, decay_at, update_average
from safetensors.torch import load_file
from torch import nn

from maskprep.dataset.view import open_view
from masktrain.answer import model
from masktrain.config.config import FitConfig
from masktrain.study.fit import fit
from masktrain.train import checkpoint

Make = Callable[..., FitConfig]


def test_the_average_by_hand() -> None:
    net = nn.BatchNorm1d(1)
    average = average_of(net)
    weight, mean = 1.0, 0.0
    for step in range(5):
        net.weight.data.fill_(step * 2.0)
        net.running_mean.fill_(step * 3.0)
        net.num_batches_tracked.fill_(step)
        update_average(average, net, decay_at(step, 0.3))
        decay = min(0.3, (1 + step) / (10 + step))
        weight, mean = decay * weight + (1 - decay) * step * 2, decay * mean + (1 - decay) * step * 3
    assert float(average.weight) == pytest.approx(weight) and float(average.running_mean) == pytest.approx(mean)
    assert int(average.num_batches_tracked) == 4
    assert not average.training and not average.weight.requires_grad and float(net.weight.detach()) == 8.0


def test_the_decay_warms_up() -> None:
    assert [decay_at(t, 0.999) for t in (0, 8, 90)] == pytest.approx([0.1, 0.5, 0.91])
    assert decay_at(10**6, 0.999) == 0.999


def test_the_average_is_what_is_scored_and_kept(cache: Path, config: Make, tmp_path: Path) -> None:
    made = fit(cache, config(optim__ema=0.95, optim__epochs=2), out=tmp_path / "run").run
    state = checkpoint.load_last(made)["learner"]
    best = checkpoint.load_sidecar(made).epoch
    kept = checkpoint.weights_hash(load_file(made / checkpoint.BEST))
    assert kept != checkpoint.weights_hash(state["model"])
    assert best != 2 or kept == checkpoint.weights_hash(state["average"])


def test_the_mirror_image_counts_as_much_as_the_crop(run: Path, cache: Path) -> None:
    view = open_view(cache)
    plain, both = model.load(run), model.load(run, tta="mirror")
    rows = np.arange(12)
    mirrored = view.gather(rows)[:, :, ::-1].copy()
    pixels = torch.from_numpy(mirrored).permute(0, 3, 1, 2).float()
    network = plain.graph.networks[0]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (network.sidecar.mean, network.sidecar.std))
    with torch.inference_mode():
        other = network.model(((pixels - mean) / std).float()).softmax(1).numpy()
    np.testing.assert_allclose(both(view, rows), (plain(view, rows) + other) / 2, atol=1e-6)
    assert np.abs(both(view, rows) - plain(view, rows)).max() > 1e-4


def test_a_run_validated_with_its_mirror_image_predicts_so(cache: Path, config: Make, tmp_path: Path) -> None:
    made = fit(cache, config(run__tta="mirror", optim__epochs=1), out=tmp_path / "run").run
    looks = [model.load(made, tta=tta).graph.networks[0].looks for tta in (None, "none")]
    assert looks == ["mirror", "none"]


@pytest.mark.parametrize("kind, head", [("heads", "cosine"), ("heads", "linear"), ("joint", "cosine")])
def test_what_is_kept_answers_as_what_was_trained(
    cache: Path, config: Make, tmp_path: Path, kind: str, head: str
) -> None:
    """The scores of the best epoch come out again from the files alone."""
    made = fit(cache, config(target__kind=kind, model__head=head, optim__epochs=1), out=tmp_path / "run").run
    view, predictor = open_view(cache), model.load(made)
    import pandas as pd

    oof = pd.read_parquet(made / "oof.parquet").set_index("image")
    rows = np.flatnonzero(view.table["image"].isin(oof.index))
    expected = oof.loc[view.table["image"].iloc[rows]].filter(like="p_").to_numpy()
    np.testing.assert_allclose(predictor(view, rows), expected, atol=1e-5)
    sidecar = predictor.graph.networks[0].sidecar
    assert sidecar.target == kind and (sidecar.cosine > 0) == (head == "cosine")


def test_a_sidecar_of_before_targets_means_joint(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    old = json.loads((copy / "best.json").read_text())
    for key in ("target", "cosine", "tta"):
        del old[key]
    (copy / "best.json").write_text(json.dumps(old))
    (network,) = model.load(copy).graph.networks
    assert network.target.kind == "joint" and network.looks == "none"
