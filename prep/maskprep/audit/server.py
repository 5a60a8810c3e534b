"""``maskprep review``: the report served to browsers on this machine, with rulings written straight to decisions.csv.

Only 127.0.0.1 is listened on. Every address begins with a random token; the Host and, for writing, the Origin must be
ours, so no other site open in the same browser can read or write. Photos and crops are sent by their number or key:
no address holds a path of the disk.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from maskprep.audit.examine import FOLDER, Audit
from maskprep.audit.page import THUMBS, page_data, render, ruling_row, write_thumbs
from maskprep.audit.rulings import change, parse
from maskprep.base.access import below, new_token, own_page
from maskprep.errors import UserError
from maskprep.faces.decisions import read_decisions
from maskprep.photos.decode import PhotoError, load
from maskprep.pipeline.job import Job

HOST = "127.0.0.1"
LONGEST = 1400
"""Photos are sent at most this large, pixels."""

MAX_BODY = 32 << 20
THUMB = re.compile(r"thumbs/([0-9a-f]{2}/[0-9a-f]{8,64})\.jpg")
PHOTO = re.compile(r"photo/(\d{1,9})")


@dataclass
class Desk:
    """What one review session serves.

    Args:
        job: the open cache.
        page: the page, UTF-8.
        photos: image keys in the page's order.
        token: first part of every address.
    """

    job: Job
    page: bytes
    photos: list[str]
    token: str = field(default_factory=new_token)

    @property
    def thumbs(self) -> Path:
        """Folder of the crops' small pictures."""
        return self.job.cache.root / FOLDER / THUMBS

    def photo(self, number: int) -> bytes | None:
        """A photo, upright, reduced and as JPEG; None when there is no such photo or it cannot be decoded."""
        from PIL import Image

        if number >= len(self.photos):
            return None
        try:
            pixels = load(self.job.path(self.photos[number]), self.job.config.index.max_megapixels)
        except PhotoError:
            return None
        picture = Image.fromarray(pixels)
        picture.thumbnail((LONGEST, LONGEST))
        out = io.BytesIO()
        picture.save(out, format="JPEG", quality=88)
        return out.getvalue()

    def thumb(self, name: str) -> bytes | None:
        """A crop's small picture by its key; None when there is none."""
        try:
            return (self.thumbs / f"{name}.jpg").read_bytes()
        except OSError:
            return None

    def rulings(self) -> dict[str, Any]:
        """All rulings of decisions.csv."""
        return {"rulings": [ruling_row(d) for d in read_decisions(self.job.cache.decisions)]}

    def change(self, body: bytes) -> dict[str, Any]:
        """Add and take back rulings: ``{"add": [...], "remove": [...]}``.

        Raises:
            UserError: the body or a ruling is not valid; nothing was changed.
        """
        try:
            asked = json.loads(body)
            add, remove = asked.get("add", []), asked.get("remove", [])
        except (ValueError, AttributeError) as error:
            raise UserError("The request is no JSON of rulings.") from error
        if not isinstance(add, list) or not isinstance(remove, list):
            raise UserError("The request is no JSON of rulings.")
        change(self.job.cache.decisions, parse(add), parse(remove))
        return self.rulings()


def open_desk(job: Job, audit: Audit, by: str | None = None) -> Desk:
    """Prepare a review session."""
    data = page_data(job, audit, write_thumbs(job, job.cache.root / FOLDER / THUMBS))
    page = render({**data, "serve": True, "by": data["by"] if by is None else by})
    return Desk(job, page.encode(), data["path"])


def open_server(desk: Desk, port: int = 0) -> ThreadingHTTPServer:
    """A server for one session, not yet running.

    Raises:
        UserError: the port is taken.
    """

    class Bound(Handler):
        pass

    Bound.desk = desk
    try:
        server = ThreadingHTTPServer((HOST, port), Bound)
    except OSError as error:
        raise UserError(f"Port {port} cannot be used: {error.strerror}.", "Take another with --port.") from error
    server.daemon_threads = True
    return server


def address(server: ThreadingHTTPServer, desk: Desk) -> str:
    """Where the page is."""
    return f"http://{HOST}:{server.server_address[1]}/{desk.token}/"


def serve(job: Job, audit: Audit, port: int, ready: Callable[[str], None], by: str | None = None) -> None:
    """Serve until Ctrl-C.

    Args:
        job: an open cache.
        audit: what was found.
        port: 0 for a free one.
        ready: told the address once requests are answered.
        by: name under which rulings are kept; None for the login.
    """
    desk = open_desk(job, audit, by)
    with open_server(desk, port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            ready(address(server, desk))
            thread.join()
        except KeyboardInterrupt:
            pass  # this is how a session ends
        finally:
            server.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Answers one request. Anything that is not exactly known is refused."""

    desk: Desk
    server_version = "maskprep"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page, a crop, a photo or the rulings."""
        asked = self._asked()
        if asked is None:
            return
        if asked == "":
            self._send(200, self.desk.page, "text/html; charset=utf-8")
        elif asked == "rulings":
            self._answer(self.desk.rulings)
        elif match := THUMB.fullmatch(asked):
            self._picture(self.desk.thumb(match.group(1)))
        elif match := PHOTO.fullmatch(asked):
            self._picture(self.desk.photo(int(match.group(1))))
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        """Change the rulings."""
        asked = self._asked()
        if asked is None:
            return
        if asked != "rulings":
            self._refuse(404, "there is no such page")
            return
        if not own_page(self.headers.get("Origin"), self.headers.get("Host")):
            self._refuse(403, "the request comes from another page")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self._refuse(413, "the request has no length, or is too large")
            return
        if self.headers.get_content_type() != "application/json":
            self._refuse(415, "rulings are sent as JSON")
            return
        body = self.rfile.read(int(length))
        self._answer(lambda: self.desk.change(body))

    def _asked(self) -> str | None:
        """What is asked for, below the token; None when the request was refused."""
        port = self.server.server_address[1]  # type: ignore[index]  # of a server on a socket it is (host, port)
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._refuse(403, "the request names another host")
            return None
        asked = below(self.path, self.desk.token)
        if asked is None:
            self._refuse(403, "the address has no valid token; use the one that maskprep review printed")
        return asked

    def _answer(self, work: Callable[[], dict[str, Any]]) -> None:
        try:
            status, answer = 200, work()
        except UserError as problem:
            status, answer = 400, {"error": problem.message}
        except OSError as problem:
            status, answer = 500, {"error": str(problem.strerror or problem)}
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _picture(self, data: bytes | None) -> None:
        if data is None:
            self._refuse(404, "there is no such picture")
        else:
            self._send(200, data, "image/jpeg", "private, max-age=3600")

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True  # a body may be left unread
        self._send(status, json.dumps({"error": why}).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str, keep: str = "no-store") -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", keep),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
