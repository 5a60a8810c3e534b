"""The command line: thin, quick to answer, and friendly when something is wrong."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from masktrain.cli import fit
from masktrain.config import config

Call = Callable[..., int]
FIT = ["fit", "--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8"]


def test_the_way_from_a_cache_to_answers(
    cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert call(*FIT, cache, "--lr", "0.005", "--out", run) == 0
    said = capsys.readouterr().out
    assert "120 images of 24 people to train on, 28 of 6 held out" in said
    assert re.search(r"epoch 1/1 +loss .* macro-F1 .* img/s +data wait", said)
    assert re.search(r"score +macro-F1 0\.\d+ \(95% over 6 people", said)
    assert call("evaluate", run, cache, "--split", "train") == 0
    printed = capsys.readouterr()
    assert "wear/male" in printed.out and "joint label" in printed.out and "Warning: " in printed.err
    assert call("predict", run, cache, "--out", tmp_path / "p.csv") == 0
    assert "170 photos, 168 with an answer" in capsys.readouterr().out
    assert call("predict", run, cache, "--out", tmp_path / "p.csv", "--strict", "--force") == 3
    assert "2 without an answer: train/0000_x/wear0.jpg (unreadable)" in capsys.readouterr().err
    assert call("fit", "--resume", run) == 0
    assert "Resuming after epoch 1 of 1" in capsys.readouterr().out


def test_the_next_command_runs_as_it_is_printed(
    cache: Path, run: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of fit, ensemble, evaluate and predict, in folders whose names need quotes."""
    own = Path(shutil.copytree(cache, tmp_path / "a cache"))
    folder = tmp_path / "it's here"
    for first in (
        [*FIT, own, "--out", folder / "one"],
        ["ensemble", run, folder / "one", "--out", folder / "both"],
        ["evaluate", folder / "one", own, "--split", "train"],
    ):
        assert call(*first) == 0
        said = capsys.readouterr().out
        printed = re.findall(r"^next +(.*)$", said, re.MULTILINE)
        if first[0] == "ensemble" and "alone; use that" in " ".join(said.split()):
            assert not printed, "what is worse than a member of it is not proposed"
            continue
        assert len(printed) == 1
        command, *args = shlex.split(printed[0])
        assert command == "masktrain" and call(*args) == 0
        capsys.readouterr()
    assert call("predict", folder / "one", own, "--out", folder / "p.csv") == 0
    assert not re.search("^next", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    "args, code, said",
    [
        (["fit"], 2, "No cache is given."),
        (["fit", "nowhere"], 2, "nowhere' does not exist"),
        (["fit", "nowhere", "--lr", "-1"], 2, "'lr' must be at least 0"),
        (["fit", "nowhere", "--augment", "lite"], 2, "Did you mean 'light'?"),
        (["fit", "--resume", "nowhere"], 2, "no last.ckpt"),
        (["fit", "--resume", "nowhere", "--lr", "1", "--augment", "none"], 2, "--augment, --lr cannot be given"),
        (["fit", "nowhere", "--epoch", "3"], 2, "--epochs"),
        (["fit", "nowhere", "--set", "loss.gama=1"], 2, "Did you mean 'loss.gamma'?"),
        (["fit", "nowhere", "--set", "loss.gamma"], 2, "KEY=VALUE"),
        (["evaluate", "nowhere", "nowhere", "--tta", "miror"], 2, "Did you mean 'mirror'?"),
        (["evaluate", "nowhere", "nowhere"], 2, "nowhere is not a run"),
        (["predict", "nowhere", "nowhere"], 2, "does not exist"),
        (["prdict"], 2, "predict"),
    ],
)
def test_wrong_usage(call: Call, capsys: pytest.CaptureFixture[str], args: list[str], code: int, said: str) -> None:
    assert call(*args) == code
    printed = capsys.readouterr().err
    assert said in printed and "Traceback" not in printed


def test_an_error_of_the_system_is_said_and_not_traced(
    cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert call("init", cache, "--out", tmp_path / "file/rules.yaml") == 1
    assert capsys.readouterr().err == f"Error: File exists: '{tmp_path / 'file'}'\n"


def test_every_option_is_a_setting() -> None:
    assert set(fit.OPTIONS.values()) <= set(config.keys())
    assert len(set(fit.OPTIONS.values())) == len(fit.OPTIONS)  # none twice; --set reaches the others


def test_settings_by_name(cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    settings = ["--set", "target.weights=1,2", "--set", "loss.gamma=3", "--loss", "focal", "--target", "heads"]
    assert call(*FIT, cache, *settings, "--ema", "0.9", "--tta", "mirror", "--out", run) == 0
    kept = (run / "config.yaml").read_text()
    assert "gamma: 3.0" in kept and "kind: heads" in kept and "ema: 0.9" in kept and "- 2.0" in kept
    assert call("evaluate", run, cache, "--split", "train", "--tta", "none") == 0
    capsys.readouterr()
    assert call("settings") == 0
    known = list(config.keys())
    said = capsys.readouterr().out
    assert [line.partition(" = ")[0] for line in said.splitlines() if re.match(r"\w+\.\w+ = ", line)] == known


def test_some_settings(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("settings", "select.by", "clip", "select.by") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith(" ")] == ["select.by = macro_f1", "optim.clip = 1.0"]
    assert call("settings", "optm") == 2
    assert "Did you mean 'optim'?" in capsys.readouterr().err


def test_help_names_the_defaults(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"[default: {config.OptimConfig().lr}]" in said and config.describe("schedule.warmup").metadata["help"] in said
    )


def test_help_loads_no_heavy_packages() -> None:
    """What makes it slow; benchmarks/startup.py measures the time."""
    code = (
        "import sys, masktrain.cli.app; sys.exit(bool({'torch', 'numpy', 'pandas', 'rich', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", [("fit", "CACHE"), ("evaluate", "RUN", "CACHE"), ("models",), ("export", "RUN")])
def test_without_the_extra_a_command_names_it(cache: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    words = [{"CACHE": str(cache), "RUN": str(tmp_path)}.get(word, word) for word in command]
    code = f"""
import sys
for name in ("torch", "torchvision", "timm", "sklearn", "albumentations", "safetensors"):
    sys.modules[name] = None
sys.argv = ["masktrain", *{words!r}]
from masktrain.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("is not installed.\nInstall it with: pip install 'maskprep[train]'\n")
    assert "Traceback" not in done.stderr


def test_a_live_bar_on_a_terminal(cache: Path, tmp_path: Path) -> None:
    if shutil.which("script") is None:
        pytest.skip("no script(1) to make a terminal")
    command = [sys.executable, "-m", "masktrain", *FIT, str(cache), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        ["script", "-qec", " ".join(command), "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout
    assert "epoch 1/1  loss" in done.stdout and "nan" not in done.stdout
    bars = re.findall(r"img/s  data wait \d+%(.*?) left", done.stdout)
    assert bars and all("loss" in bar for bar in bars), "from the first step on"


def test_the_version_and_a_short_help(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    from maskprep import __version__

    assert call("--version") == 0 and capsys.readouterr().out == f"masktrain {__version__}\n"
    assert call("fit", "-h") == 0 and "CACHE" in capsys.readouterr().out
