"""EfficientNet-Lite weights under timm's names: the mapping, and that the network then knows a cat from a coffee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskprep.errors import UserError
from maskprep.weights import fetch as weights
from masktrain.train.lite import BLOCKS_PER_STAGE, load_lite, packaged_state, to_timm
from masktrain.train.torchvision_ops import ensure_torchvision

CATS, ESPRESSO = {281, 282, 285}, 967


@pytest.fixture(scope="module")
def timm() -> Any:
    """timm, which imports torchvision, whose compiled part may not load beside this torch."""
    ensure_torchvision()
    return pytest.importorskip("timm")


@pytest.fixture(scope="module", params=sorted(BLOCKS_PER_STAGE))
def name(request: pytest.FixtureRequest) -> str:
    """A model whose weights can be had."""
    try:
        weights.locate(request.param.removeprefix("tf_"))
    except UserError as error:
        pytest.skip(error.message)
    return str(request.param)


def test_mapping_by_hand() -> None:
    t = torch.zeros(1)
    layers = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._bn1.weight": "blocks.0.0.bn1.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.bias": "blocks.0.0.bn2.bias",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.2._bn0.num_batches_tracked": "blocks.1.1.bn1.num_batches_tracked",
        "_blocks.3._depthwise_conv.weight": "blocks.2.0.conv_dw.weight",
        "_blocks.3._bn1.weight": "blocks.2.0.bn2.weight",
        "_blocks.3._project_conv.weight": "blocks.2.0.conv_pwl.weight",
        "_blocks.3._bn2.weight": "blocks.2.0.bn3.weight",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.bias": "classifier.bias",
    }
    renamed = to_timm(dict.fromkeys(layers, t), (1, 2, 2))
    assert list(renamed) == list(layers.values())
    assert all(tensor is t for tensor in renamed.values())


@pytest.mark.parametrize(
    "key",
    [
        "_blocks.5._bn1.weight",
        "_blocks.0._expand_conv.weight",
        "_blocks.1._se_reduce.weight",
        "_blocks.x._bn1.weight",
        "_blocks.1.weight",
        "classifier.weight",
        "nonsense",
    ],
)
def test_foreign_keys_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"'{key}' has no place in 5"):
        to_timm({key: torch.zeros(1)}, (1, 2, 2))


def test_other_models_have_no_packaged_state() -> None:
    assert packaged_state("resnet18") is None
    assert packaged_state("tf_efficientnet_lite4") is None
    with pytest.raises(UserError, match="no packaged weights for resnet18"):
        load_lite(torch.nn.Linear(1, 1), "resnet18")


def test_file_that_is_another(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"mine\.pth cannot be used as efficientnet_lite0"):
        packaged_state("tf_efficientnet_lite0", tmp_path / "mine.pth")


def test_strict_load_and_what_it_sees(timm: Any, name: str) -> None:
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    model = timm.create_model(name, pretrained=False).eval()
    state = packaged_state(f"{name}.in1k")
    assert state is not None
    assert list(map(len, (state, model.state_dict()))) == [296 if name.endswith("0") else 386] * 2
    model.load_state_dict(state, strict=True)

    config = model.pretrained_cfg
    assert (set(config["mean"]), set(config["std"]), config["interpolation"]) == ({0.5}, {0.5}, "bicubic")
    size, crop = config["input_size"][-1], config["crop_pct"]
    assert crop == {"0": 0.875, "1": 0.882, "2": 0.89}[name[-1]]
    classes = []
    for picture in (data.chelsea(), data.coffee()):
        image = Image.fromarray(picture)
        scale = int(size / crop) / min(image.size)
        wide = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (wide.width - size) // 2, (wide.height - size) // 2
        pixels = np.asarray(wide.crop((left, top, left + size, top + size)), dtype=np.float32)
        with torch.inference_mode():
            logits = model(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None])
        classes.append(int(logits.argmax()))
    assert classes[0] in CATS
    assert classes[1] == ESPRESSO


def test_load_lite(timm: Any, name: str) -> None:
    state = packaged_state(name)
    assert state is not None
    same = timm.create_model(name, pretrained=False)
    assert load_lite(same, name) == []
    assert torch.equal(same.classifier.weight, state["classifier.weight"])

    other = timm.create_model(name, pretrained=False, num_classes=18)
    before = other.classifier.weight.clone()
    assert load_lite(other, name) == ["classifier.weight", "classifier.bias"]
    assert torch.equal(other.classifier.weight, before)
    assert torch.equal(other.conv_head.weight, state["conv_head.weight"])

    assert load_lite(timm.create_model(name, pretrained=False, num_classes=0), name) == []
    with pytest.raises(UserError, match="do not fit this model"):
        load_lite(timm.create_model(name, pretrained=False, in_chans=1), name)
    with pytest.raises(UserError, match=r"do not fit this model: no weights for"):
        load_lite(torch.nn.Linear(2, 2), name)
