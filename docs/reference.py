"""The reference pages, made from the commands, the settings and the registries themselves.

They are no files of the repository: `python docs/build_site.py` writes them among the other pages of the site.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import inspect
import json
import math
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from maskprep.cli import app as prep
from maskprep.cli.common import PANELS as PREP_PANELS
from maskprep.pipeline.config import Config
from maskprep.weights import REGISTRY
from masktrain.cli.app import PANELS as TRAIN_PANELS
from masktrain.cli.app import app as train
from masktrain.cli.fit import OPTIONS
from masktrain.config import recipes
from masktrain.config.config import SECTIONS, describe, keys

PROGRAMS = {"maskprep": (prep, PREP_PANELS), "masktrain": (train, TRAIN_PANELS)}
"""The two commands: the application, and the headings of its commands."""


@functools.cache
def pages() -> dict[str, str]:
    """Every reference page: its path in the documentation -> Markdown."""
    return {
        "reference/maskprep.md": commands("maskprep", "Prepare photos: find faces, cut crops, check labels."),
        "reference/masktrain.md": commands("masktrain", "Train on the crops, score, combine and use models."),
        "reference/settings.md": settings(),
        "reference/maskprep-yaml.md": sections(),
        "reference/recipes.md": recipe_list(),
        "reference/models.md": models(),
    }


def command_of(program: str, name: str) -> Any:
    """A command of maskprep or masktrain, as its parser has it."""
    return group_of(program).commands[name]


@functools.cache
def group_of(program: str) -> Any:
    """All commands of maskprep or masktrain."""
    return typer.main.get_command(PROGRAMS[program][0])


def commands(program: str, about: str) -> str:
    """A page with every command of a program, in the order of its help."""
    parts = [f"# {program}\n\n{about} `{program} --help` and `{program} COMMAND --help` print the same.\n"]
    for heading, names in PROGRAMS[program][1].items():
        parts.append(f"## {heading}\n")
        parts += [command(program, name) for name in names]
    return "\n".join(parts)


def command(program: str, name: str) -> str:
    """One command: what it does, how it is called, its arguments and options."""
    found = command_of(program, name)
    arguments = [each for each in found.params if each.param_type_name == "argument"]
    options = [each for each in found.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join([program, name, *(_usage(each) for each in arguments), "[OPTIONS]"])
    parts = [f"### {name}\n", f"{plain(found.help or '')}\n", f"```text\n{usage}\n```\n"]
    if arguments:
        parts.append(table(("argument", "meaning"), [(f"`{label(a)}`", a.help or "") for a in arguments]))
    if options:
        heads = ("option", "default", "meaning")
        parts.append(table(heads, [(_spelling(each), _default(each), each.help or "") for each in options]))
    return "\n".join(parts)


def label(parameter: Any) -> str:
    """What the help calls an argument or the value of an option."""
    return str(parameter.metavar or parameter.name.upper())


def _usage(argument: Any) -> str:
    text = label(argument)
    text += "..." if argument.nargs == -1 and "..." not in text else ""
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _spelling(option: Any) -> str:
    names = [*sorted(option.opts, key=len, reverse=True), *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _kind(option: Any) -> str:
    """The word for what an option takes: the name of its type, in capitals."""
    hint = option.type_descriptor.annotation
    kinds = [each for each in typing.get_args(hint) or (hint,) if each is not type(None)]
    words = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}
    return words.get(getattr(kinds[0], "__name__", ""), "TEXT") if kinds else "TEXT"


def _default(option: Any) -> str:
    """The default as the help has it; in words where these were given."""
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if value is None or value == "" or (option.is_flag and value is False) or callable(value):
        return ""
    if option.is_flag:
        return "on"
    return f"`{value.name if hasattr(value, 'name') else value}`"


def settings() -> str:
    """A page with every setting of a fit, by section."""
    parts = [
        "# Settings of masktrain\n",
        "`masktrain settings` prints this list, `masktrain settings loss optim.lr` a part of it. A setting is given "
        "by `--set section.name=value`, in a YAML file for `--config`, in a recipe, or by the option named here.\n",
    ]
    spellings = {key: "--" + _flag(name) for name, key in OPTIONS.items()}
    for section, kind in SECTIONS.items():
        parts.append(f"## {section}\n\n{plain(inspect.getdoc(kind) or '')}\n")
        rows = []
        for key in keys(section):
            about = describe(key)
            source = about.metadata["source"]
            meaning = about.metadata["help"] + (f" Source: {source}." if source else "")
            rows.append((f"`{key}`", _shown(about), spellings.get(key, "") and f"`{spellings[key]}`", meaning))
        parts.append(table(("setting", "default; allowed", "option of fit", "meaning"), rows))
    return "\n".join(parts)


def _flag(parameter: str) -> str:
    """The spelling of a parameter of fit, without its dashes."""
    found = next(each for each in command_of("masktrain", "fit").params if each.name == parameter)
    return str(max(found.opts, key=len)).removeprefix("--")


def _shown(about: dataclasses.Field[Any]) -> str:
    """The default of a setting, and what else it may be."""
    value, limits = about.default, about.metadata
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    shown = f"`{text}`" if text and value is not None else "none"
    if limits["choices"]:
        return f"{shown}; {', '.join(limits['choices'])}"
    low, high = limits["low"], limits["high"]
    if high < 1e6:
        return f"{shown}; {'above ' if limits['open_low'] else ''}{low:g} to {high:g}"
    if low > -math.inf:
        return f"{shown}; {'above' if limits['open_low'] else 'at least'} {low:g}"
    return shown


def sections() -> str:
    """A page with every key of maskprep.yaml."""
    parts = [
        "# maskprep.yaml\n",
        "Settings of the preparation, read from the photo folder or from `--config`. Every section may be absent. "
        "The section `schema` says what is classified, see [labels](../guides/labels.md#classes-of-your-own).\n",
    ]
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        kinds = [hints[field.name], *typing.get_args(hints[field.name])]
        kind = next((each for each in kinds if dataclasses.is_dataclass(each)), None)
        if kind is None or field.name == "schema":
            continue
        text = inspect.getdoc(kind) or ""
        title = "views.NAME" if field.name == "views" else field.name
        parts.append(f"## {title}\n\n{plain(text.partition('Args:')[0].partition('Raises:')[0])}\n")
        meanings = dict(_documented(text))
        rows = []
        for key in dataclasses.fields(typing.cast(Any, kind)):
            made = key.default_factory() if callable(key.default_factory) else key.default
            value = "none" if made in ((), {}, None) else json.dumps(made, ensure_ascii=False).strip('"')
            meaning = meanings.get(key.name, "")
            rows.append((f"`{key.name}`", f"`{value}`", meaning[:1].upper() + meaning[1:]))
        parts.append(table(("key", "default", "meaning"), rows))
    return "\n".join(parts)


def _documented(text: str) -> Iterator[tuple[str, str]]:
    """Names and meanings in the section Args of a docstring."""
    body = textwrap.dedent(text.partition("Args:\n")[2].partition("\n\n")[0])
    for entry in re.split(r"\n(?=\S)", body):
        names, _, meaning = entry.partition(": ")
        for name in names.split(","):
            yield name.strip(), plain(meaning)


def recipe_list() -> str:
    """A page with every recipe, as its file is."""
    parts = [
        "# Recipes\n",
        "A recipe is a file of settings with a name: `masktrain fit CACHE --recipe NAME`. Options and `--set` change "
        "single settings of it.\n",
    ]
    for name in recipes.names():
        parts.append(f"## {name}\n\n```yaml\n{recipes.text(name).strip()}\n```\n")
    return "\n".join(parts)


def models() -> str:
    """A page with every file of model weights."""
    rows = [
        (
            f"`{each.name}`",
            each.purpose,
            each.licence,
            f"{each.size / 1e6:.1f} MB" if each.size else "not stated",
            "; ".join(_origin(str(source)) for source in each.sources) or "nowhere: put the file there by hand",
        )
        for each in REGISTRY.values()
    ]
    return "\n".join(
        [
            "# Model files\n",
            "`maskprep weights` prints which of them are there. Each is fetched when it is first needed and checked by "
            "its sha256 (md5 where the publisher states no other). See "
            "[work without a network](../start/install.md#without-a-network).\n",
            table(("name", "what it is for", "licence", "size", "fetched from"), rows),
        ]
    )


def _origin(source: str) -> str:
    """Where a file is fetched from: a link by its host, or a package."""
    return f"[{source.split('/')[2]}]({source})" if "://" in source else source


def plain(text: str) -> str:
    """A docstring as Markdown: names of roles as code, lines of a paragraph joined."""
    text = re.sub(r":\w+:`~?\.?(?:[\w.]+\.)?(\w+)`", r"`\1`", text).replace("``", "`")
    return "\n\n".join(" ".join(each.split()) for each in text.split("\n\n") if each.strip())


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(heads), ["---"] * len(heads), *([cell(each) for each in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Text that can stand in a cell. Code that holds a bar is written as HTML: Markdown has no escape for it there."""
    parts = " ".join(text.split()).split("`")
    for i, part in enumerate(parts):
        if i % 2:
            bar = f"<code>{html.escape(part, quote=False).replace('|', '&#124;')}</code>"
            parts[i] = bar if "|" in part else f"`{part}`"
        else:
            parts[i] = part.replace("|", "\\|").replace("<", "&lt;")
    return "".join(parts)
