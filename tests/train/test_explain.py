"""explain: maps find what the answer rests on, for every family; galleries and drafts say what is so."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.store import decisions
from maskprep.store.decisions import read_decisions
from masktrain.answer import model
from masktrain.answer.graph import Graph, Network
from masktrain.config.config import FitConfig
from masktrain.pages import cam, demo
from masktrain.pages.explain import explain
from masktrain.study.fit import fit
from masktrain.train.model import Paired, build


@pytest.fixture(scope="module")
def part(run: Path) -> Network:
    return model.load(run).graph.networks[0]


GRIDS = {"test_resnet": 2, "test_convnext": 2, "test_vit": 2, "swin_tiny_patch4_window7_224": 2}
"""Network → rows of its map, for crops of 64 pixels (32 pixels a place; 16 of a ViT, whose crops are half)."""


def network(part: Network, name: str) -> tuple[Network, NDArray[np.uint8]]:
    """A network of random weights, and three crops for it."""
    torch.manual_seed(0)
    size = (32, 32) if name == "test_vit" else (64, 64)
    model = build(name, 6, size).eval()
    crops = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    return Network(model, replace(part.sidecar, model=name, size=list(size)), part.precision), crops


@pytest.mark.parametrize("name", GRIDS)
def test_every_family_has_a_map(part: Network, name: str) -> None:
    own, crops = network(part, name)
    layer = cam.find_layer(own.model, name, crops.shape[1:3])
    seen = []
    hook = layer.module.register_forward_hook(lambda module, _, out: seen.append(layer.spatial(out).shape))
    found = cam.maps(own, crops, np.array([0, 1, 5]), batch_size=2)
    hook.remove()
    assert [s[2:] for s in seen] == [(GRIDS[name], GRIDS[name])] * len(seen)
    assert found.shape == crops.shape[:3] and found.min() >= 0 and found.max() == pytest.approx(1)
    alone = cam.maps(own, crops[1:2], np.array([1]))
    np.testing.assert_allclose(found[1], alone[0], atol=1e-4)  # neighbours in a batch do not matter
    assert not layer.module._forward_hooks and all(p.grad is None for p in own.model.parameters())


@pytest.mark.parametrize("method, oracle", [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
@pytest.mark.parametrize("name", GRIDS)
def test_maps_are_those_of_the_grad_cam_library(part: Network, name: str, method: str, oracle: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    own, crops = network(part, name)
    layer = cam.find_layer(own.model, name, crops.shape[1:3])
    mean, std = (torch.tensor(v).mul(255).view(1, 3, 1, 1) for v in (own.sidecar.mean, own.sidecar.std))
    pixels = (torch.from_numpy(crops).permute(0, 3, 1, 2) - mean) / std
    labels, schema = [0, 3, 5], own.sidecar.labels()
    places = [[k] for k in labels]
    if own.sidecar.answers().kind != "joint":  # three outputs for the mask, then two for the gender
        places = [[mask, 3 + gender] for mask, gender in map(schema.decode, labels)]
    asked = [lambda out, k=k: out[k].sum() for k in places]
    with getattr(library, oracle)(own.model, [layer.module], reshape_transform=layer.spatial) as reference:
        expected = reference(pixels, asked)
    np.testing.assert_allclose(cam.maps(own, crops, np.array(labels), method), expected, atol=2e-3)


class Corner(nn.Module):
    """Its only evidence for class 1 is red in the upper left quarter; for class 0 blue in the lower right one."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.scale = nn.Parameter(torch.ones(1))

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.pool(torch.stack([pixels[:, 2], pixels[:, 0]], 1).relu() * self.scale)

    def forward(self, pixels: Tensor) -> Tensor:
        places = self.forward_features(pixels)
        return torch.cat([places.mean((2, 3)), torch.zeros(len(pixels), 4)], 1)


@pytest.mark.parametrize("method", cam.METHODS)
def test_the_map_lies_where_the_evidence_is(part: Network, method: str) -> None:
    crops = np.zeros((2, 32, 32, 3), np.uint8)
    crops[:, :16, :16, 0] = 255
    crops[:, 16:, 16:, 2] = 255
    sidecar = replace(part.sidecar, mean=[0.0] * 3, std=[1 / 255] * 3)
    found = cam.maps(Network(Corner(), sidecar, part.precision), crops, np.array([1, 0]), method)
    alpha = np.zeros((2, 32, 32), np.uint8)
    alpha[:, :16, :16] = 255
    beside = cam.background_share(found, alpha)
    assert beside[0] < 0.2 and beside[1] > 0.8


