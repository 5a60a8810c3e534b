"""What is made when a fit is done: averages of its last epochs, and a page to look at."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from maskprep.errors import UsageError, UserError
from masktrain.combine import averages
from masktrain.config.config import FitConfig
from masktrain.config.sections import SelectConfig
from masktrain.pages import report
from masktrain.runs import folder as runs
from masktrain.score import calibration, metrics
from masktrain.study.fit import fit, resume
from masktrain.train import checkpoint

Make = Callable[..., FitConfig]


def test_the_mean_of_weights_by_hand() -> None:
    states = [
        {"w": torch.tensor([1.0, 4.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([2.0, 0.0]), "n": torch.tensor(5)},
    ]
    mean = averages.average_weights(states)
    assert mean["w"].tolist() == [1.5, 2.0] and mean["w"].dtype == torch.float32 and int(mean["n"]) == 5


def test_only_the_last_epochs_are_kept(cache: Path, config: Make, tmp_path: Path) -> None:
    done = fit(cache, config(select__last=2, optim__epochs=4), out=tmp_path / "run").run
    assert sorted(f.stem for f in (done / "epochs").iterdir()) == ["00003", "00004"]
    last = checkpoint.load_last(done)["learner"]["model"]
    assert checkpoint.weights_hash(load_file(done / "epochs/00004.safetensors")) == checkpoint.weights_hash(last)
    spaced = fit(cache, config(select__last=2, select__every=2, optim__epochs=6), out=tmp_path / "spaced").run
    assert sorted(f.stem for f in (spaced / "epochs").iterdir()) == ["00004", "00006"]
    assert not (fit(cache, config(optim__epochs=1), out=tmp_path / "other").run / "epochs").exists()
    with pytest.raises(UsageError, match="at least two epochs"):
        SelectConfig(soup="greedy", last=1)


@pytest.mark.parametrize("kind, wanted", [("uniform", [2, 3, 4]), ("greedy", [2, 4])])
def test_an_average_that_is_better_is_chosen(tmp_path: Path, kind: str, wanted: list[int]) -> None:
    """Epochs score 1, 3, 2, 4; the average of 2 and 4 scores 6, with 3 among them only 5."""
    config = SelectConfig(soup=kind, last=3, by="macro_f1")
    for epoch in (1, 2, 3, 4):
        averages.keep_epoch(tmp_path, epoch, {"w": torch.tensor([10.0**epoch])}, config)
    scored = {10.0**4: 0.4, (10.0**2 + 10.0**4) / 2: 0.6, (10.0**2 + 10.0**3 + 10.0**4) / 3: 0.5}
    settled: list[float] = []

    def settle(state: averages.State) -> averages.State:
        settled.append(float(state["w"]))
        return {**state, "seen": torch.ones(1)}

    made = averages.choose(
        tmp_path,
        [0.1, 0.3, 0.2, 0.4],
        config,
        lambda state: np.array([[float(state["w"])]]),
        lambda table: {"macro_f1": next(f for w, f in scored.items() if np.isclose(w, table[0, 0]))},
        settle,
    )
    assert made is not None and made.epochs == wanted and "seen" in made.state
    assert float(made.state["w"]) == pytest.approx(np.mean([10.0**e for e in wanted]))
    assert averages.choose(tmp_path, [0.1, 0.3, 0.2, 0.9], config, lambda s: np.array([[float(s["w"])]]),
        lambda t: {"macro_f1": 0.6}) is None  # fmt: skip
    assert 10.0**4 not in settled  # one epoch alone has its own statistics


def test_a_soup_that_is_no_better_is_not_kept(cache: Path, config: Make, tmp_path: Path) -> None:
    settings = config(select__last=3, select__soup="greedy", select__by="macro_f1")
    done = fit(cache, settings, out=tmp_path / "run")
    records = runs.read_metrics(done.run)
    if "soup" in done.best:
        assert done.best["macro_f1"] > max(r["macro_f1"] for r in records)
    else:
        assert done.best["macro_f1"] == max(r["macro_f1"] for r in records)
    again = resume(done.run)
    assert again.best == done.best


class Checker(html.parser.HTMLParser):
    """Collects what a page says and refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.links, self.headings, self.text = 0, [], [], []
        self.heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count pictures, note links."""
        self.images += tag == "img"
        self.heading = tag == "h2"
        self.links += [
            v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:image/jpeg;base64,")
        ]

    def handle_data(self, data: str) -> None:
        """Note headings and text."""
        if self.heading:
            self.headings.append(data)
        self.heading = False
        self.text.append(data)


@pytest.fixture(scope="module")
def flawed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two wrong answers, the second one with less probability for the truth."""
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("runs") / "flawed"))
    oof = pd.read_parquet(copy / "oof.parquet")
    columns = [c for c in oof.columns if c.startswith("p_")]
    for row, own in ((3, 0.3), (5, 0.1)):
        label = int(oof["label"].iloc[row])
        oof.loc[row, columns] = 0.0
        oof.loc[row, [f"p_{label}", f"p_{(label + 1) % 6}"]] = [own, 1 - own]
    oof.to_parquet(copy / "oof.parquet")
    report.report(copy)
    return copy


