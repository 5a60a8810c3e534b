"""The models of the installed rembg, run by its own sessions: fetched by rembg, imported only when one is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskprep.base import UserError, reason
from maskprep.photos import Pixels
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
        UserError: the files cannot be had: what to put where.
    """
    from rembg.sessions import sessions

    session = sessions[name]
    here = session.resolve_existing(f"{name}.onnx") or any(Path(session.model_dir()).glob("*.onnx"))
    why = f"{weights.OFFLINE} is set" if weights.forbidden() else "" if allowed else "not asked"
    if here or not why:
        try:
            made = session.download_models()
            return [Path(path) for path in ([made] if isinstance(made, str | Path) else made)]
        except Exception as error:  # of whatever rembg fetches with
            why = reason(error)
    raise UserError(
        f"The model {name} is not here, and rembg could not fetch it ({why}).",
        f"Run 'rembg d {name}' where there is a network, and copy {session.model_dir()} to this machine.",
    )


def options(threads: int) -> Any:
    """How onnxruntime is to run a network."""
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads = threads, 1
    made.log_severity_level = 3
    return made


def open_session(name: str, threads: int, providers: Sequence[str]) -> Any:
    """A session of rembg as a function from pixels, uint8 [h, w, 3], to a plane, float32 [h, w] in 0..1.

    rembg stretches every prediction to the full range, so one without contrast cannot be told here. Of several masks
    (clothes) the union is taken.

    Raises:
        UserError: its session cannot be opened.
    """
    import rembg

    try:
        session = rembg.new_session(name, sess_opts=options(threads), providers=list(providers))
    except Exception as error:  # onnxruntime's errors have no common base
        raise UserError(f"rembg cannot open its model {name}: {reason(error)}.") from error

    def predict(pixels: Pixels) -> Any:
        masks = [np.asarray(mask.convert("L"), np.float32) for mask in session.predict(Image.fromarray(pixels))]
        return np.max(masks, axis=0) / np.float32(255)

    return predict
