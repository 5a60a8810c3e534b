"""Exports: read back with the tools they are for, or by hand; the same bytes again; never over something else."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.cli import console as show
from maskprep.dataset import export as exports
from maskprep.dataset.explorers import fiftyone_files
from maskprep.dataset.export import Settings, export_view
from maskprep.dataset.likeness import appearance, neighbours
from maskprep.dataset.view import View, open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels import images
from maskprep.labels.schema import RESERVED, Attribute, Schema


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainer's synthetic cache, whose images share file names, with mattes: the middle of every crop."""
    file = Path(__file__).parents[1] / "train" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", file)
    assert spec is not None and spec.loader is not None
    synthetic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(synthetic)
    path: Path = synthetic.write_cache(tmp_path_factory.mktemp("export") / "people", people=6, eval_people=2)
    synthetic.give_mattes(path)
    return path


@pytest.fixture(scope="module")
def view(cache: Path) -> View:
    return open_view(cache)


def contents(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def opened(data: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data))


def test_a_folder_mirrors_the_source_tree_pixel_for_pixel(cache: Path, view: View, tmp_path: Path) -> None:
    made = export_view(cache, tmp_path / "out")
    assert (made.crops, made.files, made.missing) == (len(view), len(view), 2)
    for i, image in enumerate(view.table["image"]):
        np.testing.assert_array_equal(opened(tmp_path / "out" / Path(image).with_suffix(".png")), view.gather([i])[0])
    assert export_view(cache, tmp_path / "out").files == 0


def test_a_folder_per_class(cache: Path, view: View, tmp_path: Path) -> None:
    export_view(cache, tmp_path / "out", Settings(by="class", image_format="jpg"))
    row = view.table[view.table["label"].notna()].iloc[0]
    name = view.schema.class_names[row["label"]].replace("/", "_")
    inside = Path(row["image"]).with_suffix(".jpg").relative_to("train")  # the split is not said twice
    found = opened(tmp_path / "out/train" / name / inside)
    assert np.abs(found.astype(int) - view.gather([row.name])[0]).mean() < 6
    assert len(list((tmp_path / "out/eval/unlabelled").rglob("*.jpg"))) == 10


def test_csv_names_every_picture_with_its_labels(cache: Path, view: View, tmp_path: Path) -> None:
    export_view(cache, tmp_path / "out", Settings("csv"))
    table = pd.read_csv(tmp_path / "out/labels.csv", dtype=str, keep_default_na=False)
    assert table["image"].tolist() == view.table["image"].tolist()
    assert all((tmp_path / "out" / path).is_file() for path in table["path"])
    assert table["label"].tolist() == ["" if pd.isna(v) else str(v) for v in view.table["label"]]
    first = table[table["label"] != ""].iloc[0]
    assert first["class"] == view.schema.class_names[int(first["label"])]
    assert first["mask"] in first["class"] and first["gender"] in first["class"]


def test_parquet_is_what_datasets_reads(cache: Path, view: View, tmp_path: Path) -> None:
    export_view(cache, tmp_path / "out", Settings("hf"))
    files = sorted((tmp_path / "out/data").iterdir())
    assert [f.name for f in files] == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    table = pd.read_parquet(files[1])
    assert set(table["file"]) == set(view.table["image"][view.table["split"] == "train"])
    where = view.table.set_index("image").index.get_loc(table["file"][3])
    np.testing.assert_array_equal(opened(table["image"][3]["bytes"]), view.gather([where])[0])
    assert table["image"][3]["path"] == str(Path(table["file"][3]).with_suffix(".png"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "hf"))
    assert loaded["train"].features["label"].names == list(view.schema.class_names)
    np.testing.assert_array_equal(np.asarray(loaded["train"][3]["image"]), view.gather([where])[0])
    assert set(loaded["test"]["label"]) == {-1}