def test_a_page_that_needs_nothing_else(flawed: Path) -> None:
    page, run = Checker(), flawed
    page.feed((run / "report.html").read_text())
    assert not page.links and len(page.headings) == 9
    text = " ".join(page.text)
    best = json.loads((run / "result.json").read_text())["best"]
    assert f"macro-F1 {best['macro_f1']:.4f}" in text and "wear/male" in text and "crop: ok" in text
    oof = pd.read_parquet(run / "oof.parquet")
    wrong = (oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1) != oof["label"].to_numpy()).sum()
    assert wrong >= 2 and page.images == min(wrong, report.ERRORS) + report.SAMPLES
    assert "optim.lr" in text and "default 0.001" in text


def test_worst_errors_come_first(flawed: Path) -> None:
    images = pd.read_parquet(flawed / "oof.parquet")["image"]
    shown = re.findall(r"<figcaption>([^<]+)<br>is", (flawed / "report.html").read_text())
    assert shown.index(images[5]) < shown.index(images[3])


def test_slices_and_calibration_of_the_held_out_people(flawed: Path, cache: Path) -> None:
    page = (flawed / "report.html").read_text()
    oof = pd.read_parquet(flawed / "oof.parquet")
    p, truth = oof.filter(regex=r"^p_\d+$").to_numpy(), oof["label"].to_numpy()
    wears = truth < 2  # by hand: mask is the first attribute, two genders
    accuracy = (p.argmax(1) == truth)[wears].mean()
    row = f"<td>mask<td>wear<td>{wears.sum()}<td>{oof['person'][wears].nunique()}<td>{accuracy:.3f}"
    assert row in page and f"<td>status<td>ok<td>{len(truth)}<td>" in page
    assert f"Calibration error {calibration.ece(p, truth):.4f}" in page


def test_reliability_by_hand() -> None:
    """Two images at 0.9, one of them right; one at 0.6, right."""
    shown = report.reliability(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1]))
    assert "2 images, sure 0.90, right 0.50" in shown and "1 images, sure 0.60, right 1.00" in shown
    assert f"error {(2 * 0.4 + 0.4) / 3:.4f}" in shown


def test_the_page_can_be_made_again(
    run: Path, cache: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "<run>"))
    (copy / "report.html").unlink()
    assert call("report", copy, cache) == 0
    assert "<h1>&lt;run&gt;</h1>" in (copy / "report.html").read_text()
    (copy / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        report.report(copy)


def test_curves_and_tables_of_odd_values() -> None:
    assert "polyline" in report.plot({"a": [float("nan"), 1.0], "b": [2.0, 2.0]})
    assert "<svg" in report.plot({"a": [1.0]})
    table = report.matrix(np.array([[3, 1], [0, 0]]), ["a<b", "c"], "t")
    assert "a&lt;b" in table and ">3<" in table and "rgba(194,87,26,0.19)" in table
    assert "too many" in report.matrix(np.zeros((50, 50), dtype=np.int64), [str(i) for i in range(50)], "t")


def test_intervals_of_classes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    predicted = np.where(rng.random(300) < 0.7, truth, rng.integers(0, 3, 300))
    people = [str(i // 3) for i in range(300)]
    low, high = metrics.class_intervals(truth, predicted, people, 4)
    f1 = [c.f1 for c in metrics_of(truth, predicted)]
    assert all(lo < f < hi for lo, f, hi in zip(low[:3], f1, high[:3], strict=True)) and high[3] == 0
    assert (high[:3] - low[:3]).max() < 0.25


def metrics_of(truth: np.ndarray, predicted: np.ndarray) -> tuple[metrics.ClassScore, ...]:
    from maskprep.labels.schema import Attribute, Schema

    return metrics.score(truth, predicted, Schema((Attribute("a", ("x", "y", "z")),))).classes
