"""What the doctor says about machines on which something is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maskprep import cli
from maskprep.base import machine
from maskprep.cli import doctor
from maskprep.pipeline.config import DetectSettings
from maskprep.weights import fetch as weights

Finding = doctor.Finding


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


Cv2 = Callable[[str], None]


@pytest.fixture
def cv2_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cv2:
    """Makes other processes import a cv2 of this code."""

    def make(code: str) -> None:
        (tmp_path / "cv2").mkdir()
        (tmp_path / "cv2/__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return make


def test_the_detectors_are_those_of_the_default_settings() -> None:
    assert tuple(DetectSettings().detectors) == doctor.LOOKED_THROUGH


def test_what_cannot_start_is_said_with_its_cure() -> None:
    assert doctor.trial("it", "print('loading'); print('1.2')") == Finding("it", "ok", "1.2")
    lost = doctor.trial("it", "raise ImportError('libGL.so.1: cannot open shared object file: No such file')")
    assert lost.state == "bad" and "libGL.so.1" in lost.text and "apt-get install libgl1" in lost.do
    absent = doctor.trial("it", "import no_such_module_at_all")
    assert absent.state == "bad" and "No module named 'no_such_module_at_all'" in absent.text
    crashed = doctor.trial("it", "import os; os.abort()")
    assert crashed.state == "bad" and "exit status -6" in crashed.text


def test_packages_and_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["numpy>=2", "gone>=1", 'here[cpu]>=1; extra == "a"', "lost; extra == 'b'", 'maskprep[a,b]; extra == "all"']
    here = {"numpy": "2.1", "here": "1"}
    monkeypatch.setattr(doctor, "requires", lambda name: told)
    monkeypatch.setattr(machine, "installed", here.get)
    bad, extras, lacking = doctor.packages()
    assert bad == Finding("packages", "bad", "missing: gone", "pip install gone")
    assert extras.text == "a" and lacking.text == "not installed: b (lost)" and "maskprep[b]" in lacking.do
    told.remove("gone>=1")
    assert next(doctor.packages()) == Finding("packages", "ok", "numpy 2.1")


@pytest.mark.parametrize(
    ("running", "here", "state"),
    [
        ("5.0.0", {"opencv-python": "5.0.0.93", "opencv-contrib-python": "5.0.0.93"}, "ok"),
        ("5.1.0", {"opencv-python": "5.1.0.95"}, "ok"),
        ("5.1.0", {}, "ok"),  # built from source
        ("5.1.0", {"opencv-python": "5.0.0.93", "opencv-contrib-python": "5.1.0.95"}, "note"),
        ("5.1.0", {"opencv-python": "5.0.0.93"}, "note"),
        ("5.0.0", {"opencv-python": "5.0.0.93", "opencv-python-headless": "5.0.0.95"}, "note"),  # two builds of one
        (None, {"opencv-python": "5.0.0.93"}, "bad"),  # another of them was uninstalled
    ],
)
def test_packages_that_share_opencv_s_folder(
    monkeypatch: pytest.MonkeyPatch, cv2_of: Cv2, running: str | None, here: dict[str, str], state: str
) -> None:
    cv2_of("" if running is None else f"__version__ = {running!r}")
    monkeypatch.setattr(machine, "installed", here.get)
    found = doctor.opencv()
    assert found.state == state
    if state == "ok":
        assert found == Finding("OpenCV", "ok", str(running))
        return
    assert "opencv-python 5.0.0.93" in found.text
    assert found.do.startswith(f"pip uninstall -y {' '.join(here)} && pip install opencv-python==5.0.0.93")
    assert "5.1.0.95" not in found.do, "a version that all of them have"


@pytest.mark.parametrize(
    ("code", "why", "do"),
    [
        ("raise ImportError('libGL.so.1: cannot open shared object file')", "libGL.so.1", "apt-get install libgl1"),
        ("import os; os.abort()", "exit status -6", "pip install --force-reinstall"),
    ],
)
def test_an_opencv_that_does_not_start_is_not_taken_for_a_conflict(
    monkeypatch: pytest.MonkeyPatch, cv2_of: Cv2, code: str, why: str, do: str
) -> None:
    cv2_of(code)
    here = {"opencv-python": "5.0.0.93", "opencv-contrib-python": "5.1.0.95"}
    monkeypatch.setattr(machine, "installed", here.get)
    found = doctor.opencv()
    assert found.state == "bad" and why in found.text
    assert found.do.startswith(do) and "uninstall" not in found.do


def test_an_empty_cv2_of_no_package(monkeypatch: pytest.MonkeyPatch, cv2_of: Cv2) -> None:
    cv2_of("")
    monkeypatch.setattr(machine, "installed", lambda package: None)
    assert doctor.opencv() == Finding("OpenCV", "bad", "the folder cv2 is empty", "pip install opencv-python")


def test_the_opencv_that_runs_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import cv2

    assert machine.opencv() == cv2.__version__
    monkeypatch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
    assert machine.opencv() is None


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for model files."""
    for weight in weights.REGISTRY.values():
        monkeypatch.delenv(weight.env, raising=False)
    monkeypatch.delenv("MASKPREP_OFFLINE", raising=False)
    monkeypatch.setenv("MASKPREP_WEIGHTS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_models_that_are_missing_or_wrong(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = by_name(doctor.model_files())["model yunet"]
    assert missing.state == "note" and missing.do.endswith("maskprep weights --fetch yunet")
    monkeypatch.setenv("MASKPREP_OFFLINE", "1")
    forbidden = by_name(doctor.model_files())["model yunet"]
    assert forbidden.state == "bad" and f"into {models}, or unset MASKPREP_OFFLINE" in forbidden.do
    (models / weights.REGISTRY["yunet"].file).write_bytes(b"other bytes")
    (models / weights.REGISTRY["u2net"].file).write_bytes(b"other bytes")
    found = by_name(doctor.model_files())
    assert found["model yunet"] == Finding(
        "model yunet",
        "bad",
        f"damaged or another version: {models / weights.REGISTRY['yunet'].file}",
        "maskprep weights --remove yunet",
    )
    assert found[""].state == "note" and found[""].text == "damaged or another version: u2net"


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, state in ((1 << 40, "ok"), (1 << 30, "note"), (1 << 20, "bad")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(1 << 41, 0, free))
        assert doctor.disk("caches", tmp_path / "not/yet").state == state
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written to" in doctor.disk("caches", tmp_path / "file/cache").text
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor.disk("caches", tmp_path).state == "bad"


def test_a_machine_without_torch_prepares_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "installed", lambda package: None)
    monkeypatch.setattr(doctor, "trial", lambda what, code: pytest.fail("torch is looked for"))
    found = doctor.device()
    assert found.state == "note" and "maskprep[train]" in found.do and doctor.works([found])


@pytest.mark.parametrize("state, code", [("ok", 0), ("note", 0), ("bad", 1)])
def test_the_command(
    state: doctor.State, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looked: list[Path] = []

    def examine(caches: Path) -> Iterator[Finding]:
        looked.append(caches)
        yield Finding("a part", state, "as it is", "mend it")

    monkeypatch.setattr(doctor, "examine", examine)
    monkeypatch.setattr(sys, "argv", ["maskprep", "doctor", "--cache", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == code and looked == [tmp_path]
    assert "a part" in said.out and "→ mend it" in said.out
    assert ("maskprep can run on this machine." in said.out) == (code == 0)
