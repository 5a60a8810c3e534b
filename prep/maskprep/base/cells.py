"""CSV cells that a spreadsheet does not take for a formula.

A file name or a reason may begin with ``=``. Opened in a spreadsheet, such a cell would be computed; with an apostrophe
before it, it is text. Numbers are left alone.
"""

from __future__ import annotations

import re

STARTS = ("=", "+", "-", "@", "\t", "\r")
NUMBERS = re.compile(r"-?[\d.]+([ ,]+-?[\d.]+)*")


def guard(text: str) -> str:
    """A cell that is shown as it is. :func:`unguard` gives the text back."""
    risky = text.startswith(STARTS) and not NUMBERS.fullmatch(text)
    return f"'{text}" if risky or text.startswith("'") else text


def unguard(cell: str) -> str:
    """What :func:`guard` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*STARTS, "'")) else cell
