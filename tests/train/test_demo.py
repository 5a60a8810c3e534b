"""demo: what is shown of a photo, and the page in a real browser (that one only with MASKTRAIN_SLOW_TESTS=1)."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import browser
from PIL import Image

from maskprep.errors import UserError
from maskprep.weights.fetch import locate
from masktrain.answer import live, model
from masktrain.pages import demo


class Finder:
    """Sees what it is told."""

    def __init__(self, *subjects: live.Subject) -> None:
        self.subjects = list(subjects)

    def find(self, pixels: Any, everyone: bool = False) -> list[live.Subject]:
        assert everyone
        return self.subjects


def test_what_is_shown_of_a_photo(run: Path, synthetic: Any) -> None:
    predictor = model.load(run)
    crop = synthetic.draw(2, 1, (32, 32), np.random.default_rng(0))
    matte = np.full((32, 32), 7, np.uint8)
    chosen = live.Subject("ambiguous", (40.0, 40.0, 100.0, 110.0), "close call", {"face": crop}, {"face": matte})
    other = live.Subject("other", (200.0, 40.0, 260.0, 110.0), "", {"face": crop})
    photo = np.full((240, 320, 3), 60, np.uint8)
    asked: list[tuple[Any, int]] = []

    def attend(crop: Any, label: int) -> Any:
        asked.append((crop, label))
        return crop + 1

    finder: Any = Finder(chosen, other)
    seen = demo.show(predictor, finder, photo, attend)
    probabilities = predictor.of_crops({"face": crop[None]})[0][0]
    label = int(probabilities.argmax())
    assert label == 5 and asked[0][1] == label and np.array_equal(asked[0][0], crop)
    assert seen.text.startswith("normal/female (class 5") and "2 faces; ambiguous, close call." in seen.text
    assert seen.answers["gender"]["female"] == pytest.approx(probabilities[1::2].sum(), abs=1e-6)
    assert [sum(v.values()) for v in seen.answers.values()] == pytest.approx([1, 1], abs=1e-5)
    assert seen.crop is crop and seen.matte is matte and np.array_equal(seen.attention, crop + 1)
    assert seen.photo is not None and (seen.photo[40, 210:250] != 60).any() and (seen.photo[40, 50:90] != 60).any()
    nobody: Any = Finder(live.Subject("no_face", None, "no face found"))
    nothing = demo.show(predictor, nobody, photo, attend)
    assert nothing.text == "no_face: no face found." and nothing.crop is None and not nothing.answers


def test_the_attention_of_a_run(run: Path, synthetic: Any) -> None:
    attend = demo.attend_with(model.load(run))
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
    command = [sys.executable, "-m", "masktrain", "demo", str(own), "--port", "0", "--no-open"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
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


# ---------------------------------------------------------------- who may ask what


class Page:
    """A page that is being served."""

    def __init__(self, address: str, token: str, uploads: Path) -> None:
        self.address, self.token, self.uploads = address, token, uploads

    def ask(self, path: str, data: Any = None, token: str | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and body; ``data`` makes it a POST, of the page itself unless headers name another Origin."""
        if data is not None:
            headers = {"Origin": self.address} | {name.replace("_", "-"): value for name, value in headers.items()}
            headers = {name: value for name, value in headers.items() if value}
        address = f"{self.address}/{self.token if token is None else token}/{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def upload(self, content: bytes, **other: Any) -> tuple[int, bytes]:
        """Send a photo, as the page does."""
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%s\r\n--x--\r\n' % content
        return self.ask("gradio_api/upload", body, Content_Type="multipart/form-data; boundary=x", **other)

    def answer(self, path: str) -> str:
        """What is answered for a file."""
        data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
        status, event = self.ask("gradio_api/call/answer", data, Content_Type="application/json")
        if status != 200:
            return event.decode()
        return self.ask(f"gradio_api/call/answer/{json.loads(event)['event_id']}")[1].decode()

    def kept(self) -> list[bytes]:
        """All that was written to the folder of the uploads."""
        return [file.read_bytes() for file in self.uploads.rglob("*") if file.is_file()]


@pytest.fixture
def page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("gradio", reason="gradio is not installed")
    import uvicorn

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(demo, "MAX_UPLOAD", 200_000)
    finder: Any = Finder(live.Subject("no_face", None, "no face found"))
    finder.config = SimpleNamespace(index=SimpleNamespace(max_megapixels=9.0))
    app = demo.make_app(demo.build(model.load(run), finder, "a run"), "127.0.0.1", "TOKEN")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Page(f"http://127.0.0.1:{port}", "TOKEN", tmp_path / "uploads")
    finally:
        server.should_exit = True
        thread.join()


def test_a_photo_that_the_page_sends_is_answered(page: Page) -> None:
    assert page.ask("")[0] == 200
    photo = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), 60, np.uint8)).save(photo, "PNG")
    status, sent = page.upload(photo.getvalue())
    assert status == 200
    assert "no_face: no face found." in page.answer(json.loads(sent)[0])


def test_no_file_of_the_disk_is_given_away(page: Page, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("only mine")
    hidden = Path("/etc/hostname") if Path("/etc/hostname").is_file() else secret
    for file in (secret, hidden):
        for address in (f"gradio_api/file={file}", f"file={file}", f"gradio_api/file={page.uploads}/../{file.name}"):
            status, body = page.ask(address)
            assert status >= 400 and file.read_bytes() not in body
        said = page.answer(str(file))
        assert "error" in said and str(file) not in said and "secret" not in said
    assert all(b"only mine" not in content and hidden.read_bytes() not in content for content in page.kept())


def test_nobody_without_the_token(page: Page) -> None:
    for token in ("", "TOKE", "TOKENS", "token", "%54OKENx"):
        for path in ("", "config", "gradio_api/info", "gradio_api/file=/etc/hostname"):
            assert page.ask(path, token=token)[0] == 403
        assert page.upload(b"x", token=token)[0] == 403
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(page.address)
    assert not page.kept()


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1", "http://localhost:1", "null", ""])
def test_no_other_page_sends_photos(page: Page, origin: str) -> None:
    assert page.upload(b"x", Origin=origin)[0] == 403
    assert page.ask("gradio_api/call/answer", b"{}", Origin=origin)[0] == 403
    assert not page.kept()


def test_no_photo_is_larger_than_the_limit(page: Page) -> None:
    assert page.upload(bytes(100_000))[0] == 200
    assert page.upload(bytes(230_000))[0] >= 400  # within the limit of the request, beyond that of a file
    assert page.upload(bytes(400_000))[0] == 413
    host = page.address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    headers = {"Origin": page.address, "Content-Type": "multipart/form-data; boundary=x"}
    parts = (b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n%s\r\n' % (n, bytes(10_000)) for n in range(90))
    with contextlib.suppress(OSError):  # the connection is closed while it is still sent to
        connection.request("POST", "/TOKEN/gradio_api/upload", parts, headers, encode_chunked=True)
    with contextlib.suppress(http.client.HTTPException, OSError):
        assert connection.getresponse().status >= 400
    assert sum(map(len, page.kept())) == 100_000
