"""What the machine tells about itself, and machines that do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskprep.base import machine


def test_the_processor_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.4GHz\nmodel name\t: Some CPU @ 2.4GHz\n")
    monkeypatch.setattr(machine, "CPUINFO", told)
    assert machine.processor() == "Some CPU @ 2.4GHz"
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "nowhere")
    assert machine.processor() in (os.uname().machine, machine.platform.processor())


def test_cores_and_memory() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert machine.memory() > 2**27


def test_the_driver_is_asked_for_if_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.graphics_driver() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=driver_version ] && echo 550.54.15 && echo 550.54.15\n')
    tool.chmod(0o755)
    assert machine.graphics_driver() == "550.54.15"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.graphics_driver() is None


def test_a_package_that_is_not_there() -> None:
    assert machine.installed("numpy") and machine.installed("no-such-package-at-all") is None
