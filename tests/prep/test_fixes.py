"""Fixes: what a file may say, and what it makes of the labels as found."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from maskprep.errors import UsageError, UserError
from maskprep.labels.changes import Changes, apply
from maskprep.labels.fixes import DECISION, FILE, PRESET, Fix, read_fixes, read_preset
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema
from maskprep.labels.table import assemble

FILES = ("mask1.jpg", "incorrect_mask.JPG", "normal.png")
MASKS = ("wear", "incorrect", "normal")
PEOPLE = {"000020": ("female", 59), "000021": ("male", 30), "001498-1": ("male", 25)}


def photos() -> pd.DataFrame:
    """Three people of three photos each, as images.parquet has them."""
    rows = [
        {"image": f"train/images/{person}_{gender}_Asian_{age}/{name}", "person": person, "mask": mask}
        | {"gender": gender, "age": age, "race": "Asian", "content": f"{person}-{mask}"}
        for person, (gender, age) in PEOPLE.items()
        for name, mask in zip(FILES, MASKS, strict=True)
    ]
    return pd.DataFrame(rows)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def run(*fixes: Fix) -> Changes:
    return apply(photos(), MASK_SCHEMA, fixes)


def values(changes: Changes, field: str) -> dict[str, object]:
    """End of the path -> new value."""
    return {
        f"{image.split('/')[2][:6]}/{image.split('/')[3]}": changed[field].new
        for image, changed in changes.values.items()
        if field in changed
    }


def gender(**cells: str) -> Fix:
    return Fix(**{"person": "000020", "field": "gender", "expected": "female", "new": "male"} | cells)  # type: ignore[arg-type]


# ---------------------------------------------------------------- files


def test_a_csv_file_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    text = (
        "\ufeffPerson;Where;Operation;Field;Expected;New;Reason;Agree\r\n"
        '20;race=Asian; split = train;;gender;female;male;"two\r\nlines";3\r\n'
    ).replace("race=Asian; split = train", '"race=Asian; split = train"')
    (fix,) = read_fixes(write(tmp_path / "fixes.csv", text + ";;;;;;;\r\n"))
    assert fix == Fix(
        person="20",
        where=(("race", "Asian"), ("split", "train")),
        field="gender",
        expected="female",
        new="male",
        reason="two\nlines",
        agree=3,
        origin="fixes.csv",
        line=2,
    )


def test_the_same_row_in_yaml_keeps_its_zeros(tmp_path: Path) -> None:
    row = "{person: 000020, image: normal.*, operation: swap, other: incorrect_mask.*, field: mask, "
    row += "expected: normal, new: incorrect}\n"
    for text in (f"- {row}", f"fixes:\n  - {row}"):
        (fix,) = read_fixes(write(tmp_path / "fixes.yaml", text))
        assert (fix.person, fix.operation, fix.other) == ("000020", "swap", "incorrect_mask.*")
    assert read_fixes(write(tmp_path / "none.yml", "fixes:\n")) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("person,feild,expected,new\n1,gender,male,female\n", "unknown column 'feild'. Did you mean 'field'"),
        ("person,person\n1,2\n", "two columns have one name"),
        ("person,field,new\n1,gender,male\n", "line 2: a set needs the column 'expected'"),
        ("\n", "is empty"),
        ("field,expected,new\n\ngender,male,female\n", "line 3: it selects nothing"),
        ("person,operation\n1,dorp\n", "unknown operation 'dorp'. Did you mean 'drop'"),
        ("person,operation,new\n1,drop,x\n", "a drop has no 'new'"),
        ("person,operation,field\n1,drop,mask\n", "both 'field' and 'expected', or neither"),
        ("image,operation,new\na.jpg,rename,x\n", "needs the person it expects"),
        ("person,operation,field,new\n1,rename,gender,x\n", "changes the person, not 'gender'"),
        ("person,field,expected,new\n1,person,1,2\n", "Use the operation rename"),
        ("person,operation,image,field,expected,new\n1,swap,a,mask,wear,normal\n", "a swap needs the column 'other'"),
        (
            "person,operation,image,other,field,expected,new\n1,swap,a,b,mask,*,normal\n",
            "a swap needs both values",
        ),
        ("person,where,field,expected,new\n1,race,gender,male,female\n", "column=value, not 'race'"),
        ("person,agree,operation\n1,-1,drop\n", "'agree' must be a whole number, not '-1'"),
        ("person,operation\n1,drop,x\n", "line 2: more cells than columns"),
        ('person,operation\n"1,drop\n', "as a CSV file"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_fixes(write(tmp_path / "fixes.csv", text))
    assert message in str(error.value) and "fixes.csv" in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("fixes: [\n", "not valid YAML"),
        ("rules: []\n", "unknown key 'rules'"),
        ("fixes: {a: b}\n", "must hold a list"),
        ("- {person: [1, 2], operation: drop}\n", "line 1: a fix is a mapping of columns to texts"),
        ("- {person: 1, operation: drop}\n- {persno: 1}\n", "Did you mean 'person'"),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_fixes(write(tmp_path / "fixes.yaml", text))


def test_no_file_and_no_such_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are not there"):
        read_fixes(tmp_path / "fixes.csv")
    with pytest.raises(UsageError, match=r"neither a \.csv nor"):
        read_fixes(tmp_path / "fixes.txt")
    (tmp_path / "latin.csv").write_bytes("person,reason\n1,gr\xfc\xdfe\n".encode("latin-1"))
    with pytest.raises(UserError, match="Save it as UTF-8"):
        read_fixes(tmp_path / "latin.csv")


# ---------------------------------------------------------------- selecting


@pytest.mark.parametrize(
    "cells, images",
    [
        ({"person": "000020"}, 3),
        ({"person": "20"}, 3),
        ({"person": "1498-1"}, 3),
        ({"person": "0"}, 0),
        ({"person": "", "image": "normal.*"}, 3),
        ({"person": "", "image": "*.JPG"}, 3),
        ({"person": "", "image": "000020_*/*"}, 3),
        ({"person": "", "image": "*"}, 9),
        ({"person": "", "image": "train/images/*"}, 0),
        ({"person": "20", "image": "images/000020_female_Asian_59/normal.png"}, 1),
        ({"person": "20", "image": "ormal.png"}, 0),
        ({"person": "", "where": (("age", "59.0"),)}, 3),
        ({"person": "", "where": (("race", "asian"), ("mask", "wear"))}, 3),
        ({"person": "", "where": (("race", ""),)}, 0),
        ({"person": "", "content": "000021-wear"}, 1),
    ],
)
def test_selectors(cells: dict[str, str], images: int) -> None:
    (outcome,) = run(gender(**{"expected": "*"} | cells)).outcomes
    assert (outcome.status == "absent") == (images == 0)
    dropped = run(Fix(operation="drop", **cells)).dropped  # type: ignore[arg-type]
    assert len(dropped) == images


def test_names_with_brackets_and_decomposed_letters_are_found() -> None:
    table = pd.DataFrame({"image": ["a/[1].jpg", "b/u\u0308.jpg"], "person": ["x", "u\u0308"], "gender": "male"})
    fixes = [
        Fix(image="[1].jpg", field="gender", expected="male", new="female"),
        Fix(person="\u00fc", image="\u00fc.jpg", field="gender", expected="male", new="female"),
    ]
    assert [o.status for o in apply(table, MASK_SCHEMA, fixes).outcomes] == ["applied", "applied"]


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no label 'gendr'\. Did you mean 'gender'"):
        run(gender(field="gendr"))
    with pytest.raises(UsageError, match=r"'mail' is no gender\. Did you mean 'male'"):
        run(gender(new="mail"))
    with pytest.raises(UsageError, match=r"no column 'rase'\. Did you mean 'race'"):
        run(gender(where=(("rase", "Asian"),)))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'old' is no age"):
        run(gender(field="age", expected="59", new="old"))


# ---------------------------------------------------------------- applying


def test_set_changes_what_is_as_expected_and_nothing_else() -> None:
    changes = run(gender())
    assert values(changes, "gender") == {f"000020/{name}": "male" for name in FILES}
    assert [o.status for o in changes.outcomes] == ["applied"]
    again = apply(photos().assign(gender="male"), MASK_SCHEMA, [gender()])
    assert [o.status for o in again.outcomes] == ["already"] and not again.values


def test_one_image_that_is_not_as_expected_refuses_the_whole_fix() -> None:
    table = photos()
    table.loc[2, "gender"] = None
    changes = apply(table, MASK_SCHEMA, [gender()])
    (outcome,) = changes.outcomes
    assert outcome.status == "refused" and not changes.values
    assert outcome.detail == "expected gender female, found none (train/images/000020_female_Asian_59/normal.png)"


SWAP = Fix(
    *("20", "normal.*"),
    operation="swap",
    other="incorrect_mask.*",
    field="mask",
    expected="normal",
    new="incorrect",
    origin="a.csv",
    line=2,
)


def test_swap_exchanges_two_labels_and_the_same_swap_twice_is_one() -> None:
    wanted = {"000020/normal.png": "incorrect", "000020/incorrect_mask.JPG": "normal"}
    assert values(run(SWAP), "mask") == values(run(SWAP, SWAP), "mask") == wanted
    fixed = photos()
    fixed.loc[:2, "mask"] = ["wear", "normal", "incorrect"]
    assert [o.status for o in apply(fixed, MASK_SCHEMA, [SWAP]).outcomes] == ["already"]
    half = photos()
    half.loc[:2, "mask"] = ["wear", "wear", "normal"]
    assert [o.status for o in apply(half, MASK_SCHEMA, [SWAP]).outcomes] == ["refused"]


def test_a_swap_needs_exactly_two_images() -> None:
    several = Fix(image="normal.*", operation="swap", other="mask1.*", field="mask", expected="normal", new="wear")
    (outcome,) = run(several).outcomes
    assert outcome.status == "refused" and outcome.detail == "it must select two images, not 3 and 3"


@pytest.mark.parametrize(
    "person, expected, new, age",
    [
        ("20", "59", "60", 60),
        ("20", "30-59", ">=60", 60),  # the nearest number of the class
        ("20", "30-59", "<30", 29),
        ("20", "59.0", "61.5", 61.5),
        ("1498-1", "<30", "30-59", 30),
        ("1498-1", "*", ">=60", 60),
    ],
)
def test_numbers_and_classes_of_numbers(person: str, expected: str, new: str, age: float) -> None:
    changes = run(Fix(person=person, field="age", expected=expected, new=new))
    assert set(values(changes, "age").values()) == {age}


def test_a_number_read_as_text_is_still_a_number() -> None:
    fix = Fix(person="20", field="age", expected="59", new="60")
    table = photos().astype({"age": str})
    assert {c["age"].new for c in apply(table, MASK_SCHEMA, [fix, fix]).values.values()} == {60}
    assert [o.status for o in apply(table.assign(age="60"), MASK_SCHEMA, [fix, fix]).outcomes] == ["already"] * 2


def test_drop_excludes_and_can_have_a_condition() -> None:
    fixes = (
        Fix(person="21", operation="drop", reason="no face"),
        Fix(image="mask1.*", person="20", operation="drop", field="mask", expected="normal"),
    )
    changes = run(*fixes)
    assert len(changes.dropped) == 3 and [o.status for o in changes.outcomes] == ["applied", "refused"]


def test_rename_changes_the_person() -> None:
    fix = Fix(person="1498-1", operation="rename", new="001498")
    assert set(values(run(fix), "person").values()) == {"001498"}
    other = Fix(image="001498-1_*/*", operation="rename", expected="001499", new="001498")
    assert run(other).outcomes[0].detail.startswith("expected person 001499, found 001498-1")


def test_two_fixes_that_disagree_are_an_error_in_any_order() -> None:
    one = gender(origin="a.csv", line="2")
    other = gender(person="", image="000020_*/normal.*", new="female", expected="*", origin="b.csv", line="7")
    for fixes in ((one, other), (other, one)):
        with pytest.raises(UserError, match=r"disagree about gender of 'train/images/000020_.*normal\.png'") as error:
            run(*fixes)
        assert "a.csv, line 2" in str(error.value) and "b.csv, line 7" in str(error.value)


def test_a_fix_that_is_refused_disagrees_with_nobody() -> None:
    refused = gender(expected="male", new="female")  # it holds already: it says the label is right
    with pytest.raises(UserError, match="disagree"):
        run(gender(), refused)
    assert [o.status for o in run(SWAP, gender(field="mask", expected="normal", new="wear")).outcomes] == [
        "applied",
        "refused",
    ]


def test_files_overrule_presets_and_rulings_overrule_files() -> None:
    def at(level: int, new: str) -> Fix:
        return Fix(person="20", field="gender", expected="*", new=new, level=level, origin=f"level {level}")

    changes = run(at(DECISION, "male"), at(PRESET, "male"), at(FILE, "female"))
    assert {c["gender"].fix.level for c in changes.values.values()} == {DECISION}
    assert [o.status for o in changes.outcomes] == ["applied", "applied", "overruled"]
    kept = run(at(PRESET, "male"), at(FILE, "female"))
    assert not kept.values and [(o.status, o.detail) for o in kept.outcomes] == [
        ("overruled", "level 1 sets another value"),
        ("already", ""),
    ]


def test_any_schema_works() -> None:
    schema = Schema((Attribute("class", ("cat", "dog")),))
    table = pd.DataFrame({"image": ["cat/1.jpg", "dog/2.jpg"], "person": None, "class": ["cat", "dog"]})
    changes = apply(table, schema, [Fix(image="cat/1.jpg", field="class", expected="CAT", new="Dog")])
    assert changes.values["cat/1.jpg"]["class"].new == "dog"


# ---------------------------------------------------------------- the table


def test_the_table_has_final_values_and_says_where_they_come_from() -> None:
    table = photos()
    subjects = pd.DataFrame({"image": table["image"], "status": "ok", "reason": None})
    fixes = [
        gender(origin="fixes.csv", line="4", reason="looked", source="mk"),
        SWAP,
        Fix(person="21", operation="drop", reason="twin"),
        Fix(person="1498-1", operation="rename", new="001498"),
        Fix(person="20", field="age", expected="59", new="60", origin="fixes.csv", line=9),
    ]
    labels = assemble(table, subjects, MASK_SCHEMA, apply(table, MASK_SCHEMA, fixes)).to_pandas()
    normal = labels.iloc[2]
    assert (normal["mask"], normal["gender"], normal["age"], normal["label"]) == ("incorrect", "male", 60, 6 + 0 + 2)
    assert json.loads(normal["source"]) == {
        "age": {"was": 59, "by": "fixes.csv, line 9"},
        "gender": {"was": "female", "by": "fixes.csv, line 4", "reason": "looked", "source": "mk"},
        "mask": {"was": "normal", "by": "a.csv, line 2"},
    }
    assert labels["excluded"].fillna("").tolist() == [""] * 3 + ["fix: twin"] * 3 + [""] * 3
    assert labels["person"].tolist()[6:] == ["001498"] * 3
    assert labels["source"].isna().tolist() == [False] * 3 + [True] * 3 + [False] * 3


# ---------------------------------------------------------------- the preset


def test_the_preset_holds_what_was_published() -> None:
    with pytest.raises(UsageError, match=r"Known: boostcamp\."):
        read_preset("none", 1)
    every, agreed, sure = (read_preset("boostcamp", n) for n in (1, 2, 10))
    assert {f.person for f in sure} == {"001498-1", "004432", *(f"00{n}" for n in range(6359, 6365))}
    assert {f.person for f in agreed if f.operation == "swap"} == {"000020", "004418", "005227"}
    ages = {f.person: (f.expected, f.new) for f in agreed if f.field == "age"}
    assert len(ages) == 6 and ages["004348"] == ("59", ">=60") and ages["001009"] == ("30-59", "<30")
    assert len(every) > len(agreed) > len(sure)
    assert all(f.source and f.agree >= 1 and f.level == PRESET for f in every)
    assert len({(f.person, f.field) for f in every}) == len(every)  # no list is counted as two fixes
    with pytest.raises(UsageError, match=r"no preset 'bootcamp'\. Did you mean 'boostcamp'"):
        read_preset("bootcamp", 2)
