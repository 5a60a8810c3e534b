"""The sample data set: its layout, its answers, its broken files, and where the drawn masks sit."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA
from maskprep.sample.masks import KINDS, Frame, State, draw_mask
from maskprep.sample.scene import Portrait, open_portraits
from maskprep.sample.writer import SampleSummary, _add_faults, write_sample
from maskprep.weights.fetch import locate

PEOPLE, HELD_OUT = 2, 1
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module", autouse=True)
def models() -> None:
    try:
        locate("yunet")
        locate("selfie_segmenter")
    except UserError as error:
        pytest.skip(f"a model cannot be had: {error.message}")


@pytest.fixture(scope="module")
def astronaut() -> Iterator[Portrait]:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    with open_portraits() as read:
        yield read(Path(data.__file__).with_name("astronaut.png"))


class Steps:
    """Progress that counts and, at some step, calls."""

    def __init__(self, at: int = -1, call: Any = None) -> None:
        self.total, self.done, self.at, self.call = 0, 0, at, call

    def start(self, name: str, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.done == self.at:
            self.call()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, astronaut: Portrait) -> tuple[SampleSummary, Steps]:
    steps = Steps()
    out = tmp_path_factory.mktemp("sample") / "set"
    return write_sample(out, people=PEOPLE, eval_people=HELD_OUT, seed=3, progress=steps), steps


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def photos(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith(".") and p.suffix != ".csv"]


# --- the set ------------------------------------------------------------------------------------------------------


def test_layout_is_that_of_the_boostcamp_set(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    table = rows(summary.folder / "train" / "train.csv")
    assert list(table[0]) == ["id", "gender", "race", "age", "path"]
    homes = sorted(p.name for p in (summary.folder / "train" / "images").iterdir())
    assert homes == [row["path"] for row in table] == [f"{i + 1:06d}_unknown_unknown_unknown" for i in range(PEOPLE)]
    for home in homes:
        stems = [p.stem for p in photos(summary.folder / "train" / "images" / home)]
        assert stems == ["incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal"]
    assert {row["gender"] + row["age"] + row["race"] for row in table} == {""}  # nobody's gender or age is invented
    assert (summary.people, summary.eval_people) == (PEOPLE, HELD_OUT)


def test_photos_are_upright_portraits_of_384_by_512(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    odd = set(summary.faults.values())
    whole = [p for p in photos(summary.folder) if p.suffix != ".yaml"]
    assert len(whole) == 7 * (PEOPLE + HELD_OUT)
    for path in whole:
        if path.relative_to(summary.folder).as_posix() not in odd:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((384, 512), "RGB")


def test_answers_agree_with_the_files_of_eval(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    info = rows(summary.folder / "eval" / "info.csv")
    answers = rows(summary.folder / "eval_answers.csv")
    names = sorted(p.name for p in (summary.folder / "eval" / "images").iterdir())
    assert [row["ImageID"] for row in info] == [row["ImageID"] for row in answers] == names
    assert all(re.fullmatch(r"[0-9a-f]{40}\.jpg", name) for name in names)
    assert {row["ans"] for row in info} == {"0"}
    assert all(int(row["ans"]) == ["wear", "incorrect", "normal"].index(row["mask"]) for row in answers)
    assert sorted(row["mask"] for row in answers) == sorted(["wear"] * 5 + ["incorrect", "normal"])
    train = {row["id"] for row in rows(summary.folder / "train" / "train.csv")}
    assert not train & {row["person"] for row in answers}
    settings = yaml.safe_load((summary.folder / "maskprep.yaml").read_text(encoding="utf-8"))
    assert settings["schema"] == {
        "attributes": {"mask": {"classes": ["wear", "incorrect", "normal"]}},
        "joint": ["mask"],
    }


def test_same_seed_gives_the_same_bytes_and_another_seed_others(
    made: tuple[SampleSummary, Any], tmp_path: Path
) -> None:
    summary, _ = made
    write_sample(tmp_path / "again", people=PEOPLE, eval_people=HELD_OUT, seed=3)
    assert digests(tmp_path / "again") == digests(summary.folder)
    write_sample(tmp_path / "other", people=1, eval_people=0, seed=4, faults=False)
    assert not set(digests(tmp_path / "other").values()) & {
        digest for name, digest in digests(summary.folder).items() if "/images/" in name
    }


def test_progress_counts_every_photo(made: tuple[SampleSummary, Steps]) -> None:
    assert made[1].done == made[1].total == 7 * (PEOPLE + HELD_OUT)


def test_faults_are_what_they_are_called(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    listed = {row["fault"]: row["file"] for row in rows(summary.folder / "faults.csv")}
    assert listed == summary.faults
    assert all(file.startswith("train/") for file in listed.values())
    at = {fault: summary.folder / file for fault, file in listed.items()}
    assert len(set(at.values())) == 7
    with pytest.raises(OSError), Image.open(at["truncated"]) as image:
        image.load()
    assert at["empty"].stat().st_size == 0
    with Image.open(at["exif_rotated"]) as image:
        assert image.size == (512, 384)
        assert image.getexif()[0x0112] == 6
    with Image.open(at["grayscale"]) as image:
        assert (image.format, image.mode) == ("JPEG", "L")
    with Image.open(at["png_named_jpg"]) as image:
        assert (image.format, at["png_named_jpg"].suffix) == ("PNG", ".jpg")
    with Image.open(at["upper_case_suffix"]) as image:
        assert (image.format, at["upper_case_suffix"].suffix) == ("JPEG", ".JPG")
    assert at["apple_double"].name == "._mask1.jpg"
    assert at["apple_double"].read_bytes().startswith(b"\x00\x05\x16\x07")
    for home in (summary.folder / "train" / "images").iterdir():  # no class of a person is lost to a broken file
        usable = [p for p in photos(home) if p not in (at["truncated"], at["empty"])]
        assert {"incorrect_mask", "normal"} < {p.stem for p in usable}
        assert sum(p.stem.startswith("mask") for p in usable) >= 3


def test_one_person_has_files_enough_for_the_faults(tmp_path: Path) -> None:
    home = tmp_path / "train" / "images" / "000001_unknown_unknown_unknown"
    home.mkdir(parents=True)
    for name in ("mask2.jpg", "mask3.png", "mask4.jpeg", "mask5.JPG", "incorrect_mask.jpg", "normal.jpg"):
        Image.new("RGB", (4, 4)).save(home / name, format="JPEG")
    faults = {fault: Path(file).name for fault, file in _add_faults(tmp_path, 0).items()}
    assert faults["truncated"] == "mask2.jpg"
    assert "empty" not in faults  # rather no fault than a person without a class
    assert len(set(faults.values())) == len(faults)


def test_rotated_photo_is_upright_once_its_tag_is_followed(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    with open_portraits() as read:
        face = read(summary.folder / summary.faults["exif_rotated"]).face
    assert face[:2, 1].max() < face[2, 1] < face[3:, 1].min()  # eyes, nose, mouth from top to bottom


# --- never overwrites, leaves nothing half ------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in (".", "mine.txt", "link"):
        with pytest.raises(UsageError, match=r"is not an empty folder"):
            write_sample(tmp_path / name, people=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "mine.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, astronaut: Portrait) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    (tmp_path / "set").mkdir()  # an empty folder is accepted
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "set", people=1, eval_people=0, progress=Steps(3, stop))
    assert [p.name for p in tmp_path.rglob("*")] == ["set"]


def test_files_that_appear_meanwhile_are_not_overwritten(tmp_path: Path, astronaut: Portrait) -> None:
    def intrude() -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "theirs.txt").write_text("keep")

    with pytest.raises(UsageError, match="not an empty folder"):
        write_sample(tmp_path / "set", people=1, eval_people=0, progress=Steps(2, intrude), faults=False)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["set", "theirs.txt"]


def test_scikit_image_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskprep.cli import main

    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setattr(sys, "argv", ["maskprep", "sample", str(tmp_path / "set")])
    with pytest.raises(SystemExit):
        main()
    assert "pip install 'maskprep[sample]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [{"people": 0}, {"people": 2, "eval_people": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        write_sample(tmp_path / "set", **numbers)  # type: ignore[arg-type]


# --- portraits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory, astronaut: Portrait) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    for i in range(4):
        Image.fromarray(astronaut.pixels[: 420 + 10 * i, 40 : 400 + 20 * i]).save(folder / f"p{i}.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def table(folder: Path, text: str) -> Path:
    path = folder / "people.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_portraits_give_all_labels_and_name_what_was_skipped(tmp_path: Path, portraits: Path) -> None:
    labels = table(
        tmp_path,
        "File,Person,Gender,Age\n"
        "p0.png,a,male,29.5\np1.png,b,female,30\np2.png,c,Female,60\np3.png,c,female,60\n"
        "wall.png,d,male,40\nbroken.jpg,e,male,41\n",
    )
    summary = write_sample(
        tmp_path / "set",
        people=4,
        eval_people=1,
        portraits=portraits,
        labels=labels,
        faults=False,
    )
    homes = sorted(p.name for p in (summary.folder / "train" / "images").iterdir())
    answers = rows(summary.folder / "eval_answers.csv")
    assert (len(homes), len(answers)) == (2, 7)
    said = {tuple(home.split("_")[1:]) for home in homes} | {(r["gender"], "", r["age"]) for r in answers}
    assert {(g, a) for g, _, a in said} == {("male", "29"), ("female", "30"), ("female", "60")}
    age = {"29": 0, "30": 1, "60": 2}
    for row in answers:
        mask = ["wear", "incorrect", "normal"].index(row["mask"])
        assert int(row["ans"]) == 6 * mask + 3 * (row["gender"] == "female") + age[row["age"]] == MASK_SCHEMA.label(row)
    assert not (summary.folder / "maskprep.yaml").exists()
    assert not summary.faults
    assert not (summary.folder / "faults.csv").exists()
    reasons = {Path(file).name: reason.split(":")[0] for file, reason in summary.skipped.items()}
    assert reasons == {"wall.png": "no face found", "broken.jpg": "truncated"}


def test_no_usable_portrait_is_an_error_with_the_reasons(tmp_path: Path, portraits: Path) -> None:
    labels = table(tmp_path, "file,person,gender,age\nwall.png,d,male,40\nbroken.jpg,e,male,41\n")
    with pytest.raises(UserError, match=r"(?s)usable portraits of only 0 people.*no face found, truncated"):
        write_sample(tmp_path / "set", portraits=portraits, labels=labels)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,person,gender\np0.png,a,male\n", "no column age"),
        ("file,person,gender,age\n", "names no portraits"),
        ("file,person,gender,age\nlost.png,a,male,3\n", "lost.png"),
        ("file,person,gender,age\np0.png,a,male,old\n", "age 'old'"),
        ("file,person,gender,age\np0.png,a,male,nan\n", "age 'nan'"),
        ("file,person,gender,age\np0.png,a,m,3\n", "gender 'm'"),
        ("file,person,gender,age\np0.png,,male,3\n", "person and file"),
        ("file,person,gender,age\np0.png,a,male,3\np1.png,a,male,4\n", "line 3: a has another"),
    ],
)
def test_a_bad_table_is_refused_with_the_line(tmp_path: Path, portraits: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        write_sample(tmp_path / "set", portraits=portraits, labels=table(tmp_path, text))


def test_portraits_without_labels_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        write_sample(tmp_path / "set", portraits=tmp_path)
    with pytest.raises(UsageError, match="Cannot read"):
        write_sample(tmp_path / "set", portraits=tmp_path, labels=tmp_path / "people.csv")
    people = table(tmp_path, "file,person,gender,age\np0.png,a,male,3\n")
    with pytest.raises(UsageError, match="nowhere"):
        write_sample(tmp_path / "set", portraits=tmp_path / "nowhere", labels=people)


# --- drawing ------------------------------------------------------------------------------------------------------


def change(photo: Pixels, drawn: Pixels, spot: Any) -> float:
    """Mean difference around a point."""
    x, y = np.round(spot).astype(int)
    part = np.s_[y - 1 : y + 2, x - 1 : x + 2]
    return float(np.abs(drawn[part].astype(int) - photo[part].astype(int)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_cover_what_their_state_says(astronaut: Portrait, kind: str) -> None:
    photo, face = astronaut.pixels, astronaut.face
    nose, mouth = face[2], face[3:].mean(0)
    eyes = face[:2].mean(0)
    spots = {"eyes": eyes, "nose": nose, "mouth": mouth, "chin": eyes + 1.65 * (mouth - eyes), "brow": 2 * eyes - nose}
    hidden = {"worn": {"nose", "mouth", "chin"}, "nose": {"mouth", "chin"}, "chin": {"chin"}}
    before = photo.copy()
    for state in get_args(State):
        for seed in range(4):
            drawn = draw_mask(photo, face, kind, state, seed)
            assert drawn.shape == photo.shape
            for name, spot in spots.items():
                moved = change(photo, drawn, spot)
                assert moved > 12 if name in hidden[state] else moved < 6, (state, seed, name, moved)
    assert (photo == before).all()  # a pure function: the photo given stays as it was


def test_the_mouth_may_be_one_point_or_its_two_corners(astronaut: Portrait) -> None:
    four = np.vstack([astronaut.face[:3], astronaut.face[3:].mean(0)])
    five, one = (draw_mask(astronaut.pixels, face, "cloth-red") for face in (astronaut.face, four))
    assert (five == one).all()
    assert Frame(four).width == pytest.approx(Frame(astronaut.face).width)


def test_drawing_is_a_function_of_its_seed(astronaut: Portrait) -> None:
    first, again, other = (draw_mask(astronaut.pixels, astronaut.face, "surgical-blue", "worn", s) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_mask_in_dim_light_is_dim(astronaut: Portrait) -> None:
    x, y = np.round(astronaut.face[3:].mean(0)).astype(int)
    dim = (astronaut.pixels * 0.4).astype(np.uint8)
    bright, dark = (draw_mask(p, astronaut.face, "surgical-white")[y, x].mean() for p in (astronaut.pixels, dim))
    assert dark < 0.8 * bright


def test_a_mask_is_darker_on_the_side_in_shadow(astronaut: Portrait) -> None:
    photo, face = astronaut.pixels, astronaut.face
    width = photo.shape[1]
    centre = face[2, 0]
    lit = np.clip(1 + (np.arange(width) - centre) / Frame(face).width, 0.3, 1.7)[None, :, None]
    drawn = draw_mask((photo * lit / 1.7).astype(np.uint8), face, "surgical-white")
    y, reach = int(face[3:, 1].mean()), int(0.2 * Frame(face).width)
    left, right = (drawn[y - 4 : y + 5, int(centre) + sign * reach].mean() for sign in (-1, 1))
    assert left < 0.9 * right


def test_a_face_cut_by_the_edge_of_the_photo_can_be_drawn_on(astronaut: Portrait) -> None:
    for left, top in ((225, 0), (0, 140), (0, 400)):
        cut = np.ascontiguousarray(astronaut.pixels[top:, left:])
        drawn = draw_mask(cut, astronaut.face - [left, top], "surgical-blue")
        assert drawn.shape == cut.shape
        assert (drawn != cut).any() == (top < 400)


def test_the_kinds_of_a_set_are_many() -> None:
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    assert {kind.cut for kind in KINDS.values()} == {"surgical", "ffp2", "cloth"}
    assert any(kind.dots for kind in KINDS.values())
