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
from sklearn.metrics import f1_score

from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import Attribute, Schema
from maskprep.pages import HeatMap, Table
from masktrain.combine import averages
from masktrain.combine.ensemble import ensemble
from masktrain.config.config import FitConfig
from masktrain.config.sections import SelectConfig
from masktrain.pages import compare, report, standings
from masktrain.pages.explain import explain
from masktrain.runs import folder as runs
from masktrain.score import calibration, metrics
from masktrain.study.crossfit import crossfit
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
    checker, run = Checker(), flawed
    checker.feed((run / "report.html").read_text())
    assert not checker.links and len(checker.headings) == 9
    text = " ".join(checker.text)
    oof = pd.read_parquet(run / "oof.parquet")
    told = oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    assert (
        f"{f1_score(oof['label'], told, average='macro'):.4f} macro-F1" in text
        and "wear/male" in text
        and "crop: ok" in text
    )
    wrong = (told != oof["label"].to_numpy()).sum()
    assert wrong >= 2 and checker.images == min(wrong, report.ERRORS) + report.SAMPLES
    changed = f"<td>optim.epochs<td class=wide>3<td>{FitConfig().optim.epochs}\n"
    assert changed in (run / "report.html").read_text()


def test_worst_errors_come_first(flawed: Path) -> None:
    images = pd.read_parquet(flawed / "oof.parquet")["image"]
    shown = re.findall(r"<figcaption>([^<]+)<br>label", (flawed / "report.html").read_text())
    assert shown.index(images[5].removeprefix("train/")) < shown.index(images[3].removeprefix("train/"))


def test_slices_and_calibration_of_the_held_out_people(flawed: Path, cache: Path) -> None:
    text = (flawed / "report.html").read_text()
    oof = pd.read_parquet(flawed / "oof.parquet")
    p, truth = oof.filter(regex=r"^p_\d+$").to_numpy(), oof["label"].to_numpy()
    wears = truth < 2  # by hand: mask is the first attribute, two genders
    accuracy = (p.argmax(1) == truth)[wears].mean()
    text = text.replace("<td class=n>", "<td>")
    row = f"<td>mask<td>wear<td>{wears.sum()}<td>{oof['person'][wears].nunique()}<td>{accuracy:.3f}"
    assert row in text and f"<td>status<td>ok<td>{len(truth)}<td>" in text
    assert f"Calibration error {calibration.ece(p, truth):.4f}" in text


def test_reliability_by_hand() -> None:
    """Two images at 0.9, one of them right; one at 0.6, right."""
    low, high = report.reliability(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1]))
    assert high == pytest.approx({"bin": 9, "images": 2, "confidence": 0.9, "accuracy": 0.5})
    assert low == pytest.approx({"bin": 6, "images": 1, "confidence": 0.6, "accuracy": 1.0})


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


def test_matrices_and_many_classes() -> None:
    schema = Schema((Attribute("t", ("a", "c")),))
    ((title, matrix),) = report._matrices(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), schema)
    assert isinstance(matrix, HeatMap) and (title, matrix.rows, matrix.columns) == ("t", ("a", "c"), ("a", "c"))
    assert matrix.counts == [[3, 1], [0, 0]]
    wide = Schema((Attribute("t", tuple(map(str, range(50)))),))
    ((title, pairs),) = report._matrices(np.array([0, 7, 7, 7, 7]), np.array([0, 7, 3, 3, 9]), wide)
    assert isinstance(pairs, Table) and "50 classes" in title
    assert pairs.rows == [("7", "3", 2, "50%"), ("7", "9", 1, "25%")]


def test_each_error_leads_to_its_photo_once_there_is_a_review_page(flawed: Path, cache: Path, tmp_path: Path) -> None:
    assert "maskprep audit" in (flawed / "report.html").read_text()
    (cache_ := Path(shutil.copytree(cache, tmp_path / "a cache")) / "audit").mkdir()
    (cache_ / "report.html").write_text("")
    (cache_.parent / "stats.html").write_text("")
    own = Path(shutil.copytree(flawed, tmp_path / "run"))
    text = report.report(own, cache_.parent).read_text()
    image = pd.read_parquet(own / "oof.parquet")["image"][5]
    name = image.removeprefix("train/")
    assert f'<figcaption><a href="../a%20cache/audit/report.html#image={image}">{name}</a><br>label' in text
    assert '<a href="../a%20cache/stats.html">stats.html</a>' in text and "maskprep audit" not in text


