"""Text for people, and how names are compared."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence


def nfc(text: str) -> str:
    """Text with composed characters: names written on macOS are decomposed, those in a CSV file usually are not."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """A name in the form in which names are compared: without case, outer blanks and Unicode composition."""
    return nfc(text).strip().casefold()


def some(items: Sequence[str], count: int = 3) -> str:
    """The first few items for a message."""
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``; a plural without s is given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def counts(numbers: Iterable[tuple[object, int]]) -> str:
    """``20 train, 4 eval`` of pairs of a name and its number."""
    return ", ".join(f"{number} {name}" for name, number in numbers)


def nearest(name: str, known: Iterable[str]) -> str:
    """``Did you mean ...?``, after a blank, with the known name most like a misspelt one; empty where none is."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
