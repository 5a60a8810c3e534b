"""Every check on made-up rows: it finds the one that is wrong, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_rows import BOX, context, photo, points_in, severities

from maskprep.audit.examine import CHECKS
from maskprep.audit.faces import misfit, roll
from maskprep.audit.findings import (
    LIKELY,
    Check,
    FailOn,
    Finding,
    NotRunError,
    Outcome,
    ramp,
    robust,
    run_checks,
)
from maskprep.audit.labels import label_picture
from maskprep.audit.likeness import bayes, posterior
from maskprep.audit.measure import detail, jpeg_quality, measure
from maskprep.audit.model import ALONE, DOUBT, of_attribute
from maskprep.audit.predictions import Predictions
from maskprep.crops.geometry import ViewSettings
from maskprep.errors import UsageError
from maskprep.labels.schema import Schema

LARGE = (5.0, 5.0, 60.0, 75.0)
PAIR = ["image_a", "image_b", "kind", "distance", "same_person", "split_a", "split_b"]
WIDE = (120.0, 120.0, 280.0, 320.0)
PEOPLE = [photo(f"p/{i}.jpg", person="p") for i in range(6)]
CROWD = [photo(f"crowd/{i}.jpg") for i in range(12)]


def turned(degrees: float) -> np.ndarray:
    return points_in(BOX, degrees)


ONE_WRONG: list[tuple[str, dict[str, Any]]] = [
    ("file_broken", {"error": "truncated", "status": "unreadable", "box": None}),
    ("file_odd", {"orientation": 6}),
    ("file_odd", {"format": "PNG"}),
    ("face_none", {"status": "no_face", "box": None}),
    ("face_rescued", {"status": "rescued", "faces": [], "reason": "no face found"}),
    ("face_ambiguous", {"faces": [(8.0, 30.0, 48.0, 80.0), (52.0, 30.0, 92.0, 80.0)], "box": (8.0, 30.0, 48.0, 80.0)}),
    ("face_not_seen", {"faces": [(40.0, 45.0, 80.0, 95.0)]}),
    ("face_not_best", {"faces": [BOX, (2.0, 2.0, 14.0, 17.0)], "box": (2.0, 2.0, 14.0, 17.0)}),
    ("face_doubtful", {"scores": [0.3]}),
    ("face_person_place", {"box": (2.0, 2.0, 14.0, 17.0)}),
    ("face_dataset_place", {"box": (2.0, 2.0, 14.0, 17.0)}),
    ("face_shape", {"box": (10.0, 30.0, 90.0, 80.0), "points": None}),
    ("face_shape", {"points": turned(50)}),
    ("face_cut", {"box": (-20.0, 30.0, 20.0, 80.0)}),
    ("face_tiny", {"width": 40, "height": 40, "box": (10.0, 10.0, 26.0, 30.0)}),
    ("face_larger_other", {"faces": [BOX, (0.0, 0.0, 28.0, 28.0), (72.0, 0.0, 172.0, 100.0)]}),
    ("face_geometry", {"points": points_in(BOX) + np.array([[0, 0], [0, 0], [0, 0], [25, -30]])}),
    ("face_several", {"faces": [BOX, (20.0, 60.0, 42.0, 88.0)]}),
    ("blurry", {"detail_value": 0.02}),
    ("dark", {"light": 0.05, "low": 0.01, "high": 0.12}),
    ("bright", {"low": 0.9, "high": 1.0}),
    ("low_contrast", {"low": 0.45, "high": 0.5}),
    ("compressed", {"quality": 12.0}),
    ("grayscale", {"chroma": 0.0}),
    ("upscaled", {"fine": 0.001}),
    ("odd_size", {"width": 1000, "height": 90}),
    ("label_missing", {"gender": None}),
]


@pytest.mark.parametrize(("name", "wrong"), ONE_WRONG, ids=[f"{i}-{n}" for i, (n, _) in enumerate(ONE_WRONG)])
def test_the_one_that_is_wrong_is_found_and_no_other(name: str, wrong: dict[str, Any]) -> None:
    labelled = {"mask": "wear", "gender": "male", "age": 20}
    rows = [{**row, **labelled} for row in (*PEOPLE, *CROWD)]
    if name == "face_tiny":
        large = {"width": 400, "height": 400, "box": WIDE, "faces": [WIDE], "points": points_in(WIDE)}
        rows = [{**row, **large} for row in rows]
    assert severities(context(rows), name) == {}
    odd = photo("p/odd.jpg", person="p", **{**labelled, **wrong})
    found = severities(context([*rows, odd]), name)
    assert set(found) == {"p/odd.jpg"}
    assert 0.2 <= found["p/odd.jpg"] <= 1


def test_every_check_has_a_name_a_kind_and_a_sentence() -> None:
    for name, check in CHECKS.items():
        assert check.name == name and check.about.endswith(".") and len(check.about) < 110


def test_the_more_of_a_crop_is_invented_the_worse() -> None:
    shares = {"0.jpg": 0.0, "1.jpg": 0.09, "2.jpg": 0.12, "3.jpg": 0.3, "4.jpg": 0.9}
    crops = pd.DataFrame({"image": list(shares), "invented": list(shares.values()), "margin": 0.35})
    views = {"face": ViewSettings(), "mirror": ViewSettings(border="reflect")}
    rows = [photo(image) for image in shares]
    found = severities(context(rows, views=views, crops={"face": crops}), "crop_invented")
    assert set(found) == {"2.jpg", "3.jpg", "4.jpg"}
    assert 0.3 < found["2.jpg"] < 0.5 < found["3.jpg"] < found["4.jpg"] == 0.9
    worst = context(rows, views=views, crops={"face": crops.assign(invented=0.0), "mirror": crops})
    assert severities(worst, "crop_invented") == found
    [detail] = [d for i, _, d in CHECKS["crop_invented"].hits(worst) if i == "3.jpg"]
    assert detail == "30% of the crop of view 'mirror' lies outside the photo (a mirror image)"


def test_a_crop_that_was_shrunk_enlarges_more() -> None:
    """A face of 50 pixels: 224 / (50 * 1.7) is 2.6 times, without the margin 4.5 times."""
    crops = pd.DataFrame({"image": ["0.jpg"], "invented": 0.0, "margin": 0.0})
    c = context([photo("0.jpg")], views={"face": ViewSettings()})
    shrunk = context([photo("0.jpg")], views={"face": ViewSettings()}, crops={"face": crops})
    assert [detail for _, s, detail in CHECKS["upscaled"].find(c) if s] == [
        "the crop of view 'face' enlarges it 2.6 times"
    ]
    assert [detail for _, s, detail in CHECKS["upscaled"].find(shrunk) if s] == [
        "the crop of view 'face' enlarges it 4.5 times"
    ]


def test_without_views_of_faces_nothing_is_a_face() -> None:
    whole: dict[str, Any] = {"status": "given", "box": (0.0, 0.0, 40.0, 40.0), "width": 40, "height": 40}
    rows = [photo(f"{i}.jpg", **whole, faces=[], points=None) for i in range(9)]
    dark = photo("dark.jpg", **whole, faces=[], points=None, high=0.1, low=0.01)
    c = context([*rows, dark], views={"whole": ViewSettings(crop="none")})
    [(image, _, detail)] = CHECKS["dark"].hits(c)
    assert (image, detail) == ("dark.jpg", "the photo is nearly black")
    assert not [name for name, check in CHECKS.items() if check.kind == "faces" and severities(c, name)]


def test_a_box_beside_a_far_surer_face() -> None:
    rows = [photo("a.jpg", faces=[BOX, (0.0, 0.0, 20.0, 25.0)], scores=[0.65, 0.99])]
    assert severities(context(rows), "face_unsure")["a.jpg"] > 0.7
    assert severities(context([photo("a.jpg", faces=[BOX, (0.0, 0.0, 20.0, 25.0)])]), "face_unsure") == {}


def test_what_is_wrong_ranks_before_what_is_small() -> None:
    """An unconfirmed face and one beside a surer face, before faces that are only small and enlarged."""
    small: dict[str, Any] = {"width": 40, "height": 40, "box": (10.0, 10.0, 22.0, 25.0)}
    rows = [photo(f"{i}.jpg", **small) for i in range(6)]
    rows += [photo("unsure.jpg", scores=[0.62]), photo("beside.jpg", faces=[BOX, LARGE], scores=[0.68, 0.99])]
    c = context(rows)
    worst = dict.fromkeys(("face_tiny", "upscaled", "face_doubtful", "face_unsure"), 0.0)
    for name in worst:
        worst[name] = max(severities(c, name).values(), default=0.0)
    assert max(worst["face_tiny"], worst["upscaled"]) <= 0.3
    assert severities(c, "face_doubtful")["unsure.jpg"] > 0.6
    assert worst["face_tiny"] > 0, "it is listed all the same"


def test_a_face_that_a_person_chose_is_not_questioned() -> None:
    chosen = photo("a.jpg", faces=[BOX, LARGE], box=(2.0, 2.0, 14.0, 17.0), status="decided")
    c = context([chosen, *CROWD])
    assert severities(c, "face_not_seen") == severities(c, "face_not_best") == severities(c, "face_ambiguous") == {}


def test_unrelated_photos_have_no_usual_place() -> None:
    """Twelve faces that lie anywhere in any size, one of them in a corner: nothing to compare it with."""
    random = np.random.default_rng(0)
    anywhere = []
    for i in range(12):
        x, y, side = random.uniform(0, 60), random.uniform(0, 60), random.uniform(5, 38)
        anywhere.append(photo(f"{i}.jpg", box=(x, y, x + side, y + side)))
    corner = photo("corner.jpg", box=(0.0, 0.0, 3.0, 3.0))
    outcome = run_checks(context([*anywhere, corner]), [CHECKS["face_dataset_place"]])
    assert outcome.findings == () and "no usual place" in outcome.not_run["face_dataset_place"]
    assert set(severities(context([*CROWD, corner]), "face_dataset_place")) == {"corner.jpg"}


def test_a_crowd_is_no_mistake() -> None:
    """The largest other face beside the subject is listed, never as likely wrong."""
    beside = photo("a.jpg", faces=[BOX, (5.0, 32.0, 43.0, 78.0)])
    assert 0.2 <= severities(context([beside]), "face_several")["a.jpg"] < 0.5


@pytest.mark.parametrize(
    ("name", "odd", "says"),
    [
        ("face_dataset_place", {"box": (80.0, 52.0, 84.0, 57.0)},
         "compared with the other photos, the face is 32% of the width further right and 10.0 times smaller"),
        ("face_dataset_place", {"box": (30.0, 60.0, 70.0, 110.0), "height": 120},
         "compared with the other photos, the face is 16% of the height lower"),
        ("face_geometry", {"points": points_in(BOX) + np.array([[0, 0], [0, 0], [0, 0], [25, -30]])},
         "eyes, nose and mouth are out of place by 101% of the distance of the eyes"),
        ("dark", {"high": 0.1}, "the face is nearly black"),
        ("dark", {"high": 0.3}, "the face is dark: its bright parts reach 30% of white"),
        ("bright", {"low": 1.0, "high": 1.0}, "the face is plain white"),
        ("bright", {"low": 0.7, "high": 1.0}, "the face is overexposed: its dark parts are at 70% of white"),
        ("low_contrast", {"low": 0.5, "high": 0.5}, "the face is of one brightness throughout"),
        ("low_contrast", {"low": 0.4, "high": 0.5}, "the face is flat: light and dark differ by 10% of white"),
    ],
)  # fmt: skip
def test_findings_are_plain_sentences(name: str, odd: dict[str, Any], says: str) -> None:
    found = list(CHECKS[name].hits(context([*CROWD, photo("odd.jpg", **odd)])))
    assert [detail for image, _, detail in found if image == "odd.jpg"] == [says]


@pytest.mark.parametrize(
    ("people", "severity", "says"),
    [
        ((None, None), 0.6, "the same picture as 1.jpg (nobody is named on both)"),
        (("ann", None), 0.6, "the same picture as 1.jpg (nobody is named on both)"),
        (("ann", "bob"), 0.9, "the same picture as 1.jpg, filed under ann and bob"),
        (("ann", "ann"), 0.6, "the same picture as 1.jpg"),
    ],
)
def test_a_copy_is_another_persons_only_where_both_are_named(
    people: tuple[str | None, ...], severity: float, says: str
) -> None:
    rows = [photo(f"{i}.jpg", person=person) for i, person in enumerate(people)]
    same = people[0] is not None and people[0] == people[1]
    pairs = pd.DataFrame([("0.jpg", "1.jpg", "exact", 0, same, "train", "train")], columns=PAIR)
    found = list(CHECKS["duplicate"].find(context(rows, duplicates=pairs)))
    assert found[0] == ("0.jpg", severity, says)


def test_duplicates_across_splits_are_worst() -> None:
    rows = [photo(f"{i}.jpg", person=f"p{i}") for i in range(6)]
    pairs = [
        ("0.jpg", "1.jpg", "exact", 0, True, "train", "eval"),
        ("2.jpg", "3.jpg", "near", 3, False, "train", "train"),
        ("4.jpg", "5.jpg", "exact", 0, True, "train", "train"),
    ]
    found = severities(context(rows, duplicates=pd.DataFrame(pairs, columns=PAIR)), "duplicate")
    assert found["0.jpg"] == found["1.jpg"] == 1.0
    assert found["0.jpg"] > found["2.jpg"] > found["4.jpg"] > 0.5


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("matte_empty", {"status": "empty", "coverage": 0.0}),
        ("matte_empty", {"coverage": 0.03}),
        ("matte_full", {"status": "full", "coverage": 1.0}),
        ("matte_face", {"status": "face_missed"}),
        ("matte_face", {"face_coverage": 0.6}),
        ("matte_pieces", {"components": 9}),
        ("matte_border", {"border_share": 0.98}),
        ("matte_unsure", {"status": "low_contrast"}),
    ],
)
def test_mattes(name: str, bad: dict[str, Any]) -> None:
    good = {"status": "ok", "coverage": 0.6, "face_coverage": 1.0, "components": 1, "border_share": 0.3}
    table = pd.DataFrame([{"image": "0.jpg", **good}, {"image": "1.jpg", **good, **bad}])
    found = severities(context([photo("0.jpg"), photo("1.jpg")], mattes={"face": table}), name)
    assert set(found) == {"1.jpg"}


@pytest.mark.parametrize("name", ["duplicate", "matte_empty", "model_unsure", "model_label_issue", "identity_differs"])
def test_what_cannot_be_checked_says_why(name: str) -> None:
    outcome = run_checks(context(CROWD), [CHECKS[name]])
    assert outcome.findings == () and len(outcome.not_run[name]) > 10


# ---------------------------------------------------------------- labels


def people(count: int, **more: Any) -> list[dict[str, Any]]:
    states = ["wear"] * 3 + ["incorrect", "normal"]
    return [
        photo(
            f"{p:03d}/{k}.jpg", person=f"{p:03d}", mask=state, gender="male" if p % 2 else "female", age=20 + p, **more
        )
        for p in range(count)
        for k, state in enumerate(states)
    ]


def test_one_person_of_two_genders() -> None:
    rows = people(30)
    rows[7]["gender"] = "female"  # 001 is a man
    found = severities(context(rows), "label_person")
    assert max(found, key=found.__getitem__) == "001/2.jpg" and {i[:3] for i in found} == {"001"}


def test_a_person_off_the_pattern() -> None:
    rows = people(10)
    rows[0]["mask"] = "normal"  # 000 has two of these now
    found = severities(context(rows), "label_pattern")
    assert set(found) == {"000/0.jpg", "000/4.jpg"}


def test_label_and_path_disagree() -> None:
    rows = [
        photo("train/female_x/normal_mask.jpg", gender="female", mask="incorrect"),
        photo("x/male/wear.jpg", gender="male", mask="wear"),
    ]
    assert set(severities(context(rows), "label_path")) == {"train/female_x/normal_mask.jpg"}


def test_ages_at_the_border() -> None:
    rows = [photo(f"{age}.jpg", age=age) for age in (20, 29, 30, 45, 59, 60, 61, 70)]
    assert set(severities(context(rows), "label_border")) == {"29.jpg", "30.jpg", "59.jpg", "60.jpg", "61.jpg"}


def face(random: np.random.Generator, skin: np.ndarray, covered: int) -> np.ndarray:
    """A patch of skin with a grey lower part: from the nose (wear), from the mouth (incorrect) or nowhere (normal)."""
    patch = np.tile(skin, (48, 48, 1)).astype(np.float64)
    patch[[26, 34, 48][covered] :] = [120, 160, 190]
    return np.clip(patch + random.normal(0, 6, patch.shape), 0, 255).astype(np.uint8)


def masked_people(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    rows = people(count)
    for row in rows:
        skin = np.array([200, 150, 120]) * (0.6 + 0.4 * (int(row["person"]) % 7) / 7)
        row["patch"] = face(random, skin, ["wear", "incorrect", "normal"].index(row["mask"]))
    return rows


def test_swapped_labels_are_seen_on_the_picture() -> None:
    rows = masked_people(40)
    assert severities(context(rows), "label_picture") == {}
    a, b = rows[5 * 11 + 3], rows[5 * 11 + 4]
    a["mask"], b["mask"] = b["mask"], a["mask"]
    found = run_checks(context(rows), [CHECKS["label_picture"]]).findings
    assert {f.image for f in found} == {a["image"], b["image"]}
    assert all(f.severity > 0.9 and "swapped" in f.detail for f in found)


def test_what_colours_do_not_tell_is_not_asked() -> None:
    random = np.random.default_rng(1)
    rows = masked_people(40)
    for row in rows:
        row["patch"] = random.integers(0, 255, (48, 48, 3)).astype(np.uint8)
    with pytest.raises(NotRunError, match="cannot be predicted"):
        list(label_picture.find(context(rows)))


# ---------------------------------------------------------------- identity


def faces_of(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(2)
    rows = people(count)
    own = {p: random.integers(40, 220, (6, 6, 3)) for p in {r["person"] for r in rows}}
    for row in rows:
        row["patch"] = np.clip(
            np.kron(own[row["person"]], np.ones((8, 8, 1))) + random.normal(0, 15, (48, 48, 3)), 0, 255
        ).astype(np.uint8)
    return rows


def test_another_persons_face_is_found() -> None:
    rows = faces_of(20)
    assert severities(context(rows), "identity_differs") == {}
    rows[23]["patch"] = rows[61]["patch"]
    found = severities(context(rows), "identity_differs")
    assert set(found) == {rows[23]["image"]} and found[rows[23]["image"]] > 0.5


def test_one_person_under_two_names_is_found() -> None:
    rows = faces_of(20)
    assert severities(context(rows), "identity_same") == {}
    for row in rows[5 * 4 : 5 * 5]:
        row["person"] = "new"
    for row, like in zip(rows[5 * 4 : 5 * 5], rows[5 * 9 : 5 * 10], strict=True):
        row["patch"] = np.clip(like["patch"].astype(int) + 3, 0, 255).astype(np.uint8)
    found = severities(context(rows), "identity_same")
    assert {r["image"] for r in (*rows[20:25], *rows[45:50])} == set(found)


# ---------------------------------------------------------------- model

TWO = Schema.from_dict({"attributes": {"kind": {"classes": ["cat", "dog"]}}})


def run(rows: list[dict[str, Any]], dogs: dict[str, float], name: str = "run") -> Predictions:
    """Out-of-fold predictions that follow the label but for ``dogs``: image -> probability of dog."""
    chance = [dogs.get(r["image"], 0.9 if r["kind"] == "dog" else 0.1) for r in rows]
    labels = np.array([TWO["kind"].index(r["kind"]) for r in rows], np.int64)
    return Predictions(name, tuple(r["image"] for r in rows), labels, np.array([[1 - p, p] for p in chance]))


def animals() -> list[dict[str, Any]]:
    return [photo(f"{i}.jpg", kind="dog" if i % 2 else "cat") for i in range(60)]


def test_what_runs_find_wrong() -> None:
    rows = animals()
    runs = (run(rows, {"4.jpg": 0.97, "6.jpg": 0.55}), run(rows, {"4.jpg": 0.99, "8.jpg": 0.52}))
    c = context(rows, TWO, predictions=runs)
    pytest.importorskip("cleanlab")
    assert max(severities(c, "model_label_issue").items(), key=lambda x: x[1])[0] == "4.jpg"
    assert severities(c, "model_label_issue")["4.jpg"] >= LIKELY
    alone = severities(context(rows, TWO, predictions=runs[1:]), "model_label_issue")["4.jpg"]
    assert alone == ALONE < LIKELY  # nobody agrees
    often = tuple(run(rows, {"4.jpg": 0.99, **{f"{2 * i}.jpg": 0.9 for i in range(5, 15)}}) for _ in range(2))
    assert set(severities(context(rows, TWO, predictions=often), "model_label_issue").values()) == {DOUBT}
    assert set(severities(c, "model_often_wrong")) == {"4.jpg"}
    assert {"4.jpg", "6.jpg", "8.jpg"} == set(severities(c, "model_confused"))
    unsure = context(rows, TWO, predictions=(run(rows, {"2.jpg": 0.5}),))
    assert set(severities(unsure, "model_unsure")) == {"2.jpg"}


def test_runs_that_often_err_are_believed_less() -> None:
    """One image wrong in 60 against 13 in 60 (22%): a severity of 0.65 falls to 0.3 + 0.35 * (1 - errors / 0.3)."""
    rows = animals()
    for many in (1, 13):
        runs = tuple(run(rows, {f"{2 * i}.jpg": 0.97 for i in range(many)}) for _ in range(2))
        found = severities(context(rows, TWO, predictions=runs), "model_often_wrong")
        assert found["0.jpg"] == pytest.approx(0.3 + 0.35 * (1 - many / 60 / 0.3), abs=1e-4)
    runs = tuple(run(rows, {f"{2 * i}.jpg": 0.97 for i in range(25)}) for _ in range(2))
    assert set(severities(context(rows, TWO, predictions=runs), "model_often_wrong").values()) == {0.3}


def test_a_relabelled_image_is_judged_by_its_new_label() -> None:
    rows = animals()
    runs = (run(rows, {"4.jpg": 0.97}), run(rows, {"4.jpg": 0.99}))
    rows[4]["kind"] = "dog"
    assert severities(context(rows, TWO, predictions=runs), "model_often_wrong") == {}


def test_attributes_of_joint_predictions() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(18), 5)
    rows = [photo(name, mask="wear", gender="female", age=40) for name in "abcde"]
    runs = Predictions("r", tuple("abcde"), np.zeros(5, np.int64), p)
    truth, gender = of_attribute(context(rows, predictions=(runs,)), "gender")
    female = [k for k in range(18) if k // 3 % 2 == 1]
    np.testing.assert_allclose(gender[1], p[:, female].sum(axis=1))
    assert set(truth) == {1}


# ---------------------------------------------------------------- the scale of severities, and measures


def test_ramps_and_robust_statistics() -> None:
    assert [ramp(v, 2, 4, 0.5, 1.0) for v in (1, 2, 3, 4, 9, math.nan)] == [0, 0.5, 0.75, 1, 1, 0]
    assert ramp(0.1, 0.5, 0.0) == pytest.approx(0.8)
    assert robust([1, 2, 3, 4, 100, math.nan], 0.1) == (3, pytest.approx(1.4826))
    assert robust([5, 5, 5], 0.5) == (5, 0.5)


def test_worst_first() -> None:
    found = [
        Finding("b", "x", 0.5, ""),
        Finding("a", "x", 0.5, ""),
        Finding("b", "y", 0.3, ""),
        Finding("c", "x", 0.6, ""),
    ]
    assert Outcome(tuple(found), {}).images() == ["c", "b", "a"]
    hits = [("b", 0.5, ""), ("a", 0.5, ""), ("b", 0.3, ""), ("c", 0.6, ""), ("low", 0.19, "")]
    check = Check("x", "faces", "", lambda c: hits)
    assert [f.image for f in run_checks(context([]), [check]).findings] == ["c", "a", "b"]


def test_a_posterior_is_what_bayes_says() -> None:
    assert bayes(49.0, 0.02) == pytest.approx(0.5)
    assert posterior(0.0, (0.0, 1.0), (0.0, 1.0), 0.3) == pytest.approx(0.3)
    assert posterior(0.0, (0.0, 1.0), (10.0, 1.0)) < 0.001 < 0.8 < posterior(10.0, (0.0, 1.0), (10.0, 1.0))


@pytest.mark.parametrize(
    ("text", "name", "severity"),
    [("face_none", "face_none", 0.5), ("labels:0.9", "labels", 0.9), ("any:0", "any", 0.0)],
)
def test_thresholds(text: str, name: str, severity: float) -> None:
    threshold = FailOn.parse(text)
    assert (threshold.name, threshold.severity) == (name, severity)
    found = [Finding("a", "face_none", 0.95, ""), Finding("b", "label_person", 0.9, "")]
    expected = {"face_none": ["a"], "labels": ["b"], "any": ["a", "b"]}[name]
    assert [f.image for f in threshold.reached(found)] == expected


@pytest.mark.parametrize("text", ["face_non", "face_none:2", "face_none:x", ""])
def test_wrong_thresholds(text: str) -> None:
    with pytest.raises(UsageError):
        FailOn.parse(text)


def test_geometry_of_keypoints() -> None:
    assert roll(turned(30)) == pytest.approx(30)
    assert misfit(turned(30)) == pytest.approx(0, abs=1e-9)
    eyes = float(np.linalg.norm(np.subtract(*points_in(BOX)[:2])))
    moved = points_in(BOX)
    moved[3] += [0, eyes]
    assert 0.2 < misfit(moved) < 0.5  # one of four points is a whole eye distance off, part of which a fit takes up


def test_measures_tell_blur_light_and_colour() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (80, 80), dtype=np.uint8)
    soft = np.kron(random.integers(0, 256, (5, 5)), np.ones((16, 16))).astype(np.uint8)
    assert detail(noise, 0) > 0.5 > 0.2 > detail(soft, 0)
    grey = np.repeat(noise[:, :, None], 3, axis=2)
    assert measure(grey, None)["chroma"] == 0
    assert measure((grey // 10).astype(np.uint8), None)["high"] < 0.11
    coloured = grey.copy()
    coloured[..., 0] = 255
    assert measure(coloured, (10.0, 10.0, 50.0, 50.0))["chroma"] > 0.5


@pytest.mark.parametrize("quality", [10, 35, 60, 85, 95])
def test_jpeg_quality_is_what_the_encoder_was_told(quality: int, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    image.save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(tmp_path / "a.jpg") == pytest.approx(quality, abs=1.5)
    image.save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.png") is None
