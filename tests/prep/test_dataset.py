"""Reading a cache for training."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskprep.dataset.view import View, open_view
from maskprep.errors import UsageError, UserError


@pytest.fixture(scope="module")
def synthetic() -> ModuleType:
    """The trainer's writer of synthetic caches."""
    file = Path(__file__).parents[1] / "train" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 34 people in two shards with dead rows; not square."""
    return synthetic.write_cache(tmp_path_factory.mktemp("cache") / "people", size=(20, 12))


@pytest.fixture(scope="module")
def view(cache: Path) -> View:
    return open_view(cache)


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """A cache to be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "copy"))


def pixels_of(view: View, image: str) -> np.ndarray:
    """Pixels of an image, found without the code under test."""
    index = pd.read_parquet(view.path / "views" / view.name / "index.parquet").set_index("image")
    shard, row = index.loc[image, ["shard", "row"]]
    return np.load(view.path / "views" / view.name / f"{shard:05d}.npy")[row]


def test_every_image_is_in_exactly_one_table(view: View, cache: Path) -> None:
    images = pd.read_parquet(cache / "images.parquet")["image"]
    assert sorted([*view.table["image"], *view.missing["image"]]) == sorted(images)
    assert view.missing["status"].tolist() == ["unreadable", "unreadable"]
    assert view.table["image"].is_monotonic_increasing
    assert view.table.index.tolist() == list(range(len(view)))


def test_gather_gives_the_pixels_asked_for_in_the_order_asked_for(view: View) -> None:
    rows = np.random.default_rng(0).permutation(len(view))[:40]
    rows = np.concatenate([rows, rows[:3]])  # repeats too
    got = view.gather(rows)
    assert got.shape == (43, 20, 12, 3)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(got[i], pixels_of(view, view.table["image"][row]))


def test_gather_fills_the_array_it_is_given(view: View) -> None:
    out = np.zeros((2, 20, 12, 3), dtype=np.uint8)
    assert view.gather([5, 1], out=out) is out
    np.testing.assert_array_equal(out, view.gather([5, 1]))


def test_dead_rows_are_never_read(view: View) -> None:
    assert "stale" not in set(view.table["key"])
    assert view.gather(np.arange(len(view))).reshape(len(view), -1).any(axis=1).all()  # dead rows are black


def test_mean_and_std_equal_those_of_the_pixels(view: View) -> None:
    rows = np.arange(3, 60, 2)
    mean, std = view.mean_std(rows)
    flat = view.gather(rows).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-13)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-12)


def test_mean_and_std_of_nothing_is_an_error(view: View) -> None:
    with pytest.raises(UserError, match="No crops"):
        view.mean_std([])


def test_a_nameless_image_is_its_own_person(view: View) -> None:
    held_out = view.table[view.table["split"] == "eval"]
    assert (held_out["person"] == held_out["image"]).all()


def test_a_split_that_is_not_given_is_train(copy: Path, synthetic: ModuleType) -> None:
    synthetic.rewrite(copy / "images.parquet", split=None)
    assert set(open_view(copy).table["split"]) == {"train"}


@pytest.mark.parametrize("name", ["images", "subjects", "labels"])
def test_a_cache_without_a_table_is_not_read(copy: Path, name: str) -> None:
    (copy / f"{name}.parquet").unlink()
    with pytest.raises(UserError, match=rf"There is no table '.*{name}\.parquet'") as caught:
        open_view(copy)
    assert f"maskprep run {copy}" in caught.value.hint


@pytest.mark.parametrize("column, value", [("label", 1), ("excluded", "drop"), ("person", "x")])
def test_the_fingerprint_changes_with_what_is_trained_on(
    copy: Path, synthetic: ModuleType, column: str, value: Any
) -> None:
    before = open_view(copy).fingerprint()
    assert before == open_view(copy).fingerprint()
    synthetic.rewrite(copy / "labels.parquet", **{column: value})
    assert open_view(copy).fingerprint() != before


def test_the_fingerprint_changes_with_a_crop(copy: Path, synthetic: ModuleType) -> None:
    before = open_view(copy).fingerprint()
    file = copy / "views/face/00000.parquet"
    synthetic.rewrite(file, key=pd.read_parquet(file)["key"] + "x")
    assert open_view(copy).fingerprint() != before


def test_which_view(copy: Path) -> None:
    shutil.copytree(copy / "views/face", copy / "views/wide")
    assert open_view(copy).name == "face"
    assert open_view(copy, "wide").name == "wide"
    with pytest.raises(UsageError, match=r"no view 'tight'; it has: face, wide") as error:
        open_view(copy, "tight")
    assert "maskprep crop" in error.value.hint
    (copy / "views/face").rename(copy / "views/tall")
    with pytest.raises(UsageError, match="several views: tall, wide"):
        open_view(copy)


def test_folders_that_are_no_cache(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_view(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"not a cache: it has no dataset\.json"):
        open_view(tmp_path)
    shutil.rmtree(copy / "views")
    with pytest.raises(UsageError, match="no crops yet") as error:
        open_view(copy)
    assert "maskprep crop" in error.value.hint


def test_a_newer_format_is_refused(copy: Path) -> None:
    data = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(data | {"format": 2}))
    with pytest.raises(UserError, match="format 2"):
        open_view(copy)


def cut_shard(cache: Path) -> None:
    np.save(cache / "views/face/00001.npy", np.load(cache / "views/face/00001.npy")[:-1])


def break_shard(cache: Path) -> None:
    (cache / "views/face/00001.npy").write_bytes(b"\x93NUMPY rubbish")


def lose_shard(cache: Path) -> None:
    (cache / "views/face/00001.npy").unlink()


def swap_row(cache: Path) -> None:
    file = cache / "views/face/index.parquet"
    table = pd.read_parquet(file)
    table.loc[0, "row"] = table.loc[1, "row"]
    table.to_parquet(file)


def list_twice(cache: Path) -> None:
    file = cache / "views/face/index.parquet"
    table = pd.read_parquet(file)
    pd.concat([table, table.head(1)]).to_parquet(file)


def lose_image(cache: Path) -> None:
    file = cache / "images.parquet"
    pd.read_parquet(file).iloc[:-1].to_parquet(file)


def break_table(cache: Path) -> None:
    (cache / "views/face/00000.parquet").write_bytes(b"rubbish")


@pytest.mark.parametrize(
    "damage, said",
    [
        (cut_shard, r"00001\.npy' is damaged: it holds uint8"),
        (break_shard, r"00001\.npy' is damaged"),
        (lose_shard, r"There is no file '.*00001\.npy'"),
        (swap_row, "rows that the shards do not have: eval"),
        (list_twice, "lists images twice: eval"),
        (lose_image, "does not list the same images"),
        (break_table, r"00000\.parquet' is damaged"),
    ],
)
def test_damage_is_named(copy: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=said):
        open_view(copy)


def test_torch_is_not_imported() -> None:
    code = "import sys, maskprep.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
