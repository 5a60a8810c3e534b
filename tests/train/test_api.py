"""A notebook has the same functions as the command line, and loads no more than it uses."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer

from masktrain import api
from masktrain.cli import app as cli
from masktrain.cli import commands, project

PAGE = Path(__file__).parents[2] / "docs/guides/python.md"


def test_every_name_is_there_and_nothing_is_loaded_before_it_is_used() -> None:
    for name in api.__all__:
        assert getattr(api, name).__name__ == name
    assert set(dir(api)) == set(api.__all__)
    with pytest.raises(AttributeError, match="'fitt'"):
        api.fitt  # noqa: B018
    code = "import sys, masktrain.api\nfrom masktrain.api import FitConfig\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command, function, own",
    [
        (project.init, api.init, {"folds", "seed"}),  # count and seeds there: several of them
        (commands.evaluate, api.evaluate, {"context"}),
        (commands.predict, api.predict, {"without_crop", "strict"}),
        (commands.export, api.export, {"format"}),
        (commands.ensemble, api.ensemble, set()),
        (commands.calibrate, api.calibrate, set()),
        (commands.explain, api.explain, set()),
        (project.sweep, api.sweep, {"space", "recipe", "settings", "plugin", "protocol", "out"}),
    ],
)
def test_the_same_options_with_the_same_defaults(
    command: typing.Callable[..., None], function: typing.Callable[..., object], own: set[str]
) -> None:
    theirs = inspect.signature(function).parameters
    for name, option in inspect.signature(command).parameters.items():
        if name in own:
            continue
        assert name in theirs, f"{function.__name__} has no '{name}'"
        said, meant = option.default, theirs[name].default
        assert said == meant or (said, meant) in ((None, ()), (None, False)), name


def test_help_follows_the_work() -> None:
    group = typer.main.get_command(cli.app)
    listed = group.list_commands(typer.Context(group))  # type: ignore[attr-defined]
    order = [name for name in listed if not group.commands[name].hidden]  # type: ignore[attr-defined]
    assert order == [name for names in cli.PANELS.values() for name in names]  # no command without a heading
    assert order.index("init") < order.index("fit") < order.index("evaluate") < order.index("predict")


def test_the_example_of_the_documentation_works(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    code = text.partition("```python\nfrom masktrain import api")[2].partition("```")[0]
    assert code, "the page has an example"
    code = "from masktrain import api" + code
    assert len(ast.parse(code).body) <= 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/photos").symlink_to(cache, target_is_directory=True)
    code = code.replace(
        '"optim.epochs": 8', '"optim.epochs": 1, "model.name": "test_resnet", "model.pretrained": False'
    )
    assert '"test_resnet"' in code
    names: dict[str, typing.Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["done"].epochs == 1 and 0 <= names["scored"].scores.macro_f1 <= 1
    assert (tmp_path / "predictions.csv").is_file()
