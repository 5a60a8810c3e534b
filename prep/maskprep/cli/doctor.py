"""Whether this machine can do the work: packages, system libraries, model files, disk and device.

Nothing heavy is imported here, so that it also answers where the packages themselves are broken; what must be tried is
tried in a process of its own.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Literal

from maskprep.base import VERSION, UserError, machine
from maskprep.weights import fetch as weights

State = Literal["ok", "note", "bad"]

LOOKED_THROUGH = ("yunet", "centerface", "blazeface_full", "blazeface_short")
"""Weights of the detectors in use unless the settings say otherwise."""
LEAST, ROOM = 200 << 20, 2 << 30
"""Free bytes without which nothing can be kept, and below which it is worth a note."""
SECONDS = 120
LIBRARIES = "apt-get install libgl1 libglib2.0-0 libegl1 libgles2"
EMPTY = "empty"
OPENCV = f"import cv2; print(getattr(cv2, '__version__', '{EMPTY}'))"
MEDIAPIPE = "import mediapipe; print(mediapipe.__version__)"
DETECTORS = """
import numpy
from maskprep.faces import DETECTORS, open_detectors
with open_detectors(list(DETECTORS), {}) as detectors:
    for find in detectors.values():
        find(numpy.zeros((64, 64, 3), numpy.uint8))
print(', '.join(DETECTORS))
"""
DEVICES = "from masktrain.train.device import describe; print(describe())"


@dataclass(frozen=True)
class Finding:
    """One line about the machine.

    Args:
        what: the part that was looked at.
        state: ``bad`` where photos cannot be prepared as it is; ``note`` where something else cannot be done.
        found: in words.
        do: what mends it; empty where nothing need be done.
    """

    what: str
    state: State
    found: str
    do: str = ""


def examine(caches: Path) -> Iterator[Finding]:
    """Look at everything, one part after another.

    Args:
        caches: the folder in which caches are kept.
    """
    yield Finding("maskprep", "ok", f"{VERSION}, Python {platform.python_version()}, {platform.platform()}")
    memory = machine.memory()
    size = "" if memory is None else f", {memory / 2**30:.1f} GiB of memory"
    yield Finding("machine", "ok", f"{machine.processor()}, {machine.cores()} cores{size}")
    yield from packages()
    yield from libraries()
    yield from model_files()
    yield disk("caches", caches)
    yield device()


def packages(name: str = "maskprep") -> Iterator[Finding]:
    """What is installed of what is needed, and which extras are whole."""
    try:
        told = requires(name) or []
    except PackageNotFoundError:
        yield Finding("packages", "note", f"{name} runs from its folder; pip does not know it", "pip install .")
        return
    needed: list[str] = []
    extras: dict[str, list[str]] = defaultdict(list)
    for line in told:
        package = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if package is None or package[0] == name:  # such as all = maskprep[...]
            continue
        (extras[extra[1]] if extra else needed).append(package[0])
    found = {package: machine.installed(package) for package in needed}
    missing = [package for package, version in found.items() if version is None]
    if missing:
        yield Finding("packages", "bad", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield Finding("packages", "ok", ", ".join(f"{package} {version}" for package, version in found.items()))
    extras.pop("dev", None)
    lacks = {e: [p for p in names if machine.installed(p) is None] for e, names in extras.items()}
    yield Finding("extras", "ok", ", ".join(e for e, absent in lacks.items() if not absent) or "none")
    if absent := [f"{e} ({', '.join(names)})" for e, names in lacks.items() if names]:
        first = next(e for e, names in lacks.items() if names)
        yield Finding("", "note", f"not here: {', '.join(absent)}", f"where wanted: pip install 'maskprep[{first}]'")


def opencv() -> Finding:
    """The OpenCV that runs; where the packages that share its folder are of other versions, or none runs, the cure."""
    tried = trial("OpenCV", OPENCV)
    here = {name: version for name in machine.OPENCV if (version := machine.installed(name)) is not None}
    if tried.state == "bad":  # a library of the system is missing: other packages would not help
        return tried
    same = len(set(here.values())) <= 1 and all(version.startswith(tried.found) for version in here.values())
    if tried.found != EMPTY and same:
        return tried
    state: State = "bad" if tried.found == EMPTY else "note"
    if not here:
        return Finding("OpenCV", state, "cv2 is an empty folder", "pip install opencv-python")
    common = min(here.values(), key=lambda version: [int(n) for n in re.findall(r"\d+", version)])
    cure = f"pip uninstall -y {' '.join(here)} && pip install {' '.join(f'{name}=={common}' for name in here)}"
    listed = ", ".join(f"{name} {version}" for name, version in here.items())
    return Finding("OpenCV", state, f"cv2 is {tried.found}; its folder is written by {listed}", cure)


def libraries() -> Iterator[Finding]:
    """Whether OpenCV and the detectors start: they load libraries of the system that pip does not bring."""
    yield opencv()
    if all(weights.status(name).status == "present" for name in LOOKED_THROUGH):
        yield trial("detectors", DETECTORS)
    else:
        yield trial("MediaPipe", MEDIAPIPE)


def trial(what: str, code: str) -> Finding:
    """Run some Python in a process of its own, which may break without harm; it prints what to say."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Finding(what, "bad", f"does not start within {SECONDS} s", "Try again when the machine is less busy.")
    said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode == 0 and said:
        return Finding(what, "ok", said[-1])
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    why = lines[-1] if lines else f"ended with {done.returncode} and said nothing"
    library = re.search(r"\blib[\w+-]+\.so[.\d]*", why)
    return Finding(what, "bad", why, LIBRARIES if library else "pip install --force-reinstall what the line names")


