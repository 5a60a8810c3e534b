"""A page for this machine's browser: a photo or the camera goes in; faces, crop, matte, answers and attention come out.

Nothing leaves the machine: Gradio's analytics are off, the page may load nothing from elsewhere, and what was uploaded
is deleted when the server stops. Only who has the address with its random token can ask; only the page itself can send
photos, of limited size; no file of the disk is read but those that were sent.
"""

from __future__ import annotations

import html
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


HEADERS = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]


@dataclass(frozen=True)
class Shown:
    """What is shown for one photo.

    Args:
        photo: with all faces drawn on it, uint8 [h, w, 3].
        text: the answer in words.
        crop: of the subject as the network gets it; None without one. Likewise matte [H, W] and attention.
        answers: attribute → class → probability; empty without a crop.
    """

    photo: Pixels | None
    text: str
    crop: Pixels | None = None
    matte: Pixels | None = None
    attention: Pixels | None = None
    answers: dict[str, dict[str, float]] = field(default_factory=dict)


Attend = Callable[[Pixels, int], Pixels]
"""A crop uint8 [H, W, 3] and a joint class → the crop with a map of the attention drawn over it."""


def show(predictor: Model, finder: live.FaceFinder, pixels: Pixels, attend: Attend | None = None) -> Shown:
    """Everything there is to show about a photo, uint8 [h, w, 3] RGB."""
    schema, first = predictor.schema, predictor.spec.inputs[0].view
    subject, *others = finder.find(pixels, everyone=True)
    marks = [drawing.Mark(s.box, (f"face {n}",), drawing.FAINT) for n, s in enumerate(others, 2) if s.box]
    if not subject.crops:
        marks.append(drawing.Mark(None, ("no answer",), drawing.FAINT))
        return Shown(drawing.annotate(pixels, marks), f"{subject.status}: {subject.reason or 'there is no crop'}.")
    faces = f"{len(marks) + 1} faces" if marks else "1 face"
    probabilities, numbers = predictor.of_crops(live.stack(predictor.spec, [subject]))
    answer = int(predictor.decide(probabilities)[0])
    marks.append(drawing.mark_of(schema, answer, probabilities[0], subject.box))
    cube, answers = probabilities[0].reshape(schema.sizes), {}
    for axis, name in enumerate(schema.joint):
        each = cube.sum(axis=tuple(a for a in range(cube.ndim) if a != axis))
        answers[name] = dict(zip(schema[name].classes, each.tolist(), strict=True))
    told = "".join(f", {name} {values[0]:.1f}" for name, values in numbers.items())
    sure = f"class {answer}, {probabilities[0, answer]:.0%}{told}"
    text = f"{schema.class_names[answer]} ({sure}). {faces}; {subject.status}"
    return Shown(
        photo=drawing.annotate(pixels, marks),
        text=text + (f", {subject.reason}." if subject.reason else "."),
        crop=subject.crops[first],
        matte=subject.mattes.get(first),
        attention=None if attend is None else attend(subject.crops[first], answer),
        answers=answers,
    )


def attend_with(predictor: Model) -> Attend | None:
    """Mean of the class activation maps of the networks that see the first input.

    None for exported files and for networks whose features have no places.
    """
    if not hasattr(predictor.source, "networks"):
        return None  # an exported file, which needs no torch
    from masktrain.pages import cam

    parts = [n for n in predictor.graph.networks if n.place == 0]
    try:
        for part in parts:
            cam.find_layers(part)
    except UserError:
        return None

    def attend(crop: Pixels, label: int) -> Pixels:
        labels = np.array([label])
        asked = [part for part in parts if part.asked[label]] or parts
        mean = np.mean([cam.maps(part, crop[None], labels) for part in asked], 0)
        return np.asarray(cam.overlay(crop[None], mean)[0], np.uint8)

    return attend


def build(predictor: Model, finder: live.FaceFinder, name: str) -> Any:
    """The page, as Gradio's Blocks."""
    import gradio as gr

    attend, lock = attend_with(predictor), threading.Lock()
    attributes, matted = predictor.schema.joint, predictor.spec.inputs[0].matted

    def answer(file: str | None) -> list[Any]:
        shown = Shown(None, "")
        if file is not None:
            try:
                with lock:
                    shown = show(predictor, finder, load(Path(file), finder.config.index.max_megapixels), attend)
            except PhotoError as error:
                shown = Shown(None, f"This photo cannot be used: {error}.")
        pictures = [shown.crop, shown.matte, shown.attention]
        return [shown.photo, html.escape(shown.text), *pictures, *(shown.answers.get(name) for name in attributes)]

    with gr.Blocks(title=f"masktrain: {name}", analytics_enabled=False) as blocks:
        gr.HTML(f"<h2>{html.escape(name)}</h2>")
        kept = ["download", "fullscreen"]  # Gradio's third button uploads to another server
        with gr.Row():
            photo = gr.Image(sources=["upload", "webcam"], type="filepath", label="Photo or camera", height=380)
            marked = gr.Image(label="Faces and answer", interactive=False, buttons=kept, height=380)
        text = gr.HTML(elem_id="said")
        with gr.Row():
            small = {"interactive": False, "buttons": kept, "height": 240}
            pictures = [
                gr.Image(label="Crop", **small),
                gr.Image(label="Matte", visible=matted, **small),
                gr.Image(label="Grad-CAM", visible=attend is not None, **small),
            ]
            labels = [gr.Label(label=attribute, num_top_classes=6) for attribute in attributes]
        photo.change(answer, photo, [marked, text, *pictures, *labels], api_name="answer")
    return blocks


class Guard:
    """An ASGI application before another one: refuses what has no token, what another page sends, and what is too
    large; tells the browser to load nothing from elsewhere."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        taken, most = 0, MAX_UPLOAD + (64 << 10)

        async def limited() -> Any:
            """What a request sends; as if the sender had gone when it is more than so many bytes."""
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= most else {"type": "http.disconnect"}

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get("content-length", "0")
        if below(scope["path"], self.token) is None:
            refused = 403, "The address has no valid token; use the one that masktrain demo printed."
        elif scope["type"] != "http":
            refused = 403, "Only HTTP is answered."
        elif scope["method"] not in ("GET", "HEAD") and not own_page(headers.get("origin"), headers.get("host")):
            refused = 403, "The request comes from another page."
        elif not (length.isascii() and length.isdigit()) or int(length) > most:
            refused = 413, f"More than {MAX_UPLOAD >> 20} MiB."
        else:
            await self.app(scope, limited, guarded)
            return
        await PlainTextResponse(refused[1], refused[0], {"Connection": "close"})(scope, receive, guarded)


def make_app(blocks: Any, host: str, token: str) -> Any:
    """The page as an ASGI application that talks to nobody else, and on this machine only to this machine's names."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard, token=token)
    if host in LOCAL:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    blocks.has_launched = True  # Gradio checks the paths that it is sent only then, and mounting alone does not launch
    return gr.mount_gradio_app(
        app,
        blocks,
        path=f"/{token}",
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no fonts from elsewhere
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
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be served: {error.strerror}.", "Choose another --port.") from error
    with listening:
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listening.getsockname()[1]}/")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        server.run(sockets=[listening])
