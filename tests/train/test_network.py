"""Networks by timm's names: built for the classes and the crops of the data, or refused with what would do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskprep.base import UsageError, UserError
from masktrain.train import model


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


def test_a_new_classifier_of_pretrained_features_starts_at_chance() -> None:
    crops = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    built = model.build("tf_efficientnet_lite0", 4, (64, 64), pretrained=True).eval()
    assert built(crops).softmax(1).tolist() == [[0.25] * 4] * 2
    assert built.forward_features(crops).std() > 0.1  # type: ignore[operator]
    assert model.build("tf_efficientnet_lite0", 4, (64, 64)).get_classifier().weight.std() > 0.01  # type: ignore[operator]


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
    assert model.native_size_of(name) == (side, side)


def test_a_model_is_built_by_the_name_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = model.import_timm()
    built = model.build("tf_efficientnet_b0_ns", 3, (32, 32))
    assert built.pretrained_cfg["tag"] == "ns_jft_in1k" and built.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    with pytest.raises(UsageError, match="no model"):
        model.native_size_of("tf_efficientnet_b0_nss")
    monkeypatch.setattr(timm.models, "get_deprecated_models", lambda: {"resnet18": None})
    with pytest.raises(UsageError, match="timm has removed the model 'resnet18'") as error:
        model.build("resnet18", 3, (32, 32))
    assert "resnet" in error.value.hint


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"weights of test_resnet .* are not on this machine") as error:
        model.build("test_resnet", 3, (32, 32), pretrained=True)
    assert "--no-pretrained" in error.value.hint
    with pytest.raises(UserError, match=r"no pretrained weights for resnet10t|are not on this machine"):
        model.build("resnet10t", 3, (32, 32), pretrained=True)


def test_a_model_without_branches_to_drop() -> None:
    assert model.build("test_convnext", 2, (32, 32), drop_path=0.2) is not None
    with pytest.raises(UsageError, match="no residual branches"):
        model.build("vgg11", 2, (32, 32), drop_path=0.2)
