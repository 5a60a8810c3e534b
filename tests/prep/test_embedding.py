"""Telling people apart with a face network, where one is installed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from audit_rows import context, photo
from PIL import Image

from maskprep.audit import embedding
from maskprep.audit.findings import CHECKS
from maskprep.audit.identity import COLOURS, NETWORK
from maskprep.pipeline.session import Session

Work = tuple[Path, Path]


def test_the_eyes_come_to_their_places() -> None:
    for right, left in (((30.0, 40.0), (70.0, 40.0)), ((30.0, 40.0), (60.0, 80.0)), ((90.0, 20.0), (50.0, 30.0))):
        points = np.array([right, left, (0, 0), (0, 0)])
        moved = embedding.face_transform(points) @ np.vstack([points[:2].T, np.ones(2)])
        np.testing.assert_allclose(moved.T[np.argsort(moved[0])], embedding.EYES, atol=1e-9)


def crowd(people: int) -> list[dict[str, object]]:
    return [photo(f"{p}/{k}.jpg", person=f"p{p}") for p in range(people) for k in range(3)]


def vectors_of(people: int, rng: np.random.Generator) -> np.ndarray:
    own = rng.normal(size=(people, 16))
    return np.repeat(own, 3, axis=0) + rng.normal(scale=0.2, size=(3 * people, 16))


def test_a_network_is_believed_where_there_is_one() -> None:
    """The vectors say that one photo is of somebody else; the colours of the made-up photos say nothing."""
    vectors = vectors_of(12, np.random.default_rng(0))
    vectors[4] = np.random.default_rng(1).normal(size=16)
    c = dataclasses.replace(context(crowd(12)), embeddings=vectors)
    found = list(CHECKS["identity_differs"].find(c))
    worst = max(found, key=lambda hit: hit[1])
    assert worst[0] == "1/1.jpg" and worst[1] > 0.8 and NETWORK in worst[2] and COLOURS not in worst[2]
    assert all(hit[1] < 0.5 for hit in found if hit[0] != "1/1.jpg")


def test_faces_that_the_network_did_not_see_are_left_out() -> None:
    vectors = vectors_of(12, np.random.default_rng(0))
    vectors[4] = np.nan
    c = dataclasses.replace(context(crowd(12)), embeddings=vectors)
    assert "1/1.jpg" not in {hit[0] for hit in CHECKS["identity_differs"].find(c)}


@pytest.mark.skipif(embedding.model_file() is None, reason="no face network is installed")
def test_the_same_face_is_alike_and_the_stage_is_done_once(work: Work, portrait: Image.Image) -> None:
    _, cache = work
    found = Session(cache, workers=1).audit().context.embeddings
    assert found is not None and found.shape == (8, embedding.LENGTH) and not np.isnan(found).any()
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert (unit @ unit.T).min() > 0.9  # one portrait at several sizes
    again = Session(cache, workers=1)
    again.audit()
    assert again.computed["embed"] == 0


def test_without_a_network_nothing_is_computed(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "model_file", lambda: None)
    job = Session(work[1], workers=1)
    assert job.audit().context.embeddings is None and job.computed["embed"] == 0
    assert not (work[1] / "stages/embed").exists()
