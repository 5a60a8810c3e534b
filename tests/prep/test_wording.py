"""Messages of both commands, read from the source: counts have the right plural, and texts name no internal list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskprep
import masktrain

FILES = sorted(file for package in (maskprep, masktrain) for file in Path(str(package.__file__)).parent.rglob("*.py"))
NOUNS = (
    "answers|bits|classes|conflicts|crops|decisions|epochs|faces|faults|files|findings|fixes|folders|folds|images|labels"
    "|mattes|people|persons|photos|pictures|rows|runs|seeds|shards|steps|tables|trials|updates"
)
PLURAL = re.compile(rf"(?<!of )(?<!of the )(?<!\d to )\{{(?P<number>[^{{}}]*)\}} (?:{NOUNS})\b")
SEVERAL = {
    "7 * summary.people",
    "7 * summary.eval_people",
    "summary.people",
    "count",
    "len(ends)",
    "len(folders)",
    "len(most)",
    "len(everyone)",
    "self.images",
    "folds",
    "made.count",
    "len(marks) + 1",
    "len(columns)",
    "len(attribute.classes)",
    "classes",
    "answers.shape[1]",
    "schema.num_classes",
}
"""Numbers that are never 1 where they are printed."""


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each message: string literals with blanks that are no docstrings; values stand in braces."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in docstrings | parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            values = (
                "{" + ast.unparse(v.value) + "}" if isinstance(v, ast.FormattedValue) else str(ast.literal_eval(v))
                for v in node.values
            )
            yield node.lineno, "".join(values)


@pytest.fixture(scope="module")
def messages() -> list[tuple[str, str]]:
    """Place and text of every message."""
    return [(f"{file.name}:{line}", text) for file in FILES for line, text in texts(file)]


def test_one_thing_has_no_plural(messages: list[tuple[str, str]]) -> None:
    found = [(place, m["number"], text) for place, text in messages for m in PLURAL.finditer(text)]
    wrong = [f"{place}: {text}" for place, number, text in found if number not in SEVERAL and not number.isupper()]
    assert len(messages) > 1500 and not wrong, "\n".join(wrong)


def test_messages_name_no_internal_list(messages: list[tuple[str, str]]) -> None:
    wrong = [f"{place}: {text}" for place, text in messages if re.search(r"\bS\d\.\d|\bDESIGN\b|\bissue \d", text)]
    assert not wrong, "\n".join(wrong)


WORDS = (
    r"asked about",
    r"by heart",
    r"goes by such a name",
    r"would flatter|will flatter|flatters",
    r"nobody says",
    r"is told by|not told",
    r"stumble",
    r"does not do for",
    r"took care",
)


def test_messages_have_no_riddles(messages: list[tuple[str, str]]) -> None:
    pattern = re.compile("|".join(WORDS))
    wrong = [f"{place}: {text}" for place, text in messages if pattern.search(text)]
    assert not wrong, "\n".join(wrong)
