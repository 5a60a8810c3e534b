"""Text on pictures: a font that has its characters, and a note where there is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskprep.base import fonts


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """No text was drawn before, and none is remembered afterwards."""

    def forget() -> None:
        fonts._missing.clear()
        fonts.font_file.cache_clear()
        fonts._files.cache_clear()

    forget()
    yield
    forget()


def drawn(text: str) -> np.ndarray:
    picture = Image.new("L", (200, 40))
    fonts.draw_text(ImageDraw.Draw(picture), (4, 4), text, 255, 20)  # type: ignore[arg-type]
    return np.asarray(picture)


def test_accents_greek_and_decomposed_letters_are_drawn_as_they_are() -> None:
    assert fonts.font_file("wear/male") is None
    assert not np.array_equal(drawn("Ж"), drawn("Щ")) and not np.array_equal(drawn("α"), drawn("ω"))
    assert np.array_equal(drawn("café"), drawn(unicodedata.normalize("NFD", "café")))
    assert fonts.missing_note() == ""


def test_the_font_that_has_the_characters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    has = {None: set("abc"), Path("latin.ttf"): set("abcdé"), Path("korean.ttf"): set("abc남성")}
    monkeypatch.setattr(fonts, "_files", lambda: [Path("latin.ttf"), Path("korean.ttf")])
    monkeypatch.setattr(fonts, "_characters", lambda file: frozenset(map(ord, has[file])))
    assert fonts.font_file("남성 abc") == Path("korean.ttf")
    assert fonts.font_file("dé") == Path("latin.ttf")
    assert fonts.missing_note() == ""
    assert fonts.font_file("남성 여") == Path("korean.ttf")
    assert "characters 여;" in fonts.missing_note() and "fonts-noto-cjk" in fonts.missing_note()


def test_without_any_font_for_it_a_text_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [__file__])  # and a file that is no font
    assert drawn(unicodedata.normalize("NFD", "남성")).any()
    assert "남성" in fonts.missing_note()
