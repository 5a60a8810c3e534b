"""Which face is the subject."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from maskprep.base import Box
from maskprep.faces.choice import (
    WEIGHTS,
    Candidate,
    Choice,
    ChooseSettings,
    Habit,
    Place,
    box_at,
    candidates,
    choose,
    compare,
    habit,
    holds_another,
    not_faces,
    place,
)
from maskprep.faces.detect import TABLE
from maskprep.faces.detectors import DETECTORS, Detection
from maskprep.faces.face import CONFIRMS, CREDIBLE, SURELY, Face, cluster, confirmed, evidence, iou, merge
from maskprep.faces.subjects import STATUSES, Subjects

SIZE = (400, 400)


def seen(detector: str, score: float, box: Box) -> Detection:
    """A detection whose box, brought to the common extent, is ``box``."""
    dx, dy, sw, sh = DETECTORS[detector].extent
    width, height = (box[2] - box[0]) / sw, (box[3] - box[1]) / sh
    cx, cy = (box[0] + box[2]) / 2 - dx * width, (box[1] + box[3]) / 2 - dy * height
    points = np.array([[cx - 5, cy], [cx + 5, cy], [cx, cy + 5], [cx, cy + 9], [cx, cy + 9], [cx, cy]])
    own = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    return Detection(detector, score, own, points if detector.startswith("blazeface") else points[:5])


def sure_of(detections: Sequence[Detection]) -> float:
    """The evidence where every detector looked at the photo once."""
    best = {spec.family: [spec.probability(0.0)] for spec in DETECTORS.values()}
    for face in detections:
        family = DETECTORS[face.detector].family
        best[family] = [max(face.probability, *best[family])]
    return evidence(best)


def faces_of(detections: list[Detection]) -> list[Face]:
    found = []
    for members in cluster(detections):
        own = [detections[i] for i in members]
        sure = sure_of(own)
        found.append(merge(own, members, sure, confirmed(own, sure)))
    return found


def square(cx: float, cy: float, side: float) -> Box:
    return (cx - side / 2, cy - side / 2, cx + side / 2, cy + side / 2)


def at(box: Box) -> Habit:
    """The habit of being there."""
    found = habit([place(box, *SIZE)])
    assert found is not None
    return found


MASKED, PASSER_BY = square(190, 210, 150), square(340, 90, 40)


def test_the_score_does_not_decide() -> None:
    """A masked subject of whom two detectors are less sure, and a passer-by of whom all are sure."""
    found = [
        seen("yunet", 0.65, MASKED),
        seen("centerface", 0.6, MASKED),
        *(seen(name, 0.99, PASSER_BY) for name in DETECTORS),
    ]
    choice = choose(faces_of(found), *SIZE)
    assert choice.status == "ok"
    assert choice.box is not None
    assert iou(choice.box, MASKED) > 0.95
    assert choice.keypoints is not None
    assert choice.keypoints.shape == (4, 2)


def both(score: float, box: Box) -> list[Detection]:
    """A face that YuNet proposes and CenterFace confirms."""
    return [seen("yunet", score, box), seen("centerface", 0.8, box)]


def test_the_larger_of_two_confirmed_faces() -> None:
    left = square(120, 200, 80)
    choice = choose(faces_of([*both(0.9, left), *both(0.7, square(280, 200, 160))]), *SIZE)
    assert choice.status == "ok"
    assert choice.box == pytest.approx(square(280, 200, 160))


def test_what_no_second_family_saw_is_not_ok() -> None:
    """However sure one family is, and however large the face."""
    choice = choose(faces_of([seen("centerface", 0.99, MASKED)]), *SIZE)
    assert choice.status == "ambiguous"
    assert "no second detector confirmed" in choice.reason
    near = [seen("blazeface_full", 0.99, MASKED), seen("blazeface_short", 0.99, MASKED)]
    for found in ([seen("yunet", 0.99, MASKED)], near):
        assert choose(faces_of(found), *SIZE).status != "ok"
    assert choose(faces_of(both(0.9, MASKED)), *SIZE).status == "ok"


def test_two_weak_detections_of_two_families_are_no_face() -> None:
    weak = faces_of([seen("yunet", 0.5, MASKED), seen("blazeface_short", 0.45, MASKED)])
    (face,) = weak
    assert face.evidence < CREDIBLE and not face.confirmed
    assert choose(weak, *SIZE).status != "ok"
    large = [seen("yunet", 0.5, square(200, 200, 300)), seen("blazeface_short", 0.66, square(200, 200, 300))]
    choice = choose(faces_of([*large, *both(0.9, square(60, 60, 50))]), *SIZE)
    assert choice.box == pytest.approx(square(60, 60, 50)), "size decides among credible faces only"


@pytest.mark.parametrize(
    ("answers", "by_hand"),
    [
        ({"yunet": [0.5]}, 0.5),
        ({"yunet": [0.9], "centerface": [0.5]}, 9**0.25 / (1 + 9**0.25)),  # trusts 1 and 3
        ({"yunet": [0.9], "blazeface": [0.9]}, 0.9),
        ({"centerface": [0.9, 0.1]}, 0.5),  # two looks of one family
        ({"yunet": [1.0]}, 0.99),
    ],
)
def test_evidence_by_hand(answers: dict[str, list[float]], by_hand: float) -> None:
    assert evidence(answers) == pytest.approx(by_hand)


def test_doubtful_scores_do_not_add_up() -> None:
    assert evidence({"yunet": [0.4], "blazeface": [0.4], "centerface": [0.4]}) == pytest.approx(0.4)
    assert evidence({"yunet": [0.93], "centerface": [0.05]}) < 0.2, "what CenterFace overlooked"


def test_limits_of_a_confirmation() -> None:
    found = both(0.9, MASKED)
    assert confirmed(found, 0.70) and not confirmed(found, 0.69)
    alone = [seen("yunet", 0.9, MASKED)]
    assert not confirmed(alone, 0.9) and confirmed(alone, 0.9, needed=1)
    assert not confirmed([seen("yunet", 0.9, MASKED), seen("centerface", 0.37, MASKED)], 0.9)  # probability 0.47
    assert confirmed([seen("yunet", 0.9, MASKED), seen("centerface", 0.4, MASKED)], 0.9)  # 0.55


def test_a_blurred_face_at_the_edge_is_a_close_call() -> None:
    """Twice as large as a sharp one in the middle."""

    def face(number: int, box: Box, detail: float) -> Face:
        return Face((number,), box, 0.95, True, 0.95, np.zeros((4, 2)), detail)

    edge, middle = face(0, square(30, 200, 120), 0.3), face(1, square(200, 200, 60), 1.0)
    choice = choose([edge, middle], *SIZE)
    assert (choice.face, choice.status) == (0, "ambiguous")
    assert "nearer to the middle and sharper" in choice.reason
    assert choose([face(0, square(30, 200, 120), 0.9), middle], *SIZE).status == "ok", "it is as sharp"
    assert choose([face(0, square(190, 200, 120), 0.3), face(1, square(330, 200, 60), 1.0)], *SIZE).status == "ok"


def test_the_person_s_other_photos_decide() -> None:
    left, right = square(130, 200, 100), square(270, 200, 100)
    faces = faces_of([*both(0.9, left), *both(0.9, right)])
    alone = choose(faces, *SIZE)
    assert alone.status == "ambiguous"
    assert "nearly as likely" in alone.reason
    for box in (left, right):
        choice = choose(faces, *SIZE, person=at(box))
        assert choice.status == "ok"
        assert choice.box == pytest.approx(box)


def test_the_person_s_other_photos_pull_to_a_smaller_face() -> None:
    faces = faces_of([*both(0.9, square(120, 200, 110)), *both(0.9, square(280, 200, 90))])
    person = at(square(280, 200, 88))
    first = choose(faces, *SIZE, person=person).box
    assert first is not None
    assert first[0] > 200
    assert choose(faces, *SIZE).box[0] < 200  # type: ignore[index]


def test_close_is_a_setting() -> None:
    faces = faces_of([*both(0.9, square(130, 200, 100)), *both(0.9, square(270, 200, 99))])
    assert choose(faces, *SIZE, settings=ChooseSettings(close=0.0)).status == "ok"
    assert choose(faces, *SIZE, settings=ChooseSettings(close=0.08)).status == "ambiguous"


def test_no_face_is_rescued_by_the_person_then_the_data_set() -> None:
    person, dataset = at(MASKED), at(PASSER_BY)
    by_person = choose([], *SIZE, person=person, dataset=dataset)
    assert by_person.status == "rescued"
    assert by_person.face is None
    assert by_person.keypoints is None
    assert "person's other photos" in by_person.reason
    assert by_person.box == pytest.approx(box_at(person.place, *SIZE))
    by_dataset = choose([], *SIZE, dataset=dataset)
    assert by_dataset.status == "rescued"
    assert "data set" in by_dataset.reason
    assert choose([], *SIZE) == Choice("no_face", reason="no face detected")
    dropped = choose([], *SIZE, person=person, dataset=dataset, settings=ChooseSettings(no_face="drop"))
    assert (dropped.status, dropped.box) == ("no_face", None)


def test_an_unlikely_face_is_not_believed() -> None:
    far = at(square(200, 200, 200))
    faces = faces_of(both(0.99, square(8, 8, 4)))
    settings = ChooseSettings(weak=0.6)
    assert choose(faces, *SIZE, person=far, dataset=far, settings=settings).status == "rescued"
    assert choose(faces, *SIZE, settings=settings).status == "ok", "nothing speaks against it"


def test_detections_in_any_order_give_the_same_choice() -> None:
    found = [
        seen("yunet", 0.5, MASKED),
        seen("blazeface_full", 0.5, square(192, 211, 148)),
        seen("blazeface_short", 0.9, PASSER_BY),
        seen("yunet", 0.6, square(340, 92, 41)),
        seen("yunet", 0.6, square(60, 60, 30)),
    ]
    expected = None
    for order in itertools.permutations(found):
        faces = [
            (tuple(sorted(order[i].score for i in face.faces)), face.box, face.evidence)
            for face in faces_of(list(order))
        ]
        choice = choose(faces_of(list(order)), *SIZE)
        got = (sorted(faces), choice.box, choice.status)
        expected = expected or got
        assert got[0] == expected[0]
        assert got[1:] == expected[1:]


def plain_face(number: int, box: Box, evidence: float) -> Face:
    return Face((number,), box, evidence, True, evidence, np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("outer", "inner", "within", "none"),
    [
        (0.75, 0.95, (120, 120, 200, 200), True),
        (0.75, 0.85, (120, 120, 200, 200), False),  # the inner one is not sure enough
        (0.95, 0.97, (120, 120, 200, 200), False),  # the outer one is nearly as sure
        (0.75, 0.95, (220, 120, 300, 200), False),  # only half of it lies inside
        (0.75, 0.95, (150, 150, 180, 180), False),  # too small: an eye or a badge on a large face
    ],
)
def test_a_box_that_holds_a_surer_face_is_no_face(outer: float, inner: float, within: Box, none: bool) -> None:
    large, small = plain_face(0, (100, 100, 260, 260), outer), plain_face(1, within, inner)
    assert holds_another(large, [large, small], *SIZE) is none
    assert not holds_another(small, [large, small], *SIZE)
    assert (large in [c.face for c in candidates([large, small], *SIZE)]) is not none
    assert len(not_faces([large, small], *SIZE)) == none


def test_what_the_photo_does_not_show_is_not_looked_for_inside() -> None:
    outer, inner = plain_face(0, (100, 200, 300, 395), 0.75), plain_face(1, (120, 300, 240, 500), 0.99)
    assert holds_another(outer, [outer, inner], *SIZE)  # 100 of the 200 rows of the inner box lie within the photo
    assert not holds_another(outer, [outer, inner], 400, 500)


def test_half_a_face_in_front_is_not_smaller_than_a_whole_one_behind() -> None:
    """A face of 75.5 x 100 whose left half is beyond the border, by hand: the height says how large it is."""
    whole, cut = place((100, 100, 175.5, 200), *SIZE), place((0, 100, 37.75, 200), *SIZE)
    assert cut.log_size == pytest.approx(whole.log_size)
    assert place((50, 100, 87.75, 200), *SIZE).log_size == pytest.approx(whole.log_size - 0.5 * math.log(2))
    below = place((100, 350, 175.5, 400), *SIZE)
    assert below.log_size == pytest.approx(whole.log_size)


def matted(number: int, box: Box, matte: float) -> Face:
    return Face((number,), box, 0.95, True, 0.95, np.zeros((4, 2)), math.nan, matte)


def test_the_matte_decides_between_two_alike() -> None:
    """Two faces mirrored about the middle: all but the matte is equal."""
    left, right = square(130, 200, 100), square(270, 200, 100)
    for held, other, chosen in ((0.9, 0.1, 0), (0.1, 0.9, 1)):
        faces = [matted(0, left, held), matted(1, right, other)]
        assert choose(faces, *SIZE).face == chosen
        ranked = candidates(faces, *SIZE)
        assert [c.signals["matte"] for c in ranked] == [1.0, pytest.approx(1 / 9)]
        assert "more of it in the matte (1.00 against 0.11)" in compare(*ranked)


def test_a_matte_of_something_else_says_nothing() -> None:
    faces = [matted(0, square(130, 200, 100), 0.4), matted(1, square(270, 200, 100), 0.0)]
    assert all("matte" not in c.signals for c in candidates(faces, *SIZE))
    faces = [matted(0, square(130, 200, 100), 0.8), matted(1, square(270, 200, 100), math.nan)]
    assert sorted("matte" in c.signals for c in candidates(faces, *SIZE)) == [False, True]


def test_words_name_what_weighs_most_first() -> None:
    a = Candidate(plain_face(0, square(200, 200, 90), 1.0), {"size": 0.9, "sharpness": 1.0, "centre": 1.0})
    b = Candidate(plain_face(1, square(90, 90, 100), 0.3), {"size": 1.0, "sharpness": 0, "centre": 0.995})
    said = compare(a, b)
    assert (
        said.index("probably no face")
        < said.index("in better focus (1.00 against 0.00)")
        < said.index("although not larger")
    )
    assert "middle" not in said  # too little to be worth a word
    assert compare(a, a) == "their signals hardly differ"


def test_one_face_of_three_detectors_is_one_face() -> None:
    found = [seen(name, 0.5, MASKED) for name in DETECTORS]
    (face,) = faces_of(found)
    assert face.box == pytest.approx(MASKED)
    assert found[face.faces[0]].detector == "yunet"


def test_a_box_is_the_average_by_score() -> None:
    low, high = square(200, 200, 100), square(210, 200, 100)
    face = merge([seen("yunet", 0.25, low), seen("blazeface_full", 0.75, high)], [0, 1], 0.5, False)
    assert face.box[0] == pytest.approx(0.25 * low[0] + 0.75 * high[0], abs=1e-3)


def test_iou_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1


def test_extents_are_undone() -> None:
    for name in DETECTORS:
        assert seen(name, 0.5, MASKED).common_box == pytest.approx(MASKED)


def test_a_place_is_free_of_the_photo_s_size() -> None:
    small, large = place((10, 20, 30, 50), 100, 80), place((40, 80, 120, 200), 400, 320)
    assert (small.x, small.y, small.log_size) == pytest.approx((large.x, large.y, large.log_size))
    assert small.x == pytest.approx(0.2)
    usual = habit([small])
    assert usual is not None
    assert usual.likeness(large) == pytest.approx(1)
    assert usual.likeness(Place(0.9, 0.9, 0.0)) < 0.1
    back = box_at(small, 100, 80)
    assert ((back[0] + back[2]) / 2, (back[1] + back[3]) / 2) == pytest.approx((20, 35))
    assert (back[2] - back[0]) * (back[3] - back[1]) == pytest.approx(20 * 30)


def test_the_median_is_robust() -> None:
    places = [Place(0.5, 0.5, -1), Place(0.52, 0.5, -1.1), Place(0.0, 1.0, 3)]
    usual = habit(places)
    assert usual is not None
    assert usual.place == Place(0.5, 0.5, -1)
    assert habit([]) is None


def test_marks_lie_between_0_and_1() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        boxes = [square(*random.uniform(-50, 450, 2), random.uniform(0, 300)) for _ in range(4)]
        faces = faces_of([seen("yunet", float(s), b) for s, b in zip(random.random(4), boxes, strict=True)])
        for found in candidates(faces, *SIZE, person=at(boxes[0]), dataset=at(boxes[1])):
            assert 0 <= found.mark <= 1
            assert math.isfinite(found.mark)
    sure = merge([seen("yunet", 0.99, MASKED)], [0], 0.99, True)
    assert Candidate(sure, {"size": 1.0}).mark == 1


# ---------------------------------------------------------------- a whole data set


PLAIN = {"width": 400, "height": 400, "person": None, "error": None, "detail": None}


def tables(*images: dict[str, object]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """images.parquet and faces.parquet of photos with ``boxes``, a person and perhaps an error."""
    rows, faces = [], []
    for image in images:
        rows.append({"content": f"c-{image['image']}", **PLAIN} | image)
        boxes = rows[-1].pop("boxes", ())
        for n, box in enumerate(boxes):  # type: ignore[var-annotated,arg-type]
            x0, y0, x1, y1 = box
            place = {"image": image["image"], "face": n, "group": n, "x0": x0, "y0": y0, "x1": x1, "y1": y1}
            known = {"detector": "yunet", "rung": "as_is", "score": 0.9, "evidence": 0.95, "confirmed": True}
            faces.append({**place, **known, "keypoints": [1.0] * 10})
    return pd.DataFrame(rows), pd.DataFrame(faces, columns=TABLE.names)


def statuses(*images: dict[str, object], **settings: object) -> dict[str, tuple[str, str]]:
    table = Subjects(*tables(*images), ChooseSettings(**settings)).table().to_pandas()  # type: ignore[arg-type]
    assert list(table["image"]) == [image["image"] for image in images]
    assert set(table["status"]) <= set(STATUSES)
    return {row.image: (row.status, row.reason or "") for row in table.itertuples()}


def test_every_image_has_a_row_and_a_status() -> None:
    found = statuses(
        {"image": "a", "boxes": [MASKED], "person": "p"},
        {"image": "b", "boxes": [MASKED], "person": "p"},
        {"image": "c", "boxes": [], "person": "p"},
        {"image": "d", "boxes": []},
        {"image": "e", "error": "empty", "width": None, "height": None},
    )
    assert [status for status, _ in found.values()] == ["ok", "ok", "rescued", "rescued", "unreadable"]
    assert "person's other photos" in found["c"][1]
    assert "data set" in found["d"][1]
    assert found["e"][1] == "empty"


def test_one_other_photo_is_too_few() -> None:
    found = statuses({"image": "a", "boxes": [MASKED], "person": "p"}, {"image": "b", "person": "p"})
    assert "data set" in found["b"][1]


def test_a_photo_is_no_witness_of_itself() -> None:
    """Two photos of a person agree; the third has its own place, which must not count as the usual one."""
    photos = [{"image": name, "boxes": [MASKED], "person": "p"} for name in "ab"]
    subjects = Subjects(*tables(*photos, {"image": "c", "boxes": [PASSER_BY], "person": "p"}), ChooseSettings())
    person, _ = subjects.context("c")
    assert person is not None
    assert (person.place.x, person.place.y) == pytest.approx((190 / 400, 210 / 400))
    assert subjects.context("a")[0].place.x > 190 / 400  # type: ignore[union-attr]


def test_unrelated_photos_have_no_usual_place() -> None:
    """A photo of nobody is rescued among portraits, and has no face in a folder of unrelated photos."""
    alike = [{"image": f"{i}", "boxes": [square(195 + i, 210, 150)]} for i in range(6)]
    assert statuses(*alike, {"image": "x"})["x"][0] == "rescued"
    places = [(60, 60, 30), (340, 330, 200), (200, 90, 60), (80, 300, 20), (330, 60, 110), (200, 200, 330)]
    scattered = [{"image": f"{i}", "boxes": [square(*place)]} for i, place in enumerate(places)]
    assert statuses(*scattered, {"image": "x"})["x"] == ("no_face", "no face detected")


def test_no_face_anywhere() -> None:
    assert set(statuses({"image": "a"}, {"image": "b"}).values()) == {("no_face", "no face detected")}


def test_the_order_of_the_photos_does_not_matter() -> None:
    photos = [{"image": n, "boxes": [square(100 + 20 * i, 200, 90)], "person": "p"} for i, n in enumerate("abcd")]
    photos.append({"image": "e", "person": "p"})
    expected = statuses(*photos)
    assert statuses(*photos[::-1]) == expected


def test_sharpness_counts_little() -> None:
    """A face that is a little larger and nearer to the middle is the subject, though another is twice as sharp."""

    def face(number: int, box: Box, detail: float) -> Face:
        return Face((number,), box, 0.95, True, 0.95, np.zeros((4, 2)), detail)

    larger, sharper = face(0, square(200, 200, 120), 0.5), face(1, square(330, 200, 110), 1.0)
    assert choose([larger, sharper], *SIZE).face == 0


def test_weights_and_limits_are_those_that_were_measured() -> None:
    """They were chosen on real photos; another value needs another measurement (benchmarks/faces.py)."""
    assert WEIGHTS == {"size": 0.4, "person": 0.2, "centre": 0.15, "dataset": 0.1, "sharpness": 0.05, "matte": 0.15}
    assert (CREDIBLE, SURELY, CONFIRMS) == (0.35, 0.7, 0.5)
