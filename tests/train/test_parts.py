"""One fit for each part of the label, then a composition; what is finished is not fitted again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskprep.errors import UsageError
from masktrain.combine import compose
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study.parts import fit_parts
from masktrain.study.progress import Progress

Make = Callable[..., FitConfig]


def parts_of(config: Make) -> dict[str, tuple[str, FitConfig]]:
    """Both attributes of the synthetic cache, each by a fit of one epoch."""
    fast = {"optim__epochs": 1, "augment__recipe": "none"}
    return {name: (name, config(data__task=name, **fast)) for name in ("mask", "gender")}


class Watching(Progress):
    """Keeps what is said; Ctrl-C when the second part begins."""

    def __init__(self, stop: bool) -> None:
        self.said: list[str] = []
        self.stop = stop

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.stop and text.startswith("part    gender"):
            raise KeyboardInterrupt


def test_parts_are_fitted_once_and_composed(cache: Path, config: Make, tmp_path: Path) -> None:
    out = tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        fit_parts(cache, parts_of(config), out, progress=Watching(stop=True))
    first = tmp_path / "whole-parts/mask"
    assert runs.finished(first) and not out.exists()
    written = (first / runs.RESULT).stat().st_mtime_ns
    watching = Watching(stop=False)
    made = fit_parts(cache, parts_of(config), out, progress=watching)
    assert (first / runs.RESULT).stat().st_mtime_ns == written
    assert (
        watching.said[0].startswith("part    mask (mask) is finished") and watching.said[1] == "part    gender (gender)"
    )
    assert made.run == out and [p[0] for p in made.parts] == ["mask", "gender"] and (out / runs.OOF).is_file()
    with pytest.raises(UsageError, match="already exists"):
        fit_parts(cache, parts_of(config), out)


def test_parts_with_other_settings_are_not_mixed(cache: Path, config: Make, tmp_path: Path) -> None:
    given = parts_of(config)
    with pytest.raises(KeyboardInterrupt):
        fit_parts(cache, given, tmp_path / "whole", progress=Watching(stop=True))
    other = given | {"gender": ("gender", config(data__task="gender", optim__epochs=2))}
    with pytest.raises(UsageError, match="begun with other settings"):
        fit_parts(cache, other, tmp_path / "whole")


@pytest.mark.skipif(not hasattr(compose, "read_parts"), reason="compose reads no parts file yet")
def test_from_the_command_line(
    cache: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = [
        {"name": "first", "task": "mask", "set": {"optim.lr": "5e-3"}},
        {"name": "second", "task": "gender"},
    ]
    file = tmp_path / "parts.yaml"
    file.write_text(yaml.safe_dump(given))
    small = ["--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8", "--augment", "none"]
    assert call("fit", cache, *small, "--parts", file, "--out", tmp_path / "whole") == 0
    assert re.search(r"^gender .*second ", capsys.readouterr().out, re.MULTILINE)
    assert runs.read_config(tmp_path / "whole-parts/first").optim.lr == 5e-3
    assert call("fit", cache, *small, "--parts", file, "--check") == 2
    assert call("evaluate", tmp_path / "whole", cache, "--split", "train") == 0
