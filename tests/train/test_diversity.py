"""How alike members are, what they cost, and the epochs of one run as an ensemble."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import model
from masktrain.answer.evaluate import evaluate
from masktrain.cli import app as cli
from masktrain.combine import averages, ensemble, members, voting
from masktrain.config.config import FitConfig
from masktrain.runs import predictions as heldout
from masktrain.score import metrics
from masktrain.study.fit import fit
from masktrain.study.progress import Progress
from masktrain.train import checkpoint

Make = Callable[..., FitConfig]


@pytest.fixture(scope="module")
def kept(cache: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has kept its last three epochs."""
    return fit(cache, config(select__last=3, optim__epochs=4), out=tmp_path_factory.mktemp("kept") / "run").run


def test_the_epochs_of_a_run_vote(kept: Path, cache: Path, tmp_path: Path) -> None:
    """Their mean is the mean of what each epoch's weights answer, and each is scored by itself."""
    made = ensemble.ensemble([kept], tmp_path / "all")
    assert [e.name for e in made.entries] == [f"run-epoch-{e:05d}" for e in (2, 3, 4)]
    held = heldout.read(kept)
    view = open_view(cache)
    rows = view.table.reset_index().set_index("image")["index"].loc[held.images].to_numpy()
    one = model.load(kept, "cpu")
    told = []
    for epoch in (2, 3, 4):
        one.graph.network.load_state_dict(load_file(kept / f"epochs/{epoch:05d}.safetensors"))
        told.append(one(view, rows))
    mean = np.mean(told, axis=0)
    np.testing.assert_allclose(heldout.read(tmp_path / "all").probabilities, mean, atol=1e-6)
    np.testing.assert_allclose(model.load(tmp_path / "all", "cpu")(view, rows), mean, atol=1e-6)
    f1 = [metrics.macro_f1(metrics.confusion(held.labels, p.argmax(1), 6)) for p in told]
    assert [e.score for e in made.entries] == pytest.approx(f1)
    assert made.score == pytest.approx(metrics.macro_f1(metrics.confusion(held.labels, mean.argmax(1), 6)))
    soup = ensemble.ensemble([kept], tmp_path / "soup", kind="soup")
    assert f"(--kind soup) has macro-F1 {soup.score:.4f}." in " ".join(made.notes)
    assert checkpoint.load_sidecar(tmp_path / "soup").model == "test_resnet"
    assert evaluate(tmp_path / "all", cache).scores.n == len(held) + 2  # two photos have no crop
    assert not list(tmp_path.glob("*epochs-*"))


def test_epochs_of_another_cache_are_refused(kept: Path, cache: Path, tmp_path: Path, run: Path) -> None:
    copy = Path(shutil.copytree(kept, tmp_path / "copy"))
    data = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(data | {"cache": str(tmp_path / "gone")}))
    with pytest.raises(UsageError, match="no longer at"):
        ensemble.ensemble([copy], tmp_path / "a")
    assert len(ensemble.ensemble([copy], tmp_path / "b", cache=cache).entries) == 3
    (copy / "data.json").write_text(json.dumps(data | {"fingerprint": "other"}))
    with pytest.raises(UserError, match="has changed since"):
        ensemble.ensemble([copy], tmp_path / "c")
    with pytest.raises(UsageError, match="at least two finished runs"):
        ensemble.ensemble([run], tmp_path / "d")  # it has kept none


def test_epochs_that_err_alike_are_told() -> None:
    alike = np.array([[1, 0.95, 0.5], [0.95, 1, 0.93], [0.5, 0.93, 1]])
    said = averages.advice([2, 4, 6], alike)
    assert "Epochs 2, 4, 6" in said and "0.94" in said and "select.every=4" in said
    assert averages.advice([2, 4, 6], np.where(alike > 0.9, 0.85, alike)) == "" == averages.advice([3], alike[:1, :1])


