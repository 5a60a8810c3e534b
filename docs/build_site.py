"""Build the documentation site in build/docs/site: python docs/build_site.py

The pages of docs/ and the reference pages, which are made from the program, are put together in build/docs/pages. The
build fails on a link that leads nowhere. It needs `pip install '.[docs]'` and no network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTSIDE = {"benchmarks/RESULTS.md": "reference/benchmarks.md", "CHANGELOG.md": "reference/changelog.md"}
"""Files of the repository that are pages of the site."""


def stage(folder: Path) -> None:
    """Write every page and picture of the site into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for source in sorted(DOCS.rglob("*")):
        if source.suffix in (".md", ".png", ".jpg", ".webp", ".svg", ".css"):
            target = folder / source.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".md":
                target.write_text(inside(source.read_text(encoding="utf-8"), target.relative_to(folder)), "utf-8")
            else:
                shutil.copyfile(source, target)
    made = reference.pages() | {page: (ROOT / file).read_text(encoding="utf-8") for file, page in OUTSIDE.items()}
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def inside(text: str, page: Path) -> str:
    """A page whose links to files beside docs/ lead to their pages of the site."""
    up = "../" * (len(page.parts) - 1)
    for file, target in OUTSIDE.items():
        text = re.sub(rf"\]\((?:\.\./)+{re.escape(file)}(?=[)#])", f"]({up}{target}", text)
    return text


def build(folder: Path) -> Path:
    """Build the site within a folder. Returns its first page.

    Raises:
        subprocess.CalledProcessError: a link leads nowhere, or a page cannot be read; the builder has printed which.
    """
    stage(folder / "pages")
    shutil.copyfile(DOCS / "zensical.toml", folder / "zensical.toml")
    shutil.rmtree(folder / "site", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], check=True, cwd=folder)
    return folder / "site/index.html"


if __name__ == "__main__":
    page = build(ROOT / "build/docs")
    print(f"site    {page}")
    print(f"search  works where the site is served: python -m http.server --directory {page.parent}")
