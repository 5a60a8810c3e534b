"""A page for this machine's browser: a photo or the camera goes in; faces, crop, matte, answers and attention come out.

Nothing leaves the machine: Gradio's analytics are off, the page may load nothing from elsewhere, and what was uploaded
is deleted when the server stops. Only who has the address with its random token can ask; only the page itself can send
photos, of limited size; no file of the disk is read but those that were sent.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskprep.base import UserError, below, missing_extra, new_token, own_page
from maskprep.photos import PhotoError, Pixels, load
from masktrain.answer import draw as drawing
from masktrain.answer import live, model
from masktrain.answer.model import Model

HOST, PORT = "127.0.0.1", 7860
LOCAL = ("127.0.0.1", "localhost", "::1")

MAX_UPLOAD = 100 << 20
"""Largest photo that is taken, bytes; a request may have 64 KiB more."""

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self'"
    " 'unsafe-inline'; connect-src 'self' data: blob:; frame-ancestors 'none'"
)
"""What the page may load: only what this server gives."""


@dataclass(frozen=True)
class Seen:
    """What is shown for one photo.

    Args:
        photo: with all faces drawn on it, uint8 [h, w, 3].
        crop: of the subject as the network is shown it; None without one. Likewise matte [H, W] and attention.
        answers: attribute → class → probability; empty without a crop.
        said: in words.
    """

    photo: Pixels | None
    said: str
    crop: Pixels | None = None
    matte: Pixels | None = None
    attention: Pixels | None = None
    answers: dict[str, dict[str, float]] = field(default_factory=dict)


Attend = Callable[[Pixels, int], Pixels]
"""A crop uint8 [H, W, 3] and a joint class → the crop with a map of the attention drawn over it."""


def look(predictor: Model, finder: live.FaceFinder, pixels: Pixels, attend: Attend | None = None) -> Seen:
    """Everything there is to show about a photo, uint8 [h, w, 3] RGB."""
    schema = predictor.schema
    subjects = finder.find(pixels, everyone=True)
    chosen = subjects[0]
    marks = [drawing.Mark(s.box, (f"face {n}",), drawing.FAINT) for n, s in enumerate(subjects[1:], 2) if s.box]
    many = f"{len(marks) + 1} faces" if marks else "1 face"
    if not chosen.crops:
        marks.append(drawing.Mark(None, ("no answer",), drawing.FAINT))
        return Seen(drawing.annotate(pixels, marks), f"{chosen.status}: {chosen.reason or 'there is no crop'}.")
    probabilities = predictor.of_crops(live.stack(predictor.spec, [chosen]))
    told = int(predictor.decide(probabilities)[0])
    marks.append(drawing.mark_of(schema, told, probabilities[0], chosen.box))
    first = predictor.spec.inputs[0].view
    cube = probabilities[0].reshape(schema.sizes)
    answers = {}
    for axis, name in enumerate(schema.joint):
        each = cube.sum(axis=tuple(a for a in range(cube.ndim) if a != axis))
        answers[name] = {c: float(p) for c, p in zip(schema[name].classes, each, strict=True)}
    crop = chosen.crops[first]
    said = f"{schema.class_names[told]} (class {told}, {probabilities[0, told]:.0%}). {many}; {chosen.status}"
    return Seen(
        photo=drawing.annotate(pixels, marks),
        said=said + (f", {chosen.reason}." if chosen.reason else "."),
        crop=crop,
        matte=chosen.mattes.get(first),
        attention=None if attend is None else attend(crop, told),
        answers=answers,
    )


def attend_with(predictor: Model) -> Attend | None:
    """Maps of the attention of the networks that see the first input.

    None for exported files, without grad-cam, and for networks whose features have no places.
    """
    if not hasattr(predictor.source, "networks"):
        return None
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        return None
    from masktrain.pages import attention

    parts = [n for n in predictor.graph.networks if n.place == 0]
    try:
        for part in parts:
            attention.networks_of(part)
    except UserError:
        return None

    def attend(crop: Pixels, label: int) -> Pixels:
        labels = np.array([label])
        asked = [part for part in parts if part.asked[label]] or parts
        found = np.stack([attention.maps(part, crop[None], labels) for part in asked]).mean(0).astype(np.float32)
        return np.asarray(attention.overlay(crop[None], found)[0], np.uint8)

    return attend


def build(predictor: Model, finder: live.FaceFinder, name: str) -> Any:
    """The page, as Gradio's Blocks."""
    import gradio as gr

    attend, lock = attend_with(predictor), threading.Lock()
    schema, matted = predictor.schema, predictor.spec.inputs[0].matted

    def answer(file: str | None) -> list[Any]:
        if file is None:
            return [None, "", None, None, None, *[None] * len(schema.joint)]
        try:
            with lock:
                seen = look(predictor, finder, load(Path(file), finder.config.index.max_megapixels), attend)
        except PhotoError as error:
            seen = Seen(None, f"This photo cannot be used: {error}.")
        pictures = [seen.crop, seen.matte, seen.attention]
        return [seen.photo, seen.said, *pictures, *(seen.answers.get(n) for n in schema.joint)]

    with gr.Blocks(title=f"masktrain: {name}", analytics_enabled=False) as blocks:
        gr.Markdown(f"## {name}")
        kept = ["download", "fullscreen"]  # Gradio's third button uploads to another server
        with gr.Row():
            photo = gr.Image(sources=["upload", "webcam"], type="filepath", label="Photo or camera", height=380)
            marked = gr.Image(label="Faces, the chosen one with answer", interactive=False, buttons=kept, height=380)
        said = gr.Markdown(elem_id="said")
        with gr.Row():
            small = {"interactive": False, "buttons": kept, "height": 240}
            crop = gr.Image(label="Crop", **small)
            matte = gr.Image(label="Matte", visible=matted, **small)
            seen = gr.Image(label="Where it looks", visible=attend is not None, **small)
            labels = [gr.Label(label=attribute, num_top_classes=6) for attribute in schema.joint]
        photo.change(answer, photo, [marked, said, crop, matte, seen, *labels], api_name="answer")
    return blocks


