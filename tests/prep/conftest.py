"""Small photo sets with real faces, and the command line as a person uses it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Page, browser
from PIL import Image

from maskprep.errors import UserError
from maskprep.faces.detectors import DETECTORS
from maskprep.weights.fetch import locate

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
MakePhotos = Callable[..., list[Path]]

YUNET_ONLY = "detect: {detectors: [yunet]}\nviews: {face: {size: 32, margin: 0.35}}\n"
"""Settings for quick tests: the one detector that needs no MediaPipe, and small crops."""


def need(*weights: str) -> None:
    for name in weights:
        try:
            locate(name)
        except UserError as error:
            pytest.skip(f"the model {name} cannot be had: {error.message}")


@pytest.fixture(scope="session")
def yunet() -> None:
    """Skip without the weights of YuNet."""
    need("yunet")


@pytest.fixture(scope="session")
def all_detectors() -> None:
    """Skip without the weights of every detector."""
    need(*DETECTORS)


@pytest.fixture(scope="session")
def portrait() -> Image.Image:
    """A real face that every detector finds."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return Image.fromarray(data.astronaut()[0:300, 80:380])


@pytest.fixture(scope="session")
def make_photos(portrait: Image.Image) -> MakePhotos:
    """Write JPEG photos 0.jpg, 1.jpg, ... of one face each; the same numbers give the same bytes."""

    def make(folder: Path, count: int, first: int = 0) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for i in range(first, first + count):
            random = np.random.default_rng(i)
            photo = Image.new("RGB", (240, 200), tuple(int(v) for v in random.integers(60, 200, 3)))
            side = int(random.integers(130, 190))
            at = (int(random.integers(0, 240 - side)), int(random.integers(0, 200 - side)))
            photo.paste(portrait.resize((side, side)), at)
            paths.append(folder / f"{i:03d}.jpg")
            photo.save(paths[-1], quality=90)
        return paths

    return make


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file for quick runs."""
    path = tmp_path_factory.mktemp("settings") / "quick.yaml"
    path.write_text(YUNET_ONLY)
    return path


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_photos: MakePhotos, yunet: None, quick: Path
) -> tuple[Path, Path]:
    """Photos and their finished cache, not to be touched; tests work on a copy of both (:func:`work`)."""
    import maskprep as api

    root = tmp_path_factory.mktemp("finished")
    make_photos(root / "photos", 4)
    shutil.copytree(root / "photos", root / "photos" / "b")
    api.run(root / "photos", root / "cache", quick, engine="serial")
    return root / "photos", root / "cache"


@pytest.fixture(scope="session")
def copy_finished(finished: tuple[Path, Path]) -> Callable[[Path], tuple[Path, Path]]:
    """Copy photos and cache into a folder, to be changed; all of it is up to date."""

    def copy(folder: Path) -> tuple[Path, Path]:
        photos, cache = (Path(shutil.copytree(path, folder / path.name)) for path in finished)
        dataset = json.loads((cache / "dataset.json").read_text())
        dataset["source"]["root"] = str(photos.resolve())
        dataset["source"]["config"] = None  # as if the settings had been given by options
        (cache / ".dataset.json").unlink()
        (cache / "dataset.json").write_text(json.dumps(dataset, indent=2, ensure_ascii=False) + "\n")
        return photos, cache

    return copy


@pytest.fixture
def work(copy_finished: Callable[[Path], tuple[Path, Path]], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of photos and cache of a test's own."""
    return copy_finished(tmp_path)


@pytest.fixture(scope="session")
def one_tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def tab(one_tab: Page) -> Page:
    """A tab of a browser, the same for all tests."""
    one_tab.size(1366, 768)
    one_tab.errors.clear()
    return one_tab


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory, portrait: Image.Image, yunet: None) -> tuple[Path, Path]:
    """Photos and their finished cache, not to be touched: two classes, one photo with two faces of nearly the same
    size, one broken, one with a hostile name, which is a copy."""
    import maskprep as api

    root = tmp_path_factory.mktemp("review")
    for i in range(6):
        folder = root / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.new("RGB", (420, 260), (90 + 20 * i, 120, 150))
        photo.paste(portrait.resize((170, 170)), (20 if i == 0 else 120, 50))
        if i == 0:
            photo.paste(portrait.resize((160, 160)), (240, 50))
        photo.save(folder / f"{i}.jpg", quality=92)
    (root / "photos" / "cat" / "broken.jpg").write_bytes((root / "photos" / "cat" / "1.jpg").read_bytes()[:1500])
    shutil.copy(root / "photos" / "cat" / "3.jpg", root / "photos" / "cat" / "<img src=x onerror=alert(1)>.jpg")
    settings = root / "m.yaml"
    settings.write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 64, margin: 0.35}}\n")
    api.run(root / "photos", root / "cache", settings, engine="serial")
    return root / "photos", root / "cache"


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run the command in a process of its own."""

    def run(*args: Any, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*args),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            errors="surrogateescape",
        )

    return run


def command(*args: Any) -> list[str]:
    """The command line of maskprep in this environment."""
    return [sys.executable, "-c", "from maskprep.cli import main; main()", *map(os.fspath, map(_text, args))]


def _text(arg: Any) -> Any:
    return arg if isinstance(arg, Path | str) else str(arg)


@pytest.fixture(scope="session")
def command_line() -> Callable[..., list[str]]:
    return command
