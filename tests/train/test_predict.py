"""predict: forms of answers, lists of photos, looks that are averaged, and pictures that stream."""

from __future__ import annotations

import gc
import io
import json
import shutil
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from maskprep.crops.crop import sums
from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import draw, graph, live, model, table, video
from masktrain.answer.model import Model
from masktrain.answer.photos import link, read_list
from masktrain.answer.predict import predict
from masktrain.answer.spec import CropSpec, ModelSpec

Pixels = NDArray[np.uint8]


# ---------------------------------------------------------------- forms


def test_all_forms_say_the_same(run: Path, cache: Path, tmp_path: Path) -> None:
    for form in ("csv", "parquet", "jsonl"):
        predict(run, cache, tmp_path / f"p.{form}", split="eval", proba=True, details=True)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    parquet, text = pd.read_parquet(tmp_path / "p.parquet"), pd.read_csv(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(lines)[["ImageID", "ans"]], parquet[["ImageID", "ans"]])
    assert list(text) == list(parquet) == list(lines[0])
    schema = open_view(cache).schema
    table = parquet.filter(like="p_").to_numpy()
    assert (table.argmax(1) == parquet["ans"]).all()
    # the class of an attribute is that of the joint answer, its probability the sum over all that share it
    for row, p in zip(lines, table, strict=True):
        mask, gender = divmod(row["ans"], 2)
        assert (row["mask"], row["gender"]) == (schema["mask"].classes[mask], schema["gender"].classes[gender])
        assert row["mask_p"] == pytest.approx(p[2 * mask] + p[2 * mask + 1], abs=1e-6)
        assert row["gender_p"] == pytest.approx(p[gender::2].sum(), abs=1e-6)
    np.testing.assert_allclose(text.filter(like="p_"), table, atol=1e-5)
    with pytest.raises(UsageError, match=r"no CSV, Parquet or JSON lines"):
        predict(run, cache, tmp_path / "p.xlsx")