def test_a_fit_that_makes_a_soup_tells_it(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it measures is how the epochs that it keeps err, as anyone can see afterwards."""
    said: list[str] = []
    measured: list[tuple[list[int], np.ndarray]] = []
    as_it_is = averages.alike

    def alike(*args: object) -> tuple[list[int], np.ndarray]:
        measured.append(as_it_is(*args))  # type: ignore[arg-type]
        return [3, 4], np.array([[1.0, 0.97], [0.97, 1.0]])

    monkeypatch.setattr(averages, "alike", alike)
    monkeypatch.setattr(Progress, "say", lambda self, text: said.append(text))
    settings = config(optim__epochs=2, optim__lr=2e-3, select__last=2, select__soup="uniform")
    done = fit(cache, settings, out=tmp_path / "run").run
    said = [text for text in said if text.startswith("note")]
    assert len(said) == 1 and "Epochs 3, 4 err on the same images (mean correlation of neighbours 0.97)" in said[0]
    team = averages.epochs_of(members.read_candidate(done), None, "cpu")
    wrong = [m.held.answers != m.held.labels for m in team]
    ((told, correlation),) = measured
    assert told == [1, 2] and correlation[0, 1] < 0.99
    assert correlation[0, 1] == pytest.approx(np.corrcoef(*wrong)[0, 1])


def test_statistics_of_norms_are_those_of_the_mean_weights() -> None:
    """By hand: after one linear layer the mean and the variance of all images, not of the networks averaged."""
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, momentum=0.5)) for _ in range(2))
    images = torch.randn(24, 3, 4, 4)
    for net in (first, second):
        net(images * 3)
    mean = copy.deepcopy(first)
    mean.load_state_dict(averages.average_weights([first.state_dict(), second.state_dict()]))
    torch.testing.assert_close(mean[0].weight, (first[0].weight + second[0].weight) / 2)
    averages.recompute_norms(mean, images.split(8))
    parts = [mean[0](part).detach() for part in images.split(8)]
    torch.testing.assert_close(mean[1].running_mean, torch.stack([p.mean((0, 2, 3)) for p in parts]).mean(0))
    torch.testing.assert_close(mean[1].running_var, torch.stack([p.var((0, 2, 3)) for p in parts]).mean(0))
    assert not mean.training and mean[1].momentum == 0.5
    averages.recompute_norms(nn.Linear(2, 2), iter(lambda: pytest.fail("read"), None))


def test_greedy_keeps_to_a_budget_by_hand() -> None:
    """Three members right on different images; the best pair costs 9, the best within 6 is the first with the third."""
    labels = np.array([0, 1, 2, 0, 1, 2])
    right = [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]]
    tables = np.stack(
        [
            np.stack([np.eye(3)[k] if hit else np.full(3, 1 / 3) for k, hit in zip(labels, r, strict=True)])
            for r in right
        ]
    )
    free = voting.greedy(tables, labels)
    assert set(free) == {0, 1}
    costs = (4.0, 5.0, 2.0)
    assert set(voting.greedy(tables, labels, budget=voting.Budget(costs, 6))) == {0, 2}
    assert set(voting.greedy(tables, labels, budget=voting.Budget(costs, 9))) == {0, 1}
    assert set(voting.greedy(tables, labels, budget=voting.Budget(costs, 3))) == {2}
    assert voting.fit("greedy", tables, labels, voting.Budget(costs, 3)).weights.tolist() == [0, 0, 1]


def test_what_a_network_costs_is_counted(kept: Path) -> None:
    """By hand for its convolutions and its classifier; the same whatever else this machine does."""
    member = members.read_candidate(kept)
    model, adds = member.network(torch.device("cpu")), 0

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        nonlocal adds
        adds += made.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    model(torch.zeros(1, 3, *member.sidecar.size))
    parameters, macs = members.cost(member)
    assert macs == pytest.approx(adds / 1e9) and parameters == sum(p.numel() for p in model.parameters())


def test_members_that_are_never_taken_cost_nothing(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {"run-epoch-00002": 3.0, "run-epoch-00003": 1.0, "run-epoch-00004": 2.0}
    monkeypatch.setattr(members, "cost", lambda member: (1000, costs[member.name]))
    made = ensemble.ensemble([kept], tmp_path / "cheap", kind="greedy", budget=1.5)
    assert [e.weight for e in made.entries] == [0, 1, 0]
    taken = json.loads((tmp_path / "cheap/ensemble.json").read_text())["members"]
    assert [m["run"] for m in taken] == ["00-run-epoch-00003"]
    with pytest.raises(UsageError, match="the smallest takes 1"):
        ensemble.ensemble([kept], tmp_path / "none", kind="greedy", budget=0.5)
    with pytest.raises(UsageError, match="Only greedy"):
        ensemble.ensemble([kept], tmp_path / "soft", budget=5)
    args = ["ensemble", str(kept), "--out", str(tmp_path / "cli"), "--kind", "greedy", "--budget", "1.5"]
    monkeypatch.setattr(sys, "argv", ["masktrain", *args])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert "correlation of errors" in said and "3  run-epoch-00004" in said
    total = next(line for line in said.splitlines() if line.strip().startswith("greedy"))
    assert total.split()[-1] == "1.00"  # the others are not asked
