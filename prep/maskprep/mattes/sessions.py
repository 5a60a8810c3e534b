"""The models of the installed rembg, run by its own sessions: fetched by rembg, imported only when one is asked for."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskprep.errors import UserError, missing_extra
from maskprep.photos.decode import Pixels
from maskprep.weights import fetch as weights

EXTRA = "rembg"


def installed() -> bool:
    """Whether rembg is there, without importing it, which takes seconds."""
    return importlib.util.find_spec("rembg") is not None


def names() -> list[str]:
    """The sessions that run on this machine and need no more than their name; none without rembg.

    Those that send photos away are left out, and those for a file of one's own, whose path is a model's name here.
    """
    if not installed():
        return []
    from rembg.sessions import sessions

    def alone(session: Any) -> bool:
        return session.is_local() and not session.requires_credentials()

    return [name for name, session in sessions.items() if alone(session) and not name.endswith("_custom")]


def fetch(name: str, allowed: bool = True) -> list[Path]:
    """The files of a session, fetched by rembg where they are missing and fetching is allowed.

    Raises:
        UserError: rembg is not installed, or the files cannot be had: what to put where.
    """
    if not installed():
        missing = missing_extra("rembg", EXTRA)
        raise UserError(f"The model {name} is not here, and rembg, which fetches it, is not installed.", missing.hint)
    from rembg.sessions import sessions

    session = sessions[name]
    here = session.resolve_existing(f"{name}.onnx") or any(Path(session.model_dir()).glob("*.onnx"))
    if not here and (weights.forbidden() or not allowed):
        raise _missing(name, session, f"{weights.OFFLINE} is set" if allowed else "not asked")
    try:
        found = session.download_models()
    except Exception as error:  # of whatever rembg fetches with
        offline = type(error).__name__ in ("ConnectionError", "ConnectTimeout", "ReadTimeout")
        raise _missing(name, session, "no network?" if offline else _line(error)) from error
    return [Path(path) for path in ([found] if isinstance(found, str | Path) else found)]


def _missing(name: str, session: Any, why: str) -> UserError:
    """What to put where, as far as rembg's own source tells."""
    said = f"The model {name} is not here, and rembg could not fetch it ({why})."
    address = re.search(r"https://[^\s\"'{]+\.onnx", inspect.getsource(session.download_models))
    if address is None:  # several files
        return UserError(
            said, f"Run 'rembg d {name}' where there is a network, and copy {session.model_dir()} from there."
        )
    return UserError(said, f"Download {address[0]} and put it into {session.model_dir()} as {name}.onnx.")


def open_session(name: str, threads: int, providers: Sequence[str]) -> Any:
    """A session of rembg as a function from pixels, uint8 [h, w, 3], to a plane, float32 [h, w] in 0..1.

    rembg stretches every prediction to the full range, so one without contrast cannot be told here. Of several masks
    (clothes) the union is taken.

    Raises:
        UserError: rembg is not installed, or its session cannot be opened.
    """
    if not installed():
        raise missing_extra("rembg", EXTRA)
    import onnxruntime
    import rembg

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        session = rembg.new_session(name, sess_opts=options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors have no common base
        raise UserError(f"rembg cannot open its model {name}: {_line(error)}.") from error

    def predict(pixels: Pixels) -> Any:
        masks = [np.asarray(mask.convert("L"), np.float32) for mask in session.predict(Image.fromarray(pixels))]
        return np.max(masks, axis=0) / np.float32(255)

    return predict


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
