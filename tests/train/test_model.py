"""Something trained, opened: runs of earlier versions, and crops that were made otherwise."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from maskprep.dataset.view import open_view
from maskprep.errors import UserError
from masktrain.answer import export, model
from masktrain.answer.evaluate import answer, evaluate
from masktrain.answer.predict import predict
from masktrain.answer.spec import CropSpec, check_made_alike
from masktrain.runs import folder as runs
from masktrain.score import evalset
from masktrain.train.model import build

ROWS = np.array([4, 0, 77, 31])


def earlier(run: Path, folder: Path, target: str, outputs: list[int], **changes: Any) -> tuple[Path, list[nn.Module]]:
    """A run as earlier versions kept it, with several networks in one file of weights; and these networks."""
    torch.manual_seed(0)
    nets = [build("test_resnet", count, (32, 32)).eval() for count in outputs]
    for net in nets:  # untrained networks say the same of all crops
        with torch.no_grad():
            net.get_parameter("fc.weight").mul_(300)
    shutil.copytree(run, folder)
    save_file(
        {f"nets.{k}.{n}": v.contiguous() for k, net in enumerate(nets) for n, v in net.state_dict().items()},
        folder / "best.safetensors",
    )
    sidecar = json.loads((folder / "best.json").read_text())
    del sidecar["sha256"]
    (folder / "best.json").write_text(json.dumps(sidecar | {"target": target} | changes))
    return folder, nets


def softmax_of(nets: list[nn.Module], run: Path, crops: np.ndarray) -> list[np.ndarray]:
    """The softmax of each network's outputs, by hand."""
    sidecar = json.loads((run / "best.json").read_text())
    mean, std = (torch.tensor(sidecar[k]).view(1, 3, 1, 1) * 255 for k in ("mean", "std"))
    pixels = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - mean) / std
    with torch.inference_mode():
        return [net(pixels).numpy().astype(np.float64) for net in nets]


