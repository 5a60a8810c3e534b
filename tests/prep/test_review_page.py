"""A real browser rules on the report and on the review page, and the pipeline obeys."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from browser import Page

import maskprep as api
from maskprep.audit.page import write_report
from maskprep.audit.server import Server, open_review
from maskprep.base.progress import Silent
from maskprep.pipeline.session import Session
from maskprep.store.decisions import read_decisions

TEXT = "<b>&\"' =x"


@pytest.fixture
def cache(reviewed: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(reviewed[1], tmp_path / "cache"))


def show_every(tab: Page) -> None:
    tab.click('[data-show="every"]')
    tab.until("shown.length === count")


def go(tab: Page, image: str) -> None:
    tab.run(f"(at = data.path.indexOf({image!r}), refresh())")
    # until a frame is drawn, the browser still gives keys to a dialog that was just closed
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def other_face(tab: Page) -> str:
    """The number of the face that is not chosen, as it stands on the photo."""
    return str(tab.run("document.querySelector('.stage .tag:not(.mine)').dataset.number"))


def drag_box(tab: Page) -> None:
    tab.key("b")
    tab.until("document.querySelector('.stage.drawing')")
    tab.run("document.querySelector('.stage img').decode()")
    area = "document.querySelector('.stage .frame').getBoundingClientRect()"
    x, y, w, h = tab.run(f"(({{x, y, width, height}}) => [x, y, width, height])({area})")
    tab.mouse("mousePressed", x + 0.25 * w, y + 0.25 * h, clickCount=1)
    tab.mouse("mouseMoved", x + 0.5 * w, y + 0.5 * h)
    tab.mouse("mouseMoved", x + 0.75 * w, y + 0.75 * h)
    tab.mouse("mouseReleased", x + 0.75 * w, y + 0.75 * h, clickCount=1)


def test_the_report_from_disk(tab: Page, cache: Path, tmp_path: Path) -> None:
    job = Session(cache, workers=1)
    page = write_report(job.audit(), Silent())
    tab.open(page.as_uri())
    tab.until("document.querySelectorAll('.card').length > 0")
    assert tab.run("document.querySelector('.card').dataset.image") == "cat/broken.jpg"  # the worst first

    tab.click('[data-facet="checks"] [data-value="face_ambiguous"]')  # filter by check
    tab.until("shown.length === 1")
    assert tab.run("data.path[at]") == "dog/0.jpg"
    tab.until("document.querySelector('.stage img').naturalWidth === 420")  # the photo itself, from disk
    assert tab.run("document.querySelectorAll('.stage .tag').length") == 2
    tab.key(other_face(tab))
    tab.until("isDecided(data.path.indexOf('dog/0.jpg'))")

    tab.click("#clear")
    show_every(tab)
    go(tab, "cat/broken.jpg")
    tab.key("a")  # a broken photo cannot be accepted
    assert tab.run("decisions.length") == 1
    go(tab, "cat/broken.jpg")
    tab.key("d")
    go(tab, "cat/1.jpg")
    tab.key("a")
    tab.key("u")  # and take that back
    tab.until("decisions.length === 2")
    go(tab, "cat/5.jpg")
    drag_box(tab)
    tab.until("decisions.length === 3")
    go(tab, "dog/2.jpg")
    tab.key("l")  # change its label
    tab.until("document.getElementById('labels').open")
    tab.key("1")
    tab.until("decisions.length === 4 && !document.getElementById('labels').open")
    tab.run(f"document.getElementById('by').value = {TEXT!r}")
    for chosen, name in enumerate(("dog/4.jpg", "cat/<img src=x onerror=alert(1)>.jpg"), 1):
        go(tab, name)
        tab.key("x")
        tab.until(f"selection.size === {chosen}")
    tab.key("d")  # both at once
    tab.until("decisions.length === 6")
    assert tab.run("document.getElementById('progress-text').textContent").endswith("decided")

    tab.open(page.as_uri())  # kept in the browser
    tab.until("decisions.length === 6")
    tab.downloads_to(tmp_path)
    tab.key("e")
    exported = tmp_path / "decisions.csv"
    end = time.monotonic() + 15
    while not (exported.is_file() and exported.read_bytes().count(b"\n") >= 7) and time.monotonic() < end:
        time.sleep(0.05)
    shutil.copy(exported, cache / "decisions.csv")
    rows = {d.image: d for d in read_decisions(exported)}
    assert {image: d.verdict for image, d in rows.items()} == {
        "dog/0.jpg": "face",
        "cat/broken.jpg": "drop",
        "cat/5.jpg": "box",
        "dog/2.jpg": "relabel",
        "dog/4.jpg": "drop",
        "cat/<img src=x onerror=alert(1)>.jpg": "drop",
    }
    assert rows["dog/4.jpg"].by == TEXT and (rows["dog/2.jpg"].value, rows["dog/2.jpg"].expected) == (
        "class=cat",
        "class=dog",
    )
    box = [float(v) for v in rows["cat/5.jpg"].value.split()]
    assert box == pytest.approx([105, 65, 315, 195], abs=3)
    assert not tab.errors

    before = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    job = api.run(cache)
    after = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    assert job.computed["detect"] == 0 and job.computed["crop:face"] == 2  # the other face and the box
    assert not [note for note in job.notes if "stale" in note]
    assert after["status"].to_dict() == {
        **before["status"].to_dict(),
        "dog/0.jpg": "decided",
        "cat/5.jpg": "decided",
        "dog/4.jpg": "dropped",
        "cat/<img src=x onerror=alert(1)>.jpg": "dropped",
    }
    assert abs(after.at["dog/0.jpg", "x0"] - before.at["dog/0.jpg", "x0"]) > 100
    assert after.loc["cat/5.jpg", ["x0", "y0", "x1", "y1"]].tolist() == box
    again = Session(cache, workers=1).audit()
    assert not {f.image for f in again.open.findings} & set(rows)


def test_the_review_page_writes_at_once(tab: Page, cache: Path) -> None:
    job = Session(cache, workers=1)
    session = open_review(job.audit(), Silent(), "ann")
    with Server(session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.errors.clear()
        tab.open(server.address)
        show_every(tab)
        go(tab, "dog/0.jpg")
        tab.until("document.querySelector('.stage img').naturalWidth === 420")
        tab.key(other_face(tab))
        tab.until("document.getElementById('saved').textContent === 'saved'")
        assert [(d.image, d.verdict, d.by) for d in read_decisions(cache / "decisions.csv")] == [
            ("dog/0.jpg", "face", "ann")
        ]
        other = open_review(Session(cache, workers=1).audit(), Silent(), "bob")  # another person, another tab
        number = other.photos.index("cat/1.jpg")
        content = pd.read_parquet(cache / "images.parquet")["content"][number]
        other.change(f'{{"add": [{{"content": "{content}", "image": "cat/1.jpg", "verdict": "drop"}}]}}'.encode())
        go(tab, "cat/5.jpg")
        tab.key("a")
        tab.until("decisions.length > 3")  # and its copies may stay
        tab.key("u")
        tab.until("document.getElementById('saved').textContent === 'saved' && decisions.length === 2")
        assert {d.image for d in read_decisions(cache / "decisions.csv")} == {"dog/0.jpg", "cat/1.jpg"}
        assert not tab.errors
        session.token = "another"  # as if the command had been started again
        go(tab, "cat/3.jpg")
        tab.key("d")  # what is not saved is not shown as ruled
        tab.until("document.getElementById('saved').className === 'bad'")
        tab.until("decisions.length === 2")
        server.shutdown()


def test_twenty_thousand_images_scroll(tab: Page, cache: Path, tmp_path: Path) -> None:
    from maskprep.audit.page import page_data, render

    job = Session(cache, workers=1)
    data = page_data(job.audit(), Silent())
    times = 20_000 // len(data["path"]) + 1
    n = len(data["path"])
    for key, value in list(data.items()):
        if isinstance(value, list) and len(value) == n and key not in ("kinds", "checks", "people", "order"):
            data[key] = value * times
    data["path"] = [f"{i}/{path}" for i, path in enumerate(data["path"])]
    data["values"] = {name: values * times for name, values in data["values"].items()}
    data["findings"] = [[i, 0, 0.2 + 0.8 * (i % 997) / 997, "made up"] for i in range(len(data["path"]))]
    page = cache / "audit" / "large.html"
    page.write_text(render(data))
    tab.open(page.as_uri())
    tab.until("shown.length >= 20000")
    assert tab.run("document.querySelectorAll('.card').length") < 120
    tab.run("document.getElementById('scroll').scrollTop = 1e9")
    tab.until("nodes.has(shown[shown.length - 1])")
    assert tab.run("document.querySelectorAll('.card').length") < 120
