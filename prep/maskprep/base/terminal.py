"""Tables and lines that fit the terminal: names are shortened in the middle, texts are wrapped, numbers stay whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from maskprep.base.text import nfc

if TYPE_CHECKING:
    from rich.text import Text

NO_TERMINAL = 110
"""Width of a table where there is no terminal and ``COLUMNS`` is not set."""
GAP = 2
SHORTEST_NAME, LONG_NAME, SHORTEST_TEXT = 16, 32, 12
"""A name and a text are not narrowed below the first and last; names above the second are shortened before texts are
wrapped."""

Kind = Literal["name", "number", "word", "text"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        head: its title, which is wrapped between words.
        kind: ``name``: shortened where room is short, first by the folder that all names share, then in the middle;
            ``number`` (aligned right) and ``word``: always shown whole; ``text``: wrapped between words.
    """

    head: str
    kind: Kind = "word"

    def shortest(self, cells: Sequence[Text]) -> int:
        """The smallest width in which the column can be shown."""
        head = max((cells_of(word) for word in self.head.split()), default=0)
        longest = max((cell_width(cell) for cell in cells), default=0)
        limit = {"name": SHORTEST_NAME, "text": SHORTEST_TEXT}.get(self.kind, longest)
        return max(1, head, min(longest, limit))

    def widest(self, cells: Sequence[Text]) -> int:
        """The width at which nothing is shortened or wrapped."""
        return max([1, cells_of(self.head), *(cell_width(cell) for cell in cells)])


def cells_of(text: str) -> int:
    """Columns of the terminal that a text takes; wide characters, as of Korean, take two."""
    from rich.cells import cell_len

    return cell_len(text)


def cell_width(cell: Text) -> int:
    """Columns of the terminal that the longest line of a cell takes."""
    return max((cells_of(line) for line in cell.plain.split("\n")), default=0)


def width() -> int | None:
    """Columns of the terminal: ``COLUMNS`` if it is set, else those of the stream that is a terminal, else None."""
    if (asked := os.environ.get("COLUMNS", "")).isdecimal() and int(asked):
        return int(asked)
    for stream in (1, 2, 0):
        try:
            if columns := os.get_terminal_size(stream).columns:
                return columns
        except OSError:  # no terminal, or closed
            continue
    return None


def wrapped(line: str, indent: int) -> str:
    """A line that is wrapped between words where it is wider than the terminal; longer words, as paths, stay whole.

    Args:
        line: a label and a text.
        indent: columns of the terminal that the label takes; the following lines begin there.
    """
    room = width()
    if room is None or cells_of(line) <= room:
        return line
    lines, used = [line[:indent]], indent
    for word in line[indent:].split(" "):
        if used + cells_of(word) > room and used > indent:
            lines.append(" " * indent)
            used = indent
        lines[-1] += f"{word} "
        used += cells_of(word) + 1
    return "\n".join(each.rstrip() for each in lines)


def shorten(name: str, room: int) -> str:
    """A name without its middle if it takes more than ``room`` columns of the terminal."""
    name = nfc(name)
    if cells_of(name) <= room:
        return name
    head, tail = (room - 1) // 2, room // 2
    return f"{_start(name, head)}…{_start(name[::-1], tail)[::-1]}"


def _start(text: str, room: int) -> str:
    used = 0
    for number, character in enumerate(text):
        used += cells_of(character)
        if used > room:
            return text[:number]
    return text


def printable(text: str, but: str = "") -> str:
    """A text without characters that move the cursor or break the line, save those of ``but``."""
    return "".join(ch if ch.isprintable() or ch in but else repr(ch)[1:-1] for ch in text)


