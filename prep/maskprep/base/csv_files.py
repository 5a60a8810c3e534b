"""CSV files: one reader for all that people write, and cells that a spreadsheet does not take for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from maskprep.errors import UserError

STARTS = ("=", "+", "-", "@", "\t", "\r")
NUMBERS = re.compile(r"-?[\d.]+([ ,]+-?[\d.]+)*")
HINT = "Save it as UTF-8 with a header line."


@dataclass(frozen=True)
class CsvFile:
    """A table of texts.

    Args:
        names: of the columns; empty where a column has none.
        rows: the line at which each row begins, and its cells, as many as there are columns. Rows without any text are
            left out; cells have no blanks around them.
    """

    names: list[str]
    rows: list[tuple[int, list[str]]]

    def records(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line and cells by the name of their column, of the columns that have one."""
        for line, cells in self.rows:
            yield line, {name: cell for name, cell in zip(self.names, cells, strict=True) if name}


def read_csv(path: Path) -> CsvFile:
    """A CSV file with comma, semicolon or tab, in UTF-8, with a mark also UTF-16, or the code of Korean Windows.

    Raises:
        UserError: it cannot be read, a quote is not closed, a row has more cells than there are columns, or two
            columns have one name; with the file and the line.
    """
    try:
        text = _decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{path}'.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read '{path}' as a CSV file: {error}.", HINT) from error
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines = []
    begin = 1
    try:
        for cells in reader:
            lines.append((begin, cells))
            begin = reader.line_num + 1  # a quoted cell may hold line ends
    except csv.Error as error:
        problem = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise UserError(f"Cannot read '{path}' as a CSV file: line {begin}: {problem}.", HINT) from error
    return of_lines(path, lines)


def of_lines(path: Path, lines: Iterable[tuple[int, list[str]]]) -> CsvFile:
    """The table of the cells of a file, the first of which is the header; see :func:`read_csv`."""
    stripped = [(line, [cell.strip() for cell in cells]) for line, cells in lines]
    names = stripped[0][1] if stripped else []
    if len({*names} - {""}) < sum(bool(name) for name in names):
        raise UserError(f"Cannot use '{path}': two columns have one name.", HINT)
    rows = [(line, cells) for line, cells in stripped[1:] if any(cells)]
    if wide := next((line for line, cells in rows if any(cells[len(names) :])), None):
        raise UserError(f"'{path}', line {wide}: more cells than columns.", "Quote cells with commas.")
    return CsvFile(names, [(line, (cells + [""] * len(names))[: len(names)]) for line, cells in rows])


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp949", errors="replace")
        if "\ufffd" in text or not re.search("[가-힣]", text):
            raise  # not the code of Korean Windows, of which the accented letters of Latin-1 are Chinese characters
        return text


def guard(text: str) -> str:
    """A cell that a spreadsheet shows as it is; :func:`unguard` gives the text back.

    A file name or a reason may begin with ``=``. Opened in a spreadsheet, such a cell would be computed; with an
    apostrophe before it, it is text. Numbers are left alone.
    """
    risky = text.startswith(STARTS) and not NUMBERS.fullmatch(text)
    return f"'{text}" if risky or text.startswith("'") else text


def unguard(cell: str) -> str:
    """The text that :func:`guard` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*STARTS, "'")) else cell
