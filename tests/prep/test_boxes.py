"""Boxes that come with the photos: how each format is read, and that they are the faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.base import BOX_COLUMNS
from maskprep.errors import UserError
from maskprep.labels import boxes
from maskprep.labels.layouts import SourceSettings, describe

SMALL, LARGE = (10.0, 10.0, 20.0, 22.0), (30.0, 10.0, 70.0, 60.0)
IMAGES = ["a.jpg", "sub/b.jpg", "c.jpg"]


def voc(objects: list[tuple[str, tuple[float, ...]]]) -> str:
    inside = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    return f"<annotation>{inside}</annotation>"


def write_voc(root: Path) -> None:
    (root / "Annotations").mkdir()
    (root / "Annotations/a.xml").write_text(voc([("with_mask", SMALL), ("without_mask", LARGE)]))
    (root / "Annotations/b.xml").write_text(voc([("with_mask", LARGE)]))
    (root / "Annotations/c.xml").write_text("<annotation><object></annotation>")
    (root / "Annotations/nobody.xml").write_text(voc([("with_mask", LARGE)]))


def write_coco(root: Path) -> None:
    def bbox(box: tuple[float, ...]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    rows = [(1, 7, SMALL), (1, 9, LARGE), (2, 7, LARGE)]
    data = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "sub/b.jpg"}],
        "categories": [{"id": 7, "name": "with_mask"}, {"id": 9, "name": "without_mask"}],
        "annotations": [{"image_id": i, "category_id": c, "bbox": bbox(b)} for i, c, b in rows],
    }
    (root / "faces.json").write_text(json.dumps(data))
    (root / "other.json").write_text('{"images": [{}], "annotations": [{}]}')
    (root / "settings.json").write_text("[1, 2]")


def write_yolo(root: Path) -> None:
    def line(number: int, box: tuple[float, ...]) -> str:  # of photos of 100 x 80
        cells = ((box[0] + box[2]) / 200, (box[1] + box[3]) / 160, (box[2] - box[0]) / 100, (box[3] - box[1]) / 80)
        return f"{number} " + " ".join(f"{v:.6f}" for v in cells)

    (root / "labels").mkdir()
    (root / "classes.txt").write_text("with_mask\nwithout_mask\n")
    (root / "labels/a.txt").write_text(f"{line(0, SMALL)}\n{line(1, LARGE)}\n")
    (root / "labels/b.txt").write_text(line(0, LARGE))
    (root / "labels/c.txt").write_text("taken on a Sunday")
    for name in IMAGES:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (100, 80)).save(root / name)


def write_table(root: Path) -> None:
    rows = [("a.jpg", "with_mask", SMALL), ("a.jpg", "without_mask", LARGE), ("sub/b.jpg", "with_mask", LARGE)]
    lines = [f"{file},{label}," + ",".join(f"{v:g}" for v in box) for file, label, box in rows]
    (root / "boxes.csv").write_text("file,label,xmin,ymin,xmax,ymax\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("write", [write_voc, write_coco, write_yolo, write_table])
def test_the_largest_box_and_its_class(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    found = describe(tmp_path, IMAGES, SourceSettings(), None)
    assert found.layout == "boxes"
    corners = found.table[list(BOX_COLUMNS)].to_numpy().tolist()
    assert corners[0] == pytest.approx(LARGE, abs=1e-3) and corners[1] == pytest.approx(LARGE, abs=1e-3)
    assert pd.isna(found.table["box_x0"][2])
    assert found.table["boxes"].tolist() == [2, 1, 0]
    assert [None if pd.isna(v) else v for v in found.table["class"]] == ["without_mask", "with_mask", None]
    assert found.schema.class_names == ("with_mask", "without_mask")
    assert any("1 photo without a box" in note for note in found.notes)
    assert found.origins["class"].startswith("the largest box") and found.lists


@pytest.mark.parametrize("lines", [True, False])
def test_hugging_face_image_folders(tmp_path: Path, lines: bool) -> None:
    rows = {"train": [("a.jpg", "male", 31), ("deep/b.jpg", "female", 64)], "validation": [("a.jpg", "female", 18)]}
    for split, cells in rows.items():
        (tmp_path / split).mkdir()
        if lines:
            text = "".join(
                json.dumps({"file_name": n, "gender": g, "age": a, "person": None}) + "\n" for n, g, a in cells
            )
            (tmp_path / split / "metadata.jsonl").write_text(text)
        else:
            text = "file_name,gender,age\n" + "".join(f"{n},{g},{a}\n" for n, g, a in cells)
            (tmp_path / split / "metadata.csv").write_text(text)
    images = ["train/a.jpg", "train/deep/b.jpg", "validation/a.jpg"]
    found = describe(tmp_path, images, SourceSettings(), None)
    assert found.layout == "csv" and found.schema.names == ("gender", "age")
    assert found.table["gender"].tolist() == ["male", "female", "female"]
    assert found.table["age"].tolist() == ["31", "64", "18"]
    assert found.table["split"].tolist() == ["train", "train", "val"]


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text('<!DOCTYPE x [<!ENTITY y "z">]>' + voc([("m", LARGE)]))
    said = " ".join(boxes.read_files(tmp_path, IMAGES).notes)
    assert "'Annotations/a.xml' is not used: it declares entities" in said and "'Annotations/c.xml' is not used" in said
    (tmp_path / "c").mkdir()
    write_coco(tmp_path / "c")
    assert "'other.json' is not used: KeyError" in " ".join(boxes.read_files(tmp_path / "c", IMAGES).notes)


def test_broken_values_are_notes_and_never_boxes(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}]
    for name, bbox in (("short.json", []), ("endless.json", [0, 0, float("inf"), 5])):
        rows = [{"image_id": 1, "category_id": 1, "bbox": bbox}]
        (tmp_path / name).write_text(json.dumps({"images": images, "annotations": rows}))
    write_yolo(tmp_path)
    (tmp_path / "labels/a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n")  # a polygon
    (tmp_path / "labels/b.txt").write_text("0 0.5 0.5 1.2 0.5\n")
    found = boxes.read_files(tmp_path, IMAGES)
    said = " ".join(found.notes)
    assert not found.boxes and all(f"'{name}' is not used" in said for name in ("short.json", "endless.json"))
    assert "'labels/a.txt' is not used: a line is not a box" in said and "'labels/b.txt' is not used" in said


@pytest.mark.parametrize("names", ["{mask: 0}", "2", "[mask, bare]"])
def test_names_of_any_form(tmp_path: Path, names: str) -> None:
    write_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    largest = boxes.read_files(tmp_path, IMAGES).table(IMAGES)["class"][0]
    assert largest == ("bare" if names.startswith("[") else "1")


def test_labels_in_mirrored_folders(tmp_path: Path) -> None:
    images = ["images/train/1.jpg", "images/val/1.jpg"]
    for split, box in (("train", "0 0.5 0.5 0.2 0.2"), ("val", "1 0.5 0.5 0.4 0.4")):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / split / "1.jpg")
        (tmp_path / "labels" / split / "1.txt").write_text(box)
    assert boxes.read_files(tmp_path, images).table(images)["class"].tolist() == ["0", "1"]


def test_coco_names_photos_as_lists_do(tmp_path: Path) -> None:
    """By an absolute path, without suffix or case, or through a folder that is not here, where one photo fits."""
    images = ["a.jpg", "sub/a.jpg", "sub/b.jpg", "train/c.jpg"]
    names = [f"{tmp_path.resolve()}/a.jpg", "val2017/sub/a.jpg", "B", "val2017/c.jpg"]
    data = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"image_id": i, "bbox": [i, 0, 10, 10]} for i in range(len(names))],
    }
    (tmp_path / "faces.json").write_text(json.dumps(data))
    found = boxes.read_files(tmp_path, images).boxes
    assert {image: [box.corners[0] for box in own] for image, own in found.items()} == {
        "a.jpg": [0],
        "sub/a.jpg": [1],
        "sub/b.jpg": [2],
        "train/c.jpg": [3],
    }


def test_json_lines_are_a_list_too(tmp_path: Path) -> None:
    rows = [{"file": "a.jpg", "class": "cat"}, {"file": "b.jpg", "class": None}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = describe(tmp_path, ["a.jpg", "b.jpg"], SourceSettings(layout="csv", csv="list.jsonl"), None)
    assert found.schema.class_names == ("cat",) and found.lists == ("list.jsonl",)
    (tmp_path / "list.jsonl").write_text("cat\n")
    with pytest.raises(UserError, match="as lines of JSON"):
        describe(tmp_path, ["a.jpg"], SourceSettings(layout="csv", csv="list.jsonl"), None)


def test_files_without_boxes_do_not_replace_the_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.xml").write_text("<meta/>")
    found = describe(tmp_path, ["cat/cat.jpg", "dog/dog.jpg"], SourceSettings(), None)
    assert (found.layout, found.schema.class_names) == ("folders", ("cat", "dog"))
    (tmp_path / "cat/cat.xml").write_text("<annotation><object></annotation>")
    found = describe(tmp_path, ["cat/cat.jpg", "dog/dog.jpg"], SourceSettings(), None)
    assert found.layout == "folders" and any("'cat/cat.xml' is not used" in note for note in found.notes)


def test_boxes_are_turned_with_their_photo(tmp_path: Path) -> None:
    """YOLO's are relative to the upright photo: 80 x 100 for one of 100 x 80 that lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 1 1")
    (box,) = boxes.read_files(tmp_path, ["a.jpg"]).boxes["a.jpg"]
    assert box.corners == (0, 0, 80, 100)


