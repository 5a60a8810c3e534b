"""YAML files that people write, read strictly: a mistake is told with its file and, where it is known, its line."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from maskprep.errors import UsageError


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; see :func:`parse_yaml`.

    Raises:
        UsageError: it cannot be read, is not UTF-8 or not valid YAML.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read '{path}': {error.strerror}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"Cannot read '{path}': line {line} is not UTF-8.", "Save it as UTF-8.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Any:
    """YAML in which only true and false are booleans, as since YAML 1.2, and dates are texts: ``on``, ``no`` and
    ``2024-01-31`` are words. A key that is there twice is a mistake, as one of its values would be lost.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: it is not valid, with the line.
    """
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        what = error.problem or error.context
    except yaml.reader.ReaderError as error:
        where, what = f", line {text.count(chr(10), 0, error.position) + 1}", error.reason
    except RecursionError:
        where, what = "", "it is nested too deeply"
    raise UsageError(f"'{name}' is not valid YAML{where}: {what}.")


@cache
def _loader() -> Any:
    import yaml

    words = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")

    class Loader(yaml.SafeLoader):
        """Values that a type cannot hold, and keys that come twice, are mistakes with a place."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
                what = f"{node.value!r} cannot be read ({error})"
                raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for i, key in enumerate(names):
                if any(key.value == other.value and key.tag == other.tag for other in names[:i]):
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in words]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(words[0], re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    return Loader