def model_files() -> Iterator[Finding]:
    """The model files that every run needs, the others, and the folder they are kept in."""
    try:
        known = {name: weights.status(name) for name in weights.REGISTRY}
        folder = weights.folder()
    except UserError as problem:  # there is no home folder
        yield Finding("model files", "bad", problem.message, problem.hint)
        return
    offline = weights.forbidden()
    for name in LOOKED_THROUGH:
        row = known[name]
        if row.status == "present":
            yield Finding(f"model {name}", "ok", f"verified, {row.path}")
        elif row.status == "wrong":
            yield Finding(f"model {name}", "bad", f"other bytes, {row.path}", f"maskprep weights --remove {name}")
        elif offline:
            do = f"put {row.weight.file} into {folder}, or unset {weights.OFFLINE}"
            yield Finding(f"model {name}", "bad", f"missing, and {weights.OFFLINE} forbids to fetch it", do)
        else:
            fetch = f"ahead of time: maskprep weights --fetch {name}"
            yield Finding(f"model {name}", "note", "missing; it is fetched when first needed", fetch)
    others = [row for name, row in known.items() if name not in LOOKED_THROUGH]
    here = [row.weight.name for row in others if row.status == "present"]
    yield Finding("other models", "ok", f"{len(here)} of {len(others)} here{': ' * bool(here)}{', '.join(here)}")
    if wrong := [row.weight.name for row in others if row.status == "wrong"]:
        yield Finding("", "note", f"other bytes: {', '.join(wrong)}", f"maskprep weights --remove {' '.join(wrong)}")
    yield disk("model folder", folder)


def disk(what: str, folder: Path) -> Finding:
    """Whether a folder, or the one it would be made in, can be written to, and how much room there is."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            what, "bad", f"{folder} cannot be written to", "Give yourself the right, or choose another place."
        )
    free = shutil.disk_usage(there).free
    found = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LEAST:
        return Finding(what, "bad", found, "Make room, or choose another place.")
    return Finding(what, "ok" if free >= ROOM else "note", found, "" if free >= ROOM else "This may not be enough.")


def device() -> Finding:
    """What training would run on. torch is only imported where it is installed, and not in this process."""
    version = machine.installed("torch")
    if version is None:
        return Finding("training", "note", "torch is not installed", "to train: pip install 'maskprep[train]'")
    tried = trial("training", DEVICES)
    if tried.state == "bad":
        return Finding("training", "note", f"torch {version}: {tried.found}", tried.do)
    driver = machine.graphics_driver()
    return Finding("training", "ok", f"torch {version}, {tried.found}" + (f", driver {driver}" if driver else ""))


def works(findings: Sequence[Finding]) -> bool:
    """Whether photos can be prepared."""
    return all(finding.state != "bad" for finding in findings)