def test_webdataset_tars_hold_whole_samples_side_by_side(
    cache: Path, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SHARD", 10)
    export_view(cache, tmp_path / "out", Settings("webdataset"))
    seen = []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                folder, _, base = member.name.rpartition("/")
                key, _, suffix = base.partition(".")  # as WebDataset does it
                samples.setdefault(f"{folder}/{key}", {})[suffix] = archive.extractfile(member).read()  # type: ignore[union-attr]
        for key, sample in samples.items():
            said = json.loads(sample["json"])
            row = view.table[view.table["image"] == said["image"]].iloc[0]
            assert key == str(Path(said["image"]).with_suffix("")) and path.name.startswith(row["split"])
            assert ("cls" not in sample) if pd.isna(row["label"]) else int(sample["cls"]) == row["label"]
            np.testing.assert_array_equal(opened(sample["png"]), view.gather([row.name])[0])
            seen.append(said["image"])
        assert len(samples) <= 10
    assert sorted(seen) == view.table["image"].tolist()


def test_backgrounds(cache: Path, view: View, tmp_path: Path) -> None:
    image = view.table["image"][0]
    name = Path(image).with_suffix(".png")
    inside = (slice(4, -4), slice(6, -6))
    original = view.gather([0])[0]
    for background, corner in (("colour", (255, 0, 255)), ("transparent", (0, 0, 0, 0))):
        out = tmp_path / background
        export_view(cache, out, Settings(background=background, colour="magenta"))
        found = opened(out / name)
        assert tuple(found[0, 0]) == corner
        np.testing.assert_array_equal(found[inside][..., :3], original[inside])
    mean = np.rint(view.mean_std(range(len(view)))[0] * 255)
    export_view(cache, tmp_path / "mean", Settings(background="mean"))
    assert (opened(tmp_path / "mean" / name)[0, 0] == mean).all()
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        export_view(cache, tmp_path / out, Settings(background="random", seed=seed))
    one, again, other = ({n: h for n, h in contents(tmp_path / o).items() if n[-4:] == ".png"} for o in "abc")
    assert one == again and one != other


@pytest.mark.parametrize("format", [name for name in exports.FORMATS if name != "atlas"])  # that is one file
def test_an_export_that_was_stopped_goes_on_to_the_same_bytes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(exports, "SHARD", 10)

    class Break:
        left = 25

        def start(self, name: str, total: int) -> None: ...

        def advance(self, steps: int = 1) -> None:
            self.left -= steps
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_view(cache, tmp_path / "out", Settings(format), progress=Break())
    begun = len(contents(tmp_path / "out"))
    assert begun > 1
    resumed = export_view(cache, tmp_path / "out", Settings(format))
    whole = export_view(cache, tmp_path / "whole", Settings(format))
    assert 0 < resumed.files < whole.files
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_it_never_writes_over_something_else(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="something else"):
        export_view(cache, out)
    export_view(cache, out, force=True)
    assert (out / "mine.txt").read_text() == "x"
    with pytest.raises(UsageError, match="other settings"):
        export_view(cache, out, Settings(background="mean"))
    before = contents(out)
    export_view(cache, out, Settings(background="mean"), force=True)
    after = contents(out)
    assert all(before[n] != after[n] for n in before if n.endswith(".png"))
    with pytest.raises(UsageError, match="inside"):
        export_view(cache, cache / "out", force=True)


@pytest.mark.parametrize("format", exports.FORMATS)
def test_force_leaves_nothing_of_the_export_before(cache: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    export_view(cache, out, Settings(format))
    (out / "mine.txt").write_text("x")
    (out / ".tmp-4242-a.png").write_bytes(b"half")
    export_view(cache, out, Settings(format, split="train", image_format="jpg"), force=True)
    export_view(cache, tmp_path / "whole", Settings(format, split="train", image_format="jpg"))
    assert contents(out) == contents(tmp_path / "whole") | {"mine.txt": contents(out)["mine.txt"]}


def test_an_export_names_no_file_outside(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_view(cache, out)
    (tmp_path / "precious").write_text("x")
    record = json.loads((out / exports.RECORD).read_text())
    record["files"] += ["../precious", str(tmp_path / "precious"), "", 3]
    (out / exports.RECORD).write_text(json.dumps(record))
    export_view(cache, out, Settings(split="train"), force=True)
    assert (tmp_path / "precious").is_file()


MAKE = Callable[..., list[Path]]


def prepared(tmp_path: Path, make_photos: MAKE, kind: str) -> Path:
    """A cache of class folders with three splits, or of a table with persons, ages, and a photo without a label."""
    photos = tmp_path / "photos"
    text = "detect: {detectors: [yunet]}\nviews: {face: {size: 32}}\n"
    if kind == "folders":
        for split, name in (("train", "with mask"), ("train", "bare"), ("val", "with mask"), ("test", "bare")):
            make_photos(photos / split / name, 2)
    else:
        names = [path.name for path in make_photos(photos, 6)]
        cells = ["M,20,p1,train", "F,40,p2,train", "M,,p3,train", "F,61,p4,test", "M,29,p5,val", "F,30,p6,eval"]
        lines = "".join(f"{name},{cell}\n" for name, cell in zip(names, cells, strict=True))
        (photos / "people.csv").write_text("file,gender,age,person,split\n" + lines)
    (photos / "maskprep.yaml").write_text(text)
    api.crop(photos, tmp_path / "cache", engine="serial")
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["folders", "csv"])
def test_a_csv_export_is_read_back(tmp_path: Path, make_photos: MAKE, yunet: None, kind: str) -> None:
    """Labels, persons and splits of every image, by maskprep's own reading of what it wrote."""
    cache = prepared(tmp_path, make_photos, kind)
    export_view(cache, tmp_path / "out", Settings("csv"))
    header = (tmp_path / "out/labels.csv").read_text().partition("\n")[0].split(",")
    assert len(set(header)) == len(header) and "class" in header
    api.index(tmp_path / "out", tmp_path / "again", engine="serial")
    before, after = (pd.read_parquet(tmp_path / c / "images.parquet") for c in ("cache", "again"))
    after = after.set_index("csv_image").loc[before["image"]]
    for what in ("split", *(["class"] if kind == "folders" else ["gender", "age", "person"])):
        assert [str(v) for v in after[what]] == [str(v) for v in before[what]], what


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("kind", ["folders", "csv"])
def test_class_folders_are_read_back(
    tmp_path: Path, make_photos: MAKE, yunet: None, kind: str, split: str | None
) -> None:
    cache = prepared(tmp_path, make_photos, kind)
    view = open_view(cache)
    settings = Settings(by="class", split=split)
    export_view(cache, tmp_path / "out", settings)
    api.index(tmp_path / "out", tmp_path / "again", engine="serial")
    after = pd.read_parquet(tmp_path / "again/images.parquet").set_index("image")
    rows = np.flatnonzero(view.table["split"].isin([split] if split else ["train", "val", "test", "eval"]))
    files = exports.files_of(view, rows, settings)
    assert sorted(files) == sorted(after.index)
    readable = {"male/<30": "male_under 30", "female/30-59": "female_30-59", "female/>=60": "female_from 60"}
    for file, row in zip(files, rows, strict=True):
        label = view.table["label"].iloc[row]
        name = None if pd.isna(label) else view.schema.class_names[int(label)]
        read = after.loc[file, "class"]
        assert (None if pd.isna(read) else read) == (None if name is None else readable.get(name, name))
        assert after.loc[file, "split"] == view.table["split"].iloc[row]
        assert file.count("/") == 2, "the split and the class are not said twice"


def test_no_attribute_can_be_called_as_a_column_of_the_tables(view: View) -> None:
    columns = {*images.COLUMNS.names, *view.table.columns, *exports._label_columns(view)} - {*view.schema.names}
    assert columns - RESERVED == set()


def test_class_folders_are_one_each() -> None:
    assert exports.class_folders(["a?", "a*", "A_", "unlabelled", "a<b", "<30", "end. "]) == [
        *("a_", "a_-2", "A_-3", "unlabelled-2", "a_b", "under 30", "end"),
    ]


def test_every_split_has_its_own_file_in_other_formats(tmp_path: Path, make_photos: MAKE, yunet: None) -> None:
    """``eval`` beside ``test`` loses nothing, and ages are numbers, also where a cell is none."""
    cache = prepared(tmp_path, make_photos, "csv")
    export_view(cache, tmp_path / "hf", Settings("hf"))
    tables = {p.name.split("-")[0]: pd.read_parquet(p) for p in (tmp_path / "hf/data").iterdir()}
    assert {name: len(t) for name, t in tables.items()} == {"train": 3, "validation": 1, "test": 1, "eval": 1}
    assert tables["eval"]["age"].tolist() == [30.0] and tables["train"]["age"].isna().sum() == 1
    export_view(cache, tmp_path / "wds", Settings("webdataset"))
    ages = {}
    for path in (tmp_path / "wds").glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".json"):
                    said = json.load(archive.extractfile(member))  # type: ignore[arg-type]
                    ages[said["person"]] = said["age"]
    assert ages == {"p1": 20, "p2": 40, "p3": None, "p4": 61, "p5": 29, "p6": 30}
    assert exports._number("unknown") is None and exports._number("31") == 31.0


def test_wrong_settings(cache: Path, tmp_path: Path) -> None:
    for settings in (
        {"format": "tfrecord"},
        {"background": "transparent", "image_format": "jpg"},
        {"by": "class", "format": "csv"},
        {"colour": "whitish"},
        {"split": "holdout"},
    ):
        with pytest.raises(UsageError):
            Settings(**settings)
    with pytest.raises(UserError):
        export_view(cache, tmp_path / "out", view="nowhere")
    assert not (tmp_path / "out").exists()


def test_what_keeps_its_background_is_counted_and_listed(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    path = copy / "views/face/mattes.parquet"
    mattes = pd.read_parquet(path)
    wrong = dict(zip(mattes["image"][[1, 4, 5, 7]], ("empty", "face_missed", "full", "low_contrast"), strict=True))
    mattes["status"] = [wrong.get(image, "ok") for image in mattes["image"]]
    mattes.to_parquet(path, index=False)
    del wrong[mattes["image"][4]]  # its background is removed
    made = export_view(copy, tmp_path / "out", Settings(background="transparent"))
    assert made.kept == wrong == json.loads((tmp_path / "out/export.json").read_text())["background_kept"]
    assert export_view(copy, tmp_path / "plain").kept == {}
    show.kept(made.kept, "export.json")
    printed = capsys.readouterr().out
    assert "background kept, no usable matte: 1 empty, 1 full, 1 low_contrast" in printed and min(wrong) in printed


def test_names_with_dots_stay_whole_in_tars(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of WebDataset cut a name at its first dot: what is before it is the key of a sample."""
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    for path in [*own.glob("*.parquet"), *own.rglob("0*.parquet"), *own.rglob("index.parquet")]:
        table = pd.read_parquet(path)
        if "image" in table:
            table["image"] = [name.replace("/", "/v1.5.") for name in table["image"]]
            table.to_parquet(path)
    export_view(own, tmp_path / "out", Settings("webdataset"))
    for path in (tmp_path / "out").rglob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        keys = Counter(str(PurePosixPath(name).parent / PurePosixPath(name).name.partition(".")[0]) for name in names)
        assert len(keys) > 1 and len(set(keys.values())) == 1, "every sample has files of its own"


def test_fiftyone_reads_pictures_labels_and_numbers(cache: Path, view: View, tmp_path: Path) -> None:
    made = export_view(cache, tmp_path / "out", Settings("fiftyone"))
    samples = json.loads((tmp_path / "out/samples.json").read_text())["samples"]
    assert len(samples) == len(view) == made.crops and made.files == len(view) + 2
    row = int(np.flatnonzero(view.table["label"].notna())[0])
    known, sample = view.table.iloc[row], samples[row]
    np.testing.assert_array_equal(opened(tmp_path / "out" / sample["filepath"]), view.gather([row])[0])
    assert sample["tags"] == [known["split"]] and sample["image"] == known["image"]
    assert sample["mask"] == {"_cls": "Classification", "label": known["mask"]}
    assert sample["label"]["label"] == view.schema.class_names[known["label"]]
    unlabelled = samples[int(np.flatnonzero(view.table["label"].isna())[0])]
    assert "label" not in unlabelled and "mask" not in unlabelled
    assert "version" not in json.loads((tmp_path / "out/metadata.json").read_text())  # the plain form of samples.json
    before = contents(tmp_path / "out")
    export_view(cache, tmp_path / "out", Settings("fiftyone"))
    assert contents(tmp_path / "out") == before


def test_numbers_stay_numbers_and_no_field_is_written_over(view: View) -> None:
    schema = Schema((Attribute("age", bins=(30, 60)), Attribute("tags", ("a", "b"))), ("age", "tags"))
    cells = {"image": "x.jpg", "split": "train", "person": None, "status": "ok", "age": 34, "tags": "b", "label": 3}
    cells["excluded"] = "blurred"
    made = fiftyone_files(dataclasses.replace(view, schema=schema), ["data/x.png"], [cells])
    [sample] = json.loads(made["samples.json"])["samples"]
    assert isinstance(sample["age"], float) and sample["age"] == 34
    assert sample["tags"] == ["train", "excluded"] and sample["excluded"] == "blurred"
    assert sample["tags_"]["label"] == "b"
    assert sample["label"]["label"] == "30-59/b" and "person" not in sample


def test_an_atlas_has_places_and_neighbours(cache: Path, view: View, tmp_path: Path) -> None:
    assert export_view(cache, tmp_path / "out", Settings("atlas", image_format="jpg")).files == 1
    table = pd.read_parquet(tmp_path / "out/atlas.parquet")
    assert table["file"].tolist() == view.table["image"].tolist()
    assert table[["x", "y"]].notna().all(axis=None) and table["x"].std() > table["y"].std() > 0
    assert opened(table["image"][0]["bytes"]).shape == (*view.size, 3) and table["image"][0]["path"].endswith(".jpg")
    for i, near in enumerate(table["neighbors"]):
        assert i not in near["ids"] and len(set(near["ids"])) == 10 and (np.diff(near["distances"]) >= 0).all()
    assert table["mask"].dropna().tolist() == view.table["mask"].dropna().tolist()
    assert export_view(cache, tmp_path / "out", Settings("atlas", image_format="jpg")).files == 0


def test_what_looks_alike_is_near() -> None:
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (20, 1, 24, 24, 3)), 2, axis=1).reshape(40, 24, 24, 3)
    pictures[1::2] = np.clip(pictures[1::2] + random.integers(-4, 5, (20, 24, 24, 3)), 0, 255)  # two of each, nearly
    points = appearance(pictures.astype(np.uint8))
    assert points.shape == (40, 32) and (np.diff(points.std(axis=0)) < 1e-6).all()
    near, far = neighbours(points, 3)
    assert near[:, 0].tolist() == [i ^ 1 for i in range(40)]
    assert far[0, 0] == pytest.approx(np.linalg.norm(points[0] - points[1]), abs=1e-6)
    assert appearance([]).shape == (0, 0) and neighbours(points[:2])[0].tolist() == [[1], [0]]
