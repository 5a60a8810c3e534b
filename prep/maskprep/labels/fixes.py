"""Fixes: rules that change labels, kept in a CSV or YAML file that lives beside the photos or in git.

One row is one fix. Every cell is text, empty where it is not needed; columns may come in any order, and only those that
are used need to be there:

=========  ==========================================================================================================
column     meaning
=========  ==========================================================================================================
person     selects the images of a person. ``20`` also means ``000020``: spreadsheets cut leading zeros off
image      selects images by path, by the end of a path, or by a pattern such as ``normal.*`` or ``000020_*/mask?.jpg``
where      selects by any other column of images.parquet: ``race=Asian; split=train``
operation  ``set`` (also when empty), ``swap``, ``drop`` or ``rename``
field      which label: an attribute of the schema, such as mask, gender or age
expected   what the photos must say now; ``*`` for anything
new        what is true. A number's class will do too (``<30``): it becomes the nearest number of that class
other      only for ``swap``: the second image, selected like ``image``
reason     why, in your words
source     who says so: a person, a list, a repository
agree      how many lists say so, where there are several
=========  ==========================================================================================================

- ``set`` changes one label of all selected images from ``expected`` to ``new``.
- ``swap`` exchanges one label between the two images ``image`` and ``other`` of the selection: ``image`` goes from
  ``expected`` to ``new``, ``other`` from ``new`` to ``expected``.
- ``drop`` excludes the selected images from training; ``field`` and ``expected`` make it conditional.
- ``rename`` gives the selected images another person, ``new``; ``expected`` is the person they have now.

All selectors of a row must hold. A YAML file holds the same rows as a list of mappings, on its own or under ``fixes``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, UserError, nearest, read_csv, read_nodes
from maskprep.store import read_decisions, relabels

OPERATIONS = ("set", "swap", "drop", "rename")
ANY = "*"
PERSON = "person"

COLUMNS = ("person", "image", "where", "operation", "field", "expected", "new", "other", "reason", "source", "agree")

PRESET, FILE, DECISION = 0, 1, 2
"""Where a fix comes from. A higher one overrules a lower one; two of the same that disagree are an error."""


@dataclass(frozen=True)
class Fix:
    """One fix; the fields are the columns of a file (see the module).

    Args:
        content: selects by the photo's content; only decisions have it.
        origin: the file it is from, without its folder.
        line: its line there, 0 where there are no lines.
        level: PRESET, FILE or DECISION.

    Raises:
        UsageError: cells that do not fit the operation.
    """

    person: str = ""
    image: str = ""
    where: tuple[tuple[str, str], ...] = ()
    operation: str = "set"
    field: str = ""
    expected: str = ""
    new: str = ""
    other: str = ""
    reason: str = ""
    source: str = ""
    agree: int = 0
    content: str = ""
    origin: str = ""
    line: int = 0
    level: int = FILE

    def __post_init__(self) -> None:
        if self.operation not in OPERATIONS:
            raise UsageError(
                f"unknown operation '{self.operation}'.{nearest(self.operation, OPERATIONS)}",
                f"Known: {', '.join(OPERATIONS)}.",
            )
        if not (self.person or self.image or self.where or self.content):
            raise UsageError("it selects nothing.", "Give person, image or where.")
        needed, spare = {
            "set": (("field", "expected", "new"), ("other",)),
            "swap": (("image", "other", "field", "expected", "new"), ()),
            "drop": ((), ("new", "other")),
            "rename": (("new",), ("other",)),
        }[self.operation]
        for name in needed:
            if not getattr(self, name):
                hint = f"Use {ANY} if it does not matter." if name == "expected" and self.operation == "set" else ""
                raise UsageError(f"a {self.operation} needs the column '{name}'.", hint)
        for name in spare:
            if getattr(self, name):
                raise UsageError(f"a {self.operation} has no '{name}' ('{getattr(self, name)}').")
        if self.operation == "swap" and ANY in (self.expected, self.new):
            raise UsageError(f"a swap needs both values, not '{ANY}'.")
        if self.operation == "drop" and bool(self.field) != bool(self.expected):
            raise UsageError("a drop has both 'field' and 'expected', or neither.")
        if self.operation == "rename":
            if self.field not in ("", PERSON):
                raise UsageError(f"a rename changes the person, not '{self.field}'.", "Use set for labels.")
            if not (self.expected or self.person):
                raise UsageError("a rename needs the person it expects: give person or expected.")
        elif self.field == PERSON:
            raise UsageError(f"a {self.operation} does not change the person.", "Use the operation rename.")

    @property
    def label(self) -> str:
        """What it is about: an attribute, the person, or neither (empty)."""
        return PERSON if self.operation == "rename" else self.field

    @property
    def place(self) -> str:
        """Where it stands, for messages: ``fixes.csv, line 3``."""
        return f"{self.origin}, line {self.line}" if self.line else self.origin

    @property
    def selection(self) -> str:
        """What it selects, in words."""
        parts = [self.person and f"person {self.person}", self.image, *(f"{k}={v}" for k, v in self.where)]
        return " ".join(part for part in (*parts, self.other and f"↔ {self.other}") if part)


def read_fixes(path: Path, level: int = FILE) -> list[Fix]:
    """The fixes of a file (.csv, .yaml or .yml), in order; ``level`` is PRESET or FILE.

    Raises:
        UserError: the file cannot be read.
        UsageError: an unknown column or a row that is no fix, naming file and line.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".yaml", ".yml"):
        raise UsageError(f"'{path}' is neither a .csv nor a .yaml file.", "Fixes are rows of a CSV or YAML file.")
    if not path.is_file():
        hint = "Restore the file, or remove its fixes with: maskprep relabel CACHE --fixes none"
        raise UserError(f"The fixes '{path}' are not there.", hint)
    rows = _csv_rows(path) if suffix == ".csv" else _yaml_rows(path)
    return [_fix(path, line, cells, level) for line, cells in rows]


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    table = read_csv(path)
    if not table.names:
        raise UserError(f"'{path}' is empty.", f"Its first line names the columns: {', '.join(COLUMNS)}.")
    table = dataclasses.replace(table, names=[name.lower() for name in table.names])
    _check_columns(path, table.names)
    return list(table.records())


