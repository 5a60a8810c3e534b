"""Where nobody is known: what is said of it, and the pattern that the names suggest."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from maskprep.labels import Schema, inventory, layouts, persons


def numbered(form: str, people: int = 6, photos: int = 3) -> list[str]:
    return [form.format(p=p, k=k, c="ab"[k % 2]) for p in range(people) for k in range(photos)]


@pytest.mark.parametrize(
    ("form", "person"),
    [
        ("{c}/{p:04d}_{k}.jpg", "0003"),
        ("{c}/{p:05d}_Mask_Chin{k}.jpg", "00003"),
        ("two/{c}/{p:06d}_male_Asian_18_{k}.jpg", "000003"),
        ("{p:04d}x{k}.png", "0003"),
        ("img_{p}_{k}.jpg", "img_3"),
        ("{c}/p{p}/{k}.jpg", "p3"),
        ("{c}/p{p} ({k}).jpeg", "p3"),
    ],
)
def test_names_with_a_part_that_photos_share(form: str, person: str) -> None:
    images = numbered(form)
    found = persons.propose(images, classes=2)
    assert found is not None
    match = re.search(found.pattern, form.format(p=3, k=0, c="a"))
    assert match is not None and match[1] == person


@pytest.mark.parametrize("form", ["{n}-{k:02d}.png", "{n}{k:02d}.jpg", "{n}_masked_{k}.jpg", "x/{n} {k}.jpg"])
def test_names_of_people(form: str) -> None:
    names = ["anna", "bob", "carla", "dirk", "eva", "fritz"]
    found = persons.propose([form.format(n=n, k=k) for n in names for k in range(4)], classes=2)
    assert found is not None and found.people == 6


@pytest.mark.parametrize(
    "images",
    [
        [f"{c}/img_{k:03d}.jpg" for c in "ab" for k in range(20)],
        [f"{c}/{k:05d}.jpg" for c in "ab" for k in range(20)],
        [f"{c}{k:03d}.jpg" for c in ("masked_", "bare_") for k in range(20)],
        [f"{c}/{k * 7919:x}.jpg" for c in "abcdef" for k in range(20)],
        [f"a/{k:04d}_x.jpg" for k in range(40)],
        [f"img_{k:03d}.jpg" for k in range(60)] + [f"{n}_{k}.jpg" for n in "abcdef" for k in range(3)],
    ],
)
def test_classes_and_counters_are_no_people(images: list[str]) -> None:
    assert persons.propose(images, classes=6) is None


def test_the_line_that_is_proposed_names_the_people(tmp_path: Path) -> None:
    images = numbered("{c}/{p:04d}_{k}.jpg")
    found = layouts.describe(tmp_path, images, layouts.SourceSettings(), None)
    table = found.table.assign(image=images)
    doubt, advice = inventory.take(table, found.schema, {}).doubts
    assert doubt.startswith("No person is known") and "6 people (a/0000_0.jpg and b/0000_1.jpg are one)" in advice
    line = re.search(r"source: (\{person: .*?\});", advice)
    assert line is not None
    settings = layouts.SourceSettings(**yaml.safe_load(line[1]))
    named = layouts.describe(tmp_path, images, settings, None)
    assert named.table["person"].nunique() == 6
    assert inventory.take(named.table.assign(image=images), named.schema, {}).doubts == ()


def test_what_is_said_of_whom() -> None:
    """Of training photos only; not where photos are independent, nor where there is nothing to learn."""
    schema = layouts.describe(Path(), ["a/1.jpg", "b/2.jpg"], layouts.SourceSettings(), None).schema
    table = pd.DataFrame(
        {
            "image": ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"],
            "person": ["p", None, "3.jpg", None, None],
            "split": ["train", "train", "train", "train", "eval"],
        }
    )
    assert persons.known(table, {}) == 0.25
    assert persons.doubts(table, {}, schema)[0].startswith("A person is known for 25% of the photos: every other photo")
    assert persons.doubts(table, {"settings": {"independent": True}}, schema) == ()
    assert persons.doubts(table, {}, Schema(())) == ()
    assert persons.known(table[4:], None) == 1.0
