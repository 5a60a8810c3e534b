"""The parts of the loop: models, optimiser, loss, augmentation, batches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from masktrain.train.batches import Batches
from torch import nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.config.images import AugmentConfig
from masktrain.config.sections import OptimConfig
from masktrain.train import devices, host, loop, model, networks
from masktrain.train.augment import Augment, draw_seed
from masktrain.train.optim import make_optimizer

CPU = torch.device("cpu")


def test_torchvision_imports_before_anything_else() -> None:
    code = (
        "from masktrain.train.torchvision_ops import ensure_torchvision as e; a = e(); b = e();"
        "import torchvision, timm; assert a == b; print(a)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_classifier_has_the_classes_of_the_data() -> None:
    built = model.build("test_resnet", 7, (48, 32))
    assert built(torch.zeros(2, 3, 48, 32)).shape == (2, 7)
    weight = next(p for p in built.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_of_fixed_size_is_built_for_the_crops() -> None:
    assert model.build("test_vit", 3, (96, 64))(torch.zeros(1, 3, 96, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    "name, said, hint",
    [
        ("test_resnets", "no model 'test_resnets'", "test_resnet"),
        ("vit_base_patch32_224_sam", "vit_base_patch32_224 has no weights 'sam'", "augreg_in21k"),
        ("resnet18.nowhere", "no weights 'nowhere'", "resnet18.a1_in1k"),
        ("test_maxvit", "cannot be built for crops of 50x50", "--size"),
    ],
)
def test_models_that_cannot_be_built(name: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        model.check_size(model.build(name, 3, (50, 50)), name, (50, 50))
    assert hint in error.value.hint


@pytest.mark.parametrize(
    "name, now",
    [
        ("tf_efficientnet_b4_ns", "tf_efficientnet_b4.ns_jft_in1k"),
        ("tf_efficientnet_b4_ns.in1k", "tf_efficientnet_b4.in1k"),
        ("swin_base_patch4_window12_384_in22k", "swin_base_patch4_window12_384.ms_in22k"),
        ("resnet18", "resnet18"),
    ],
)
def test_names_that_timm_has_given_up(name: str, now: str) -> None:
    assert model.known_name(name) == now
    side = {"swin": 384, "tf_e": 380, "resn": 224}[name[:4]]
    assert networks.native_size_of(name) == (side, side)


def test_a_model_is_built_by_the_name_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = model.import_timm()
    built = model.build("tf_efficientnet_b0_ns", 3, (32, 32))
    assert built.pretrained_cfg["tag"] == "ns_jft_in1k" and built.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(UsageError, match="no model"):
        networks.native_size_of("tf_efficientnet_b0_nss")
    monkeypatch.setattr(timm.models, "get_deprecated_models", lambda: {"resnet18": None})
    with pytest.raises(UsageError, match="timm has removed the model 'resnet18'") as error:
        model.build("resnet18", 3, (32, 32))
    assert "resnet" in error.value.hint


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"weights of test_resnet .* neither on this machine") as error:
        model.build("test_resnet", 3, (32, 32), pretrained=True)
    assert "--no-pretrained" in error.value.hint
    with pytest.raises(UserError, match=r"no pretrained weights for resnet10t|neither"):
        model.build("resnet10t", 3, (32, 32), pretrained=True)


def test_optimisers_go_by_name_and_spare_norms_from_decay() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = make_optimizer(net, OptimConfig(optimizer="adamp", weight_decay=0.1)).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert [decay[id(p)] for p in net.parameters()] == [0.1, 0, 0, 0]
    with pytest.raises(UsageError, match="no optimiser 'adamwx'") as error:
        make_optimizer(net, OptimConfig(optimizer="adamwx"))
    assert "adamw" in error.value.hint


def test_seeds_depend_on_every_number_and_their_order() -> None:
    seeds = {draw_seed(*numbers) for numbers in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1), (0, 1, 3)]}
    assert len(seeds) == 5 and draw_seed(0, 1, 2) == draw_seed(0, 1, 2)


def test_augmentation_depends_on_seed_epoch_and_image_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 24, 3), dtype=np.uint8)

    def done(order: list[int], seed: int = 0, epoch: int = 1) -> np.ndarray:
        out = pixels[order].copy()
        Augment("light", seed)(out, epoch, np.array(order))
        return out[np.argsort(order)]

    first = done([0, 1, 2, 3])
    np.testing.assert_array_equal(first, done([3, 1, 0, 2]))
    assert (first != pixels).any(axis=(1, 2, 3)).sum() >= 3
    assert (first != done([0, 1, 2, 3], epoch=2)).any() and (first != done([0, 1, 2, 3], seed=1)).any()
    same = pixels[[0, 0]].copy()
    Augment("light", 0)(same, 1, np.array([0, 1]))
    assert (same[0] != same[1]).any()  # two images are not drawn alike


def test_light_augmentation_keeps_the_middle_of_the_picture() -> None:
    """Nose and chin decide the mask state: a mark at 15 % from the border must stay in, 50 times out of 50."""
    pixels = np.zeros((50, 64, 64, 3), dtype=np.uint8)
    pixels[:, 10:13, 30:34] = pixels[:, 51:54, 30:34] = 255
    Augment("light", 0)(pixels, 1, np.arange(50))
    grey = pixels.astype(int).mean(3)
    assert (grey[:, :32].max((1, 2)) > 100).all() and (grey[:, 32:].max((1, 2)) > 100).all()


def test_an_epoch_holds_every_image_once(cache: Path) -> None:
    view = open_view(cache)
    rows = np.arange(5, 46)
    batches = Batches(view, rows, 16, CPU, seed=3)
    seen = list(batches.epoch(1))
    assert [len(b.rows) for b in seen] == [14, 14, 13]
    assert sorted(np.concatenate([b.rows for b in seen])) == rows.tolist()
    other = np.concatenate([b.rows for b in batches.epoch(2)])
    assert (other != np.concatenate([b.rows for b in seen])).any()
    for batch in seen:
        assert batch.pixels.shape == (len(batch.rows), 3, 32, 32) and batch.pixels.dtype == torch.uint8
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(batch.pixels.permute(0, 2, 3, 1).numpy(), view.gather(batch.rows))
        assert batch.labels.tolist() == view.table["label"].fillna(-1).iloc[batch.rows].tolist()


def test_without_an_epoch_nothing_is_shuffled_or_augmented(cache: Path) -> None:
    view = open_view(cache)
    batches = Batches(view, np.arange(20), 8, CPU, augment=AugmentConfig())
    got = torch.cat([b.pixels for b in batches.epoch(None)]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got, view.gather(np.arange(20)))
    augmented = torch.cat([b.pixels for b in batches.epoch(1)])
    assert augmented.shape[0] == 20


def test_augmented_batches_repeat(cache: Path) -> None:
    view = open_view(cache)
    one, two = (
        torch.cat([b.pixels for b in Batches(view, np.arange(40), 8, CPU, augment=AugmentConfig(), seed=1).epoch(4)])
        for _ in range(2)
    )
    assert torch.equal(one, two)


def test_an_error_while_making_a_batch_is_raised(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = open_view(cache)
    monkeypatch.setattr(type(view), "gather", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(Batches(view, np.arange(9), 4, CPU).epoch(1))


def test_pixels_are_normalised_by_mean_and_std() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    mean, std = torch.tensor([0.0, 51.0, 155.0]).view(1, 3, 1, 1), torch.tensor([1.0, 2.0, 50.0]).view(1, 3, 1, 1)
    assert loop.normalise(pixels, mean, std).flatten().tolist() == [0.0, 0.0, 2.0]
    assert pixels.flatten().tolist() == [0, 51, 255]


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", "meta"])
def test_devices_that_are_not_here(name: str) -> None:
    with pytest.raises(UsageError):
        host.choose_device(name)


def test_mixed_precision_on_a_cpu_when_asked_for() -> None:
    assert host.choose_precision(CPU, "auto").dtype is None and host.choose_precision(CPU, "off").dtype is None
    assert host.choose_precision(CPU, "bf16").dtype is torch.bfloat16
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        host.choose_precision(CPU, "fp16")


def test_devices_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert devices.describe() == "CPU"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "built for CUDA 13.0" in devices.describe()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name=f"GPU {i}", total_memory=80 * 2**30)
    )
    assert devices.describe() == "GPU 0 (80 GiB), GPU 1 (80 GiB), CUDA 13.0"