def _yaml_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    node: Any = read_nodes(path)
    if node is not None and node.id == "mapping":
        keys = [key.value for key, _ in node.value]
        if keys != ["fixes"]:
            raise UsageError(f"{path.name}: unknown key '{next((k for k in keys if k != 'fixes'), '')}'.", "Use: fixes")
        node = node.value[0][1]
    if node is None or not node.value:
        return []
    if node.id != "sequence":
        raise UsageError(f"{path.name} must hold a list of fixes.")
    rows = []
    for item in node.value:
        line = item.start_mark.line + 1
        if item.id != "mapping" or any(value.id != "scalar" for _, value in item.value):
            raise UsageError(f"{path.name}, line {line}: a fix is a mapping of columns to texts.")
        _check_columns(path, [str(key.value) for key, _ in item.value])
        rows.append((line, {str(key.value): value.value.strip() for key, value in item.value}))
    return rows


def _check_columns(path: Path, names: Sequence[str]) -> None:
    named = [name for name in names if name]
    for name in named:
        if name not in COLUMNS:
            known = f"Known: {', '.join(COLUMNS)}."
            raise UsageError(f"{path.name}: unknown column '{name}'.{nearest(name, COLUMNS)}", known)
    if len({*named}) < len(named):
        raise UsageError(f"{path.name}: two columns have one name.")


def _fix(path: Path, line: int, cells: Mapping[str, str], level: int) -> Fix:
    values: dict[str, Any] = {name: value for name, value in cells.items() if value}
    try:
        if "where" in values:
            values["where"] = _where(values["where"])
        if "agree" in values:
            if not (values["agree"].isascii() and values["agree"].isdigit()):
                raise UsageError(f"'agree' must be a whole number, not '{values['agree']}'.")
            values["agree"] = int(values["agree"])
        if "operation" in values:
            values["operation"] = values["operation"].lower()
        return Fix(**values, origin=path.name, line=line, level=level)
    except UsageError as error:
        raise UsageError(f"{path.name}, line {line}: {error.message}", error.hint) from None


def _where(text: str) -> tuple[tuple[str, str], ...]:
    """``column=value; column=value`` as pairs."""
    pairs = []
    for part in filter(None, map(str.strip, text.split(";"))):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not (equals and name):
            raise UsageError(f"'where' must be column=value, not '{part}'.")
        pairs.append((name, value))
    return tuple(pairs)


def read_preset(name: str, min_agree: int) -> list[Fix]:
    """The published label errors that come with the program, those on which at least ``min_agree`` lists agree.

    Raises:
        UsageError: no such preset.
    """
    folder = Path(__file__).with_name("presets")
    known = sorted(path.stem for path in folder.glob("*.csv"))
    if name not in known:
        raise UsageError(f"There is no preset '{name}'.{nearest(name, known)}", f"Known: {', '.join(known)}.")
    fixes = read_fixes(folder / f"{name}.csv", PRESET)
    return [dataclasses.replace(fix, origin=f"preset {name}") for fix in fixes if fix.agree >= min_agree]


def gather(files: Sequence[str], preset: str | None, min_agree: int, decisions: Path) -> list[Fix]:
    """Every fix in force: of files, of a preset (see :func:`read_preset`), and the ``relabel`` decisions of
    decisions.csv, which are fixes of single photos.

    Raises:
        UserError: a file cannot be read or is no file of fixes.
    """
    fixes = read_preset(preset, min_agree) if preset else []
    for file in files:
        fixes.extend(read_fixes(Path(file)))
    for decision in relabels(read_decisions(decisions)):
        fixes.append(
            Fix(
                image=decision.image,
                field=decision.relabels,
                expected=decision.expected.partition("=")[2].strip() or ANY,
                new=decision.value.partition("=")[2].strip(),
                reason=decision.reason,
                source=decision.by,
                content=decision.content,
                origin="decisions.csv",
                line=decision.line,
                level=DECISION,
            )
        )
    return fixes