def print_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str | Text]],
    total: Sequence[str | Text] | None = None,
    title: str = "",
) -> None:
    """Print a table on standard output, no wider than the terminal.

    Where the numbers of all columns do not fit beside each other, the columns that are left follow in a second table
    below, again with the first name. Columns without any content are left out.

    Args:
        columns: of which kind each is.
        rows: a cell for each column, plain or styled.
        total: a last row, apart from the others.
        title: a line above it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: str | Text, column: Column) -> Text:
        text = value if isinstance(value, Text) else Text(value)
        text.plain = printable(text.plain, "\n" if column.kind == "text" else "")
        return text

    body = [[cell(value, column) for value, column in zip(row, columns, strict=True)] for row in rows]
    last = [] if total is None else [[cell(value, column) for value, column in zip(total, columns, strict=True)]]
    room = width() or NO_TERMINAL
    console = Console(width=room, highlight=False, emoji=False, markup=False)
    if title:
        console.print(title, soft_wrap=True)
    cells = [[row[i] for row in body + last] for i in range(len(columns))]
    empty = {i for i in range(1, len(columns)) if body and not any(cell.plain for cell in cells[i])}
    shortest = [column.shortest(each) for column, each in zip(columns, cells, strict=True)]
    widest = [column.widest(each) for column, each in zip(columns, cells, strict=True)]
    for number, block in enumerate(_blocks(columns, shortest, empty, room)):
        if number:
            console.print()
        shown = [columns[i] for i in block]
        sizes = [[cell_width(cell) for cell in cells[i]] for i in block]
        widths = _widths(shown, [shortest[i] for i in block], [widest[i] for i in block], sizes, room)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
        for column, wide in zip(shown, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
            table.add_column(column.head, justify=justify, width=wide, overflow="fold")
        folders = [_common_folder([row[i].plain for row in body]) for i in block]
        for row in [*body, *last]:
            if last and row is last[0]:
                table.add_section()
            fitted = zip(block, widths, folders, strict=True)
            table.add_row(*(_fitted(row[i], columns[i], wide, folder) for i, wide, folder in fitted))
        console.print(table)


def _common_folder(names: Sequence[str]) -> str:
    """The folder, with the slash behind it, in which all names of a column lie; empty where there is none."""
    shared = names[0].split("/")[:-1] if len(names) > 1 else []
    for name in names:
        parts = name.split("/")[:-1]
        same = (i for i, (a, b) in enumerate(zip_longest(shared, parts)) if a != b)
        shared = shared[: next(same, len(shared))]
    return "".join(f"{part}/" for part in shared)


def _fitted(cell: Text, column: Column, wide: int, folder: str) -> Text:
    if column.kind != "name" or cell_width(cell) <= wide:
        return cell
    cell = cell.copy()
    if folder and cell.plain.startswith(folder):
        cell.plain = f"…/{cell.plain.removeprefix(folder)}"
    cell.plain = shorten(cell.plain, wide)
    return cell


def _blocks(columns: Sequence[Column], shortest: Sequence[int], empty: Set[int], room: int) -> list[list[int]]:
    """Numbers of the columns that stand beside each other, table for table, without empty ones."""
    first = next((i for i, column in enumerate(columns) if column.kind == "name"), 0)
    blocks, used = [[0]], shortest[0]
    for i in (i for i in range(1, len(columns)) if i not in empty):
        if used + GAP + shortest[i] > room and blocks[-1] != [first]:
            blocks.append([first])
            used = shortest[first]
        if i not in blocks[-1]:
            blocks[-1].append(i)
            used += GAP + shortest[i]
    return blocks


def _widths(
    columns: Sequence[Column],
    shortest: Sequence[int],
    widest: Sequence[int],
    sizes: Sequence[Sequence[int]],
    room: int,
) -> list[int]:
    """Width of each column: the room that is left goes to names first, then to titles, texts and very long names.

    Args:
        columns: those that stand beside each other.
        shortest, widest: the limits of each width.
        sizes: widths of the cells of each column.
        room: columns of the terminal for all of them and the gaps between them.
    """
    widths = list(shortest)
    left = room - sum(widths) - GAP * (len(widths) - 1)
    steps: tuple[tuple[tuple[Kind, ...], int], ...] = (
        (("name",), LONG_NAME),
        (("number", "word"), room),
        (("text",), room),
        (("name",), room),
    )
    for kinds, limit in steps:
        while left > 0:
            growing = [i for i, c in enumerate(columns) if c.kind in kinds and widths[i] < min(widest[i], limit)]
            if not growing:
                break
            if kinds == ("text",):  # the one of which most is wrapped
                widths[max(growing, key=lambda i: sum(max(0, size - widths[i]) for size in sizes[i]))] += 1
            else:
                widths[min(growing, key=lambda i: widths[i])] += 1
            left -= 1
    return widths
