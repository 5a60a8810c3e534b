"""People are split, never pictures."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from maskprep.dataset.view import View, open_view
from maskprep.errors import UserError
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema
from masktrain.data import folds


def boostcamp_table(people: int = 300, seed: int = 0) -> pd.DataFrame:
    """Five worn, one incorrect, one normal photo per person; genders and age groups in unequal shares."""
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(people):
        gender, age = rng.choice(2, p=[0.39, 0.61]), rng.choice(3, p=[0.47, 0.46, 0.07])
        for k, mask in enumerate([0, 0, 0, 0, 0, 1, 2]):
            rows.append((f"{p:06d}/{k}", f"{p:06d}", int(6 * mask + 3 * gender + age), f"{p}-{k}"))
    return pd.DataFrame(rows, columns=["image", "person", "label", "content"])


def test_classes_are_spread_evenly() -> None:
    table = boostcamp_table()
    fold = table["person"].map(folds.fold_people(table, MASK_SCHEMA, 5, seed=0))
    shares = pd.crosstab(table["label"], fold, normalize="columns")
    expected = table["label"].value_counts(normalize=True).sort_index()
    assert (shares.sub(expected, axis=0).abs().to_numpy() < 0.012).all()
    per_fold = table.groupby(fold)["person"].nunique()
    assert per_fold.max() - per_fold.min() <= 6


def test_a_person_is_in_one_fold_and_seeds_differ() -> None:
    table = boostcamp_table(60)
    one, same, other = (folds.fold_people(table, MASK_SCHEMA, 5, seed=s) for s in (0, 0, 1))
    assert one == same != other
    assert set(one) == set(table["person"])
    shuffled = folds.fold_people(table.sample(frac=1, random_state=1), MASK_SCHEMA, 5, seed=0)
    assert shuffled == one  # not the order of the rows


def test_strata_are_what_belongs_to_the_person_in_spite_of_label_errors() -> None:
    table = boostcamp_table(100)
    table.loc[3, "label"] = (table.loc[3, "label"] + 3) % 6  # one photo of one person has the other gender
    strata = folds.person_strata(table, MASK_SCHEMA)
    first = MASK_SCHEMA.decode(int(table.loc[0, "label"]))
    assert strata["000000"] == f"{first[1]}/{first[2]}"
    assert len(set(strata.values())) <= 6


def test_one_photo_per_person_is_stratified_by_the_whole_label() -> None:
    table = boostcamp_table(200).groupby("person").sample(1, random_state=0)
    strata = folds.person_strata(table, MASK_SCHEMA)
    assert all(v.count("/") == 2 for v in strata.values())


def test_one_attribute_with_many_rare_classes() -> None:
    schema = Schema((Attribute("sketch", tuple(f"c{i}" for i in range(40))),))
    table = pd.DataFrame({"image": [str(i) for i in range(80)], "label": np.arange(80) % 40})
    table["person"] = table["content"] = table["image"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fold = folds.fold_people(table, schema, 5, seed=0)
    assert np.bincount(list(fold.values())).tolist() == [16] * 5


@pytest.mark.parametrize("people", [2, 3, 4, 7])
def test_few_people(people: int) -> None:
    table = boostcamp_table(people)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fold = folds.fold_people(table, MASK_SCHEMA, 5, seed=0)
    assert set(fold.values()) == set(range(min(5, people)))


def test_one_person_cannot_be_split() -> None:
    with pytest.raises(UserError, match="at least two people"):
        folds.fold_people(boostcamp_table(1), MASK_SCHEMA, 5, seed=0)


def test_without_any_label_one_is_told_how_to_give_them(cache: Path) -> None:
    view = open_view(cache)
    bare = dataclasses.replace(view, table=view.table.assign(label=pd.array([None] * len(view), dtype="Int64")))
    with pytest.raises(UserError, match=r"has no labels \(mask, gender\); .* in the layout 'flat'") as error:
        folds.split(bare, 0.2, 0)
    assert "csv: labels.csv" in error.value.hint
    with pytest.raises(UserError, match="has no labels"):
        folds.write_file(bare, 5, 0, cache.parent / "never.csv")


def test_a_split_leaves_out_what_must_not_be_used(cache: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    table = pd.read_parquet(copy / "labels.parquet")
    table.loc[10, "excluded"] = "dropped by hand"
    table.loc[11, "label"] = None
    table.to_parquet(copy / "labels.parquet")
    view = open_view(copy)
    made = folds.split(view, 0.2, 0)
    assert made.left_out == {"eval split": 20, "excluded": 1, "no label": 1}
    used = view.table.iloc[np.concatenate([made.train, made.val])]
    assert len(made.train) + len(made.val) == len(view) - 22
    assert (used["split"] == "train").all() and used["excluded"].isna().all() and used["label"].notna().all()
    assert not set(view.table["person"].iloc[made.train]) & set(view.table["person"].iloc[made.val])
    assert len(set(view.table["person"].iloc[made.val])) == 6


@pytest.mark.parametrize("ratio, held_out", [(0.5, 15), (0.34, 10), (0.1, 3), (0.01, 1)])
def test_the_share_held_out(cache: Path, ratio: float, held_out: int) -> None:
    view = open_view(cache)
    assert len(set(view.table["person"].iloc[folds.split(view, ratio, 0).val])) == pytest.approx(held_out, abs=1)


def test_without_people_images_are_split(synthetic: ModuleType, tmp_path: Path) -> None:
    view = open_view(synthetic.write_cache(tmp_path / "c", named=False))
    made = folds.split(view, 0.2, 0)
    assert len(made.val) == pytest.approx(148 / 5, abs=2)


def test_the_hash_tells_splits_apart(cache: Path) -> None:
    view = open_view(cache)
    assert folds.split(view, 0.2, 0).hash == folds.split(view, 0.2, 0).hash != folds.split(view, 0.2, 1).hash


def leaky(view: View) -> folds.Split:
    made = folds.split(view, 0.2, 0)
    return dataclasses.replace(made, val=np.append(made.val, made.train[0]))


def test_a_split_that_shares_a_person_is_refused(cache: Path) -> None:
    view = open_view(cache)
    with pytest.raises(UserError, match="not person-disjoint: 0"):
        folds.check(view.table, leaky(view))


def share(cache: Path, *pairs: tuple[str, str], distance: int = 4) -> None:
    """Write duplicates.parquet: pairs of images that are nearly the same."""
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    rows = [
        {"image_a": a, "image_b": b, "kind": "near", "distance": distance, "same_person": False}
        | {"split_a": images["split"][a], "split_b": images["split"][b]}
        for a, b in (sorted(pair) for pair in pairs)
    ]
    pd.DataFrame(rows).to_parquet(cache / "duplicates.parquet")


def of(person: int, photo: int = 2, held_out: bool = False) -> str:
    state = ("wear", "wear", "wear", "incorrect", "normal")[photo]
    return f"eval/{person:04d}{photo}.jpg" if held_out else f"train/{person:04d}_x/{state}{photo}.jpg"


def test_people_who_share_a_photo_stay_together(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    before = folds.split(open_view(copy), 0.2, 0)
    share(copy, (of(3), of(8)), (of(8, 4), of(21)), (of(5, 0), of(5, 1)))
    for seed in range(5):
        view = open_view(copy)
        made = folds.split(view, 0.2, seed)
        assert made.linked == (("0003", "0008", "0021"),)
        held_out = set(view.table["person"].iloc[made.val])
        assert len(held_out & {"0003", "0008", "0021"}) in (0, 3)
        assert len(made.train) + len(made.val) == len(before.train) + len(before.val)
        assert 4 <= len(held_out) <= 9


def test_nothing_shared_changes_no_split(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    before = folds.split(open_view(copy), 0.2, 0)
    share(copy, (of(5, 0), of(5, 1)))
    after = folds.split(open_view(copy), 0.2, 0)
    assert after.hash == before.hash and after.linked == ()


def test_the_same_file_under_two_people_links_them_without_a_table(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    images = pd.read_parquet(copy / "images.parquet")
    images.loc[images["image"].isin([of(4), of(17)]), "content"] = "same"
    images.to_parquet(copy / "images.parquet")
    assert folds.split(open_view(copy), 0.2, 0).linked == (("0004", "0017"),)


def test_numbers_with_a_suffix_stay_together() -> None:
    table = boostcamp_table(40).replace({"person": {"000007": "000006-1"}})
    linked = folds.link_people(table, pd.DataFrame({"image_a": [], "image_b": []}))
    assert linked == (("000006", "000006-1"),)
    for seed in range(5):
        fold = folds.fold_people(table, MASK_SCHEMA, 5, seed, linked)
        assert fold["000006"] == fold["000006-1"] and len(fold) == 40


def test_a_copy_in_the_eval_split_is_refused_unless_waived(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    share(copy, (of(2), of(31, 1, held_out=True)), (of(9), of(30, 0, held_out=True)), distance=7)
    with pytest.raises(UserError) as error:
        folds.split(open_view(copy), 0.2, 0)
    assert error.value.message == (
        "2 training photos are identical or nearly identical to photos of the eval split: "
        f"{of(2)} = {of(31, 1, True)} (7 of 256 bits apart); {of(9)} = {of(30, 0, True)} (7 of 256 bits apart)."
    )
    line = error.value.hint.splitlines()[-1]  # can be pasted as it is
    other = f"c00300,{of(30, 0, True)},keep,duplicate:c00092,,,,"  # from the other side
    (copy / "decisions.csv").write_text(f"content,image,verdict,value,expected,reason,by,when\n{line}\n{other}\n")
    assert folds.split(open_view(copy), 0.2, 0).linked == ()


def test_a_dropped_copy_is_no_longer_in_the_way(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    share(copy, (of(2), of(31, 1, held_out=True)))
    for image in (of(2), of(31, 1, held_out=True)):
        labels = pd.read_parquet(copy / "labels.parquet")
        labels.assign(excluded=labels["excluded"].where(labels["image"] != image, "fix: a copy")).to_parquet(
            copy / "labels.parquet"
        )
        folds.split(open_view(copy), 0.2, 0)
        labels.to_parquet(copy / "labels.parquet")


def test_a_split_that_copies_cross_is_refused(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy")
    view = open_view(copy)
    made = folds.split(view, 0.2, 0)
    a, b = view.table["image"][made.train[0]], view.table["image"][made.val[0]]
    share(copy, (a, b))
    with pytest.raises(UserError, match="copies of a photo on both sides"):
        folds.check(view.table, made, folds.copies(view))


def test_everybody_linked_is_an_error(synthetic: ModuleType, tmp_path: Path) -> None:
    copy = synthetic.write_cache(tmp_path / "copy", people=3, eval_people=0)
    share(copy, (of(0), of(1)), (of(1), of(2)))
    with pytest.raises(UserError, match=r"there are 1\. 3 people share"):
        folds.split(open_view(copy), 0.2, 0)


def test_more_folds_than_people_are_refused(synthetic: ModuleType, tmp_path: Path) -> None:
    view = open_view(synthetic.write_cache(tmp_path / "five", people=5))
    assert len(folds.split(view, 0.2, 0, fold="5/5").val)
    for fold in ("3/7", "7/7"):
        with pytest.raises(UserError, match=r"7 folds need at least .* there are 5\.\nAsk for 5 folds at most"):
            folds.split(view, 0.2, 0, fold=fold)
    with pytest.raises(UserError, match="there are 5"):
        folds.write_file(view, 6, 0, tmp_path / "folds.csv")
    assert not (tmp_path / "folds.csv").exists()
    assert folds.write_file(view, 5, 0, tmp_path / "folds.csv") == 5


def test_an_empty_side_is_refused(cache: Path) -> None:
    view = open_view(cache)
    made = folds.split(view, 0.2, 0)
    with pytest.raises(UserError, match="0 validation images"):
        folds.check(view.table, dataclasses.replace(made, val=made.val[:0]))
