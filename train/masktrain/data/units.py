"""What is counted where images are: the people in them, or the images alone where each is a person of its own."""

from __future__ import annotations

from collections.abc import Iterable

from maskprep.base import counted


def unit(people: int, images: int) -> str:
    """What is counted: people, or images where each is a person of its own."""
    return "people" if people < images else "images"


def units(people: int, images: int) -> str:
    """``24 people``, or ``120 images``, see :func:`unit`."""
    return counted(people, "person", "people") if unit(people, images) == "people" else counted(people, "image")


def of_people(images: int, people: int, noun: str = "image") -> str:
    """``120 images of 24 people``, or ``120 images`` where each is a person of its own."""
    known = unit(people, images) == "people"
    return counted(images, noun) + (f" of {counted(people, 'person', 'people')}" if known else "")


def warned(doubts: Iterable[str]) -> list[str]:
    """Lines that warn of what is not known of the people."""
    return [f"{'' if k else 'warning':7} {text}" for k, text in enumerate(doubts)]
