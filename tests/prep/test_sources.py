"""Folder layouts: persons, splits and labels from names and CSV files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from maskprep.errors import UsageError, UserError
from maskprep.labels.layouts import Described, SourceSettings, describe, mask_state
from maskprep.labels.lists import read_list
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema


def look(root: Path, *images: str, schema: Schema | None = None, **settings: object) -> Described:
    return describe(root, images, SourceSettings(**settings), schema)  # type: ignore[arg-type]


def column(described: Described, name: str) -> list[object]:
    return [None if pd.isna(v) else v for v in described.table[name]]


# ---------------------------------------------------------------- boostcamp

P1, P2 = "train/images/000001_female_Asian_45", "train/images/001498-1_male_Asian_23"


def test_boostcamp_by_names_alone(tmp_path: Path) -> None:
    images = [f"{P1}/mask1.jpg", f"{P1}/normal.PNG", f"{P2}/incorrect_mask.jpg", "eval/images/aa.jpg"]
    found = look(tmp_path, *images)
    assert found.layout == "boostcamp"
    assert found.schema == MASK_SCHEMA
    assert column(found, "person") == ["000001", "000001", "001498-1", None]
    assert column(found, "split") == ["train", "train", "train", "eval"]
    assert column(found, "mask") == ["wear", "normal", "incorrect", None]
    assert column(found, "gender") == ["female", "female", "male", None]
    assert column(found, "age") == [45, 45, 23, None]
    assert found.notes == ()


def test_unknown_gender_and_age_are_missing(tmp_path: Path) -> None:
    found = look(tmp_path, "train/images/7_unknown_Asian_unknown/mask2.jpg", f"{P1}/normal.jpg")
    assert column(found, "gender") == [None, "female"]
    assert column(found, "age") == [None, 45]
    assert column(found, "person") == ["7", "000001"]


def test_male_is_not_found_inside_female() -> None:
    found = look(Path(), f"{P1}/normal.jpg", "train/images/2_FEMALE_Asian_9/normal.jpg")
    assert column(found, "gender") == ["female", "female"]


def test_only_whole_folder_names_are_people() -> None:
    found = look(Path(), f"{P1}/normal.jpg", "train/images/x1_male_Asian_9_old/normal.jpg")
    assert column(found, "person") == ["000001", None]


@pytest.mark.parametrize(
    ("name", "state"),
    [
        *((f"mask{i}.jpg", "wear") for i in range(1, 6)),
        ("mask.jpg", "wear"),
        ("MASK1.JPG", "wear"),
        ("mask1.jpg.png", "wear"),
        ("incorrect_mask.webp", "incorrect"),
        ("normal.jpeg", "normal"),
        ("unmasked.jpg", None),
        ("abnormal.jpg", None),
        ("mask1 (2).jpg", None),
    ],
)
def test_mask_states(name: str, state: str | None) -> None:
    assert mask_state(name) == state


def test_strange_names_in_person_folders_are_said(tmp_path: Path) -> None:
    found = look(tmp_path, f"{P1}/holiday.jpg", f"{P1}/normal.jpg")
    assert "1 photo in person folders" in found.notes[0]


@pytest.mark.parametrize("place", ["train/train.csv", "train.csv"])
def test_train_csv_wins_and_disagreement_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / place).write_text(
        "id,gender,race,age,path\n"
        "000001,male,Asian,61,000001_female_Asian_45\n"
        "001498-1,male,Asian,23,001498-1_male_Asian_23\n"
    )
    found = look(tmp_path, f"{P1}/normal.jpg", f"{P2}/normal.jpg", "train/images/9_male_Asian_5/normal.jpg")
    assert column(found, "gender") == ["male", "male", "male"]
    assert column(found, "age") == [61, 23, 5]
    assert len(found.notes) == 1
    assert "1 person (000001_female_Asian_45)" in found.notes[0]


@pytest.mark.parametrize(("age", "years"), [("45.5", 45), ("99999999999999999999", None), ("old", None), ("-3", None)])
def test_ages_in_train_csv_may_be_anything(tmp_path: Path, age: str, years: int | None) -> None:
    (tmp_path / "train.csv").write_text(f"id,gender,age,path\n000001,female,{age},{Path(P1).name}\n")
    assert column(look(tmp_path, f"{P1}/normal.jpg"), "age") == [years]


def test_train_csv_without_paths_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,gender\n1,male\n")
    found = look(tmp_path, f"{P1}/normal.jpg")
    assert column(found, "gender") == ["female"]
    assert "no column 'path'" in found.notes[0]


# ---------------------------------------------------------------- folders


def test_folders(tmp_path: Path) -> None:
    images = ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "TEST/dog/deep/3.jpg", "loose.jpg"]
    found = look(tmp_path, *images)
    assert found.layout == "folders"
    assert column(found, "class") == ["cat", "dog", "cat", "dog", None]
    assert column(found, "split") == ["train", "train", "val", "test", "train"]
    assert found.schema.class_names == ("cat", "dog")
    assert "1 photo outside the class folders" in found.notes[0]


def test_classes_sort_by_number_and_join_whatever_the_case(tmp_path: Path) -> None:
    images = ["10/a.jpg", "2/a.jpg", "Cat/a.jpg", "cat/b.jpg"]
    schema = look(tmp_path, *images).schema
    assert schema.class_names[:2] == ("2", "10")
    assert len(schema.class_names) == 3
    assert schema.label({"class": "Cat"}) == schema.label({"class": "cat"}) == 2


def test_one_given_attribute_names_the_column(tmp_path: Path) -> None:
    schema = Schema((Attribute("pet", ("dog", "cat")),))
    found = look(tmp_path, "cat/1.jpg", "dog/1.jpg", schema=schema)
    assert column(found, "pet") == ["cat", "dog"]
    assert found.schema is schema


def test_flat(tmp_path: Path) -> None:
    found = look(tmp_path, "a.jpg", "images/b.jpg")
    assert found.layout == "flat"
    assert found.schema.num_classes == 0
    assert list(found.table.columns) == ["person", "split"]


@pytest.mark.parametrize("pattern", [r"(\d+)_", r"(?P<x>\w)?(?P<person>\d\d)_"])
def test_person_by_pattern(tmp_path: Path, pattern: str) -> None:
    found = look(tmp_path, "cat/a12_1.jpg", "dog/a12_2.jpg", "dog/none.jpg", person=pattern)
    assert column(found, "person") == ["12", "12", None]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layout": "boostcmp"}, "Unknown layout 'boostcmp'"),
        ({"person": "("}, "no valid regular expression"),
        ({"person": "abc"}, "has no group"),
    ],
)
def test_wrong_settings(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SourceSettings(**settings)


# ---------------------------------------------------------------- csv


def write(root: Path, text: str, name: str = "list.csv", encoding: str = "utf-8") -> None:
    (root / name).write_text(text, encoding=encoding)


def test_csv_paths_may_be_relative_absolute_or_bare(tmp_path: Path) -> None:
    write(
        tmp_path, f"path,label\nx/a.jpg,cat\n{tmp_path.resolve()}/x/b.jpg,dog\nc.jpg,cat\n./d.jpg,dog\nx\\e.jpg,cat\n"
    )
    found = look(tmp_path, "x/a.jpg", "x/b.jpg", "y/c.jpg", "d.jpg", "x/e.jpg")
    assert found.layout == "csv"
    assert column(found, "class") == ["cat", "dog", "cat", "dog", "cat"]
    assert found.notes == ()
    assert found.schema.class_names == ("cat", "dog")


def test_csv_paths_from_further_up(tmp_path: Path) -> None:
    write(tmp_path, "path,label\n/data/set/x/a.jpg,cat\nset/x/b.jpg,dog\n")
    assert column(look(tmp_path, "x/a.jpg", "x/b.jpg"), "class") == ["cat", "dog"]


def test_csv_a_path_through_another_folder_is_another_photo(tmp_path: Path) -> None:
    write(tmp_path, "path,label\nval/cat/1.jpg,cat\ntrain/dog/2.jpg,dog\n")
    found = look(tmp_path, "train/dog/1.jpg", "train/dog/2.jpg")
    assert column(found, "class") == [None, "dog"]
    assert any(
        "1 row of list.csv for photos that are not in the folder" in note and "val/cat/1.jpg" in note
        for note in found.notes
    )
    assert any("1 photo without a label, not listed in list.csv" in note for note in found.notes)


def test_csv_a_bare_name_that_two_photos_have_is_neither(tmp_path: Path) -> None:
    write(tmp_path, "path,label\n1.jpg,cat\nb/1.jpg,dog\n")
    assert column(look(tmp_path, "a/1.jpg", "b/1.jpg"), "class") == [None, "dog"]


def test_csv_decomposed_names(tmp_path: Path) -> None:
    write(tmp_path, "path,label\n사진/é.jpg,cat\n")
    assert column(look(tmp_path, unicodedata.normalize("NFD", "사진/é.jpg")), "class") == ["cat"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_forms(tmp_path: Path, separator: str, encoding: str) -> None:
    lines = ["Path,Label,person", "a.jpg,cat,p1", 'b.jpg,"dog",p2', ""]
    write(tmp_path, "\r\n".join(lines).replace(",", separator), encoding=encoding)
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert column(found, "class") == ["cat", "dog"]
    assert column(found, "person") == ["p1", "p2"]


def test_csv_outer_blanks_do_not_make_another_person_or_class(tmp_path: Path) -> None:
    write(tmp_path, "path, label ,person\na.jpg , cat,p1 \nb.jpg,cat , p1\n")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert column(found, "person") == ["p1", "p1"]
    assert found.schema.class_names == ("cat",)


@pytest.mark.parametrize("name", ["None", "NA", "null", "nan", "N/A"])
def test_csv_a_class_may_have_any_name(tmp_path: Path, name: str) -> None:
    write(tmp_path, f"path,label\na.jpg,{name}\nb.jpg,wear\nc.jpg,\n")
    found = look(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert column(found, "class") == [name, "wear", None]
    assert set(found.schema.class_names) == {name, "wear"}


def test_csv_ids_keep_their_zeros(tmp_path: Path) -> None:
    write(tmp_path, "path,label,person\na.jpg,01,0007\nb.jpg,1,7\n")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert column(found, "person") == ["0007", "7"]
    assert column(found, "class") == ["01", "1"]


def test_csv_extra_columns_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "image,label,camera,split,bytes\na.jpg,cat,front,val,9\nb.jpg,dog,,train,8\n")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert column(found, "camera") == ["front", None]
    assert column(found, "csv_bytes") == ["9", "8"]
    assert column(found, "split") == ["val", "train"]


def test_csv_an_unknown_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "path,label,split\na.jpg,cat,holdout\nb.jpg,dog,train\n")
    with pytest.raises(UserError, match="unknown split: holdout"):
        look(tmp_path, "a.jpg", "b.jpg")


def test_csv_an_empty_split_is_told_by_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "path,label,split\nval/a.jpg,cat,\nb.jpg,dog,Test \n")
    assert column(look(tmp_path, "val/a.jpg", "b.jpg", "c.jpg"), "split") == ["val", "test", "train"]


def test_csv_same_row_twice_is_fine_and_different_rows_are_not(tmp_path: Path) -> None:
    write(tmp_path, "path,label\na.jpg,cat\na.jpg,cat\n")
    assert column(look(tmp_path, "a.jpg"), "class") == ["cat"]
    write(tmp_path, "path,label\na.jpg,cat\nb.jpg,cat\n./a.jpg,dog\n")
    with pytest.raises(UserError, match=r"two different rows for 'a.jpg' \(lines 2 and 4\)"):
        look(tmp_path, "a.jpg", "b.jpg")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'path,label,note\n\na.jpg,cat,"two\nlines"\na.jpg,dog,\n')
    with pytest.raises(UserError, match=r"lines 3 and 5"):
        look(tmp_path, "a.jpg", layout="csv", csv="list.csv")


def test_csv_columns_by_setting(tmp_path: Path) -> None:
    write(tmp_path, "f,label,kind,who\na.jpg,wrong,cat,x\nb.jpg,wrong,dog,y\n")
    columns = {"path": "f", "class": "kind", "person": "who"}
    schema = Schema((Attribute("class", ("cat", "dog")),))
    found = look(tmp_path, "a.jpg", "b.jpg", schema=schema, layout="csv", csv="list.csv", columns=columns)
    assert column(found, "class") == ["cat", "dog"]
    assert column(found, "person") == ["x", "y"]
    assert column(found, "csv_label") == ["wrong", "wrong"]


def test_csv_mask_attributes(tmp_path: Path) -> None:
    write(tmp_path, "path,Mask,Gender,Age,id\na.jpg,wear,female,31,p\n")
    found = look(tmp_path, "a.jpg")
    assert found.schema == MASK_SCHEMA
    assert MASK_SCHEMA.label({name: column(found, name)[0] for name in MASK_SCHEMA.names}) == 4
    assert column(found, "person") == ["p"]


def test_csv_with_trailing_separators(tmp_path: Path) -> None:
    write(tmp_path, "path,label\na.jpg,cat,\nb.jpg,dog,\n")
    assert column(look(tmp_path, "a.jpg", "b.jpg"), "class") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no lines but the header"),
        ("path,label\n", "no lines but the header"),
        ("path,path\na,b\n", "two columns have one name"),
        ("path,label\na,b,c.jpg,cat\n", "more cells than columns"),
        ('path,label\n"a.jpg,cat\n', "as a CSV file"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UserError, match=says):
        read_list(tmp_path / "list.csv")


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-8-sig"])
def test_csv_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, "파일,성별,나이\n얼굴.jpg,여자,31\n", encoding=encoding)
    found = look(tmp_path, "얼굴.jpg")
    assert (found.layout, column(found, "gender"), column(found, "age")) == ("csv", ["female"], ["31"])


def test_csv_in_no_known_encoding(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\na.jpg,\xff\xff\xff\n")
    assert any("'list.csv' is not used: Cannot read" in note for note in look(tmp_path, "a.jpg").notes)
    with pytest.raises(UserError, match="Save it as UTF-8"):
        look(tmp_path, "a.jpg", layout="csv", csv="list.csv")


@pytest.mark.parametrize(
    "text",
    [
        "filename,sex,years,employee_id\na.jpg,F,31,e7\nb.jpg,M,64,e9\n",
        "ID,Sex,Age,Subject ID\na,female,31,e7\nb,male,64,e9\n",  # ids without suffix
        "which,Gender,age,person\nA.JPG,woman,31,e7\nb.jpg,man,64,e9\n",  # told by the cells, without case
    ],
)
def test_headers_and_cells_by_their_usual_names(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert found.schema.names == ("gender", "age")
    assert column(found, "gender") == ["female", "male"]
    assert column(found, "age") == ["31", "64"] and column(found, "person") == ["e7", "e9"]
    assert found.origins["gender"].startswith("column ") and found.lists == ("list.csv",)


def test_a_table_without_a_header(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg,cat\nb.jpg,dog\n")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert found.layout == "csv" and column(found, "column 2") == ["cat", "dog"]
    named = look(tmp_path, "a.jpg", "b.jpg", columns={"class": "column 2"})
    assert column(named, "class") == ["cat", "dog"]


def test_a_workbook(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["file", "gender", "age"], ["a.jpg", "M", 31], ["b.jpg", "F", None]):
        book.active.append(row)
    book.save(tmp_path / "labels.xlsx")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert column(found, "gender") == ["male", "female"] and column(found, "age") == ["31", None]
    (tmp_path / "labels.xlsx").write_bytes(b"no workbook")
    assert any("'labels.xlsx' is not used" in note for note in look(tmp_path, "a.jpg").notes)


def test_cells_that_mean_no_class_are_counted(tmp_path: Path) -> None:
    rows = ["a.jpg,M,-3", "b.jpg,unknown,31", "c.jpg,x,130", "d.jpg,,44", "e.jpg,f,-3"]
    write(tmp_path, "file,gender,age\n" + "\n".join(rows) + "\n")
    found = look(tmp_path, *(f"{name}.jpg" for name in "abcde"))
    assert column(found, "gender") == ["male", None, "x", None, "female"]
    assert column(found, "age") == [None, "31", None, "44", None]
    assert found.refused == {"gender": {"unknown": 1, "x": 1}, "age": {"-3": 2, "130": 1}}


def test_a_column_of_ages_is_not_taken_for_classes(tmp_path: Path) -> None:
    write(tmp_path, "file,label\n" + "".join(f"{n}.jpg,{n + 18}\n" for n in range(40)))
    images = [f"{n}.jpg" for n in range(40)]
    found = look(tmp_path, *images)
    assert found.schema.names == () and "40 different numbers" in found.notes[0]
    assert look(tmp_path, *images, columns={"age": "label"}).schema.names == ("age",)
    assert len(look(tmp_path, *images, columns={"class": "label"}).schema["class"].classes) == 40


def test_a_table_that_names_no_photo_is_named(tmp_path: Path) -> None:
    write(tmp_path, "file,label\nx1,cat\nx2,dog\n")
    found = look(tmp_path, "a.jpg", "b.jpg")
    assert found.layout == "flat" and "names none of the photos" in found.notes[0]
    assert "x1, cat" in found.notes[0] and "columns: {path: COLUMN}" in found.notes[0]


def test_folders_around_everything_and_years(tmp_path: Path) -> None:
    kaggle = ["Face Mask Dataset/Train/with_mask/1.jpg", "Face Mask Dataset/Test/without_mask/2.jpg"]
    found = look(tmp_path, *kaggle)
    assert (found.layout, column(found, "class")) == ("folders", ["with_mask", "without_mask"])
    assert column(found, "split") == ["train", "test"]
    spelt = look(tmp_path, "training/a/1.jpg", "valid/b/2.jpg", "testing/a/3.jpg", "dev/b/4.jpg")
    assert column(spelt, "split") == ["train", "val", "test", "val"] and spelt.schema.class_names == ("a", "b")
    years = look(tmp_path, "2021/a.jpg", "2022/b.jpg")
    assert years.layout == "flat" and "are taken for years, not classes" in years.notes[0]
    assert look(tmp_path, "2021/a.jpg", "2022/b.jpg", layout="folders").schema.class_names == ("2021", "2022")


def test_csv_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        look(tmp_path, "a.jpg", layout="csv", csv="gone.csv")
    with pytest.raises(UserError, match="No table"):
        look(tmp_path, "a.jpg", layout="csv")
    write(tmp_path, "x,y\n1,2\n")
    with pytest.raises(UsageError, match="no column with paths"):
        look(tmp_path, "a.jpg", layout="csv", csv="list.csv")
    write(tmp_path, "path,y\na.jpg,2\n")
    with pytest.raises(UsageError, match="no column 'who'"):
        look(tmp_path, "a.jpg", columns={"person": "who"})
    with pytest.raises(UsageError, match="no column for: mask"):
        look(tmp_path, "a.jpg", schema=MASK_SCHEMA)


# ---------------------------------------------------------------- telling the layout


def test_detection(tmp_path: Path) -> None:
    assert look(tmp_path, *["a/1.jpg", "b/2.jpg"]).layout == "folders"
    assert look(tmp_path, *["train/a/1.jpg", "val/a/2.jpg"]).layout == "flat"
    assert look(tmp_path, *[f"{P1}/x.jpg", "a/1.jpg"]).layout == "boostcamp"
    assert look(tmp_path, *["000001_cat_45/x.jpg", "a/1.jpg"]).layout == "folders"
    (tmp_path / "eval").mkdir()
    write(tmp_path / "eval", "ImageID,ans\n1.jpg,0\n", "info.csv")
    assert look(tmp_path, *["eval/images/1.jpg"]).layout == "boostcamp"
    write(tmp_path, "nothing,of,use\n", "a.csv")
    assert look(tmp_path, *["1.jpg"]).layout == "flat"
    write(tmp_path, "ImageID,label\n1.jpg,cat\n", "B.CSV")
    assert look(tmp_path, *["1.jpg"]).layout == "csv"


def test_several_lists_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        write(tmp_path, "path,label\na.jpg,cat\n", name)
    found = look(tmp_path, "a.jpg")
    assert found.layout == "flat"
    assert "test.csv, train.csv" in found.notes[0]
    assert column(look(tmp_path, "a.jpg", csv="test.csv"), "class") == ["cat"]