def test_they_are_the_faces(tmp_path: Path, make_photos: Callable[..., list[Path]], yunet: None) -> None:
    """Nothing is detected on a photo with a box; a ruling still wins, and photos without a box are looked at."""
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    names = [path.name for path in make_photos(photos, 3)]
    lines = [f"{names[0]},1,2,30,40,worn", f"{names[0]},0,0,5,5,bare", f"{names[1]},3,4,33,44,bare"]
    (photos / "boxes.csv").write_text("file,x0,y0,x1,y1,label\n" + "\n".join(lines) + "\n")
    (photos / "maskprep.yaml").write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 32}}\n")
    job = api.crop(photos, cache, engine="serial")
    assert job.computed["detect"] == 1
    subjects = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    assert subjects.loc[names, "status"].tolist() == ["given", "given", "ok"]
    assert subjects.loc[names[0], ["x0", "y0", "x1", "y1"]].tolist() == [1, 2, 30, 40]
    assert subjects.loc[names[0], "reason"] == "the largest of the 2 boxes given"
    assert set(pd.read_parquet(cache / "faces.parquet")["image"]) == {names[2]}
    assert pd.read_parquet(cache / "labels.parquet").set_index("image").loc[names[:2], "class"].tolist() == [
        "worn",
        "bare",
    ]
    content = pd.read_parquet(cache / "images.parquet").set_index("image").loc[names[0], "content"]
    (cache / "decisions.csv").write_text(
        f"content,image,verdict,value,expected,reason,by,when\n{content},{names[0]},box,5 5 25 30,,,,\n"
    )
    api.crop(photos, cache, engine="serial")
    decided = pd.read_parquet(cache / "subjects.parquet").set_index("image").loc[names[0]]
    assert (decided["status"], decided["x0"]) == ("decided", 5)
