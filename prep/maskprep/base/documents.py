"""YAML 1.2 files that people write, read strictly: a mistake is told with its file and, where it is known, its line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from maskprep.errors import UsageError


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; see :func:`parse_yaml`.

    Raises:
        UsageError: it cannot be read, is not UTF-8 or not valid YAML.
    """
    return parse_yaml(_text(path), str(path))


def parse_yaml(text: str, name: str) -> Any:
    """YAML as plain values. Only true and false are booleans, and dates are texts: ``on``, ``no``, ``2024-01-31`` are
    words. A key that is there twice is a mistake, as one of its values would be lost.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: it is not valid, with the line.
    """
    return _parsed("load", text, name)


def read_nodes(path: Path) -> Any:
    """The tree of a YAML file in nodes of ruamel.yaml, with lines and with scalars as written; None of an empty one.

    Raises:
        UsageError: as :func:`read_yaml`.
    """
    return _parsed("compose", _text(path), str(path))


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read '{path}': {error.strerror}.") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"Cannot read '{path}': line {line} is not UTF-8.", "Save it as UTF-8.") from error


def _parsed(method: str, text: str, name: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _constructor()
    where = ""
    try:
        return getattr(yaml, method)(text)
    except MarkedYAMLError as error:
        if mark := error.problem_mark or error.context_mark:
            where = f", line {mark.line + 1}"
        problem = " ".join(str(error.problem or error.context).split())
    except ReaderError as error:
        where, problem = f", line {text.count(chr(10), 0, error.position) + 1}", str(error.reason)
    except RecursionError:
        problem = "it is nested too deeply"
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        problem = f"a value cannot be read ({error})"
    raise UsageError(f"'{name}' is not valid YAML{where}: {problem}.")


@cache
def _constructor() -> Any:
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        """Dates are texts."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    return Constructor
