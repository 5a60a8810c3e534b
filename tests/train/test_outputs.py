"""No command writes among the photos, or over a file that it did not make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from maskprep.errors import UsageError
from masktrain.answer.export import _check_folder

Call = Callable[..., int]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos with one photo."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos/x.png")
    return tmp_path / "photos"


@pytest.fixture
def own(cache: Path, tmp_path: Path, photos: Path) -> Path:
    """A cache of these photos."""
    made = Path(shutil.copytree(cache, tmp_path / "cache"))
    told = json.loads((made / "dataset.json").read_text())
    told["source"]["root"] = str(photos)
    (made / "dataset.json").write_text(json.dumps(told))
    return made


@pytest.fixture
def own_run(run: Path, tmp_path: Path, own: Path) -> Path:
    """A run on this cache."""
    made = Path(shutil.copytree(run, tmp_path / "run"))
    data = json.loads((made / "data.json").read_text())
    (made / "data.json").write_text(json.dumps(data | {"cache": str(own)}))
    return made


def test_nothing_is_written_among_the_photos(
    call: Call, own: Path, own_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in photos.iterdir()}
    (tmp_path / "space.yaml").write_text("space: {optim.lr: {low: 0.001, high: 0.01}}\n")
    assert call("pack", own_run, tmp_path / "run.zip") == 0
    twin = shutil.copytree(own_run, tmp_path / "twin")
    for arguments in [
        ("fit", own, "--out", photos / "run"),
        ("fit", own, "--folds", "all", "--out", photos / "run"),
        ("fit", own, "--dry-run", "--sheet", photos / "x.png"),
        ("fit", own, "--dry-run", "--sheet", photos / "new.html", "--force"),
        ("sweep", own, tmp_path / "space.yaml", "--out", photos / "sweep"),
        ("init", own, "--out", photos / "protocol.yaml"),
        ("predict", own_run, own, "--out", photos / "p.csv"),
        ("report", own_run, twin, "--out", photos / "standings.html"),
        ("ensemble", own_run, twin, "--out", photos / "both"),
        ("compose", f"wear={own_run}", f"gender={twin}", "--out", photos / "both"),
        ("export", own_run, "--out", photos / "export"),
        ("explain", own_run, own, "--out", photos / "explain"),
        ("pack", own_run, photos / "run.zip"),
        ("unpack", tmp_path / "run.zip", "--out", photos / "run"),
    ]:
        capsys.readouterr()
        status, said = call(*arguments), capsys.readouterr().err
        assert (status, "among the photos" in said) == (2, True), (arguments, status, said)
    assert {path: path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.parametrize("name", ["a.png", "a.html"])
def test_a_sheet_takes_the_place_of_a_sheet_only(call: Call, own: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_bytes(b"mine")
    small = ("--model", "test_resnet", "--no-pretrained", "--batch-size", "8")
    assert call("fit", own, *small, "--dry-run", "--sheet", out) == 2
    assert out.read_bytes() == b"mine"
    assert call("fit", own, *small, "--dry-run", "--sheet", out, "--force") == 0
    drawn = out.read_bytes()
    assert drawn != b"mine"
    out.write_bytes(drawn + b" ")
    assert call("fit", own, *small, "--dry-run", "--sheet", out) == 0
    assert out.read_bytes() == drawn


def test_an_export_takes_the_place_of_an_export_only(run: Path, tmp_path: Path) -> None:
    names = ["model.onnx", "model.json", "MODEL_CARD.md"]
    _check_folder(run, tmp_path / "new", names, force=False)
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    with pytest.raises(UsageError, match=r"MODEL_CARD\.md' exists"):
        _check_folder(run, tmp_path, names, force=False)
    _check_folder(run, tmp_path, names, force=True)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(UsageError, match=r"model\.json' exists"):
        _check_folder(run, tmp_path, names, force=False)
    (tmp_path / "model.json").write_text(json.dumps({"manual": {}, "calibration": {}}))
    _check_folder(run, tmp_path, names, force=False)
