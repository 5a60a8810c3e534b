"""Starting from the weights of another run, or of a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskprep.base import UsageError, UserError
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.runs import folder as runs
from masktrain.study import fit as fitting
from masktrain.study.progress import Progress
from masktrain.train import checkpoint

Make = Callable[..., FitConfig]
Call = Callable[..., int]
CPU = torch.device("cpu")


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def started(cache: Path, config: FitConfig) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights that a fit starts with, and what is said of them."""
    data, said = TrainSet.open(open_view_of(cache, config), config), Said()
    config = fitting.settled(data, config, CPU)
    state = fitting.make_state(config, data, *fitting.statistics(data, config), CPU, pretrained=True, say=said.say)
    return {k: v.clone() for k, v in state.scored.state_dict().items()}, said.lines


def test_from_a_run_of_the_same_classes(run: Path, cache: Path, config: Make) -> None:
    theirs = load_file(run / checkpoint.BEST)
    ours, said = started(cache, config(model__start=str(run), optim__ema=0.9))
    assert all(torch.equal(ours[k], v) for k, v in theirs.items())
    assert said == [f"note    starts from {len(theirs)} of {len(theirs)} tensors of {run}"]  # nobody is on both sides


def test_the_classifier_of_another_target_is_not_taken(run: Path, cache: Path, config: Make) -> None:
    theirs = load_file(run / checkpoint.BEST)
    ours, said = started(cache, config(model__start=str(run), target__kind="heads"))  # 5 outputs, not 6
    assert all(torch.equal(ours[k], v) for k, v in theirs.items() if not k.startswith("fc."))
    assert "not the classifier" in said[0]


def test_a_classifier_of_as_many_outputs_that_mean_something_else(
    run: Path, cache: Path, config: Make, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    sidecar = json.loads((other / checkpoint.SIDECAR).read_text())
    sidecar["schema"]["attributes"]["mask"]["classes"] = ["wear", "normal", "incorrect"]
    (other / checkpoint.SIDECAR).write_text(json.dumps(sidecar))
    theirs, (ours, said) = load_file(run / checkpoint.BEST), started(cache, config(model__start=str(other)))
    assert not torch.equal(ours["fc.weight"], theirs["fc.weight"]) and "not the classifier" in said[0]


def test_people_whom_the_weights_know_are_named(run: Path, cache: Path, config: Make) -> None:
    _, said = started(cache, config(model__start=str(run), data__split_seed=1))
    known = set(runs.read_data(run)["people"]["train"])
    data = TrainSet.open(open_view_of(cache, config()), config(data__split_seed=1))
    held = set(data.view.table["person"].iloc[data.split.val])
    assert f"trained on {len(held & known)} of the {len(held)} held out now" in said[1]


@pytest.mark.parametrize("kind", ["best.safetensors", "plain.safetensors", "wrapped.pth"])
def test_from_a_file(run: Path, cache: Path, config: Make, tmp_path: Path, kind: str) -> None:
    theirs, file = load_file(run / checkpoint.BEST), tmp_path / kind
    if kind == "best.safetensors":
        shutil.copy(run / checkpoint.BEST, file)  # knows its run
    elif kind == "plain.safetensors":
        save_file(theirs, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in theirs.items()}}, file)
    ours, said = started(cache, config(model__start=str(file)))
    own = kind == "best.safetensors"
    assert all(torch.equal(ours[k], v) for k, v in theirs.items() if own or not k.startswith("fc."))
    assert ("not the classifier" in said[0]) != own


def test_what_cannot_be_started_from(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
            return print, ("run",)

    torch.save({"state_dict": Code()}, tmp_path / "code.pth")
    (tmp_path / "cut.safetensors").write_bytes((run / checkpoint.BEST).read_bytes()[:1000])
    save_file({"a": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "notes.txt").touch()
    for name, kind, said in [
        ("code.pth", UserError, "cannot be read"),
        ("cut.safetensors", UserError, "cannot be read"),
        ("other.safetensors", UsageError, "another model"),
        ("notes.txt", UsageError, "no file of weights"),
        ("nothing", UsageError, "no run or file"),
    ]:
        with pytest.raises(kind, match=said):
            started(cache, config(model__start=str(tmp_path / name)))
    with pytest.raises(UsageError, match="of the model test_resnet, not test_vit") as error:
        started(cache, config(model__start=str(run), model__name="test_vit"))
    assert error.value.hint == "Give its model: --model test_resnet"


def test_from_the_command_line(
    run: Path, cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "test_resnet", "--epochs", "1", "--batch-size", "8", "--out", tmp_path / "new"]
    assert call("fit", cache, *given, "--from", run, "--lr", "1e-9", "--no-probe") == 0
    assert f"tensors of {run}" in capsys.readouterr().out
    first, second = runs.read_metrics(run), runs.read_metrics(tmp_path / "new")
    assert second[0]["macro_f1"] > first[0]["macro_f1"]  # knows it all from the start
    assert runs.read_config(tmp_path / "new").model.start == str(run)
    assert call("fit", "--resume", tmp_path / "new", "--from", run) == 2
    assert "--from cannot be given" in capsys.readouterr().err
