"""The picture of a view's pixels, against NumPy on the raw shards."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskprep.dataset.overview import draw_overview, survey
from maskprep.dataset.view import View, open_view
from maskprep.errors import UsageError
from maskprep.photos.pictures import write_png


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    file = Path(__file__).parents[1] / "train" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", file)
    assert spec is not None and spec.loader is not None
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    cache = synthetic.write_cache(tmp_path_factory.mktemp("overview") / "people", people=6, size=(24, 20))
    synthetic.give_mattes(cache)
    return open_view(cache)


def test_histograms_and_mean_faces_are_those_of_the_pixels(view: View) -> None:
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


def test_the_picture_is_drawn_once_and_again_when_something_changed(view: View, tmp_path: Path) -> None:
    read = []
    path = draw_overview(view.path, out=tmp_path / "a.png", advance=read.append)
    assert Image.open(path).size[0] > 600 and sum(read) == len(view)
    draw_overview(view.path, out=tmp_path / "a.png", advance=read.append)
    assert sum(read) == len(view)
    write_png(path, Image.new("RGB", (4, 4)))
    draw_overview(view.path, out=tmp_path / "a.png", advance=read.append)
    assert sum(read) == 2 * len(view)
    (tmp_path / "c.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        draw_overview(view.path, out=tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == draw_overview(view.path, out=tmp_path / "b.png").read_bytes()