def softmax(outputs: np.ndarray) -> np.ndarray:
    odds = np.exp(outputs - outputs.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def test_networks_side_by_side_of_an_earlier_version_multiply(run: Path, cache: Path, tmp_path: Path) -> None:
    own, nets = earlier(run, tmp_path / "run", "separate", [3, 2])
    view = open_view(cache)
    mask, gender = (softmax(o) for o in softmax_of(nets, own, view.gather(ROWS)))
    by_hand = (mask[:, :, None] * gender[:, None, :]).reshape(4, 6)
    found = model.load(own)
    np.testing.assert_allclose(found(view, ROWS), by_hand, atol=1e-5)
    assert np.ptp(by_hand, axis=0).max() > 0.02
    assert [n.sidecar.labels().joint for n in found.graph.networks] == [("mask",), ("gender",)]
    assert found.graph.networks[1].own.tolist() == [0, 1] * 3
    done = export.export(own, tmp_path / "out", formats=("onnx",), cache=cache)
    np.testing.assert_allclose(model.load(done.files[0])(view, ROWS), by_hand, atol=1e-4)


@pytest.mark.parametrize("route", ["soft", "hard"])
def test_a_cascade_of_an_earlier_version_is_routed(run: Path, cache: Path, tmp_path: Path, route: str) -> None:
    own, nets = earlier(run, tmp_path / "run", "cascade", [3, 2, 2, 2], route=route)
    view = open_view(cache)
    states, *others = (softmax(o) for o in softmax_of(nets, own, view.gather(ROWS)))
    if route == "hard":
        states = np.eye(3)[states.argmax(1)]
    by_hand = np.concatenate([states[:, k : k + 1] * table for k, table in enumerate(others)], 1)
    found = model.load(own)
    np.testing.assert_allclose(found(view, ROWS), by_hand, atol=1e-5)
    asked = [n.asked.tolist() for n in found.graph.networks]
    assert asked == [[True] * 6, *([k // 2 == state for k in range(6)] for state in range(3))]
    done = export.export(own, tmp_path / "out", formats=("onnx",), cache=cache)
    np.testing.assert_allclose(model.load(done.files[0])(view, ROWS), by_hand, atol=1e-4)


def test_weights_of_an_earlier_version_that_lack_a_network(run: Path, tmp_path: Path) -> None:
    own, _ = earlier(run, tmp_path / "run", "separate", [3])
    with pytest.raises(UserError, match=r"best\.safetensors cannot be used"):
        model.load(own)


def test_all_files_of_an_export_answer_alike(run: Path, cache: Path, tmp_path: Path) -> None:
    done = export.export(run, tmp_path / "out", formats=("onnx", "pt2"))
    view, own = open_view(cache), model.load(run)
    for file in done.files[:2]:
        found = model.load(file)
        assert found.spec == own.spec
        np.testing.assert_allclose(found(view, ROWS, batch_size=3), own(view, ROWS), atol=1e-4)
    (tmp_path / "bad.pt2").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"bad\.pt2 is no exported \.pt2 file"):
        model.load(tmp_path / "bad.pt2")


def test_batches_do_not_matter(run: Path, cache: Path) -> None:
    view, own = open_view(cache), model.load(run)
    whole = own(view, np.arange(11), batch_size=64)
    np.testing.assert_allclose(own(view, np.arange(11), batch_size=3), whole, atol=1e-6)
    np.testing.assert_allclose(own.of_crops({"face": view.gather(np.arange(11))}, batch_size=4)[0], whole, atol=1e-6)
    assert own(view, np.arange(0)).shape == (0, 6)


def test_the_weights_of_a_run_have_a_hash(run: Path) -> None:
    sidecar = json.loads((run / "best.json").read_text())
    assert len(sidecar["sha256"]) == 64 and load_file(run / "best.safetensors")


@pytest.mark.parametrize(
    "section, key, theirs",
    [("detect", "detectors", ["yunet"]), ("choose", "no_face", "whole"), ("view", "margin", 0.6)],
)
def test_crops_made_otherwise_are_refused(
    run: Path, cache: Path, tmp_path: Path, section: str, key: str, theirs: Any
) -> None:
    """The error names both values; what only one of the records knows is passed over."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    sidecar = json.loads((own / "best.json").read_text())
    sidecar["settings"] |= {"detect": {"detectors": ["centerface"]}, "choose": {"no_face": "rescue"}}
    (own / "best.json").write_text(json.dumps(sidecar))
    evaluate(own, cache)  # its settings do not say
    other = Path(shutil.copytree(cache, tmp_path / "cache"))
    if section == "view":
        info = json.loads((other / "views/face/view.json").read_text())
        (other / "views/face/view.json").write_text(json.dumps(info | {key: theirs}))
    else:
        dataset = json.loads((other / "dataset.json").read_text())
        dataset["settings"][section] = {key: theirs}
        (other / "dataset.json").write_text(json.dumps(dataset))
    mine = {"detectors": "['centerface']", "no_face": "rescue", "margin": "0.25"}[key]
    said = rf"not made as the crops that the model was trained on: {section}\.{key} is .*, the model's "
    for work in (
        lambda: evaluate(own, other),
        lambda: predict(own, other, tmp_path / "p.csv"),
        lambda: export.export(own, tmp_path / "out", cache=other),
    ):
        with pytest.raises(UserError, match=said) as error:
            work()
        assert str(theirs) in error.value.message and mine in error.value.message
    assert not (tmp_path / "p.csv").exists()
    if section == "view":  # a view that is named is meant as it is
        assert "view.margin is 0.6, the model's 0.25" in " ".join(evaluate(own, other, view="face").warnings)
    else:
        with pytest.raises(UserError, match=said):
            evaluate(own, other, view="face")


def test_detectors_do_not_matter_where_no_faces_are_looked_for(cache: Path) -> None:
    view = open_view(cache)
    view = dataclasses.replace(
        view, dataset=view.dataset | {"settings": {"detect": {"low": 0.3}, "matte": {"model": "a"}}}
    )
    settings = {"detect": {"low": 0.2}, "matte": {"model": "b", "providers": ["x"]}}
    check_made_alike(CropSpec("face", (32, 32), {"margin": 0.25, "crop": "none"}), view, settings)
    with pytest.raises(UserError, match=r"detect\.low is 0\.3, the model's 0\.2\."):
        check_made_alike(CropSpec("face", (32, 32), {"margin": 0.25}), view, settings)
    with pytest.raises(UserError, match=r"matte\.model is a, the model's b\."):
        check_made_alike(CropSpec("face", (32, 32), {"crop": "none"}, "mean"), view, settings)


def test_a_table_of_predictions(run: Path, cache: Path) -> None:
    """One row for each question, with the truth; without a crop the most frequent training class is the answer."""
    own = model.load(run)
    pictures = model.open_for(own, cache)
    asked = evalset.ask(pictures, own.schema, runs.read_data(run), split="train")
    table, known = answer(run, own, pictures, asked, 64)
    assert known.all() and len(table) == len(asked) == 150 and table.scored is not None
    assert table.images.tolist() == asked.images["image"].tolist() and (table.labels == asked.truth).all()
    lost = ~table.scored
    assert lost.sum() == 2 and (table.answers[lost] == own.spec.fallback).all()
    assert (table.probabilities[lost, own.spec.fallback] == 1).all()
    assert (table.probabilities.argmax(1) == table.answers).all()
