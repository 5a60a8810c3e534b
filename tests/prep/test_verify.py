"""maskprep verify: what is damaged is named and deleted, and the next run makes the same again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import maskprep as api
from maskprep.dataset.view import open_view
from maskprep.errors import UserError
from maskprep.pipeline.damage import discard, verify
from maskprep.pipeline.session import Session
from maskprep.store.cache import Cache
from maskprep.store.tables import write_table

Work = tuple[Path, Path]


def check(work: Work) -> dict[str, str]:
    session = Session(*work)
    found = verify(session.cache, session.tables())
    return {path.relative_to(work[1]).as_posix(): what for path, what in found.damaged.items()}


def contents(cache: Path) -> dict[str, Any]:
    """What a reader gets."""
    view = open_view(cache)
    tables = {p.name: pd.read_parquet(p).to_json() for p in cache.glob("*.parquet")}
    texts = {name: (cache / name).read_text() for name in ("stats.json", "views/face/view.json")}
    return {**tables, **texts, "pixels": view.gather(range(len(view))).tobytes()}


def change(path: Path, edit: Callable[[bytearray], Any]) -> None:
    """Damage a file as a failing disk does: size and time of last change stay."""
    data, times = bytearray(path.read_bytes()), path.stat()
    edit(data)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def zero(data: bytearray) -> None:
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)


def flip(data: bytearray) -> None:
    data[-1] ^= 1


FILES = [
    *("images.parquet", "faces.parquet", "subjects.parquet", "labels.parquet", "duplicates.parquet", "stats.json"),
    *("stages/index/00000.parquet", "stages/detect/00000.parquet", "stages/detect/index.parquet"),
    *("views/face/00000.npy", "views/face/00000.parquet", "views/face/index.parquet", "views/face/view.json"),
]


def test_a_whole_cache_is_right(work: Work) -> None:
    found = verify(Cache(work[1]))
    assert (found.damaged, found.crops, found.mattes) == ({}, 8, 0) and found.tables > 8
    assert check(work) == {}


@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_made_again(work: Work, name: str) -> None:
    before = contents(work[1])
    change(work[1] / name, zero)
    assert name in check(work)
    discard(verify(Cache(work[1])))
    api.run(*work, engine="serial")
    assert check(work) == {}
    assert contents(work[1]) == before


def test_one_bit_of_one_pixel_is_noticed(work: Work) -> None:
    change(work[1] / "views/face/00000.npy", flip)
    assert set(check(work)) == {"views/face/00000.npy"}
    view = open_view(work[1])
    last = view.table["row"].to_numpy().argmax()
    with pytest.raises(UserError, match=r"00000\.npy' is damaged: the crop of ") as caught:
        view.gather([last])
    assert view.table["image"][last] in caught.value.message and "maskprep verify" in caught.value.hint


@pytest.mark.parametrize(
    "shape, dtype", [((8, 32, 32, 3), np.int8), ((7, 32, 32, 3), np.uint8), ((8, 32, 32), np.uint8)]
)
def test_pixels_that_do_not_fit_their_table(work: Work, shape: tuple[int, ...], dtype: type) -> None:
    np.save(work[1] / "views/face/00000.npy", np.zeros(shape, dtype))
    assert "does not fit its table" in check(work)["views/face/00000.npy"]


@pytest.mark.parametrize("name", ["subjects", "labels"])
def test_a_table_that_is_short_or_gone(work: Work, name: str) -> None:
    file = work[1] / f"{name}.parquet"
    pq.write_table(pq.read_table(file).slice(0, 7).replace_schema_metadata(None), file)
    assert check(work) == {file.name: "it does not list the same images as images.parquet"}
    with pytest.raises(UserError, match="does not list the same images"):
        open_view(work[1])
    file.unlink()
    assert check(work) == {file.name: "it is missing"}
    with pytest.raises(UserError, match=f"There is no table '.*{name}.parquet"):
        open_view(work[1])
    api.run(*work, engine="serial")
    assert check(work) == {}


def test_a_description_of_other_crops(work: Work) -> None:
    file = work[1] / "views/face/view.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({**before, "margin": 0.1}))
    assert set(check(work)) == {"views/face/view.json"}
    discard(verify(Cache(work[1]), Session(*work).tables()))
    api.run(*work, engine="serial")
    assert json.loads(file.read_text()) == before


@pytest.mark.parametrize("text", ["{}", "null", "[]", '{"size": 3}', '{"size": [0, 1]}', "[" * 100_000])
def test_a_view_without_a_size(work: Work, text: str) -> None:
    (work[1] / "views/face/view.json").write_text(text)
    with pytest.raises(UserError, match=r"view\.json"):
        open_view(work[1])
    assert "views/face/view.json" in check(work)
    api.run(*work, engine="serial")
    assert check(work) == {}


def test_the_command(cli: Callable[..., Any], work: Work) -> None:
    assert cli("verify", work[1]).returncode == 0
    change(work[1] / "views/face/00000.npy", zero)
    change(work[1] / "labels.parquet", zero)
    kept = cli("verify", work[1], "--keep", "-q")
    assert kept.returncode == 1 and "2 files are damaged.\n" in kept.stderr
    assert (work[1] / "labels.parquet").is_file()
    found = cli("verify", work[1], "-q")
    assert found.returncode == 1
    assert "damaged   views/face/00000.npy: it holds other pixels than were made for " in found.stderr
    assert "damaged   labels.parquet: " in found.stderr
    assert f"Make them again with: maskprep run {work[1]}" in found.stderr
    assert not (work[1] / "labels.parquet").exists() and not (work[1] / "views/face/00000.npy").exists()
    assert cli("run", work[1]).returncode == 0
    assert cli("verify", work[1]).returncode == 0


def test_the_photos_need_not_be_there(cli: Callable[..., Any], work: Work) -> None:
    shutil.rmtree(work[0])
    assert cli("verify", work[1]).returncode == 0
    change(work[1] / "views/face/00000.npy", zero)
    assert cli("verify", work[1]).returncode == 1


@pytest.mark.parametrize("name", ["images", "subjects", "labels"])
def test_a_table_of_another_cache_of_the_same_photos(work: Work, name: str) -> None:
    api.run(*work, engine="serial")  # which keeps the sums
    file = work[1] / f"{name}.parquet"
    before, mine = contents(work[1]), file.read_bytes()
    table = pd.read_parquet(file)
    table.iloc[0, table.columns.get_loc({"images": "split", "subjects": "status", "labels": "person"}[name])] = "eval"
    write_table(file, pa.Table.from_pandas(table, pq.read_schema(file), preserve_index=False), inputs="others")
    with pytest.raises(UserError, match="not the one that was made for this cache") as caught:
        open_view(work[1])
    assert f"maskprep run {work[1]}" in caught.value.hint and file.name in caught.value.message
    assert check(work) == {file.name: "it is not the one that was made for this cache"}
    api.run(*work, engine="serial")
    assert contents(work[1]) == before and file.read_bytes() == mine and check(work) == {}


def test_pixels_of_the_audit_are_no_mattes(work: Work) -> None:
    Session(*work, engine="serial").audit()
    assert check(work) == {}
    np.save(work[1] / "stages/measure/00000.npy", np.zeros((1, 48, 48, 3), np.uint8))
    assert set(check(work)) == {"stages/measure/00000.npy"}


def test_a_description_of_other_crops_is_not_opened(work: Work) -> None:
    Session(*work, engine="serial").crop(margin=0.2)  # which keeps the sum of view.json
    file = work[1] / "views/face/view.json"
    before = json.loads(file.read_text())
    open_view(work[1])
    file.write_text(json.dumps({**before, "margin": 0.1}))
    with pytest.raises(UserError, match=r"view\.json' is damaged: it is not the one that was made for this cache"):
        open_view(work[1])
    api.run(work[1], engine="serial")
    assert json.loads(file.read_text()) == before and open_view(work[1]).info == before
