"""What a person does with the review page, one ability a test: a real browser against one server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Page

import maskprep as api
from conftest import need
from maskprep.audit.server import ReviewSession, Server, open_review
from maskprep.base.progress import Silent
from maskprep.cli.review import parse_classes
from maskprep.errors import UsageError
from maskprep.pipeline.session import Session
from maskprep.store.decisions import Decision, read_decisions

COPY = "cat/<img src=x onerror=alert(1)>.jpg"


@pytest.fixture(scope="module")
def served(reviewed: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """The page with mattes and the predictions of a run, which takes dog/2 for a cat."""
    need("selfie_segmenter")
    cache = Path(shutil.copytree(reviewed[1], tmp_path_factory.mktemp("tools") / "cache"))
    api.rembg(cache, model="selfie", engine="serial")
    labels = pd.read_parquet(cache / "labels.parquet").dropna(subset=["label"])
    classes = [*labels["class"].unique()]
    predicted = np.where(labels["image"] == "dog/2.jpg", 1 - labels["label"].astype(int), labels["label"].astype(int))
    table = pd.DataFrame({"image": labels["image"], "label": labels["label"].astype(int)})
    table = table.assign(**{f"p_{k}": np.where(predicted == k, 0.9, 0.1) for k in range(len(classes))})
    table.to_parquet(cache.parent / "oof.parquet")
    audit = Session(cache, workers=1).audit([cache.parent / "oof.parquet"])
    with Server(open_review(audit, Silent(), "ann")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, cache
        server.shutdown()


class Review:
    """The open page, and what it writes."""

    def __init__(self, tab: Page, server: Server, cache: Path) -> None:
        self.tab, self.cache, self.address = tab, cache, server.address
        self.session: ReviewSession = server.session

    def open(self, fragment: str = "") -> None:
        self.tab.send("Page.navigate", url="about:blank")
        self.tab.open(self.address + fragment)

    def go(self, image: str) -> None:
        self.tab.run(f"(showOnly({{}}), go(data.path.indexOf({json.dumps(image)})))")
        self.settle()

    def settle(self) -> None:
        self.tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def saved(self, count: int) -> list[Decision]:
        """The decisions of the file, once there are ``count``."""
        self.tab.until(f"decisions.length === {count}")
        self.tab.run("waiting")
        return read_decisions(self.cache / "decisions.csv")

    def middle(self, selector: str) -> tuple[float, float]:
        area = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.tab.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({area})")
        return x, y

    def names(self) -> list[str]:
        """The images that are shown."""
        found: list[str] = self.tab.run("shown.map((i) => data.path[i])")
        return found


@pytest.fixture
def review(served: tuple[Server, Path], tab: Page) -> Review:
    """The page without decisions, filters or anything else from another test."""
    server, cache = served
    for path in (*cache.glob("decisions*"), *cache.glob("filters.json")):
        path.unlink()
    page = Review(tab, server, cache)
    page.open()
    return page


def test_a_click_on_a_box_chooses_the_face_with_its_number(review: Review) -> None:
    tab = review.tab
    review.go("dog/0.jpg")
    number = int(tab.run("document.querySelector('.stage .tag:not(.mine)').dataset.number"))
    assert tab.run("[...document.querySelectorAll('.tag')].every((t) => t.textContent.startsWith(t.dataset.number))")
    tab.click(f"rect[data-face='{number}']")
    [made] = review.saved(1)
    faces = pd.read_parquet(review.cache / "faces.parquet").query("image == 'dog/0.jpg' and face == @number")
    assert (made.image, made.verdict, made.value) == ("dog/0.jpg", "face", str(number))
    assert [float(v) for v in made.expected.split()] == pytest.approx(faces[["x0", "y0", "x1", "y1"]].iloc[0], abs=30)


def test_digits_are_the_number_of_a_face(review: Review) -> None:
    tab = review.tab
    tab.run("(facesOf[data.path.indexOf('dog/0.jpg')][1].number = 23)")
    review.go("dog/0.jpg")
    tab.key("2")
    tab.key("3")
    assert [d.value for d in review.saved(1)] == ["23"]
    review.go("cat/1.jpg")
    tab.key("7")
    tab.until("document.getElementById('saved').textContent.includes('no face 7')")
    assert len(review.saved(1)) == 1


def test_zoom_pan_and_full_screen(review: Review) -> None:
    tab = review.tab
    review.go("dog/0.jpg")
    width = "document.querySelector('.frame').getBoundingClientRect().width"
    before = tab.run(width)
    tab.key("+")
    assert tab.run(width) == pytest.approx(1.5 * before, rel=0.01)
    x, y = review.middle(".stage")
    tab.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    tab.until(f"{width} > {2 * before}")
    left = tab.run("view.x")
    tab.mouse("mousePressed", x, y, clickCount=1)
    tab.mouse("mouseMoved", x - 30, y)
    tab.mouse("mouseReleased", x - 30, y, clickCount=1)
    assert tab.run("view.x") == pytest.approx(left - 30, abs=1)
    assert tab.run("decisions.length") == 0  # moving the photo chooses no face
    tab.key("f")
    tab.until("document.getElementById('detail').clientWidth > 1300")
    tab.key("f")
    tab.until("document.getElementById('detail').clientWidth < 700")
    assert not tab.errors


def test_the_matte_lies_over_the_photo_where_its_crop_was_cut(review: Review) -> None:
    tab = review.tab
    review.go("cat/1.jpg")
    tab.key("m")
    tab.until("document.querySelector('.stage svg image')")
    tab.run("fetch(document.querySelector('.stage svg image').getAttribute('href')).then((a) => { status = a.status })")
    assert tab.run("status") == "200"
    layer, box = (review.middle(f".stage svg {name}") for name in ("image", "rect.mine"))
    scale = tab.run("current.scale")
    assert np.abs(np.subtract(layer, box)).max() < 12 * scale  # the crop is centred at the face
    tab.until("document.querySelectorAll('.card img[src$=png]').length > 3")
    tab.key("m")
    assert not tab.run("document.querySelector('.stage svg image')")


def test_accept_allows_a_pair_and_the_next_audit_is_silent(review: Review) -> None:
    tab = review.tab
    review.go("cat/3.jpg")
    tab.until("[...document.querySelectorAll('.pair img')].filter((i) => i.naturalWidth === 420).length >= 2")
    assert tab.run("document.querySelector('.pair').textContent").count("420×260") == 2
    tab.key("a")
    tab.until("openCopies(data.path.indexOf('cat/3.jpg')).length === 0")
    made = review.saved(tab.run("decisions.length"))
    assert [d.image for d in made if d.verdict == "allow_duplicate" and d.value == d.content] == [
        "cat/3.jpg"
    ]  # one file
    again = Session(review.cache, workers=1).audit()
    assert not [f for f in again.outcome.findings if f.check == "duplicate" and f.image == "cat/3.jpg"]
    tab.key("u")
    tab.until("decisions.length === 0 && openCopies(data.path.indexOf('cat/3.jpg')).length > 0")


def test_a_reason_goes_with_a_decision_and_can_be_changed(review: Review) -> None:
    tab = review.tab
    review.go("cat/5.jpg")
    tab.key("r")
    for letter in "too dark":
        tab.key(letter)
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    tab.key("d")
    assert [(d.verdict, d.reason) for d in review.saved(1)] == [("drop", "too dark")]
    review.go("cat/5.jpg")
    assert tab.run("document.getElementById('reason').value") == ""  # it was for one decision
    change = "(n) => { n.value = 'not a cat'; n.dispatchEvent(new Event('change')); }"
    tab.run(f"({change})(document.querySelector('.state .why'))")
    tab.until("decisions[0].reason === 'not a cat'")
    assert [d.reason for d in review.saved(1)] == ["not a cat"]


def test_the_filter_is_in_the_address_and_can_be_saved(review: Review) -> None:
    tab = review.tab
    tab.click('[data-show="every"]')
    tab.click('[data-facet="classes"] [data-value="cat"]')
    tab.until("shown.length && shown.every((i) => classOf[i] === 'cat')")
    cats = review.names()
    fragment = tab.run("location.hash")
    tab.click('[data-facet="classes"] [data-value="cat"]')
    tab.until(f"shown.length > {len(cats)}")
    tab.run("history.back()")
    tab.until(f"shown.length === {len(cats)}")
    tab.run("document.getElementById('filter-name').value = '<b>cats'")
    tab.run("document.getElementById('save-filter').click()")
    tab.until("document.querySelector('[data-saved]')")
    assert json.loads((review.cache / "filters.json").read_text()) == {"<b>cats": fragment[1:]}
    review.open(fragment)
    assert review.names() == cats
    review.open("#image=cat%2Fbroken.jpg")  # a link to one image
    assert tab.run("data.path[at]") == "cat/broken.jpg"
    review.open("#show=nonsense&check=none&cell=[1]&like=no.jpg&severity=x&sample=-4&unlabelled=y")
    assert tab.run("filter.show === 'open' && shown.length > 0")
    tab.until("document.querySelector('[data-saved]')")
    tab.run("document.querySelector('[data-saved]').click()")
    tab.until(f"shown.length === {len(cats)}")
    assert review.names() == cats
    tab.run("document.querySelector('.forget').click()")
    tab.until("!document.querySelector('[data-saved]')")
    assert json.loads((review.cache / "filters.json").read_text()) == {}
    assert not tab.errors


def test_a_cell_of_the_confusion_matrix_shows_its_images(review: Review) -> None:
    tab = review.tab
    tab.key("o")
    dog, cat = (tab.run(f"data.attributes.class.indexOf('{name}')") for name in ("dog", "cat"))
    assert tab.run(f"document.querySelector('[data-cell=\"{dog},{cat}\"]').textContent") == "1"
    tab.run(f"document.querySelector('[data-cell=\"{dog},{cat}\"]').click()")
    assert review.names() == ["dog/2.jpg"]
    review.open(tab.run("location.hash"))
    assert review.names() == ["dog/2.jpg"]


def test_more_like_this_begins_with_its_copy(review: Review) -> None:
    tab = review.tab
    review.go("cat/3.jpg")
    tab.key("s")
    assert review.names()[:2] == ["cat/3.jpg", COPY]
    assert "cat/broken.jpg" not in review.names()  # it has no face to compare


def test_labelling_is_one_key_a_photo(review: Review) -> None:
    tab = review.tab
    review.go("dog/0.jpg")
    tab.run("(showOnly({ only: new Set(['dog/0.jpg', 'dog/2.jpg', 'dog/4.jpg'].map((p) => data.path.indexOf(p))) }))")
    order = review.names()
    tab.key("c")
    tab.until("document.querySelector('.classes')")
    keys = {name: str(tab.run(f"data.attributes.class.indexOf('{name}')") + 1) for name in ("cat", "dog")}
    tab.key(keys["cat"])
    tab.until(f"data.path[at] === {json.dumps(order[1])}")
    tab.key(keys["dog"])  # it is right: that is kept, too
    tab.until(f"data.path[at] === {json.dumps(order[2])}")
    tab.key("Escape")
    made = {d.image: d for d in review.saved(2)}
    assert (made[order[0]].verdict, made[order[0]].value, made[order[0]].expected) == (
        "relabel",
        "class=cat",
        "class=dog",
    )
    assert (made[order[1]].value, made[order[1]].expected) == ("class=dog", "class=dog")
    job = api.run(review.cache)
    assert not [note for note in job.notes if "stale" in note]
    labels = pd.read_parquet(review.cache / "labels.parquet").set_index("image")["class"]
    assert (labels[order[0]], labels[order[1]], labels[order[2]]) == ("cat", "dog", "dog")
    assert not tab.errors


def test_a_random_sample_estimates_what_the_audit_misses(review: Review) -> None:
    tab = review.tab
    # exact binomial limits: 1 - 0.025 ** (1/50); tables of Clopper and Pearson give 0.5 % to 13.7 % for 2 of 50
    assert tab.run("interval(0, 50)") == pytest.approx([0, 1 - 0.025 ** (1 / 50)], abs=1e-9)
    assert tab.run("interval(2, 50)") == pytest.approx([0.0049, 0.1371], abs=1e-4)
    assert tab.run("interval(50, 50)") == pytest.approx([0.025 ** (1 / 50), 1], abs=1e-9)
    tab.run("(findingsOf.forEach((list) => (list.length = 0)), showOnly({ sample: 5 }))")  # as if nothing was found
    order = review.names()
    assert len(order) == 5 and tab.run("location.hash") == "#show=every&sample=5"
    tab.key("d")
    tab.until("decisions.length === 1")
    review.settle()
    tab.key("d")
    made = review.saved(2)
    assert [(d.verdict, d.reason) for d in made] == [("drop", "random sample")] * 2
    assert "2 of 2 looked at are wrong (3 to go): 100.0%" in tab.run("document.getElementById('sampled').textContent")
    assert review.names() == order
    tab.key("o")
    assert "2 of 2 looked at" in tab.run("document.getElementById('estimate').textContent")


def test_the_next_photos_are_loaded_ahead(review: Review) -> None:
    tab = review.tab
    review.go("dog/0.jpg")
    tab.until("[...ahead.values()].length > 0 && [...ahead.values()].every((image) => image.complete)")
    assert {1, 2, 3} >= set(tab.run("[...ahead.keys()].map((j) => position.get(j) - position.get(at))"))


def test_a_lasso_on_the_map_shows_what_it_holds(review: Review) -> None:
    tab = review.tab
    tab.key("v")
    tab.until("document.querySelector('#points')")
    area = "document.getElementById('points').getBoundingClientRect()"
    x, y, w, h = tab.run(f"(({{x, y, width, height}}) => [x, y, width, height])({area})")
    corners = [(x + 2, y + 2), (x + w - 2, y + 2), (x + w - 2, y + h - 2), (x + 2, y + h - 2)]
    tab.mouse("mousePressed", *corners[0], clickCount=1)
    for corner in corners[1:]:
        tab.mouse("mouseMoved", *corner)
    tab.mouse("mouseReleased", *corners[-1], clickCount=1)
    tab.until("filter.only")
    assert "cat/broken.jpg" not in review.names() and len(review.names()) == 7  # all that were measured
    assert not tab.run("document.getElementById('grid').hidden")
    triangle = "[[0, 0], [10, 0], [0, 10]]"
    assert [tab.run(f"inside({point}, {triangle})") for point in ("[2, 2]", "[8, 8]", "[-1, 5]")] == [
        True,
        False,
        False,
    ]
    assert not tab.errors


def test_on_a_phone_the_filters_open_over_the_photos(review: Review) -> None:
    tab = review.tab
    tab.size(390, 844)
    assert not tab.run("document.getElementById('filters').offsetParent")
    tab.click("#filters-button")
    assert tab.run("getComputedStyle(document.getElementById('filters')).display") == "block"
    tab.mouse("mousePressed", 380, 600, clickCount=1)
    tab.mouse("mouseReleased", 380, 600, clickCount=1)
    assert tab.run("getComputedStyle(document.getElementById('filters')).display") == "none"


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (2560, 1440), (390, 844)])
def test_nothing_lies_outside_the_window(review: Review, width: int, height: int) -> None:
    tab = review.tab
    tab.size(width, height)
    review.go("dog/0.jpg")
    for step in ("tab('grid')", "tab('overview')", "tab('map')", "startLabelling()", "stopLabelling()"):
        tab.run(f"({step})")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth"), step
        wide: list[Any] = tab.run(
            "[...document.querySelectorAll('header *, #detail, .actions *, .classes *')]"
            ".filter((n) => n.offsetParent && n.getBoundingClientRect().right > innerWidth + 1).map((n) => n.outerHTML)"
        )
        assert not wide, step


def test_a_folder_without_labels_is_labelled_and_remembers_its_classes(tab: Page, work: tuple[Path, Path]) -> None:
    photos, cache = work
    shutil.rmtree(photos / "b")  # else its name is a class
    session = Session(cache, engine="serial")
    audit = session.name_classes(parse_classes(["mask=worn, none"])).audit()
    with Server(open_review(audit, Silent(), "ann")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.open(server.address)
        tab.key("c")
        tab.until("filter.unlabelled === 'mask' && shown.length === 4")
        for key in "1121":
            tab.key(key)
        tab.until("decisions.length === 4")
        tab.run("waiting")
        server.shutdown()
    assert [d.expected for d in read_decisions(cache / "decisions.csv")] == [""] * 4
    api.run(cache, engine="serial")
    assert sorted(pd.read_parquet(cache / "labels.parquet")["mask"]) == ["none", "worn", "worn", "worn"]
    assert Session(cache, engine="serial").name_classes({"mask": ["worn", "none"]}).schema.names == ("mask",)
    with pytest.raises(UsageError, match="has other attributes or classes: mask"):
        Session(cache, engine="serial").name_classes({"age": ["old", "young"]})
    for text in ("mask", "mask=worn", "=a,b"):
        with pytest.raises(UsageError, match="names no classes"):
            parse_classes([text])