def test_the_linear_probe_stands_beside_the_score(flawed: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(flawed, tmp_path / "run"))
    oof = pd.read_parquet(own / "oof.parquet")
    truth, told = oof["label"].to_numpy(), oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    answers = np.where(np.arange(len(oof)) % 3 == 0, (truth + 1) % 6, truth)
    found = {"network": "net<1>", "macro_f1": 0.1, "accuracy": 0.2, "crops": 3, "all": 3}
    for more in ({}, {"answers": dict(zip(oof["image"], answers.tolist(), strict=True))}):
        (own / "probe.json").write_text(json.dumps(found | more))
        text = report.report(own).read_text()
        f1 = f1_score(truth, answers, average="macro") if more else 0.1
        score = f1_score(truth, told, average="macro")
        assert f"<b>{f1:.4f}</b>linear probe<small>this run {score - f1:+.4f}" in text
        assert "features of net&lt;1&gt; before training" in text
        assert ("too few people" in text.partition("net&lt;1&gt;")[2].partition("<tr>")[0]) == bool(more)
        assert "training did harm" not in text
    (own / "probe.json").write_text(json.dumps(found | {"macro_f1": 1.1}))
    assert "training did harm" in report.report(own).read_text()


def test_one_report_for_folds_and_ensembles(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    done = crossfit(cache, config(optim__epochs=2, data__val_ratio=0.5), out=tmp_path / "folds").run
    text = (done / "report.html").read_text()
    both = pd.concat(pd.read_parquet(done / f"fold-{k}/oof.parquet") for k in (1, 2))
    assert f"<b>{runs.read_folds(done)['out_of_fold']['macro_f1']:.4f}</b>macro-F1" in text
    assert (
        f"<td>status<td>ok<td class=n>{len(both)}<" in text
        and "2 folds" in text
        and "macro-F1, mean of the folds" in text
    )
    assert text.count("<td>fold-") == 2 and "people of one fold" not in text and "Augmented training images" in text
    ensemble([run, done / "fold-1"], made := tmp_path / "both")
    text = report.report(made).read_text()
    assert "<h2>Members</h2>" in text and "Mean of the probabilities of 2 networks" in text and "<h2>Epochs" not in text
    assert f"{len(pd.read_parquet(made / 'oof.parquet'))}<" in text and "ensemble.kind" in text


EVIL = "<script>alert(1)<script>"


def test_names_with_markup_are_escaped(cache: Path, run: Path, tmp_path: Path) -> None:
    """Names of classes, photos and runs stay text on every page."""
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    name = {"wear": EVIL}
    dataset = json.loads((own / "dataset.json").read_text())
    dataset["schema"] = json.loads(json.dumps(dataset["schema"]).replace('"wear"', json.dumps(EVIL)))
    (own / "dataset.json").write_text(json.dumps(dataset))
    for file in own.rglob("*.parquet"):
        table = pd.read_parquet(file)
        for column in table.columns.intersection(["mask"]):
            table[column] = table[column].replace(name)
        if "image" in table:
            table["image"] = table["image"].str.replace(".jpg", EVIL + ".jpg")
        table.to_parquet(file)
    evil = Path(shutil.copytree(run, tmp_path / "<script>run"))
    sidecar = (evil / "best.json").read_text()
    (evil / "best.json").write_text(sidecar.replace('"wear"', json.dumps(EVIL)))
    oof = pd.read_parquet(evil / "oof.parquet")
    oof["image"] = oof["image"].str.replace(".jpg", EVIL + ".jpg")
    probabilities = [c for c in oof if c.startswith("p_")]
    oof[probabilities] = np.roll(oof[probabilities].to_numpy(), 1, 1)  # every answer is wrong
    oof.to_parquet(evil / "oof.parquet")
    environment = json.loads((evil / "env.json").read_text())
    (evil / "env.json").write_text(json.dumps(environment | {"note": EVIL}))
    metrics_file = evil / "metrics.jsonl"
    metrics_file.write_text(metrics_file.read_text().replace("wear/", json.dumps(EVIL)[1:-1] + "/"))
    pages = [report.report(evil, own), explain(evil, own, tmp_path / "out", split="val").folder / "explain.html"]
    pages.append(standings.write(compare.compare([evil]), tmp_path / "s.html"))
    for file in pages:
        text = file.read_text()
        assert "<script" not in text and "&lt;script&gt;" in text, file


def test_intervals_of_classes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    predicted = np.where(rng.random(300) < 0.7, truth, rng.integers(0, 3, 300))
    people = [str(i // 3) for i in range(300)]
    sure = metrics.class_intervals(truth, predicted, people, 4)
    f1 = [c.f1 for c in metrics_of(truth, predicted)]
    assert all(i.low < f < i.high < i.low + 0.25 for i, f in zip(sure, f1, strict=False))
    assert sure[3].people == 0 and sure[3].text() == "too few people"


def metrics_of(truth: np.ndarray, predicted: np.ndarray) -> tuple[metrics.ClassScore, ...]:
    return metrics.score(truth, predicted, Schema((Attribute("a", ("x", "y", "z")),))).classes