QUARTERS = {"tl": (0, 0), "tr": (0, 1), "bl": (1, 0), "br": (1, 1)}


class Spot(nn.Module):
    """Red in one quarter speaks for all its outputs alike; the rest does nothing. Without red they are as given."""

    num_features = 1

    def __init__(self, quarter: str, *outputs: float) -> None:
        super().__init__()
        self.quarter = QUARTERS[quarter]
        self.outputs = torch.tensor(outputs)
        self.scale = nn.Parameter(torch.ones(1))
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward_features(self, pixels: Tensor) -> Tensor:
        (y, x), half = self.quarter, pixels.shape[2] // 2
        there = torch.zeros_like(pixels[:, :1])
        there[:, :, y * half : (y + 1) * half, x * half : (x + 1) * half] = 1
        return self.pool(pixels[:, :1] * there * self.scale)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.outputs + self.forward_features(pixels).mean((2, 3))


def quarters(part: Network, label: int) -> dict[str, float]:
    """Attention in each quarter of a red crop, relative to the upper left one."""
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    found = cam.maps(part, red.repeat(3, 0), np.full(3, label), batch_size=2)[2]
    sums = {name: float(found[y * 16 : y * 16 + 16, x * 16 : x * 16 + 16].sum()) for name, (y, x) in QUARTERS.items()}
    return {name: total / sums["tl"] for name, total in sums.items()}


def test_two_backbones_have_their_maps_meant(part: Network) -> None:
    net = Paired([Spot("tl", 0, 0), Spot("tr", 0)], [(32, 32), (24, 24)], 6, 0.0, 0.0)
    nn.init.ones_(net.classifier.weight)
    sidecar = replace(part.sidecar, mean=[0.0] * 3, std=[1 / 255] * 3, second="other")
    found = quarters(Network(net, sidecar, part.precision), 4)
    assert found["tr"] == pytest.approx(1, abs=0.05) and found["bl"] < 0.2 and found["br"] < 0.2


def test_a_run_of_two_backbones_is_explained(own_cache: Path, config: Callable[..., FitConfig], tmp_path: Path) -> None:
    run = fit(own_cache, config(optim__epochs=1, model__second="test_efficientnet"), out=tmp_path / "run").run
    done = explain(run, own_cache, split="val")
    shares = pd.read_csv(done.folder / "attention.csv")
    assert len(shares) == done.images and shares["attention"].between(0, 1).all()
    attend = demo.attend_with(model.load(run))
    assert attend is not None
    crop = open_view(own_cache).gather(np.array([0]))[0]
    assert np.abs(attend(crop, 0).astype(int) - crop).max() > 20


def test_without_places_there_is_no_map(run: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6))
    predictor = model.load(run)
    known = predictor.graph.networks[0]
    blind = replace(predictor, source=Graph([Network(flat, known.sidecar, known.precision)]))
    with pytest.raises(UsageError, match="no forward_features"):
        cam.find_layers(blind.graph.networks[0])
    assert demo.attend_with(predictor) is not None and demo.attend_with(blind) is None


def test_shares_by_hand() -> None:
    found = np.array([[[1, 0], [0, 3]], [[0, 0], [0, 0]]], np.float32)
    alphas = np.array([[[255, 255], [0, 0]], [[255, 255], [0, 0]]], np.uint8)
    shares = cam.background_share(found, alphas)
    assert shares[0] == pytest.approx(0.75) and np.isnan(shares[1])


def test_errors_of_use(part: Network, run: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="no --method 'gradcan'") as error:
        explain(run, cache, method="gradcan")
    assert "gradcam" in error.value.hint
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(6))
    model(torch.zeros(1, 3, 32, 32))
    model.forward_features = model.forward  # type: ignore[assignment]
    with pytest.raises(UsageError, match="no places"):
        cam.find_layer(model, "flat", (32, 32))


@pytest.fixture
def own_cache(cache: Path, synthetic: ModuleType, tmp_path: Path) -> Path:
    """A cache with mattes, and an audit that found something."""
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    synthetic.give_mattes(copy)
    return copy


