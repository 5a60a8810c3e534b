"""The sample data set: its layout, its answers, its broken files, and where the drawn masks sit."""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.sample.drape import STATES
from maskprep.sample.fabrics import Style, pick_style
from maskprep.sample.masks import draw_mask
from maskprep.sample.studio import open_landmarker
from maskprep.sample.writer import SampleSummary, _add_faults, write_sample
from maskprep.weights.fetch import locate

PEOPLE, HELD_OUT = 2, 1


@pytest.fixture(scope="module")
def landmarker() -> Path:
    try:
        return locate("face_landmarker")
    except UserError as error:
        pytest.skip(f"the face landmark model cannot be had: {error.message}")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray[Any, np.dtype[np.uint8]]:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, landmarker: Path, astronaut: np.ndarray[Any, np.dtype[np.uint8]]
) -> tuple[SampleSummary, list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    out = tmp_path_factory.mktemp("sample") / "set"
    summary = write_sample(
        out,
        people=PEOPLE,
        eval_people=HELD_OUT,
        seed=3,
        landmarker=landmarker,
        progress=lambda done, total: steps.append((done, total)),
    )
    return summary, steps


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
    assert (summary.people, summary.photos) == (PEOPLE, 7 * PEOPLE)
    assert (summary.eval_people, summary.eval_photos) == (HELD_OUT, 7 * HELD_OUT)


def test_photos_are_upright_portraits_of_384_by_512(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    odd = {fault.file for fault in summary.faults}
    whole = [p for p in photos(summary.folder) if p.suffix != ".yaml"]
    assert len(whole) == 7 * (PEOPLE + HELD_OUT)
    for path in whole:
        if path.relative_to(summary.folder).as_posix() not in odd:
            with Image.open(path) as image:
                assert (image.size, image.mode) == ((384, 512), "RGB")


def test_answers_agree_with_the_files_of_eval(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    info = rows(summary.folder / "eval" / "info.csv")
    answers = rows(summary.answers)
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
    made: tuple[SampleSummary, Any], landmarker: Path, tmp_path: Path
) -> None:
    summary, _ = made
    write_sample(tmp_path / "again", people=PEOPLE, eval_people=HELD_OUT, seed=3, landmarker=landmarker)
    assert digests(tmp_path / "again") == digests(summary.folder)
    write_sample(tmp_path / "other", people=1, eval_people=0, seed=4, landmarker=landmarker, faults=False)
    assert not set(digests(tmp_path / "other").values()) & {
        digest for name, digest in digests(summary.folder).items() if "/images/" in name
    }


def test_progress_counts_every_photo(made: tuple[SampleSummary, list[tuple[int, int]]]) -> None:
    _, steps = made
    total = 7 * (PEOPLE + HELD_OUT)
    assert steps == [(i + 1, total) for i in range(total)]


def test_faults_are_what_they_are_called(made: tuple[SampleSummary, Any]) -> None:
    summary, _ = made
    listed = {row["fault"]: row["file"] for row in rows(summary.folder / "faults.csv")}
    assert listed == {fault.fault: fault.file for fault in summary.faults}
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
    faults = {f.fault: Path(f.file).name for f in _add_faults(tmp_path, 0)}
    assert faults["truncated"] == "mask2.jpg"
    assert "empty" not in faults  # rather no fault than a person without a class
    assert len(set(faults.values())) == len(faults)


def test_rotated_photo_is_upright_once_its_tag_is_followed(made: tuple[SampleSummary, Any], landmarker: Path) -> None:
    from maskprep.photos.decode import load

    summary, _ = made
    file = next(f.file for f in summary.faults if f.fault == "exif_rotated")
    with open_landmarker(landmarker) as find:
        points = find(load(summary.folder / file))
    assert points is not None
    assert points[10, 1] < points[1, 1] < points[152, 1]  # forehead, nose, chin from top to bottom


# --- never overwrites, leaves nothing half ------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        write_sample(tmp_path, people=1, landmarker=tmp_path / "none")  # before anything is loaded
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UsageError, match="is not a folder"):
        write_sample(tmp_path / "mine.txt", people=1, landmarker=tmp_path / "none")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, landmarker: Path, astronaut: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    (tmp_path / "set").mkdir()  # an empty folder is accepted
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "set", people=1, eval_people=0, landmarker=landmarker, progress=stop)
    assert [p.name for p in tmp_path.rglob("*")] == ["set"]


