"""The page about a data set: what it counts, against NumPy on the raw shards and tables, for any schema."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskprep.dataset import background, overview
from maskprep.dataset.overview import write_overview
from maskprep.dataset.survey import edge_colour, ends, survey
from maskprep.dataset.view import View, open_view
from maskprep.errors import UsageError


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    file = Path(__file__).parents[1] / "train" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", file)
    assert spec is not None and spec.loader is not None
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    cache = synthetic.write_cache(tmp_path_factory.mktemp("overview") / "people", people=24, size=(24, 20))
    synthetic.give_mattes(cache)
    return open_view(cache)


def changed(view: View, folder: Path, schema: dict[str, Any], **columns: Any) -> str:
    """The page of a copy of the cache with another schema and other labels (by image)."""
    cache = Path(shutil.copytree(view.path, folder / "cache"))
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps(dataset | {"schema": schema}))
    labels = pd.read_parquet(cache / "labels.parquet").assign(**columns)
    labels["label"] = labels["label"].astype("Int64")
    labels.to_parquet(cache / "labels.parquet")
    if "person" in columns:
        pd.read_parquet(cache / "images.parquet").assign(person=None).to_parquet(cache / "images.parquet")
    return write_overview(cache).read_text()


def test_histograms_mean_faces_and_backgrounds_are_those_of_the_pixels(view: View) -> None:
    found = survey(view)
    pixels = view.gather(range(len(view)))
    for c in range(3):
        whole, _ = np.histogram(pixels[..., c], bins=256, range=(0, 256))
        inside, _ = np.histogram(pixels[:, 4:-4, 6:-6, c], bins=256, range=(0, 256))
        np.testing.assert_array_equal(found.whole[c], whole)
        np.testing.assert_array_equal(found.foreground[c], inside)
    names = [name for name, *_ in found.faces]
    assert names == [*view.schema.class_names, "no label"]
    for label, (_, count, face) in enumerate(found.faces[:-1]):
        mine = pixels[(view.table["label"] == label).fillna(False).to_numpy(dtype=bool)]
        assert count == len(mine)
        assert np.abs(face - mine.astype(float).mean(axis=0)).max() <= 0.5
    behind = np.ones((24, 20), bool)
    behind[4:-4, 6:-6] = False
    assert found.by_matte
    np.testing.assert_allclose(found.grounds, pixels[:, behind].mean(1) / 255, atol=1e-9)


def test_the_edge_of_a_crop_is_its_top_and_the_upper_half_of_its_sides() -> None:
    crop = np.zeros((20, 10, 3), np.uint8)
    crop[:2] = 255
    crop[2:10, [0, -1]] = 255
    assert edge_colour(crop).tolist() == [1, 1, 1]
    assert edge_colour(255 - crop).tolist() == [0, 0, 0]


def test_a_background_that_gives_the_label_away_is_told_from_one_that_does_not(view: View) -> None:
    rng = np.random.default_rng(0)
    people = [f"p{i // 4}" for i in range(400)]
    classes = rng.integers(0, 3, 400)
    colours = rng.random((400, 3))
    none = background.leak(colours, classes, people)
    assert none is not None and none.verdict == "no" and none.low < 1 / 3 < none.high and none.people == 100
    all_of_it = background.leak(colours * 0.1 + classes[:, None] * 0.3, classes, people)
    assert all_of_it is not None and all_of_it.verdict == "strongly" and all_of_it.recall > 0.95
    some = background.leak(colours + classes[:, None] * 0.04, classes, people)
    assert some is not None and some.verdict in ("slightly", "partly") and some.low > some.chance
    assert background.leak(colours[:40], classes[:40], people[:40]) is None  # ten people
    assert background.leak(colours, np.zeros(400, np.int64), people) is None  # one class
    # a person's own background must not count: each has another colour, and one class alone
    own = np.repeat(rng.random((100, 3)), 4, 0)
    theirs = np.repeat(rng.integers(0, 2, 100), 4)
    held = background.leak(own, theirs, people)
    assert held is not None and held.verdict == "no"
    wide = [background.Leak(0.69, low, 0.85, 0.5, 24).verdict for low in (0.49, 0.51)]
    assert wide == ["unclear", "strongly"] and background.Leak(0.52, 0.44, 0.6, 0.5, 60).verdict == "no"


def test_what_the_page_says_of_a_data_set(view: View) -> None:
    page = write_overview(view.path).read_text()
    assert "background strongly gives gender away" in page  # the gender is the colour of the ground
    assert "24</b>people" in page
    table = view.table[view.table["split"] == "train"]
    females = int(((table["mask"] == "wear") & (table["gender"] == "female")).sum())
    assert f'title="wear, female: {females}, 12 people"' in page
    assert re.search(rf"<td>wear/female<td class=n>{females}<td class=n>12<td>", page)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_the_page_is_written_once_and_again_when_something_changed(view: View, tmp_path: Path) -> None:
    read: list[int] = []
    path = write_overview(view.path, tmp_path / "a.html", advance=read.append)
    assert sum(read) == len(view)
    write_overview(view.path, path, advance=read.append)
    assert sum(read) == len(view)
    first = path.read_bytes()
    path.write_bytes(first.replace(b'name=maskprep-inputs content="', b'name=maskprep-inputs content="0'))
    write_overview(view.path, path, advance=read.append)
    assert sum(read) == 2 * len(view) and path.read_bytes() == first
    (tmp_path / "c.html").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        write_overview(view.path, tmp_path / "c.html")


def test_ages_with_the_limits_of_their_classes(view: View, tmp_path: Path) -> None:
    labels = pd.read_parquet(view.path / "labels.parquet")
    known = labels["person"].notna()
    ages = (pd.to_numeric(labels["person"]) + 20).where(known).clip(upper=40)
    schema = {"attributes": {"age": {"bins": [30, 40], "classes": ["<30", "30-39", ">=40"]}}, "joint": ["age"]}
    label = pd.Series(np.digitize(ages.fillna(0), [30, 40]), labels.index).where(known)
    page = changed(view, tmp_path, schema, age=ages, label=label)
    assert page.count("<line class=limit") == 4  # in two histograms: photos and people
    assert "&lt;30: 10<" in page and "30-39: 10" in page  # people
    assert "30: 5 photos, 1 person" in page
    near = float(np.mean([min(abs(a - 30), abs(a - 40)) < 2 for a in ages[known]]))
    assert f"age: {near:.0%} of the photos have a number less than 2 away from a limit (30, 40)" in page
    assert "age: 100% of the photos of &gt;=40 have the number 40" in page


def test_many_classes_and_nobody_known(view: View, tmp_path: Path) -> None:
    labels = pd.read_parquet(view.path / "labels.parquet")
    names = [f"class {k:03d}" for k in range(500)]
    label = pd.Series(np.minimum(np.arange(len(labels)), 60), labels.index)
    schema = {"attributes": {"what": {"classes": names}}, "joint": ["what"]}
    page = changed(view, tmp_path, schema, what=[names[k] for k in label], label=label, person=None)
    assert "The 10 largest and the 10 smallest of 500 classes" in page and "500</b>classes" in page
    assert page.count("<td>class ") == 2 * overview.ENDS and page.index("<td>class 060") < page.index("<td>class 499")
    assert "each photo counts as one person" in page and "of 500 classes have fewer than 10 photos" in page
    assert page.count("<img") <= 24 and len(page) < 400_000


def test_photos_without_labels(view: View, tmp_path: Path) -> None:
    page = changed(view, tmp_path, {"attributes": {}, "joint": []}, label=None)
    assert "No photo of the split train has a label" in page and "Mean of the crops" in page


def test_the_largest_and_the_smallest_classes() -> None:
    classes = [(f"{k}", list(range(k))) for k in range(10)]
    assert [name for name, _ in ends(classes, 4)] == ["9", "8", "1", "0"] and ends(classes, 10) == classes
