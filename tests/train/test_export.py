"""Exports: files that answer as the run does, checked on real crops, usable without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import card, export, model
from masktrain.answer.predict import predict
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.score.calibration import Calibration
from masktrain.study.fit import fit


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> export.Exported:
    return export.export(run, tmp_path_factory.mktemp("export") / "out")


def test_every_format_answers_as_the_run_does(run: Path, cache: Path, exported: export.Exported) -> None:
    assert set(exported.differences) == {"onnx", "pt2", "safetensors"} and exported.crops == 64
    assert all(0 <= d < 1e-4 for d in exported.differences.values())
    view = open_view(cache)
    rows = np.arange(3, 20)
    expected = model.load(run)(view, rows)
    # read with the libraries alone, as another program would
    session = onnxruntime.InferenceSession(str(exported.files[0]))
    for part in (rows[:1], rows):  # the batch may have any size
        got = session.run(None, {"crops_face": view.gather(part)})[0]
        np.testing.assert_allclose(got, expected[: len(part)], atol=1e-4)
    program = torch.export.load(exported.files[1]).module()
    with torch.no_grad():
        np.testing.assert_allclose(program(torch.from_numpy(view.gather(rows))).numpy(), expected, atol=1e-4)


def test_the_file_says_how_it_is_to_be_used(run: Path, cache: Path, exported: export.Exported) -> None:
    held = onnxruntime.InferenceSession(str(exported.files[0])).get_modelmeta().custom_metadata_map
    sidecar = json.loads((run / "best.json").read_text())
    assert json.loads(held["classes"]) == sidecar["classes"] == list(open_view(cache).schema.class_names)
    assert json.loads(held["mean"]) == [sidecar["mean"]] and json.loads(held["std"]) == [sidecar["std"]]
    spec = model.load(exported.files[0]).spec
    assert spec == model.load(run).spec and spec.inputs[0].size == (32, 32)
    beside = json.loads((exported.files[0].parent / "model.json").read_text())
    assert beside["manual"]["members"][0]["model"] == "test_resnet"


def test_without_torch(run: Path, cache: Path, exported: export.Exported, tmp_path: Path) -> None:
    predict(run, cache, tmp_path / "torch.csv", proba=True)
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'torchvision', 'safetensors'):\n"
        "            raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Block())\n"
        f"sys.argv = ['masktrain', 'predict', {str(exported.files[0])!r}, {str(cache)!r}, '--proba',"
        f" '--out', {str(tmp_path / 'onnx.csv')!r}]\n"
        "from masktrain.cli.app import main\n"
        "main()\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    ours, theirs = (pd.read_csv(tmp_path / f"{n}.csv").set_index("ImageID") for n in ("torch", "onnx"))
    assert ours["ans"].equals(theirs["ans"])
    np.testing.assert_allclose(ours.filter(like="p_"), theirs.filter(like="p_"), atol=1e-4)


def test_a_file_that_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*args: object) -> np.ndarray:
        return written(*args) + 1e-3  # type: ignore[arg-type]

    written = export._write
    monkeypatch.setattr(export, "_write", spoilt)
    with pytest.raises(UserError, match=r"differs from the run by 0\.001 in a probability"):
        export.export(run, tmp_path / "out", formats=("safetensors",))
    assert list((tmp_path / "out").iterdir()) == []


def test_temperature_is_in_the_graph_and_limits_beside_it(run: Path, cache: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    thresholds = (1.0, 2.0, 1.0, 1.0, 1.0, 0.5)
    (own / "calibration.json").write_text(Calibration(2.0, thresholds).to_json())
    done = export.export(own, formats=("onnx",))
    assert done.files[0] == own / "export" / "model.onnx"
    view = open_view(cache)
    rows = np.arange(40)
    plain = model.load(run)(view, rows).astype(np.float64)
    by_hand = np.sqrt(plain) / np.sqrt(plain).sum(1, keepdims=True)  # p^(1/2)
    for source in (own, done.files[0]):
        predictor = model.load(source)
        np.testing.assert_allclose(predictor(view, rows), by_hand, atol=1e-4)
        np.testing.assert_array_equal(predictor.decide(by_hand), (by_hand * thresholds).argmax(1))


def test_what_cannot_be_exported(run: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'onxn'") as error:
        export.export(run, tmp_path, formats=("onxn",))
    assert "onnx" in error.value.hint
    own = Path(shutil.copytree(run, tmp_path / "run"))
    data = json.loads((own / "data.json").read_text())
    (own / "data.json").write_text(json.dumps(data | {"cache": "/nowhere"}))
    with pytest.raises(UsageError, match=r"cache of .* is no longer at .*nowhere"):
        export.export(own)
    export.export(own, formats=("safetensors",), cache=cache)
    (tmp_path / "bad.onnx").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.onnx is no ONNX file"):
        model.load(tmp_path / "bad.onnx")
    with pytest.raises(UsageError, match="does not exist"):
        model.load(tmp_path / "none.onnx")


def test_the_card_is_filled_from_the_run(run: Path) -> None:
    text = card.write(run, model.load(run))
    data = runs.read_data(run)
    best = max(runs.read_metrics(run), key=lambda r: r["macro_f1"])
    assert f"{data['images']['train']} images of 24 people; {data['images']['val']} images of 6 people" in text
    assert f"macro-F1 **{best['macro_f1']:.4f}** (95 % over people:" in text
    assert "| wear/male |" in text and "test_resnet" in text and "| apache-2.0 |" in text
    assert "With fewer than 30 training images: " in text


def test_the_command(run: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, "--format", "safetensors", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "largest probability difference" in said and "MODEL_CARD.md" in said
    assert (tmp_path / "MODEL_CARD.md").is_file() and (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("target", ["heads", "ordinal"])
def test_other_targets_and_mirror_images(
    synthetic: ModuleType, config: Callable[..., FitConfig], tmp_path: Path, target: str
) -> None:
    cache = synthetic.write_cache(tmp_path / "cache")
    if target == "ordinal":  # the mask state as if it were bins of a number
        dataset = json.loads((cache / "dataset.json").read_text())
        dataset["schema"]["attributes"]["mask"]["bins"] = [1, 2]
        (cache / "dataset.json").write_text(json.dumps(dataset))
    own = fit(cache, config(target__kind=target, run__tta="mirror", optim__epochs=1), out=tmp_path / "run").run
    done = export.export(own, formats=("onnx",))
    view, rows = open_view(cache), np.arange(30)
    mirrored = model.load(own)(view, rows)
    assert done.differences["onnx"] < 1e-4
    np.testing.assert_allclose(model.load(done.files[0])(view, rows), mirrored, atol=1e-4)
    assert np.abs(model.load(own, tta="none")(view, rows) - mirrored).max() > 1e-3
    with pytest.raises(UsageError, match="--tta does not apply"):
        model.load(done.files[0], tta="mirror")
