"""Where no person is known the split is one of photos: what is counted then, and that it is warned of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maskprep.dataset import open_view
from masktrain.answer import card, model
from masktrain.data.folds import split
from masktrain.pages import report
from masktrain.study import fit, preflight

Make = Callable[..., Any]
NOBODY = "No person is known: every photo counts as a person of its own"


@pytest.fixture(scope="module")
def nameless(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of eight people whom nobody names; their folders do."""
    made: Path = synthetic.write_cache(tmp_path_factory.mktemp("nameless") / "cache", people=8, named=False)
    return made


@pytest.fixture(scope="module")
def run(nameless: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = fit.fit(nameless, config(optim__epochs=1), out=tmp_path_factory.mktemp("run") / "run").run
    return made


def people(cache: Path) -> preflight.Finding:
    view = open_view(cache)
    return preflight.people(view, view.table, split(view, 0.2, 0))


def test_the_check_fails_and_proposes_a_pattern(nameless: Path, cache: Path) -> None:
    found = people(nameless)
    assert not found.ok and found.text.startswith(NOBODY)
    assert "suggest 8 people" in found.advice and "source: {person: '([^/]+)/[^/]+$'}" in found.advice
    assert people(cache).ok


def test_photos_that_are_independent_need_nobody(synthetic: ModuleType, tmp_path: Path) -> None:
    cache = synthetic.write_cache(tmp_path / "cache", people=8, named=False)
    about = json.loads((cache / "dataset.json").read_text())
    about["source"]["settings"]["independent"] = True
    (cache / "dataset.json").write_text(json.dumps(about))
    assert people(cache).ok and open_view(cache).persons_known == 1.0


def test_images_are_counted(
    nameless: Path, run: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("init", nameless, "--out", run.parent / "rules.yaml") == 0
    said = capsys.readouterr().out
    assert "data    38 images; view" in said and f"warning {NOBODY}" in said and "people  images" not in said
    assert "5 folds of images" in said
    assert call("evaluate", run, nameless) == 0
    said = capsys.readouterr().out
    assert "that the run held out\n" in said and "people" not in said
    assert call("compare", run) == 0
    assert "scored on 8 images\n" in capsys.readouterr().out
    rest = ["--model", "test_resnet", "--no-pretrained", "--epochs", 1, "--batch-size", 8]
    assert call("fit", nameless, *rest, "--out", run.parent / "second") == 0
    said = capsys.readouterr().out
    assert "30 images to train on, 8 held out" in said and f"warning {NOBODY}" in said and "over 8 images" in said


def test_the_page_and_the_card_warn(run: Path, nameless: Path) -> None:
    page, text = (run / "report.html").read_text(), card.write(run, model.load(run))
    assert NOBODY in page and "95 % over 8 images" in page and "over people" not in page and "<th>people" not in page
    assert page.count("<svg class=green") > 0  # bars stand beside the interval, whatever it is over
    assert f"- {NOBODY}" in text and "Pictures are split" in text and "(95 % over images:" in text
    assert "| people |" not in text


def test_runs_of_earlier_versions_are_as_before(run: Path, nameless: Path) -> None:
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({k: v for k, v in data.items() if k != "persons"}))
    assert NOBODY not in report.report(run).read_text() and NOBODY not in card.write(run, model.load(run))
