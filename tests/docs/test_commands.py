"""Every shell line of the README and the documentation is accepted by the parsers of the commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import yaml

from maskprep.pipeline.config import parse
from masktrain.cli.fit import OPTIONS
from masktrain.config import recipes
from masktrain.config.config import FitConfig, assignments, flat, keys

ROOT = Path(__file__).parents[2]
MARK = "<!-- not checked -->"
"""Before a block whose lines are no commands of ours, and are not to be run as they are."""

OTHERS = {"apt-get", "cd", "find", "git", "source"}
"""Programs that are not ours; their lines are taken as they are."""

FENCE = re.compile(rf"^(?P<mark>{MARK}\n+)?```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^\n|\A)((?: {4}\S[^\n]*\n)+)", re.MULTILINE)


def blocks(text: str, *kinds: str) -> Iterator[str]:
    """The texts of the fenced blocks of some kinds that have no mark."""
    for found in FENCE.finditer(text):
        if found["kind"] in kinds and not found["mark"]:
            yield found["text"]


def lines(text: str) -> Iterator[str]:
    """Every shell line of a page: of ``bash`` and indented blocks, and after the prompts of ``console`` blocks."""
    for block in blocks(text, "bash", "sh", "shell"):
        yield from block.replace("\\\n", " ").splitlines()
    for block in blocks(text, "console"):
        yield from (line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ "))
    for found in INDENTED.finditer(FENCE.sub("", text)):
        yield from (line.strip() for line in found[1].splitlines())


def commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without redirections, variables and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&"):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []
        elif set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)


def check(words: list[str]) -> None:
    """Raise AssertionError for a command that would be refused before it does anything."""
    program, *rest = words
    if program == "torchrun":
        program, *rest = rest[rest.index("-m") + 1 :]
    if program in reference.PROGRAMS:
        parsed(program, rest)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        asked = [name for word in rest for name in "".join(re.findall(r"^\.\[(.*)\]$", word)).split(",") if name]
        assert rest[0] == "install" and set(asked) <= set(extras), words
    elif program in ("python", "python3"):
        assert rest[0].startswith("-") or (ROOT / rest[0]).is_file(), words
    else:
        assert program in OTHERS, f"{program}: neither a command of ours nor a program that is known here"


def parsed(program: str, words: list[str]) -> None:
    """Parse a command of ours: its name, options, number of arguments, and the settings of a fit."""
    if not words or words[0].startswith("--"):
        assert set(words) <= {"--help", "--version"}, words
        return
    name, *rest = words
    if rest == ["--help"] or name == "COMMAND":
        return
    try:
        command = reference.command_of(program, name)
        context = command.make_context(name, rest)
    except Exception as problem:  # the parser's own errors
        raise AssertionError(f"{program} {' '.join(words)}: {type(problem).__name__} {problem}") from None
    values = context.params
    given = {key for key in values if context.get_parameter_source(key).name == "COMMANDLINE"}
    if program == "masktrain" and name in ("fit", "sweep"):
        if not values.get("plugin"):
            chosen = {OPTIONS[key]: values[key] for key in given & set(OPTIONS)} if name == "fit" else {}
            FitConfig.from_keys(chosen | assignments(list(values["settings"] or [])))
        if values["recipe"]:
            recipes.text(values["recipe"])


def test_every_shell_line_is_accepted(page: Path) -> None:
    for line in lines(page.read_text(encoding="utf-8")):
        for words in commands(line):
            check(words)


@pytest.mark.parametrize(
    "line",
    [
        "maskprep crop",
        "maskprep crop photos/ --sise 3",
        "maskprep cropp photos/",
        "maskprep explain photos/ a.jpg b.jpg",
        "find . | masktrain predict runs/a",
        "masktrain fit cache --target nothing",
        "masktrain fit cache --set optim.rl=3",
        "masktrain fit cache --recipe nothing",
        "make nothing",
        "pip install '.[nothing]'",
        "python nothing.py",
        "wget x",
    ],
)
def test_a_wrong_line_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r"."):
        for words in commands(line):
            check(words)


def test_lines_are_read_as_a_shell_reads_them() -> None:
    text = "```bash\nA=1 maskprep run p | maskprep status 'a b'  # why\n```\n\n"
    text += "```console\n$ make demo\nout\n```\n\n    make lint\n"
    found = [words for line in lines(text) for words in commands(line)]
    assert found == [["maskprep", "run", "p"], ["maskprep", "status", "a b"], ["make", "demo"], ["make", "lint"]]
    assert not list(lines(f"{MARK}\n\n```bash\nany thing\n```\n"))


def test_yaml_is_valid(page: Path) -> None:
    """Files of settings in the text: maskprep.yaml as a whole, and the settings that others name."""
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        if found["kind"] != "yaml":
            continue
        data: Any = yaml.safe_load(found["text"])
        if 'title="maskprep.yaml"' in found[0]:
            parse(data)
        elif 'title="space.yaml"' in found[0]:
            assert {*data["space"], *data["fixed"]} <= set(keys())
        elif 'title="parts.yaml"' in found[0]:
            assert {key for part in data for key in flat(part.get("set", {}), "parts.yaml")} <= set(keys())


def test_python_is_valid(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        compile(block, str(page), "exec")
