"""Devices and precision by name, in words, and what pixels become on them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from maskprep.base import UsageError
from maskprep.cli import doctor
from masktrain.train import device, loop

CPU = torch.device("cpu")


def test_pixels_are_normalised_by_mean_and_std() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    mean, std = torch.tensor([0.0, 51.0, 155.0]).view(1, 3, 1, 1), torch.tensor([1.0, 2.0, 50.0]).view(1, 3, 1, 1)
    assert loop.normalise(pixels, mean, std).flatten().tolist() == [0.0, 0.0, 2.0]
    assert pixels.flatten().tolist() == [0, 51, 255]


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", "meta"])
def test_devices_that_are_not_here(name: str) -> None:
    with pytest.raises(UsageError):
        device.choose_device(name)


def test_mixed_precision_on_a_cpu_when_asked_for() -> None:
    assert device.choose_precision(CPU, "auto").dtype is None and device.choose_precision(CPU, "off").dtype is None
    assert device.choose_precision(CPU, "bf16").dtype is torch.bfloat16
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        device.choose_precision(CPU, "fp16")


def test_devices_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device.describe() == "CPU"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "built for CUDA 13.0" in device.describe()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name=f"GPU {i}", total_memory=80 * 2**30)
    )
    assert device.describe() == "GPU 0 (80 GiB), GPU 1 (80 GiB), CUDA 13.0"


def test_what_doctor_runs_to_name_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    exec(doctor.DEVICES)
    assert capsys.readouterr().out.strip() == device.describe()