class Guard:
    """An ASGI application before another one: refuses what has no token, what another page sends, and what is too
    large."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length, most = headers.get("content-length", "0"), MAX_UPLOAD + (64 << 10)
        if below(scope["path"], self.token) is None:
            refused = 403, "The address has no valid token; use the one that masktrain demo printed."
        elif scope["type"] != "http":
            refused = 403, "Only HTTP is answered."
        elif scope["method"] not in ("GET", "HEAD") and not own_page(headers.get("origin"), headers.get("host")):
            refused = 403, "The request comes from another page."
        elif not (length.isascii() and length.isdigit()) or int(length) > most:
            refused = 413, f"More than {MAX_UPLOAD >> 20} MiB."
        else:
            await self.app(scope, _limited(receive, most), send)
            return
        await PlainTextResponse(refused[1], refused[0], {"Connection": "close"})(scope, receive, send)


def _limited(receive: Any, most: int) -> Any:
    """What a request sends, which ends as if the sender had gone when it is more than so many bytes."""
    taken = 0

    async def limited() -> Any:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return limited


def make_app(blocks: Any, host: str, token: str) -> Any:
    """The page as an ASGI application that talks to nobody else, and on this machine only to this machine's names."""
    import gradio as gr
    from fastapi import FastAPI, Request
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard, token=token)
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))

    async def alone(request: Request, go: Any) -> Any:
        response = await go(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.middleware("http")(alone)
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts from elsewhere
    blocks.has_launched = True  # Gradio checks the paths that it is sent only then, and mounting alone does not launch
    return gr.mount_gradio_app(
        app,
        blocks,
        path=f"/{token}",
        theme=plain,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        ssr_mode=False,
        run_history=False,
    )


def demo(
    run: Path,
    *,
    host: str = HOST,
    port: int = PORT,
    device: str = "auto",
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page of a run, an ensemble or an exported file until Ctrl-C.

    Args:
        host: address to listen on; by default only this machine can reach it.
        port: 0 takes a free one.
        ready: is given the address.

    Raises:
        UserError: the run cannot be used, Gradio is not installed, or the port is taken.
    """
    predictor = model.load(run, device)
    if importlib.util.find_spec("gradio") is None:
        raise missing_extra("gradio", "app")
    with tempfile.TemporaryDirectory(prefix="masktrain-demo-") as folder, live.open_finder(predictor.spec) as finder:
        # before Gradio is imported, which reads them then
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder, HF_HUB_DISABLE_TELEMETRY="1")
        token = new_token()
        app = make_app(build(predictor, finder, run.resolve().name), host, token)
        _serve(app, host, port, lambda address: ready(f"{address}{token}/"))


def _serve(app: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    import socket

    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be served: {error.strerror}.", "Choose another --port.") from error
        listening.listen()
        taken = listening.getsockname()[1]
        ready(f"http://{f'[{host}]' if ':' in host else host}:{taken}/")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        server.run(sockets=[listening])
