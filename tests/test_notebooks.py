"""The notebooks of docs/ run from top to bottom, and what they show is there."""

from __future__ import annotations

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from maskprep.errors import UserError
from maskprep.weights import locate

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells with code."""
    return [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]


def run(code: str, names: dict[str, Any]) -> str:
    """Run a cell as Jupyter does; returns what it shows of its last expression, empty where it shows none."""
    *before, last = ast.parse(code).body
    shows = isinstance(last, ast.Expr)
    exec(compile(ast.Module(before if shows else [*before, last], []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    rich = getattr(value, "_repr_html_", None)
    return str(rich() if rich else repr(value))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory; the models must be there."""
    pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    try:
        for name in ("yunet", "selfie_segmenter", "blazeface_full", "blazeface_short", "centerface"):
            locate(name)
    except UserError as error:
        pytest.skip(f"a model cannot be had: {error.message}")
    monkeypatch.chdir(tmp_path)


def test_notebooks_run_one_after_the_other(workplace: None) -> None:
    """With fewer people and a smaller network than they name: they are to run, not to learn."""
    smaller = {"people=8, eval_people=2": "people=4, eval_people=1"}
    smaller['"model.name": "tf_efficientnet_lite0"'] = '"model.name": "test_resnet", "model.pretrained": False'
    shown: dict[str, list[str]] = {}
    for notebook in NOTEBOOKS:
        names: dict[str, Any] = {}
        for cell in cells(notebook):
            code = "".join(cell["source"])
            for theirs, ours in smaller.items():
                code = code.replace(theirs, ours)
            with contextlib.redirect_stdout(None):
                shown.setdefault(notebook.stem, []).append(run(code, names))
    explore, train, explain = ([text for text in shown[name] if text] for name in sorted(shown))
    status, sheet, table, findings, dropped = explore
    assert "<td>split</td><td>7 eval, 28 train</td>" in status and "<td>mask</td>" in status
    assert sheet.startswith('<img alt="crops by class" src="data:image/png;base64,')
    assert "<th>person</th>" in table
    assert "findings on" in findings and "<th>severity</th>" in findings and "<td>file_broken</td>" in findings
    assert dropped.startswith("['train/images/")
    held_out, answered, comparison, differs = train[-4:]
    for report in (held_out, answered):
        assert "macro-F1" in report and "<td>mask</td>" in report
    assert "<td>first</td>" in comparison and "<td>focal</td>" in comparison and "too few people" in comparison
    assert differs == "{'loss.name': ['ce', 'focal']}" or "'loss.name'" in differs
    page, folder, answers = explain[-3:]
    assert "explain.html" in page and "model.onnx" in folder
    assert "4 of 4 photos answered" in answers and "<table>" in answers


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(notebook: Path) -> None:
    assert cells(notebook)
    for cell in cells(notebook):
        assert cell["outputs"] == [] and cell["execution_count"] is None