def test_the_page_and_the_draft(run: Path, own_cache: Path, tmp_path: Path) -> None:
    # two labels of a held-out woman are told wrongly: the run must object
    view = open_view(own_cache)
    held = json.loads((run / "data.json").read_text())["people"]["val"]
    table = view.table[view.table["person"].isin(held) & (view.table["gender"] == "female")]
    wrong = table["image"].iloc[[0, 1]].tolist()
    labels = pd.read_parquet(own_cache / "labels.parquet")
    liars = labels["image"].isin(wrong)
    labels.loc[liars, "gender"] = "male"
    labels.loc[liars, "label"] = labels.loc[liars, "label"] - 1
    labels.to_parquet(own_cache / "labels.parquet")
    (own_cache / "audit").mkdir()
    found = pd.DataFrame({"image": wrong[:1], "check": "label_<odd>", "severity": 0.7, "detail": "odd & bad"})
    found.to_parquet(own_cache / "audit/findings.parquet")

    second = Path(shutil.copytree(run, tmp_path / "second"))
    alone = explain(run, own_cache, tmp_path / "alone", split="val", sure=0.5)
    assert alone.drafted == 0 and alone.doubtful >= 2 and alone.expected is None
    assert not read_decisions(alone.draft)
    done = explain(run, own_cache, tmp_path / "out", split="val", sure=0.5, also=[second])
    page = (done.folder / "explain.html").read_text()
    assert done.images == 30 - 2 * ("0000" in held) and done.wrong >= 2
    for image in wrong:
        assert f"<b>{image}</b>" in page
    assert "label_&lt;odd&gt; 0.70: odd &amp; bad" in page and "label_<odd>" not in page
    assert "the photo cannot be shown" in page  # there are no photos, and that is said
    assert not re.search(r"(src|href)=.?(?!['\"]?(data:|#))", page)  # needs no other file
    shares = pd.read_csv(done.folder / "attention.csv")
    assert len(shares) == done.images and shares["attention"].between(0, 1).all()
    # the mattes are the middle: 24 x 20 of 32 x 32 pixels
    assert done.background is not None and done.background[1] == pytest.approx(1 - 24 * 20 / 1024)

    drafted = read_decisions(done.folder / "decisions-draft.csv")
    assert len(drafted) == done.drafted and {d.image for d in drafted} >= set(wrong)
    for d in drafted:
        if d.image in wrong and d.value.startswith("gender"):
            assert (d.verdict, d.value, d.expected) == ("relabel", "gender=female", "gender=male")
            assert d.content == view.table.set_index("image")["content"][d.image] and "2 of 2 say so" in d.reason
    merged = decisions.merge([], drafted)
    assert len(merged.added) == len(drafted) and not merged.conflicts
    decisions.replace(own_cache / "decisions.csv", merged.added)
    assert {d.image for d in read_decisions(own_cache / "decisions.csv")} == {d.image for d in drafted}
    assert done.expected is not None and 0.5 <= done.expected <= 1
    assert "Doubtful labels" in page and "2 of 2<td>yes" in page
    assert explain(run, own_cache, tmp_path / "b", split="val", sure=1.0, also=[second]).drafted == 0


def test_wrong_in_k_of_n(run: Path, cache: Path, tmp_path: Path) -> None:
    from masktrain.runs import predictions as heldout

    other = Path(shutil.copytree(run, tmp_path / "other"))
    table = pd.read_parquet(other / "oof.parquet")
    columns = [c for c in table if str(c).startswith("p_")]
    table[columns] = 0.0
    table["p_0"] = 1.0  # says class 0 of everyone
    table.to_parquet(other / "oof.parquet")
    explain(run, cache, tmp_path / "out", split="val", also=[other], most=99)
    page = (tmp_path / "out/explain.html").read_text()
    held = heldout.read(run)
    answers = held.probabilities.argmax(1)
    for image, truth, told in zip(held.images, held.labels, answers, strict=True):
        if told != truth:
            said = f"<b>{image}</b>"
            card = page[page.rindex(said) :].partition("</div>")[0]
            assert f"wrong in {1 + (truth != 0)} of 2" in card
    with pytest.raises(UserError):
        explain(run, cache, tmp_path / "out", split="val", also=[tmp_path])
