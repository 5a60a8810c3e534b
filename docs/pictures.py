"""Makes docs/pictures/*.png: real commands on generated portraits (CC0), real pages in a headless Chromium.

    make demo && .venv/bin/python docs/pictures.py demo

Takes two minutes. MASKPREP_BROWSER names the browser where no Chromium or Chrome is on the path.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "prep"))

from browser import Page, browser  # noqa: E402

OUT = ROOT / "docs" / "pictures"
MOST = 300_000
"""Bytes of a picture."""
LONG_CROP = 256
STATES = ("mask1", "incorrect_mask", "mask3", "mask2", "normal", "mask4")
"""Which photo of each of the six people is in matte.png."""


def maskprep(*arguments: object) -> None:
    code = "from maskprep.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def reduced(picture: Image.Image) -> Image.Image:
    """With 256 colours: the most frequent ones and the most frequent bright ones, so that paper, boxes and buttons keep
    theirs, and 200 of the photos."""
    frequent = sorted(picture.getcolors(picture.width * picture.height), reverse=True)
    bright = [color for _, color in frequent if max(color) - min(color) > 120]
    kept = dict.fromkeys([*(color for _, color in frequent[:28]), *bright[:28]])
    palette = Image.new("P", (1, 1))
    own = [value for color in kept for value in color]
    palette.putpalette(own + (picture.quantize(200).getpalette() or [])[:600])
    return picture.quantize(palette=palette)


def save(picture: Image.Image, name: str) -> None:
    """Write a picture with 256 colours; it is made smaller until it has at most MOST bytes."""
    for percent in range(100, 30, -5):
        size = round(picture.width * percent / 100), round(picture.height * percent / 100)
        small = reduced(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        small.save(buffer := io.BytesIO(), "PNG", optimize=True)
        if buffer.tell() <= MOST:
            break
    (OUT / name).write_bytes(buffer.getvalue())
    print(f"{OUT / name}  {size[0]}x{size[1]}, {buffer.tell():,} bytes")


def photograph(page: Page, address: str, width: int, height: int, scale: float = 1, click: str = "") -> Image.Image:
    """A page as people see it, at a scale, in light colours, after a click on the last element in sight with a text."""
    light = [{"name": "prefers-color-scheme", "value": "light"}]
    page.send("Emulation.setEmulatedMedia", media="screen", features=light)
    page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
    page.send("Page.navigate", url=address)
    page.until("document.readyState === 'complete' && [...document.images].every(each => each.complete)")
    page.run("document.documentElement.style.overflow = 'hidden'")
    time.sleep(1.5)  # pages draw their lists after they are loaded
    if click:
        at = page.run(
            "(() => { const r = [...document.querySelectorAll('body *')]"
            f".filter(each => each.textContent.trim() === '{click}').map(each => each.getBoundingClientRect())"
            ".filter(r => r.width && r.bottom < innerHeight).at(-1);"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        page.mouse("mousePressed", *at, clickCount=1)
        page.mouse("mouseReleased", *at, clickCount=1)
        time.sleep(1.5)
    return Image.open(io.BytesIO(base64.b64decode(page.send("Page.captureScreenshot", format="png")["data"])))


def crowded(cache: Path) -> str:
    """The photo of a worn mask with most confirmed faces; of several, where another face has the highest score."""
    faces, subjects = (pd.read_parquet(cache / f"{name}.parquet") for name in ("faces", "subjects"))
    groups = faces.set_index(["image", "face"])["group"]
    scores = faces[faces["confirmed"]].groupby(["image", "group"])["score"].max()
    ranked = []
    for row in subjects[(subjects["status"] == "ok") & subjects["image"].str.contains("/mask")].itertuples():
        seen, group = scores.get(row.image, pd.Series()), groups[row.image, row.face]
        if group in seen.index:
            ranked.append((len(seen), seen.max() - seen[group], row.image))
    return str(max(ranked)[2])


def copied(demo: Path, work: Path, crowd: str) -> list[str]:
    """Copy photos for large crops: all of one photo's person, and one of each gender and age group.

    Returns:
        The names of the latter, six.
    """
    groups: dict[tuple[str, int], Path] = {}
    for home in sorted((demo / "photos" / "train" / "images").iterdir()):
        _, gender, _, age = home.name.split("_")
        if home.name not in crowd:
            groups.setdefault((gender, (int(age) >= 30) + (int(age) >= 60)), home)
    images = pd.read_parquet(demo / "cache" / "images.parquet")
    broken = {*images[images["error"].notna()]["image"]}
    person = (demo / "photos" / crowd).parent
    names = []
    for (_, home), state in zip(sorted(groups.items()), STATES, strict=True):
        names.append(next(path for path in sorted(home.glob(f"{state}.*"))).relative_to(demo / "photos").as_posix())
    others = [path.relative_to(demo / "photos").as_posix() for path in person.iterdir()]
    for name in {*names, *others} - broken:
        (work / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo / "photos" / name, work / "photos" / name)
    return names


def embedded(picture: Image.Image, extra: str = "") -> str:
    picture.convert("RGB").save(buffer := io.BytesIO(), "PNG")
    return f"<img {extra} src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def exported(folder: Path, name: str) -> Image.Image:
    """The crop of a photo in an export."""
    (path,) = folder.rglob(f"{Path(name).parent.name}/{Path(name).stem}*.png")
    return Image.open(path)


STYLE = """
* { box-sizing: border-box; margin: 0 }
body { font: 15px/1.35 system-ui, "DejaVu Sans", sans-serif; color: #222; background: #fff; padding: 8px }
main { display: grid; gap: 12px 30px }
figure { position: relative; border: 1px solid #d8dade; border-radius: 8px; overflow: hidden; background: #fff }
figure > div { height: var(--high); overflow: hidden; display: grid; place-items: center; background: #f3f3f1 }
figure img { display: block; height: var(--high); width: 100%; object-fit: cover }
img.whole { object-fit: contain }
figcaption { padding: 6px 10px; border-top: 1px solid #d8dade }
b { display: block; font-size: 52px }
.score { text-align: center; padding: 0 14px; background: #fff }
.arrow { position: absolute; right: -25px; top: 140px; font-size: 22px; color: #777 }
.strip { grid-template-columns: repeat(6, 1fr); gap: 6px }
.strip img { width: 100%; display: block; border-radius: 4px }
"""


def shown(page: Page, work: Path, body: str, width: int, height: int) -> Image.Image:
    """A page of our own as a picture, at one and a half its size."""
    file = work / "page.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'><style>{STYLE}</style>{body}", encoding="utf-8")
    return photograph(page, file.as_uri(), width, height, 1.5)


def way(crowd: str, faces: Image.Image, crop: Image.Image, matte: Image.Image, review: Image.Image, run: Path) -> str:
    """The way of one photo, and what comes of all of them, as HTML."""
    folds = json.loads((run / "folds.json").read_text(encoding="utf-8"))
    scores, interval, data = folds["out_of_fold"], folds["interval"], json.loads((run / "data.json").read_text())
    result = (
        f"<div class='score'><span>macro-F1<b>{scores['macro_f1']:.2f}</b>95 %: {interval['low']:.2f} to"
        f" {interval['high']:.2f}<br>{len(data['classes']['train'])} classes, {interval['people']} people,<br>"
        "each scored by a model that never saw them</span></div>"
    )
    photo = Image.open(crowd)
    panels = [
        (embedded(photo), "a photo"),
        (embedded(faces.crop((0, 0, faces.width, round(faces.width * photo.height / photo.width)))), "the right face"),
        (embedded(crop, "class='whole'"), "its crop"),
        (embedded(matte, "class='whole'"), "without background"),
        (embedded(review, "style='object-position: left top'"), "what is wrong, to decide"),
        (result, "a score"),
    ]
    boxes = [picture if picture.startswith("<div") else f"<div>{picture}</div>" for picture, _ in panels]
    figures = [
        f"<figure style='--high: {320 if i <= 3 else 250}px'>{box}<figcaption>{i}. {text}</figcaption>"
        f"{'<span class=arrow>→</span>' if i % 3 else ''}</figure>"
        for i, (box, (_, text)) in enumerate(zip(boxes, panels, strict=True), 1)
    ]
    return f"<main style='grid-template-columns: repeat(3, 1fr)'>{''.join(figures)}</main>"


def main(demo: Path) -> None:
    OUT.mkdir(exist_ok=True)
    maskprep("audit", demo / "cache", "--top", 5, "--quiet")
    crowd = crowded(demo / "cache")
    with tempfile.TemporaryDirectory() as place, browser() as page:
        work = Path(place)
        names = copied(demo, work, crowd)
        cache = work / "cache"
        maskprep("crop", work / "photos", "--cache", cache, "--size", LONG_CROP, "--quiet")
        maskprep("rembg", cache, "--quiet")
        maskprep("faces", cache, crowd, "--out", work / "faces.png")
        maskprep("export", cache, "--out", work / "before")
        maskprep("export", cache, "--out", work / "after", "--background", "colour", "--colour", "white")

        page_file = demo / "cache" / "audit" / "report.html"
        review = photograph(page, page_file.resolve().as_uri(), 1366, 768, click="face several")
        save(review, "review.png")
        report = next(
            path for path in (demo / "run" / "report.html", demo / "run" / "fold-1" / "report.html") if path.is_file()
        )
        save(photograph(page, report.resolve().as_uri(), 1000, 1000), "report.png")

        crops = [exported(work / side, name) for side in ("before", "after") for name in names]
        strip = "".join(map(embedded, crops))
        save(shown(page, work, f"<main class='strip'>{strip}</main>", 830, 296), "matte.png")

        before, after = (exported(work / side, crowd) for side in ("before", "after"))
        tiles = review.crop((216, 40, 216 + 560, 40 + 520))
        body = way(str(demo / "photos" / crowd), Image.open(work / "faces.png"), before, after, tiles, demo / "run")
        save(shown(page, work, body, 830, 676), "way.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