def test_what_is_not_whole_is_not_left_behind(run: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        (tmp_path / "drawn").mkdir()
        (tmp_path / "drawn/mine.jpg").write_bytes(b"mine")
        predict(run, cache, tmp_path / "p.csv", draw=tmp_path / "drawn")
    assert not (tmp_path / "p.csv").exists() and (tmp_path / "drawn/mine.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name, content",
    [
        ("mine.csv", b"ImageID,label\na.jpg,3\n"),
        ("mine.csv", b"ImageID,ans\na.jpg,3\n"),
        ("mine.csv", b"\x00\xff\xd8"),
        ("mine.parquet", b"no parquet"),
        ("mine.jsonl", b'["ans"]\n'),
        ("mine.jsonl", b"no json"),
    ],
)
def test_no_table_is_written_over(run: Path, cache: Path, tmp_path: Path, name: str, content: bytes) -> None:
    """True answers look like predictions, so nothing tells that a table is ours."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="exists"):
        predict(run, cache, tmp_path / name)
    assert (tmp_path / name).read_bytes() == content
    (tmp_path / name).write_bytes(b"")  # nothing is lost
    predict(run, cache, tmp_path / name, split="eval")
    first = (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match="exists"):
        predict(run, cache, tmp_path / name, split="train")
    predict(run, cache, tmp_path / name, split="train", force=True)
    assert (tmp_path / name).read_bytes() != first and [p.name for p in tmp_path.iterdir()] == [name]


def test_nothing_is_written_where_the_photos_are(run: Path, cache: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    told = json.loads((own / "dataset.json").read_text())
    told["source"]["root"] = str(photos)
    (own / "dataset.json").write_text(json.dumps(told))
    (photos / "list.csv").write_text("ImageID,ans\na.jpg,0\n")
    (tmp_path / "other.csv").symlink_to(photos / "list.csv")
    among = "would lie among the photos of"
    for source, out, said in [
        (photos / "list.csv", photos / "list.csv", "is the source itself"),
        (photos / "list.csv", tmp_path / "other.csv", "is the source itself"),
        (photos, photos / "list.csv", among),
        (photos, photos / "new/p.csv", among),
        (own, own / "p.csv", "would lie among the tables of"),
        (own, photos / "p.csv", among),
    ]:
        with pytest.raises(UsageError, match=said) as error:
            predict(run, source, out)
        assert "--out" in error.value.hint
    with pytest.raises(UsageError, match=among) as error:
        predict(run, photos, tmp_path / "p.csv", draw=photos / "drawn")
    assert "--draw" in error.value.hint
    assert [p.name for p in photos.iterdir()] == ["list.csv"] and not (own / "p.csv").exists()
    assert (photos / "list.csv").read_text() == "ImageID,ans\na.jpg,0\n"


def test_nothing_is_written_beside_photos_that_were_named(run: Path, tmp_path: Path) -> None:
    for folder in ("photos/sub", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("photos/a.jpg", "photos/sub/b.jpg", "elsewhere/c.jpg"):
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "photos/c.jpg").symlink_to(tmp_path / "elsewhere/c.jpg")
    (tmp_path / "list.txt").write_text("photos/sub/b.jpg\nphotos/c.jpg\n")
    before = sorted(tmp_path.rglob("*"))
    one, many = tmp_path / "photos/a.jpg", tmp_path / "list.txt"
    for source, out, pictures in [
        (one, "photos/p.csv", None),
        (one, "p.csv", "photos/drawn"),
        (one, "p.csv", "photos/sub/drawn"),
        (many, "photos/sub/p.csv", None),
        (many, "photos/p.csv", None),
        (many, "elsewhere/p.csv", None),
        (many, "p.csv", "elsewhere/drawn"),
    ]:
        with pytest.raises(UsageError, match="would lie among the photos of"):
            predict(run, source, tmp_path / out, draw=None if pictures is None else tmp_path / pictures)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_sheet_takes_any_name_and_leaves_no_part(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / f"p.{form}"
    with table.TableWriter(out, {"ImageID": str, "ans": int}) as written:
        written.add([{"ImageID": "b\udcff.jpg", "ans": 1}])  # a name of a file that is not UTF-8
    if form == "parquet":
        assert pd.read_parquet(out)["ImageID"].tolist() == ["b\\udcff.jpg"]
    else:
        assert "b\\udcff.jpg" in out.read_text(encoding="utf-8")
    before = out.read_bytes()
    flush = table.TableWriter._flush

    def full(self: table.TableWriter) -> None:
        flush(self)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table.TableWriter, "_flush", full)
    with pytest.raises(OSError, match="No space left"), table.TableWriter(out, {"ImageID": str, "ans": int}) as written:
        written.add([{"ImageID": "c.jpg", "ans": 2}])
    assert [p.name for p in tmp_path.iterdir()] == [out.name] and out.read_bytes() == before


def test_the_policy_for_photos_without_a_crop(run: Path, cache: Path, tmp_path: Path) -> None:
    predict(run, cache, tmp_path / "a.csv", split="train")
    done = predict(run, cache, tmp_path / "b.csv", split="train", without="likeliest")
    empty, likeliest = pd.read_csv(tmp_path / "a.csv"), pd.read_csv(tmp_path / "b.csv")
    lost = empty["ans"].isna()
    assert lost.sum() == 2 == len(done.unanswered) and (empty["status"][lost] == "unreadable").all()
    fallback = json.loads((run / "best.json").read_text())["fallback"]
    assert (likeliest["ans"][lost] == fallback).all() and (likeliest["ans"][~lost] == empty["ans"][~lost]).all()
    with pytest.raises(UsageError, match="--without-crop cannot be 'likely'") as error:
        predict(run, cache, tmp_path / "c.csv", without="likely")
    assert "likeliest" in error.value.hint


def test_lists_name_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "b/y.odd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    names = ["b/x.jpg", "a/x.jpg", "gone.jpg", "b/x.jpg", "b/y.odd"]
    (tmp_path / "l.txt").write_text("\n".join(names) + "\n\n")
    pd.DataFrame({"ImageID": names, "ans": 0}).to_csv(tmp_path / "l.csv", index=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(str(tmp_path / n) for n in names)))
    for k, source in enumerate([tmp_path / "l.txt", tmp_path / "l.csv", Path("-")]):
        folder = tmp_path / f"links{k}"
        rows, paths = link(*read_list(source), folder)
        assert [Path(name).as_posix().endswith(n) for (name, _), n in zip(rows, names, strict=True)] == [True] * 5
        linked = [None if image is None else (folder / image).read_bytes().decode() for _, image in rows]
        assert linked == ["b/x.jpg", "a/x.jpg", None, "b/x.jpg", "b/y.odd"]
        assert len(list(folder.iterdir())) == 3  # one link a photo
        assert paths[str(rows[4][1])] == (tmp_path / "b/y.odd").resolve()
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UserError, match="names no photos"):
        read_list(tmp_path / "none.txt")


# ---------------------------------------------------------------- looks


def test_looks_at_crops() -> None:
    crops = torch.arange(48 * 48, dtype=torch.float32).view(1, 1, 48, 48).expand(2, 3, 48, 48)
    plain, mirrored = graph.tta_views(crops, "mirror")
    assert torch.equal(plain, crops) and torch.equal(mirrored, crops.flip(3))
    shifted = list(graph.tta_views(crops, "shifts"))
    assert len(shifted) == 5 and torch.equal(shifted[0], crops)
    step = 2  # 48 / 24
    for seen, (dy, dx) in zip(shifted[1:], [(-step, 0), (step, 0), (0, -step), (0, step)], strict=True):
        for y, x in ((0, 0), (20, 30), (47, 47)):
            assert seen[0, 0, y, x] == crops[0, 0, np.clip(y + dy, 0, 47), np.clip(x + dx, 0, 47)]
    assert len(list(graph.tta_views(crops, "mirror+shifts"))) == 10


def test_means_of_looks(run: Path, cache: Path) -> None:
    view, rows = open_view(cache), np.arange(9)
    plain, both = (model.load(run, tta=t)(view, rows).astype(np.float64) for t in ("none", "mirror"))
    other = 2 * both - plain  # what the mirror images alone say
    geometric = np.sqrt(plain * other.clip(1e-12))
    geometric /= geometric.sum(1, keepdims=True)
    logit = model.load(run, tta="mirror", mean="logit")(view, rows)
    np.testing.assert_allclose(logit, geometric, atol=2e-5)
    assert np.abs(logit - both).max() > 1e-4
    shifts = model.load(run, tta="shifts")(view, rows)
    assert np.abs(shifts - plain).max() > 1e-4 and np.abs(shifts.sum(1) - 1).max() < 1e-5
    for wrong in ({"tta": "shift"}, {"mean": "logits"}):
        with pytest.raises(UsageError, match=r"There is no --tta") as error:
            model.load(run, **wrong)
        assert "Did you mean" in error.value.hint


def test_the_mean_over_views(run: Path, cache: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    shutil.copytree(own / "views/face", own / "views/dark")
    for file in (own / "views/dark").glob("0*.npy"):
        np.save(file, np.load(file) // 2)
        table = pd.read_parquet(file.with_suffix(".parquet"))
        made = pd.DataFrame([sums(crop) for crop in np.load(file)])
        table.assign(**{name: made[name] for name in made}).to_parquet(file.with_suffix(".parquet"))
    tables = {}
    for name, views in {"face": ["face"], "dark": ["dark"], "both": ["face", "dark"]}.items():
        predict(run, own, tmp_path / f"{name}.parquet", view=views, split="eval")
        tables[name] = pd.read_parquet(tmp_path / f"{name}.parquet").filter(like="p_").to_numpy(np.float64)
    assert np.abs(tables["face"] - tables["dark"]).max() > 1e-3
    np.testing.assert_allclose(tables["both"], (tables["face"] + tables["dark"]) / 2, atol=1e-6)
    predict(run, own, tmp_path / "logit.parquet", view=["face", "dark"], tta_mean="logit", split="eval")
    geometric = np.sqrt(tables["face"].clip(1e-12) * tables["dark"].clip(1e-12))
    logit = pd.read_parquet(tmp_path / "logit.parquet").filter(like="p_")
    np.testing.assert_allclose(logit, geometric / geometric.sum(1, keepdims=True), atol=2e-5)
    index = own / "views/dark/index.parquet"
    pd.read_parquet(index).iloc[1:].to_parquet(index)
    with pytest.raises(UserError, match="lacks 1 image that"):
        predict(run, own, tmp_path / "p.csv", view=["face", "dark"])


# ---------------------------------------------------------------- pictures that stream


class Finder:
    """Sees a face in every picture whose first pixel is not 0, and one more where it is over 100."""

    def __init__(self, spec: ModelSpec, synthetic: Any) -> None:
        self.rng, self.spec, self.draw = np.random.default_rng(0), spec, synthetic.draw

    def find(self, pixels: Pixels, everyone: bool = False) -> list[live.Subject]:
        first = int(pixels[0, 0, 0])
        if first == 0:
            return [live.Subject("no_face", None, "no face found")]
        crops = {"face": self.draw(first % 3, 0, (32, 32), self.rng)}
        found = [live.Subject("ok", (20.0, 40.0, 90.0, 110.0), "", crops)]
        return found + (
            [live.Subject("other", (200.0, 40.0, 270.0, 110.0), "", crops)] if everyone and first > 100 else []
        )


@pytest.fixture(scope="module")
def predictor(run: Path) -> Model:
    return model.load(run)


def frame(value: int) -> Pixels:
    return np.full((240, 320, 3), value, np.uint8)


def pictures(values: list[int]) -> Iterator[video.Picture]:
    for k, value in enumerate(values):
        yield video.Picture(f"v#{k}", {"frame": k}, frame(value))


def test_every_picture_has_its_rows_and_marks(predictor: Model, synthetic: Any) -> None:
    finder: Any = Finder(predictor.spec, synthetic)
    rows: list[dict[str, Any]] = []
    shown: list[Pixels] = []
    values = [1, 0, 101, *[2] * 20]
    done = video.Stream(predictor, finder, everyone=True, likeliest=True)
    done.run(pictures(values), rows.extend, shown.append)
    assert (done.pictures, done.answered, done.rows, done.drawn) == (23, 22, 24, 23)
    assert [(r["frame"], r["face"], r["status"]) for r in rows[:4]] == [
        (0, 0, "ok"), (1, 0, "no_face"), (2, 0, "ok"), (2, 1, "other"),
    ]  # fmt: skip
    assert rows[1]["ans"] == predictor.spec.fallback and "mask" not in rows[1] and "x0" not in rows[1]
    assert [r["ans"] // 2 for r in rows if r["frame"] != 1] == [1, 2, 2, *[2] * 20]  # each with its own crop
    assert rows[3]["x0"] == 200.0 and done.unanswered == {"v#1": "no_face"}
    for value, picture in zip(values, shown, strict=True):
        assert (picture[40, 30:80] != value).any() == (value != 0)  # the upper edge of the box
        assert (picture[40, 210:260] != value).any() == (value > 100)
        assert (picture != value).any()  # a label in any case


def test_what_is_held_does_not_grow(predictor: Model, synthetic: Any) -> None:
    finder: Any = Finder(predictor.spec, synthetic)
    alive: list[weakref.ref[Any]] = []
    most = 0

    def many() -> Iterator[video.Picture]:
        nonlocal most
        for k in range(5 * video.BATCH):
            pixels = frame(k % 3)
            alive.append(weakref.ref(pixels))
            yield video.Picture(f"{k}", {}, pixels)
            del pixels
            if k % 7 == 0:
                gc.collect()
                most = max(most, sum(ref() is not None for ref in alive))

    done = video.Stream(predictor, finder).run(many(), lambda rows: None)
    assert done.pictures == 5 * video.BATCH and most <= 2 * video.BATCH
    assert len(done.unanswered) == video.EXAMPLES  # some of 27


def test_ctrl_c_ends_a_camera_and_keeps_what_it_saw(predictor: Model, synthetic: Any) -> None:
    finder: Any = Finder(predictor.spec, synthetic)
    rows: list[dict[str, Any]] = []

    def stopped() -> Iterator[video.Picture]:
        yield from pictures([1, 2])
        raise KeyboardInterrupt

    done = video.Stream(predictor, finder, batch=1).run(stopped(), rows.extend)
    assert [r["ImageID"] for r in rows] == ["v#0", "v#1"] and done.warnings == ["Stopped after 2 pictures."]


def test_a_video_is_written_and_read(tmp_path: Path) -> None:
    file = tmp_path / "v.avi"
    with video.VideoWriter(file, 10.0) as film:
        for value in (0, 60, 120, 180, 240):
            film.add(np.full((49, 64, 3), (value, 30, 255 - value), np.uint8))  # an odd side
    with video.VideoReader(file) as shown:
        frames = list(shown)
        assert shown.announced == 5 and [f.seconds for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert frames[0].pixels.shape == (48, 64, 3)
    for value, found in zip((0, 60, 120, 180, 240), frames, strict=True):
        assert np.abs(found.pixels.mean((0, 1)) - (value, 30, 255 - value)).max() < 12  # red is red
    before = file.read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        video.VideoWriter(file, 10.0)
    with pytest.raises(UsageError, match="writes a video"):
        video.check_video(tmp_path / "v.png")
    with pytest.raises(RuntimeError), video.VideoWriter(tmp_path / "half.avi", 10.0) as film:
        film.add(frame(1))
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.avi"] and file.read_bytes() == before


def test_what_is_no_video(run: Path, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match=r"v\.mp4 cannot be read as a video"):
        video.VideoReader(tmp_path / "v.mp4")
    with pytest.raises(UserError, match="There is no camera 97"):
        video.VideoReader(Path("97"))
    assert video.is_camera(Path("0")) and not video.is_camera(tmp_path)
    with pytest.raises(UsageError, match="--faces and --frames are for videos"):
        predict(run, tmp_path, tmp_path / "p.csv", faces="all")


# ---------------------------------------------------------------- the same crops as from a cache


@pytest.fixture(scope="module")
def portrait() -> Pixels:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut()[0:300, 80:380])


@pytest.mark.parametrize(
    "align, weak, status", [("none", 0.25, "ok"), ("similarity", 0.25, "ok"), ("none", 1.0, "rescued")]
)
def test_a_picture_in_memory_is_cut_like_a_photo(
    portrait: Pixels, tmp_path: Path, align: str, weak: float, status: str
) -> None:
    from maskprep.pipeline import session as pipeline
    from maskprep.weights.fetch import locate

    try:
        locate("yunet")
    except UserError:
        pytest.skip("the weights of YuNet are not here")
    view_settings = {"size": [64, 48], "margin": 0.3, "align": align}
    settings = {"detect": {"detectors": ["yunet"]}, "choose": {"weak": weak}, "views": {"v": view_settings}}
    photo = np.full((400, 500, 3), 120, np.uint8)
    photo[40:340, 30:330] = portrait
    small = np.asarray(Image.fromarray(portrait).resize((110, 110)))
    photo[250:360, 380:490] = small
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    pipeline.prepare(tmp_path / "photos", tmp_path / "cache", settings, "v", 1)
    view = open_view(tmp_path / "cache", "v")
    manual = ModelSpec({}, (CropSpec("v", (64, 48), {}),), (), settings, 0)
    with live.open_finder(manual) as finder:
        one, two = finder.find(photo)[0], finder.find(photo, everyone=True)
        nothing = finder.find(np.full((90, 90, 3), 120, np.uint8))
    assert np.array_equal(one.crops["v"], view.gather([0])[0])
    subjects = pd.read_parquet(tmp_path / "cache/subjects.parquet").iloc[0]
    assert one.status == subjects["status"] and one.box == pytest.approx([subjects[c] for c in table.BOX])
    assert one.status == status
    if status == "ok":
        assert [s.status for s in two] == ["ok", "other"] and two[1].box is not None and two[1].box[0] > 380
    assert nothing == [live.Subject("no_face", None, nothing[0].reason)] and nothing[0].crops == {}


@pytest.mark.parametrize("align", ["none", "eyes"])
def test_a_tight_picture_in_memory_is_moved_and_shrunk_like_a_photo(
    portrait: Pixels, tmp_path: Path, align: str
) -> None:
    from maskprep.crops.crop import read_geometry
    from maskprep.pipeline import session as pipeline
    from maskprep.store.cache import Cache
    from maskprep.weights.fetch import locate

    try:
        locate("yunet")
    except UserError:
        pytest.skip("the weights of YuNet are not here")
    settings = {"detect": {"detectors": ["yunet"]}, "views": {"v": {"size": 48, "margin": 0.9, "align": align}}}
    photo = np.ascontiguousarray(portrait[20:220, 80:220])
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    pipeline.prepare(tmp_path / "photos", tmp_path / "cache", settings, "v", 1)
    assert read_geometry(Cache(tmp_path / "cache"), "v")["margin"].iloc[0] < 0.6, "it was shrunk"
    manual = ModelSpec({}, (CropSpec("v", (48, 48), {}),), (), settings, 0)
    with live.open_finder(manual) as finder:
        subject = finder.find(photo)[0]
    assert np.array_equal(subject.crops["v"], open_view(tmp_path / "cache", "v").gather([0])[0])


@pytest.mark.parametrize("crop", ["none", "centre"])
def test_no_faces_are_looked_for_where_the_model_sees_whole_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: str
) -> None:
    from maskprep.pipeline import session as pipeline

    def refuse(*_: object) -> None:
        raise AssertionError("faces were looked for")

    monkeypatch.setattr("maskprep.faces.detect.open_detectors", refuse)
    monkeypatch.setattr(live, "open_detectors", refuse)
    settings = {"views": {"v": {"size": 32, "crop": crop}, "face": {"size": 32}}}
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    pipeline.prepare(tmp_path / "photos", tmp_path / "cache", settings, "v", 1)
    manual = ModelSpec({}, (CropSpec("v", (32, 32), {}),), (), settings, 0)
    with live.open_finder(manual) as finder:
        [subject] = finder.find(photo, everyone=True)
    row = pd.read_parquet(tmp_path / "cache/subjects.parquet").iloc[0]
    assert (subject.status, subject.reason) == (row["status"], row["reason"]) == ("given", row["reason"])
    assert subject.box == tuple(row[c] for c in table.BOX) == (0, 0, 90, 60)
    assert np.array_equal(subject.crops["v"], open_view(tmp_path / "cache", "v").gather([0])[0])


def test_a_picture_in_memory_is_chosen_by_its_matte_where_the_cache_did_so(
    portrait: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks of both faces, with and without the matte of the whole picture, are those of the cache."""
    from maskprep.pipeline import session as pipeline
    from maskprep.pipeline.session import Session
    from maskprep.weights.fetch import locate

    try:
        locate("yunet")
        locate("u2netp")
    except UserError:
        pytest.skip("the weights are not here")
    photo = np.full((240, 420, 3), 128, np.uint8)
    photo[10:230, 10:230] = np.asarray(Image.fromarray(portrait).resize((220, 220)))
    photo[60:190, 270:400] = np.asarray(Image.fromarray(portrait).resize((130, 130)))
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a.png")
    marks = {}
    for on in ("plain", "matted"):
        views = {"v": {"size": [64, 48], "margin": 0.3}}
        settings = {"detect": {"detectors": ["yunet"]}, "views": views, "matte": {"model": "u2netp"}}
        settings["choose"] = {"matte": on == "matted"}
        pipeline.prepare(tmp_path / "photos", tmp_path / on, settings, "v", 1)
        known = Session(tmp_path / on).subjects().candidates("a.png")
        with live.open_finder(ModelSpec({}, (CropSpec("v", (64, 48), {}),), (), settings, 0)) as finder:
            seen = finder.find(photo, everyone=True)
        marks[on] = [s.mark for s in seen]
        assert marks[on] == pytest.approx([c.mark for c in known])
    assert marks["plain"] != pytest.approx(marks["matted"])


def test_a_mark_stays_inside_the_picture() -> None:
    mark = draw.Mark((5.0, 5.0, 60.0, 47.0), ("wear 99%", "male 80%"), (200, 0, 0))
    grey = np.full((48, 64, 3), 90, np.uint8)
    drawn = draw.annotate(grey, [mark])
    assert (grey == 90).all() and (drawn == (200, 0, 0)).all(2).sum() > 200


def test_a_background_in_memory_is_that_of_a_cache(portrait: Pixels, tmp_path: Path) -> None:
    from maskprep.pipeline import session as pipeline
    from maskprep.weights.fetch import locate

    try:
        locate("yunet")
        locate("selfie_segmenter")
    except UserError:
        pytest.skip("the weights are not here")
    settings = {
        "detect": {"detectors": ["yunet"]},
        "views": {"v": {"size": [64, 48], "margin": 0.3}},
        "matte": {"model": "selfie"},
    }
    (tmp_path / "photos").mkdir()
    Image.fromarray(portrait).save(tmp_path / "photos/a.png")
    pipeline.prepare(tmp_path / "photos", tmp_path / "cache", settings, "v", 1, matted=True)
    view = open_view(tmp_path / "cache", "v")
    wanted = CropSpec("v", (64, 48), {}, "colour", (0, 255, 0))
    with live.open_finder(ModelSpec({}, (wanted,), (), settings, 0)) as finder:
        seen = finder.find(portrait)[0]
    assert np.array_equal(seen.mattes["v"], view.gather_alpha([0])[0])
    assert np.array_equal(seen.crops["v"], wanted.of(view).gather([0])[0])
    assert (seen.crops["v"] != view.gather([0])[0]).any()
    with (
        pytest.raises(UserError, match="do not say how"),
        live.open_finder(ModelSpec({}, (wanted,), (), {k: v for k, v in settings.items() if k != "matte"}, 0)),
    ):
        pass
