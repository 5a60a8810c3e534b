"""``maskprep review``: the report served to browsers on this machine; decisions are written straight to decisions.csv,
saved filters to filters.json.

Only 127.0.0.1 is listened on. Every address begins with a random token; the Host and, for writing, the Origin must be
ours, so no other site open in the same browser can read or write. Photos and crops are sent by their number or key:
no address holds a path of the disk.
"""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from maskprep.audit.examine import Audit
from maskprep.audit.page import page_data, render
from maskprep.audit.saved import read_filters, save_filter
from maskprep.audit.thumbs import THUMBS
from maskprep.base import Progress, UserError, below, new_token, own_page
from maskprep.photos import PhotoError
from maskprep.store import change, from_json, read_decisions

HOST = "127.0.0.1"
LONGEST, LONGEST_FULL = 1400, 8000
"""Photos are sent at most this large, pixels: as they are first shown, and to be looked at closely."""

MAX_BODY = 32 << 20
THUMB = re.compile(r"thumbs/([0-9a-f]{2}/[0-9a-f]{8,64}(?:-[0-9a-f]{8})?\.(?:jpg|png))")
PHOTO = re.compile(r"photo/([0-9]{1,9})(/full)?")


@dataclass
class ReviewSession:
    """What one run of ``maskprep review`` serves.

    Args:
        audit: of the open cache.
        page: the page, UTF-8.
        photos: image keys in the page's order.
        token: first part of every address.
    """

    audit: Audit
    page: bytes
    photos: list[str]
    token: str = field(default_factory=new_token)

    def photo(self, number: int, longest: int = LONGEST) -> bytes | None:
        """A photo, upright, reduced and as JPEG; None when there is no such photo or it cannot be decoded."""
        from PIL import Image

        if number >= len(self.photos):
            return None
        try:
            pixels = self.audit.photos(self.photos[number]).pixels()
        except PhotoError:
            return None
        picture = Image.fromarray(pixels)
        picture.thumbnail((longest, longest))
        out = io.BytesIO()
        picture.save(out, format="JPEG", quality=88)
        return out.getvalue()

    def thumb(self, name: str) -> bytes | None:
        """The small picture of a crop or matte by its file's name; None when there is none."""
        file = self.audit.folder / THUMBS / name
        return file.read_bytes() if file.is_file() else None

    def decisions(self) -> dict[str, Any]:
        """All decisions of decisions.csv."""
        return {"decisions": [d.row for d in read_decisions(self.audit.cache.decisions)]}

    def change(self, body: bytes) -> dict[str, Any]:
        """Add decisions and take others back: ``{"add": [...], "remove": [...]}``.

        Raises:
            UserError: the body or a decision is not valid; nothing was changed.
        """
        asked = _parsed(body)
        lists = [asked.get(name, []) for name in ("add", "remove")]
        if not asked or not all(isinstance(rows, list) for rows in lists):
            raise UserError("The request is no JSON of decisions.")
        change(self.audit.cache.decisions, *map(from_json, lists))
        return self.decisions()

    def filters(self) -> dict[str, Any]:
        """All saved filters."""
        return {"filters": read_filters(self.audit.cache)}

    def save_filter(self, body: bytes) -> dict[str, Any]:
        """Save a filter or delete one: ``{"name": ..., "filter": ...}``, an empty filter deletes.

        Raises:
            UserError: the body is not valid; nothing was changed.
        """
        asked = _parsed(body)
        save_filter(self.audit.cache, asked.get("name"), asked.get("filter"))
        return self.filters()


def _parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body; empty for anything else."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return asked if isinstance(asked, dict) else {}


def open_review(audit: Audit, progress: Progress, by: str | None = None) -> ReviewSession:
    """Prepare a review session. ``by`` is the name under which decisions are kept; None for the login."""
    data = page_data(audit, progress)
    page = render({**data, "serve": True, "by": data["by"] if by is None else by})
    return ReviewSession(audit, page.encode(), data["path"])


class Server(ThreadingHTTPServer):
    """Serves one session; not yet running."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, session: ReviewSession, port: int = 0) -> None:
        """Listen.

        Raises:
            UserError: the port is taken.
        """
        self.session = session
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UserError(f"Port {port} cannot be used: {error.strerror}.", "Take another with --port.") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes the connection is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/{self.session.token}/"


def serve(session: ReviewSession, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        session: from :func:`open_review`.
        port: 0 for a free one.
        ready: called with the address once requests are answered.
    """
    with Server(session, port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            ready(server.address)
            thread.join()
        except KeyboardInterrupt:
            pass  # this is how a session ends
        finally:
            server.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Answers one request. Anything that is not exactly known is refused."""

    server: Server
    server_version = "maskprep"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page, a crop, a matte, a photo, the decisions or the saved filters."""
        asked, session = self._asked(), self.server.session
        if asked is None:
            return
        if asked == "":
            self._send(200, session.page, "text/html; charset=utf-8")
        elif asked == "decisions":
            self._answer(session.decisions)
        elif asked == "filters":
            self._answer(session.filters)
        elif match := THUMB.fullmatch(asked):
            name = match.group(1)
            self._picture(session.thumb(name), "image/png" if name.endswith(".png") else "image/jpeg")
        elif match := PHOTO.fullmatch(asked):
            self._picture(session.photo(int(match.group(1)), LONGEST_FULL if match.group(2) else LONGEST))
        else:
            self._refuse(404, "there is no such page")

    def do_POST(self) -> None:
        """Change the decisions or the saved filters."""
        asked, session = self._asked(), self.server.session
        length = self.headers.get("Content-Length", "")
        if asked is None:
            return
        if asked not in ("decisions", "filters"):
            self._refuse(404, "there is no such page")
        elif not own_page(self.headers.get("Origin"), self.headers.get("Host")):
            self._refuse(403, "the request comes from another page")
        elif not re.fullmatch("[0-9]{1,18}", length):
            self._refuse(400, "the request has no length that is a number")
        elif int(length) > MAX_BODY:
            self._refuse(413, "the request is too large")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(415, "changes are sent as JSON")
        else:
            body = self.rfile.read(int(length))
            work = session.change if asked == "decisions" else session.save_filter
            self._answer(lambda: work(body))

    def _asked(self) -> str | None:
        """What is asked for, below the token; None when the request was refused."""
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            self._refuse(403, "the request names another host")
            return None
        asked = below(self.path, self.server.session.token)
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

    def _picture(self, data: bytes | None, kind: str = "image/jpeg") -> None:
        if data is None:
            self._refuse(404, "there is no such picture")
        else:
            self._send(200, data, kind, "private, max-age=3600")

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True  # a body may be left unread
        self._send(status, json.dumps({"error": why}).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str, keep: str = "no-store") -> None:
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Cache-Control": keep,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        self.send_response(status)
        for name, value in (headers | ({"Connection": "close"} if self.close_connection else {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""
