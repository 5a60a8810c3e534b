"""The generated portraits: fetched once, checked by their sha256, and what a sample does where they cannot be had."""

from __future__ import annotations

import csv
import hashlib
import http.server
import io
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from maskprep.base import Silent
from maskprep.errors import UsageError, UserError
from maskprep.sample import generated
from maskprep.sample.writer import write_sample
from maskprep.weights import locate

FILES = ("female/512/0.jpg", "female/512/1.jpg", "male/512/0.jpg")
BODIES = {file: file.encode() * 1000 for file in FILES}


class Server(http.server.ThreadingHTTPServer):
    """Serves ``bodies`` by path; ``promised`` bytes are announced where they are more than are sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = {}
        self.promised: dict[str, int] = {}
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if (body := self.server.bodies.get(self.path)) is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised.get(self.path, len(body))))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Two addresses, /a and /b, which serve nothing yet."""
    running.bodies, running.promised, running.asked = {}, {}, []
    base = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(generated, "ADDRESSES", (f"{base}/a", f"{base}/b"))
    return running


@pytest.fixture(scope="module")
def models() -> dict[str, str]:
    """Variables that name the models of a sample."""
    try:
        return {f"MASKPREP_WEIGHT_{name.upper()}": str(locate(name)) for name in ("yunet", "selfie_segmenter")}
    except UserError as error:
        pytest.skip(f"a model cannot be had: {error.message}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the portraits, which is empty, and a table of three of them."""
    for key in [key for key in os.environ if key.startswith("MASKPREP_") or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("MASKPREP_WEIGHTS", str(tmp_path / "weights"))
    labelled(tmp_path, monkeypatch, BODIES)
    return tmp_path / "weights" / "portraits"


def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bodies: dict[str, bytes]) -> None:
    """Replace the table of the portraits by one of these files; the people are 20, 40, ... years old."""
    lines = ["file,person,gender,age,sha256"]
    for i, (file, body) in enumerate(bodies.items(), 1):
        lines.append(f"{file},p{i},{file.partition('/')[0]},{20 * i},{hashlib.sha256(body).hexdigest()}")
    (tmp_path / "generated.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(generated, "LABELS", tmp_path / "generated.csv")
    monkeypatch.setattr("maskprep.sample.writer.LABELS", tmp_path / "generated.csv")


def files(folder: Path) -> dict[str, bytes]:
    there = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in there}


def test_all_are_fetched_from_the_first_address_once(server: Server, folder: Path) -> None:
    server.bodies = {f"/a/{file}": body for file, body in BODIES.items()}
    assert generated.fetch_portraits(Silent()) == folder
    assert files(folder) == BODIES
    assert server.asked == [f"/a/{file}" for file in FILES]
    generated.fetch_portraits(Silent())
    assert len(server.asked) == len(FILES)


@pytest.mark.parametrize("fault", ["missing", "other bytes", "half a file"])
def test_the_second_address_is_asked_where_the_first_is_wrong(server: Server, folder: Path, fault: str) -> None:
    server.bodies = {f"/b/{file}": body for file, body in BODIES.items()}
    if fault == "other bytes":
        server.bodies |= {f"/a/{file}": body[::-1] for file, body in BODIES.items()}
    if fault == "half a file":
        server.bodies |= {f"/a/{file}": body[:5000] for file, body in BODIES.items()}
        server.promised = {f"/a/{file}": len(body) for file, body in BODIES.items()}
    generated.fetch_portraits(Silent())
    assert files(folder) == BODIES
    assert len(server.asked) == 2 * len(FILES)


@pytest.mark.parametrize(("fault", "says"), [("other bytes", "SHA256"), ("half a file", "IncompleteRead"), ("", "404")])
def test_what_cannot_be_fetched_is_said_and_what_was_fetched_stays(
    server: Server, folder: Path, fault: str, says: str
) -> None:
    for address in "ab":
        server.bodies[f"/{address}/{FILES[0]}"] = BODIES[FILES[0]]
        if fault:
            server.bodies[f"/{address}/{FILES[1]}"] = BODIES[FILES[1]][:5000]
        if fault == "half a file":
            server.promised[f"/{address}/{FILES[1]}"] = len(BODIES[FILES[1]])
    with pytest.raises(UserError, match=re.escape(FILES[1])) as caught:
        generated.fetch_portraits(Silent())
    assert caught.value.message.count(says) == 2, "for each address"
    assert str(folder) in caught.value.hint
    assert files(folder) == {FILES[0]: BODIES[FILES[0]]}, "no part of a file stays"


def test_a_partly_filled_folder_is_completed(server: Server, folder: Path) -> None:
    server.bodies = {f"/a/{file}": body for file, body in BODIES.items()}
    for file, body in ((FILES[0], BODIES[FILES[0]]), (FILES[1], BODIES[FILES[1]][:700])):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(body)
    generated.fetch_portraits(Silent())
    assert files(folder) == BODIES
    assert server.asked == [f"/a/{file}" for file in FILES[1:]]


def test_nothing_is_asked_for_where_it_is_forbidden(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKPREP_OFFLINE", "1")
    with pytest.raises(UserError, match="MASKPREP_OFFLINE forbids it"):
        generated.fetch_portraits(Silent())
    assert not server.asked and not folder.exists()
    for file, body in BODIES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(body)
    assert generated.fetch_portraits(Silent()) == folder


# ---- a sample of them


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "ADDRESSES", ("http://127.0.0.1:9/a", "http://127.0.0.1:9/b"))


def test_generated_portraits_are_asked_for_and_not_there(tmp_path: Path, unreachable: None) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched .*Connection refused"):
        write_sample(tmp_path / "set", portraits="generated")
    assert not (tmp_path / "set").exists()


def test_a_sample_of_generated_portraits_has_all_labels(
    models: dict[str, str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portrait: Image.Image
) -> None:
    bodies = {}
    for file in FILES[1:]:
        portrait.save(buffer := io.BytesIO(), "JPEG", quality=60 + len(bodies))
        bodies[file] = buffer.getvalue()
    labelled(tmp_path, monkeypatch, bodies)
    server.bodies = {f"/a/{file}": body for file, body in bodies.items()}
    for name, place in models.items():
        monkeypatch.setenv(name, place)
    made = write_sample(tmp_path / "set", people=2, eval_people=0, portraits="generated", faults=False)
    assert (made.people, made.eval_people, made.note) == (2, 0, "")
    homes = sorted(path.name for path in (tmp_path / "set/train/images").iterdir())
    assert sorted(home.split("_", 1)[1] for home in homes) == ["female_unknown_20", "male_unknown_40"]
    assert not (tmp_path / "set/maskprep.yaml").exists()


def test_the_built_in_portrait_is_used_where_generated_ones_are_only_preferred(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreachable: None
) -> None:
    from typer.testing import CliRunner

    from maskprep.cli import app

    pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    for name, place in models.items():
        monkeypatch.setenv(name, place)
    command = ["sample", str(tmp_path / "set"), "--people", "2", "--eval-people", "0", "--portraits", "auto", "--quiet"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0
    text = " ".join(said.stderr.split())
    assert "note: The generated portraits cannot be fetched (" in text
    assert "The built-in portrait is used: everybody has its face, only the mask is a label." in text
    assert "held out" not in said.stdout
    assert "joint: [mask]" in (tmp_path / "set/maskprep.yaml").read_text()


@pytest.mark.parametrize("source", ["generated", "auto", None])
def test_labels_go_with_a_folder_only(tmp_path: Path, source: str | None) -> None:
    with pytest.raises(UsageError, match="belong together"):
        write_sample(tmp_path / "set", portraits=source, labels=tmp_path / "generated.csv")


def test_the_table_holds_ten_of_each_gender_and_age_group() -> None:
    table = Path(generated.__file__).with_name("generated.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    groups = Counter((row["gender"], (int(row["age"]) >= 30) + (int(row["age"]) >= 60)) for row in rows)
    assert groups == {(gender, group): 10 for gender in ("female", "male") for group in range(3)}
    assert len({row["sha256"] for row in rows}) == len({row["person"] for row in rows}) == len(rows) == 60
    for row in rows:
        assert re.fullmatch(r"(fe)?male/512/\d+\.jpg", row["file"]) and row["file"].startswith(row["gender"] + "/")
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"])
