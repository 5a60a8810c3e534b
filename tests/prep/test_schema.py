"""The label schema and the table of final labels."""

from __future__ import annotations

import itertools
import math
import unicodedata

import pandas as pd
import pytest

from maskprep.errors import UsageError
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema, bin_names
from maskprep.labels.table import assemble, unknown_values


def test_the_mask_schema_is_6_mask_3_gender_age() -> None:
    expected = {}
    for mask, gender, age in itertools.product(range(3), range(2), range(3)):
        values = {
            "mask": ("wear", "incorrect", "normal")[mask],
            "gender": ("male", "female")[gender],
            "age": (29, 30, 60)[age],
        }
        expected[6 * mask + 3 * gender + age] = MASK_SCHEMA.label(values)
        assert MASK_SCHEMA.decode(6 * mask + 3 * gender + age) == (mask, gender, age)
    assert expected == {k: k for k in range(18)}
    assert MASK_SCHEMA.num_classes == 18
    assert MASK_SCHEMA.class_names[0] == "wear/male/<30"
    assert MASK_SCHEMA.class_names[17] == "normal/female/>=60"
    assert MASK_SCHEMA.class_names[4] == "wear/female/30-59"


@pytest.mark.parametrize(
    ("value", "index"),
    [(0, 0), (29, 0), (29.99, 0), (30, 1), ("59", 1), (" 59 ", 1), (59.5, 1), (60, 2), (120, 2), (-1, 0)],
)
def test_ages_are_binned(value: object, index: int) -> None:
    assert MASK_SCHEMA["age"].index(value) == index


@pytest.mark.parametrize("value", [None, math.nan, pd.NaT, "", "old", "inf", math.inf, "nan", [1]])
def test_what_is_no_age_has_no_bin(value: object) -> None:
    assert MASK_SCHEMA["age"].index(value) is None


def test_names_are_compared_without_case_blanks_and_composition() -> None:
    attribute = Attribute("who", ("Café", "여자"))
    assert attribute.index(" CAFÉ ") == 0
    assert attribute.index(unicodedata.normalize("NFD", "Café")) == 0
    assert attribute.index(unicodedata.normalize("NFD", "여자")) == 1
    assert attribute.index("cafe") is None
    assert MASK_SCHEMA["gender"].index("male") == 0
    assert MASK_SCHEMA["gender"].index("female") == 1
    assert MASK_SCHEMA["gender"].index("fem") is None


def test_a_missing_value_leaves_no_label() -> None:
    assert MASK_SCHEMA.label({"mask": "wear", "gender": "male"}) is None
    assert MASK_SCHEMA.label({"mask": "wear", "gender": "x", "age": 1}) is None
    assert Schema(()).label({}) is None
    assert Schema(()).num_classes == 0


def test_encode_is_the_inverse_of_decode_in_any_order() -> None:
    schema = Schema((Attribute("a", ("1", "2")), Attribute("b", bins=(5,)), Attribute("c", tuple("xyz"))), ("c", "a"))
    assert schema.sizes == (3, 2)
    assert [schema.encode(schema.decode(k)) for k in range(6)] == list(range(6))
    assert schema.label({"c": "y", "a": "2"}) == 3
    assert len(set(schema.class_names)) == schema.num_classes == 6


def test_round_trip() -> None:
    assert Schema.from_dict(MASK_SCHEMA.to_dict()) == MASK_SCHEMA


def test_bin_names() -> None:
    assert bin_names((30, 60)) == ("<30", "30-59", ">=60")
    assert bin_names((0.5, 1.5)) == ("<0.5", "0.5..1.5", ">=1.5")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Attribute("a"), "neither classes nor bins"),
        (lambda: Attribute("a", ("x", "x")), "twice"),
        (lambda: Attribute("a", ("x", "X ")), "twice"),
        (lambda: Attribute("a", bins=(3, 3)), "increase"),
        (lambda: Attribute("a", bins=(1, math.nan)), "increase"),
        (lambda: Attribute("a", ("x", "y"), (1, 2)), "3 names are needed"),
        (lambda: Schema((Attribute("a", ("x",)), Attribute("a", ("y",)))), "twice"),
        (lambda: Schema((Attribute("a", ("x",)),), ("b",)), "unknown attributes: b"),
        (lambda: Schema((Attribute("a", ("x",)),), ("a", "a")), "twice"),
        (lambda: Schema((Attribute("image", ("x",)),)), "cannot be called 'image'"),
        (lambda: Schema((Attribute("excluded", ("x",)),)), "cannot be called 'excluded'"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(make: object, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()  # type: ignore[operator]


def images_of(**columns: list[object]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"image": [f"{i}.jpg" for i in range(count)], "person": [None] * count, **columns})


def subjects_of(*statuses: str) -> pd.DataFrame:
    return pd.DataFrame({"status": statuses, "reason": [None if s == "ok" else "empty" for s in statuses]})


def test_the_table_of_labels() -> None:
    images = images_of(mask=["WEAR", "normal", "??"], gender=["male", None, "female"], age=["45", "61", "7"])
    table = assemble(images, subjects_of("ok", "unreadable", "ok"), MASK_SCHEMA).to_pandas()
    assert list(table.columns) == ["image", "person", "mask", "gender", "age", "label", "excluded", "source"]
    assert table["mask"].tolist() == ["wear", "normal", "??"]
    assert table["age"].tolist() == [45, 61, 7]
    assert [None if pd.isna(v) else int(v) for v in table["label"]] == [1, None, None]
    assert [None if pd.isna(v) else v for v in table["excluded"]] == [None, "unreadable: empty", None]
    assert unknown_values(images, MASK_SCHEMA) == ["mask has values that are none of wear, incorrect, normal: ??."]


def test_an_attribute_that_the_source_lacks_is_empty() -> None:
    table = assemble(images_of(mask=["wear"]), subjects_of("ok"), MASK_SCHEMA).to_pandas()
    assert table["gender"].isna().all()
    assert table["label"].isna().all()


def test_500_classes() -> None:
    schema = Schema((Attribute("class", tuple(f"n{i:03d}" for i in range(500))),))
    table = assemble(images_of(**{"class": ["n499", "n000"]}), subjects_of("ok", "ok"), schema).to_pandas()
    assert table["label"].tolist() == [499, 0]
