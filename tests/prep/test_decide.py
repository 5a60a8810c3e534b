"""``maskprep decide PHOTOS IMAGE VERDICT``: a decision from the command line, which the next run obeys."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import maskprep as api
from maskprep.audit.decisions import decide, decision_states
from maskprep.cli.common import app
from maskprep.errors import UsageError
from maskprep.labels import Attribute, Schema
from maskprep.pipeline.session import Session
from maskprep.store.decisions import read_decisions


@pytest.fixture
def session(reviewed: tuple[Path, Path], tmp_path: Path) -> Session:
    return Session(Path(shutil.copytree(reviewed[1], tmp_path / "cache")), engine="serial")


def test_every_verdict_is_obeyed(session: Session) -> None:
    faces = pd.read_parquet(session.cache.faces).query("image == 'dog/0.jpg'")
    before = pd.read_parquet(session.cache.subjects).set_index("image")
    other = faces[(faces["x0"] - before.at["dog/0.jpg", "x0"]).abs() > 80]["group"].iloc[0]
    session.decide("dog/0.jpg", "face", str(other), reason="the other one", by="ann")
    session.decide("5.jpg", "box", "10 20 200 220.5")  # the end of a name is enough
    session.decide("cat/broken.jpg", "drop")
    session.decide("dog/2.jpg", "drop")
    session.decide("dog/2.jpg", "keep")  # in place of the one before
    session.decide("dog/4.jpg", "relabel", "class=CAT")
    made = {d.image: d for d in read_decisions(session.cache.decisions)}
    assert len(made) == 5 and (made["dog/0.jpg"].reason, made["dog/0.jpg"].by) == ("the other one", "ann")
    assert (made["dog/4.jpg"].value, made["dog/4.jpg"].expected) == ("class=cat", "class=dog")
    job = api.run(session.cache.root, engine="serial")
    assert not [note for note in job.notes if "stale" in note]
    after = pd.read_parquet(session.cache.subjects).set_index("image")
    assert abs(after.at["dog/0.jpg", "x0"] - before.at["dog/0.jpg", "x0"]) > 80
    assert after.loc["cat/5.jpg", ["x0", "y0", "x1", "y1"]].tolist() == [10, 20, 200, 220.5]
    assert after.at["dog/2.jpg", "status"] == "decided"
    labels = pd.read_parquet(session.cache.labels).set_index("image")
    assert labels.at["dog/4.jpg", "class"] == "cat"
    session.decide("dog/4.jpg", "relabel", "class=dog")  # and back again
    job = api.run(session.cache.root, engine="serial")
    assert not [note for note in job.notes if "stale" in note]
    assert pd.read_parquet(session.cache.labels).set_index("image").at["dog/4.jpg", "class"] == "dog"


@pytest.mark.parametrize(
    ("image", "verdict", "value", "message"),
    [
        ("dog/0.jpg", "remove", "", "Unknown verdict"),
        ("dog/0.jpg", "drop", "now", "takes no value"),
        ("dog/0.jpg", "face", "77", "has no face '77'"),
        ("dog/0.jpg", "face", "first", "has no face 'first'"),
        ("dog/0.jpg", "box", "1 2 3", "is no box"),
        ("dog/0.jpg", "relabel", "cat", "is no new label"),
        ("dog/0.jpg", "relabel", "clas=cat", "no label 'clas'. Did you mean 'class'"),
        ("dog/0.jpg", "relabel", "class=cow", "is no value of 'class'"),
        ("cat/broken.jpg", "keep", "", "No face was chosen"),
        (
            "cat/broken.jpg",
            "box",
            "1 2 30 40",
            "'box 1.0 2.0 30.0 40.0' is not possible on 'cat/broken.jpg'",
        ),
        ("dog/0.jpg", "box", "9000 9000 9100 9100", "lies outside the photo"),
        ("none.jpg", "drop", "", "no image 'none.jpg'"),
    ],
)
def test_what_cannot_be_decided_is_named(
    reviewed: tuple[Path, Path], image: str, verdict: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        Session(reviewed[1], engine="serial").decide(image, verdict, value)
    assert not (reviewed[1] / "decisions.csv").exists()


def test_the_command(session: Session) -> None:
    def run(*words: str) -> str:
        found = CliRunner().invoke(app, ["decide", str(session.cache.root), *words], catch_exceptions=False)
        assert found.exit_code == 0
        return found.stdout

    text = run("dog/4.jpg", "box", "10", "20", "200", "220", "--reason", "no detector sees it", "--by", "bob")
    assert "dog/4.jpg: box 10.0 20.0 200.0 220.0" in text and f"maskprep run {session.cache.root}" in text
    [made] = read_decisions(session.cache.decisions)
    assert (made.verdict, made.reason, made.by) == ("box", "no detector sees it", "bob")
    assert "1 decision, 1 applied" in run()
    for words in (["dog/4.jpg"], ["dog/4.jpg", "drop", "--stale"], ["--reason", "x"]):
        with pytest.raises(UsageError):
            run(*words)


def test_a_number_is_a_number_however_it_is_written() -> None:
    schema = Schema((Attribute("age", bins=(30, 60)),), ("age",))
    images = pd.DataFrame({"image": ["a.jpg"], "content": ["c"]})
    labels = pd.DataFrame({"image": ["a.jpg"], "age": [21.0]})
    chooser: Any = SimpleNamespace(images=images, automatic=lambda image: SimpleNamespace(box=None))
    made = decide("a.jpg", "relabel", "age=045.0", chooser, labels, schema)
    assert (made.value, made.expected) == ("age=45", "age=21")
    for now, state in ((21.0, "pending"), (45.0, "applied"), (46.0, "stale")):
        table = labels.assign(age=now)
        old = dataclasses.replace(made, value="age=45.0")  # as an earlier version or a person wrote it
        assert {s.state for d in (made, old) for s in decision_states([d], chooser, table)} == {state}
