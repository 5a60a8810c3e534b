"""The names of backgrounds and of colours. Light: command lines read it for their help."""

from __future__ import annotations

import re

from maskprep.base.errors import UsageError

BACKGROUNDS = ("original", "mean", "colour", "blur", "random")
"""What may lie behind the subject. ``random`` is an augmentation: another photo's background, one colour, or noise."""

TRANSPARENT = "transparent"

COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}
COLOURS |= {"green": (0, 255, 0), "blue": (0, 0, 255), "red": (255, 0, 0), "magenta": (255, 0, 255)}

Colour = tuple[int, int, int]


def parse_colour(text: str) -> Colour:
    """``#rrggbb``, ``r,g,b`` (0..255) or a name as R, G, B.

    Raises:
        UsageError: anything else.
    """
    if text.lower() in COLOURS:
        return COLOURS[text.lower()]
    if match := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text):
        return (int(match[1], 16), int(match[2], 16), int(match[3], 16))
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 3 and all(part.isascii() and part.isdigit() and int(part) <= 255 for part in parts):
        return (int(parts[0]), int(parts[1]), int(parts[2]))
    raise UsageError(f"'{text}' is no colour.", f"Give #rrggbb, r,g,b or one of: {', '.join(COLOURS)}.")
