"""demo: what is shown of a photo, and the page in a real browser (that one only with MASKTRAIN_SLOW_TESTS=1)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser
from PIL import Image

from maskprep.errors import UserError
from maskprep.store.weights import locate
from masktrain.answering import live, predictors
from masktrain.pages import demo


class Eye:
    """Sees what it is told."""

    def __init__(self, *subjects: live.Subject) -> None:
        self.subjects = list(subjects)

    def look(self, pixels: Any, everyone: bool = False) -> list[live.Subject]:
        assert everyone
        return self.subjects


def test_what_is_shown_of_a_photo(run: Path, synthetic: Any) -> None:
    predictor = predictors.load(run)
    crop = synthetic.draw(2, 1, (32, 32), np.random.default_rng(0))
    matte = np.full((32, 32), 7, np.uint8)
    chosen = live.Subject("ambiguous", (40.0, 40.0, 100.0, 110.0), "close call", {"face": crop}, {"face": matte})
    other = live.Subject("other", (200.0, 40.0, 260.0, 110.0), "", {"face": crop})
    photo = np.full((240, 320, 3), 60, np.uint8)
    asked: list[tuple[Any, int]] = []

    def attend(crop: Any, label: int) -> Any:
        asked.append((crop, label))
        return crop + 1

    eye: Any = Eye(chosen, other)
    seen = demo.look(predictor, eye, photo, attend)
    probabilities = predictor.of_crops({"face": crop[None]})[0]
    label = int(probabilities.argmax())
    assert label == 5 and asked[0][1] == label and np.array_equal(asked[0][0], crop)
    assert seen.said.startswith("normal/female (class 5") and "2 faces; ambiguous, close call." in seen.said
    assert seen.answers["gender"]["female"] == pytest.approx(probabilities[1::2].sum(), abs=1e-6)
    assert [sum(v.values()) for v in seen.answers.values()] == pytest.approx([1, 1], abs=1e-5)
    assert seen.crop is crop and seen.matte is matte and np.array_equal(seen.attention, crop + 1)
    assert seen.photo is not None and (seen.photo[40, 210:250] != 60).any() and (seen.photo[40, 50:90] != 60).any()
    nobody: Any = Eye(live.Subject("no_face", None, "no face found"))
    nothing = demo.look(predictor, nobody, photo, attend)
    assert nothing.said == "no_face: no face found." and nothing.crop is None and not nothing.answers


def test_the_attention_of_a_run(run: Path, synthetic: Any) -> None:
    if find_spec("pytorch_grad_cam") is None:
        pytest.skip("grad-cam is not installed")
    attend = demo.attend_with(predictors.load(run))
    assert attend is not None
    crop = synthetic.draw(0, 0, (32, 32), np.random.default_rng(0))
    shown = attend(crop, 0)
    assert shown.shape == crop.shape and shown.dtype == np.uint8 and np.abs(shown.astype(int) - crop).max() > 20


@pytest.mark.skipif(not os.environ.get("MASKTRAIN_SLOW_TESTS"), reason="MASKTRAIN_SLOW_TESTS is not set")
def test_the_page_in_a_browser(run: Path, synthetic: Any, tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    try:
        locate("yunet")
    except UserError:
        pytest.skip("the weights of YuNet are not here")
    own = Path(shutil.copytree(run, tmp_path / "run <b>"))
    sidecar = json.loads((own / "best.json").read_text())
    sidecar["settings"] = {"detect": {"detectors": ["yunet"]}, "views": {"face": {"size": [32, 32]}}}
    (own / "best.json").write_text(json.dumps(sidecar))
    Image.fromarray(data.astronaut()[0:300, 80:380]).save(tmp_path / "face.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "masktrain.cli", "demo", str(own), "--port", "0", "--no-open"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with pytest.raises(urllib.error.HTTPError, match="400"):  # another name for this address
            urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "evil.example"}))
        with browser() as tab:
            tab.send("Network.enable")
            tab.send("Page.navigate", url=url)
            for name, said in (("face.png", "1 face; ok."), ("broken.jpg", "")):
                tab.until("document.querySelector('input[type=file]')", 90)
                root = tab.send("DOM.getDocument")["root"]["nodeId"]
                node = tab.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
                tab.send("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / name)])
                if said:
                    tab.until(f"document.querySelector('#said').innerText.includes('{said}')", 60)
                    tab.until("document.body.innerText.includes('gender')")
                    tab.click("[aria-label='Clear'], [aria-label='Remove Image']")
            loaded = tab.run("performance.getEntriesByType('resource').map(e => e.name)")
            assert loaded and all(u.startswith((url, "data:", "blob:")) for u in loaded)
            blocked = "fetch('https://example.org/').then(() => 'went out').catch(() => 'blocked')"
            assert tab.run(blocked) == "blocked"
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    time.sleep(0.1)
    assert not list(temporary.rglob("face.png"))  # what was uploaded is gone
