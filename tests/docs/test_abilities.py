"""The table of abilities names commands, options, settings and tests that there are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import reference

from maskprep.pipeline.config import Config
from masktrain.config.config import keys

ROOT = Path(__file__).parents[2]
FILES = {
    *("decisions.csv", "report.html", "metrics.jsonl", "result.json", "config.yaml", "env.json"),
    *("last.ckpt", "best.safetensors", "maskprep.yaml"),
}
"""Files that a row may name."""

ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs/abilities.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| ability")
]
TESTS = {
    name: file.relative_to(ROOT).as_posix()
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def sections() -> set[str]:
    """Keys of maskprep.yaml, with and without their section."""
    settings = Config()
    found = {field.name for field in dataclasses.fields(Config)}
    for name in set(found):
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{field.name}" for field in dataclasses.fields(value)}
    return found


def exists(name: str) -> bool:
    """Whether a command with its options, a setting or a file of this name is there."""
    program, *words = name.split()
    if program not in reference.PROGRAMS:
        return name in FILES | set(keys()) | sections() | {"masktrain.api"}
    if not words:
        return True
    commands = reference.group_of(program).commands
    options = (
        {o for p in commands[words[0]].params for o in (*p.opts, *p.secondary_opts)} if words[0] in commands else set()
    )
    return words[0] in commands and all(word in options for word in words[1:])


def shown_by(name: str) -> bool:
    """Whether a test, or a file of tests, is there."""
    return name in TESTS or (ROOT / name).is_file()


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_what_a_row_names_is_there(row: list[str]) -> None:
    _, how, tests = row
    named = re.findall(r"`([^`]+)`", how)
    assert (named or how == "always") and all(exists(name) for name in named), how
    shown = re.findall(r"`([^`]+)`", tests)
    assert shown and all(shown_by(name) for name in shown), tests


def test_names_that_are_not_there() -> None:
    assert len(ROWS) > 80
    assert not any(map(exists, ("masktrain fitt", "masktrain fit --nothing", "loss.nothing", "nothing.html")))
    assert not shown_by("test_nothing") and not shown_by("tests/train/test_nothing.py")


def test_no_id_of_an_internal_list() -> None:
    for folder in ("prep", "train", "docs", "benchmarks"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".md", ".yaml", ".j2", ".js", ".html"):
                assert not re.search(r"\bS[0-4]\.\d", file.read_text(encoding="utf-8")), file