def test_files_that_appear_meanwhile_are_not_overwritten(tmp_path: Path, landmarker: Path, astronaut: Any) -> None:
    def intrude(done: int, total: int) -> None:
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / "theirs.txt").write_text("keep")

    with pytest.raises(UsageError, match="not empty"):
        write_sample(tmp_path / "set", people=1, eval_people=0, landmarker=landmarker, progress=intrude, faults=False)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["set", "theirs.txt"]


def test_scikit_image_missing_is_said(tmp_path: Path, landmarker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match=r"maskprep\[sample\]"):
        write_sample(tmp_path / "set", people=1, landmarker=landmarker)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [{"people": 0}, {"people": 2, "eval_people": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        write_sample(tmp_path / "set", **numbers)  # type: ignore[arg-type]


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.task").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"model\.task"):
        write_sample(tmp_path / "set", people=1, landmarker=tmp_path / "model.task")


# --- portraits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray[Any, np.dtype[np.uint8]]) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    for i in range(4):
        Image.fromarray(astronaut[: 420 + 10 * i, 40 : 400 + 20 * i]).save(folder / f"p{i}.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def table(folder: Path, text: str) -> Path:
    path = folder / "people.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_portraits_give_all_labels_and_name_what_was_skipped(tmp_path: Path, portraits: Path, landmarker: Path) -> None:
    labels = table(
        tmp_path,
        "File,Person,Gender,Age,Race\n"
        "p0.png,a,male,29,x_y\np1.png,b,female,30,\np2.png,c,Female,60,\np3.png,c,female,60,\n"
        "wall.png,d,male,40,\nbroken.jpg,e,male,41,\n",
    )
    summary = write_sample(
        tmp_path / "set",
        people=4,
        eval_people=1,
        portraits=portraits,
        labels=labels,
        landmarker=landmarker,
        faults=False,
    )
    homes = sorted(p.name for p in (summary.folder / "train" / "images").iterdir())
    answers = rows(summary.answers)
    assert (len(homes), len(answers)) == (2, 7)
    said = {tuple(home.split("_")[1:]) for home in homes} | {(r["gender"], "", r["age"]) for r in answers}
    assert {(g, a) for g, _, a in said} == {("male", "29"), ("female", "30"), ("female", "60")}
    age = {"29": 0, "30": 1, "60": 2}
    for row in answers:
        mask = ["wear", "incorrect", "normal"].index(row["mask"])
        assert int(row["ans"]) == 6 * mask + 3 * (row["gender"] == "female") + age[row["age"]]
    assert not (summary.folder / "maskprep.yaml").exists()
    assert not summary.faults
    assert not (summary.folder / "faults.csv").exists()
    reasons = {Path(file).name: reason.split(":")[0] for file, reason in summary.skipped}
    assert reasons == {"wall.png": "no face found", "broken.jpg": "cannot be read"}


def test_no_usable_portrait_is_an_error_with_the_reasons(tmp_path: Path, portraits: Path, landmarker: Path) -> None:
    labels = table(tmp_path, "file,person,gender,age\nwall.png,d,male,40\nbroken.jpg,e,male,41\n")
    with pytest.raises(UserError, match=r"(?s)Only 0 of .*1 cannot be read, 1 no face found"):
        write_sample(tmp_path / "set", portraits=portraits, labels=labels, landmarker=landmarker)
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
def test_a_bad_table_is_refused_with_the_line(
    tmp_path: Path, portraits: Path, landmarker: Path, text: str, says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        write_sample(tmp_path / "set", portraits=portraits, labels=table(tmp_path, text), landmarker=landmarker)


def test_portraits_without_labels_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        write_sample(tmp_path / "set", portraits=tmp_path)
    with pytest.raises(UsageError, match="nowhere"):
        write_sample(tmp_path / "set", portraits=tmp_path / "nowhere", labels=tmp_path / "people.csv")
    with pytest.raises(UsageError, match="Cannot read"):
        write_sample(tmp_path / "set", portraits=tmp_path, labels=tmp_path / "people.csv")


# --- drawing ------------------------------------------------------------------------------------------------------

STYLES = [
    Style("surgical", (0.3, 0.6, 0.9)),
    Style("cloth", (0.1, 0.5, 0.2), "check", (0.1, 0.3, 0.6), pleated=False),
    Style("kn95", (0.1, 0.1, 0.5)),
    Style("cup", (0.1, 0.6, 0.6), valve=True),
    Style("pitta", (0.1, 0.1, 0.4)),
]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: str(style.kind))
def test_masks_cover_what_their_state_says(
    astronaut: np.ndarray[Any, np.dtype[np.uint8]], landmarker: Path, style: Style
) -> None:
    with open_landmarker(landmarker) as find:
        points = find(astronaut)
    assert points is not None

    def change(drawn: np.ndarray[Any, np.dtype[np.uint8]], landmark: int) -> float:
        x, y = np.round(points[landmark, :2]).astype(int)
        spot = np.s_[y - 1 : y + 2, x - 1 : x + 2]
        return float(np.abs(drawn[spot].astype(int) - astronaut[spot].astype(int)).mean())

    nose, upper_lip, lower_lip, chin, forehead = 1, 0, 17, 199, 151
    hidden: dict[str, dict[int, bool]] = {
        "worn": {nose: True, upper_lip: True, lower_lip: True, chin: True, forehead: False},
        "nose": {nose: False, upper_lip: True, lower_lip: True, chin: True, forehead: False},
        "chin": {nose: False, upper_lip: False, lower_lip: False, 175: True, forehead: False},
    }
    before = astronaut.copy()
    for state in STATES:
        for seed in range(4):
            drawn = draw_mask(astronaut, points, style, state, np.random.default_rng(seed))
            assert drawn.shape == astronaut.shape
            for landmark, covered in hidden[state].items():
                moved = change(drawn, landmark)
                assert moved > 20 if covered else moved < 6, (state, seed, landmark, moved)
    assert (astronaut == before).all()  # a pure function: the photo given stays as it was


def test_drawing_is_a_function_of_its_generator(
    astronaut: np.ndarray[Any, np.dtype[np.uint8]], landmarker: Path
) -> None:
    with open_landmarker(landmarker) as find:
        points = find(astronaut)
    assert points is not None
    first, again, other = (draw_mask(astronaut, points, STYLES[0], "worn", np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_mask_in_dim_light_is_dim(astronaut: np.ndarray[Any, np.dtype[np.uint8]], landmarker: Path) -> None:
    with open_landmarker(landmarker) as find:
        points = find(astronaut)
    assert points is not None
    x, y = np.round(points[205, :2]).astype(int)
    white = Style("surgical", (0.93, 0.93, 0.93))
    dim = (astronaut * 0.4).astype(np.uint8)
    bright, dark = (
        draw_mask(p, points, white, "worn", np.random.default_rng(0))[y, x].mean() for p in (astronaut, dim)
    )
    assert dark < 0.8 * bright


def test_a_face_cut_by_the_edge_of_the_photo_can_be_drawn_on(
    astronaut: np.ndarray[Any, np.dtype[np.uint8]], landmarker: Path
) -> None:
    with open_landmarker(landmarker) as find:
        points = find(astronaut)
    assert points is not None
    for left, top in ((225, 0), (0, 140)):
        cut = np.ascontiguousarray(astronaut[top:, left:])
        drawn = draw_mask(
            cut, points - np.array([left, top, 0], np.float32), STYLES[0], "worn", np.random.default_rng(0)
        )
        assert drawn.shape == cut.shape
        assert (drawn != cut).any()


def test_many_styles_are_picked() -> None:
    rng = np.random.default_rng(0)
    picked = [pick_style(rng) for _ in range(200)]
    assert {style.kind for style in picked} == {"surgical", "cloth", "kn95", "cup", "pitta"}
    assert len({style.name for style in picked}) >= 7
    assert len({style.color for style in picked}) > 50
