"""The review server: what it gives, what it writes, and what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from maskprep.audit.server import ReviewSession, Server, open_review
from maskprep.base.progress import Silent
from maskprep.errors import UserError
from maskprep.pipeline.session import Session
from maskprep.store.decisions import Decision, change, read_decisions

Work = tuple[Path, Path]


class Client:
    """Sends requests as nobody's browser would correct them."""

    def __init__(self, server: Server, cache: Path) -> None:
        self.port, self.token, self.cache = server.server_port, server.session.token, cache
        self.session: ReviewSession = server.session

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", **headers}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if data is not None and "Content-Length" not in given:
            given["Content-Length"] = str(len(data))
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        found = answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        return self.ask("GET", f"/{self.token}/{path}", **headers)

    def post(self, body: Any, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        origin = {"Origin": f"http://127.0.0.1:{self.port}", **headers}
        return self.ask("POST", f"/{self.token}/decisions", body, **origin)

    def save_filter(self, body: Any) -> tuple[int, bytes, dict[str, str]]:
        origin = {"Origin": f"http://127.0.0.1:{self.port}"}
        return self.ask("POST", f"/{self.token}/filters", body, **origin)

    def row(self, number: int, verdict: str = "drop", **more: str) -> dict[str, str]:
        images = pd.read_parquet(self.cache / "images.parquet")
        return {"content": images["content"][number], "image": images["image"][number], "verdict": verdict, **more}


@pytest.fixture(scope="module")
def serving(
    copy_finished: Callable[[Path], Work], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    cache = copy_finished(tmp_path_factory.mktemp("serving"))[1]
    with Server(open_review(Session(cache, workers=1).audit(), Silent(), "ann")) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server, cache
        server.shutdown()


@pytest.fixture
def client(serving: tuple[Server, Path]) -> Client:
    """A client of a server that has no decisions yet."""
    for path in (*serving[1].glob("decisions*"), *serving[1].glob("filters.json")):
        path.unlink()
    return Client(*serving)


def test_page_crops_and_photos(client: Client) -> None:
    status, page, headers = client.get("")
    assert status == 200 and b'"serve":true' in page and b'"by":"ann"' in page
    assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
    assert b"default-src &#x27;none&#x27;" in page
    thumb = next((client.cache / "audit" / "thumbs").rglob("*.jpg"))
    status, data, _ = client.get(f"thumbs/{thumb.parent.name}/{thumb.name}")
    assert status == 200 and data == thumb.read_bytes()
    status, data, _ = client.get("photo/3")
    assert status == 200 and Image.open(io.BytesIO(data)).size == (240, 200)
    assert client.get("photo/3/full")[:2] == (200, data)


@pytest.mark.parametrize(
    "path",
    [
        "photo/8", "photo/8/full", "photo/3/fully", "filters.json",
        "photo/-1", "decisions/", "photo/x", "photo/0/..", "photo/000.jpg", "thumbs/../report.html",
        "thumbs/aa/../../x.jpg", "thumbs/00/" + "0" * 32 + ".jpg",
        "../dataset.json", "dataset.json", "decisions.csv", "..%2fdataset.json",
        "thumbs/%2e%2e/%2e%2e/dataset.json", "//etc/passwd", "audit/report.html",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(client: Client, path: str) -> None:
    assert client.get(path)[0] == 404


def test_without_token_or_with_another_host_nothing(client: Client) -> None:
    for path in (
        "/",
        "//",
        f"/{client.token[:-1]}/",
        f"/x{client.token}/",
        "/photo/0",
        f"/?token={client.token}",
    ):
        assert client.ask("GET", path)[0] == 403
    for host in ("evil.example", f"evil.example:{client.port}", "127.0.0.1", f"127.0.0.1.evil.example:{client.port}"):
        assert client.get("", Host=host)[0] == 403
        assert client.post({"add": [client.row(0)]}, Host=host, Origin=f"http://{host}")[0] == 403
    assert client.get("", Host=f"localhost:{client.port}")[0] == 200
    assert not (client.cache / "decisions.csv").exists()


def test_only_the_page_itself_may_write(client: Client) -> None:
    body = {"add": [client.row(0)]}
    for origin in ("http://evil.example", "null", "", f"https://127.0.0.1:{client.port}"):
        assert client.post(body, Origin=origin)[0] == 403
    assert client.ask("POST", f"/{client.token}/decisions", body)[0] == 403
    assert client.post(body, **{"Content-Type": "text/plain"})[0] == 415
    assert client.post(b"", **{"Content-Length": "99999999999"})[0] == 413
    assert client.ask("PUT", f"/{client.token}/decisions", body)[0] == 501
    assert not (client.cache / "decisions.csv").exists()
    assert client.post(body)[0] == 200


def test_decisions_are_written_and_taken_back(client: Client) -> None:
    first, second = client.row(0), client.row(1, "box", value="1 2 50 60", by="ann")
    status, answer, _ = client.post({"add": [first, second]})
    rows = json.loads(answer)["decisions"]
    assert status == 200 and [r["verdict"] for r in rows] == ["drop", "box"]
    path = client.cache / "decisions.csv"
    change(path, [Decision("0" * 32, "by-hand.jpg", "drop")])  # somebody else, meanwhile
    status, answer, _ = client.post({"add": [], "remove": [rows[0]]})
    assert [r["image"] for r in json.loads(answer)["decisions"]] == [second["image"], "by-hand.jpg"]
    assert [d.image for d in read_decisions(path)] == [second["image"], "by-hand.jpg"]
    assert json.loads(client.get("decisions")[1])["decisions"] == json.loads(answer)["decisions"]


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", {"add": 5}, {"add": [{"verdict": "drop"}]}, {"add": ["x"]}, b"[" * 100_000, b'{"add":' * 100_000,
        {"add": [{"content": "c", "image": "\ud800", "verdict": "drop"}]},
        {"add": [{"content": "c", "image": "a.jpg", "verdict": "face", "value": "²"}]},
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_named(client: Client, body: Any) -> None:
    status, answer, _ = client.post(body)
    assert status == 400 and json.loads(answer)["error"]
    bad = client.row(0, "explode")
    assert client.post({"add": [bad]})[0] == 400
    assert not (client.cache / "decisions.csv").exists()


def test_filters_are_saved_under_names(client: Client) -> None:
    assert json.loads(client.get("filters")[1]) == {"filters": {}}
    client.save_filter({"name": " dark ones ", "filter": "check=dark"})
    status, answer, _ = client.save_filter({"name": "b", "filter": "show=every"})
    assert status == 200 and json.loads(answer)["filters"] == {"b": "show=every", "dark ones": "check=dark"}
    client.save_filter({"name": "b", "filter": ""})
    assert json.loads(client.get("filters")[1])["filters"] == {"dark ones": "check=dark"}
    for body in (b"[" * 100_000, {}, {"name": "", "filter": "x"}, {"name": "x" * 81, "filter": "x"}, {"name": "x"},
                 {"name": "\ud800", "filter": "x"}, {"name": "x", "filter": "x" * 5000}):  # fmt: skip
        assert client.save_filter(body)[0] == 400
    assert client.ask("POST", f"/{client.token}/filters", {"name": "x", "filter": "x"})[0] == 403  # from elsewhere
    file = client.cache / "filters.json"
    assert json.loads(file.read_text()) == {"dark ones": "check=dark"}
    file.write_text("[1]")
    status, answer, _ = client.get("filters")
    assert status == 400 and "filters.json" in json.loads(answer)["error"]
    assert client.save_filter({"name": "x", "filter": "x"})[0] == 400 and file.read_text() == "[1]"


@pytest.mark.parametrize("length", ["\xb2", "-1", "", "1e3", "0x10"])
def test_a_length_that_is_no_number_is_refused(client: Client, length: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert client.post(b"{}", **{"Content-Length": length})[0] == 400
    assert capfd.readouterr().err == ""


def test_connections_wait_until_they_are_answered() -> None:
    with Server(ReviewSession(None, b"", [])) as server:  # type: ignore[arg-type]  # it answers nobody yet
        waiting = [socket.create_connection(("127.0.0.1", server.server_port), timeout=0.5) for _ in range(60)]
        for each in waiting:
            each.close()


def test_many_connections_at_once_are_answered(client: Client) -> None:
    sockets = [socket.create_connection(("127.0.0.1", client.port), timeout=20) for _ in range(100)]
    request = f"GET /{client.token}/decisions HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nConnection: close\r\n\r\n"
    for each in sockets:
        each.sendall(request.encode())
    assert all(each.recv(12) == b"HTTP/1.1 200" for each in sockets)
    for each in sockets:
        each.close()


def test_two_tabs_at_once_lose_nothing(client: Client) -> None:
    def rule(tab: int) -> None:
        for i in range(8):
            assert client.post({"add": [client.row(i, reason=f"tab {tab}")]})[0] == 200

    tabs = [threading.Thread(target=rule, args=(tab,)) for tab in range(3)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(read_decisions(client.cache / "decisions.csv")) == 24


def test_a_taken_port_is_an_error_for_people(client: Client) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        Server(client.session, client.port)


def test_the_command_serves_until_it_is_interrupted(work: Work, command_line: Callable[..., list[str]]) -> None:
    args = command_line("review", work[1], "--no-open", "-q")
    ignored = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background inherits that it is ignored
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ignored)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    host, _, rest = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{rest}")
    assert connection.getresponse().status == 200
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors and process.returncode in (0, 130)
