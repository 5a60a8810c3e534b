"""stats.html: what a data set holds, to look at before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskprep.base import VERSION, counted, keep_whole, write_atomic
from maskprep.dataset.background import Leak, leak
from maskprep.dataset.survey import Survey, survey
from maskprep.dataset.view import View, image_table, open_view
from maskprep.labels import Attribute, Schema, persons
from maskprep.pages import BoxPlot, HeatMap, Histogram, LineChart, Pictures, Table, document, picture
from maskprep.pages import ticks as round_numbers
from maskprep.store import Cache, fingerprint, read_table, values_mark

OVERVIEW = "stats.html"
RECIPE = 1
MANY = 40
"""Classes above which only the largest and the smallest are shown, :data:`ENDS` of each."""
ENDS = 10
NEAR = 2.0
"""A number nearer than this to a limit is near it, in its own unit; at most a tenth of the range of the numbers."""
HEAPED = 0.5
"""Share of a class with one and the same number, from which on it is said."""
RARE = 10
"""Photos below which a class is said to be rare."""
SIZES = 8
"""The most frequent sizes of photos that are listed."""

Start = Callable[[int], None]


def write_overview(
    cache: Path, out: Path | None = None, start: Start = lambda n: None, advance: Start = lambda n: None
) -> Path:
    """Write the page, unless it is there and nothing has changed.

    Args:
        cache: the cache, up to date.
        out: file to write and to return; ``stats.html`` in the cache by default.
        start: told how many crops there are, when they are about to be read.
        advance: told about every crop read.

    Raises:
        UsageError: no such cache, or ``out`` would lie among the photos or take the place of another file.
    """
    files = Cache(cache)
    dataset = files.read()
    if out is not None:
        files.clear_of_photos(out)
        keep_whole(out)
    path = out or cache / OVERVIEW
    views = [open_view(cache, name) for name in files.views()]
    made_from = _made_from(files, dataset, views)
    if _written_from(path) == made_from:
        return path
    start(sum(len(view) for view in views))
    schema = Schema.from_dict(dataset["schema"])
    table = image_table(cache, schema)
    photos = read_table(files.images, needs=["image"]).set_index("image").loc[table["image"]].reset_index()
    body = "".join(_sections(table, photos, schema, dataset, [(view, survey(view, advance)) for view in views]))
    head = f'<meta name=maskprep-inputs content="{made_from}">'
    write_atomic(path, document(f"{files.root.resolve().name}: the data", body, head).encode())
    return path


def _made_from(files: Cache, dataset: dict[str, Any], views: Sequence[View]) -> str:
    marks = [values_mark(file) for file in (files.images, files.subjects, files.labels) if file.is_file()]
    crops = [[view.name, view.fingerprint(), view.mattes_fingerprint()] for view in views]
    return fingerprint("overview", RECIPE, VERSION, dataset["schema"], dataset.get("source"), marks, crops)


def _written_from(path: Path) -> str:
    """What a page says that it was made from; empty where there is none."""
    try:
        head = path.read_bytes()[:1000].decode("utf-8", "replace")
    except OSError:
        return ""
    return head.partition('name=maskprep-inputs content="')[2].partition('"')[0]


def _sections(
    table: pd.DataFrame,
    photos: pd.DataFrame,
    schema: Schema,
    dataset: dict[str, Any],
    views: Sequence[tuple[View, Survey]],
) -> Iterator[str]:
    """The parts of the page.

    Args:
        table: every image, see :func:`maskprep.dataset.image_table`.
        photos: images.parquet in the same order.
    """
    source = dataset.get("source") or {}
    learnt = table[(table["split"] == "train") & table["label"].notna() & table["excluded"].isna()]
    known = persons.known(table, source) >= persons.ENOUGH
    leaks = [(view, seen, _leaks(view, seen)) for view, seen in views]
    yield _cards(table, learnt, schema, known, source)
    noted = [*persons.doubts(table, source, schema), *_notes(learnt, schema, leaks)]
    if noted:
        yield "<h2>What to know before training</h2><ul>"
        yield "".join(f"<li>{escape(note)}" for note in noted) + "</ul>"
    yield from _classes(learnt, schema, known)
    for name in schema.names:
        if schema[name].bins:
            yield from _numbers(learnt, schema[name], known)
    if known:
        yield from _people(table)
    yield from _sources(table, photos, source)
    for view, seen, told in leaks:
        yield from _background(view, seen, told)
        yield from _pixels(view, seen)


def _cards(table: pd.DataFrame, learnt: pd.DataFrame, schema: Schema, known: bool, source: dict[str, Any]) -> str:
    people = f"{learnt['person'].nunique()}" if known else "unknown"
    cards = [
        (str(len(table)), "photos", f"layout {source.get('layout', 'unknown')}"),
        (str(len(learnt)), "to learn from", "labelled, of the split train"),
        (people, "people", "among these" if known else "each photo counts as one person"),
        (str(schema.num_classes), "classes", " × ".join(schema.joint) or "no labels"),
        (str(int((table["status"].isna() | table["status"].isin(["no_face", "dropped"])).sum())), "without a crop", ""),
    ]
    return (
        "<div class=cards>"
        + "".join(f"<div><b>{n}</b>{what}<small>{escape(more)}</small></div>" for n, what, more in cards)
        + "</div>"
    )


def _notes(
    learnt: pd.DataFrame, schema: Schema, leaks: Sequence[tuple[View, Survey, list[tuple[str, Leak | None]]]]
) -> Iterator[str]:
    """What is likely to matter, in sentences."""
    counts = _counts(learnt, schema)
    rare = [(name, n) for name, n in zip(schema.class_names, counts, strict=True) if n < RARE]
    if rare and len(learnt):
        listed = ", ".join(f"{name} ({n})" for name, n in sorted(rare, key=lambda c: c[1])[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        yield f"{len(rare)} of {len(counts)} classes have fewer than {RARE} photos: {listed}{more}."
    if len(counts) and min(counts) > 0 and max(counts) / min(counts) >= 3:
        names = schema.class_names
        most, least = int(np.argmax(counts)), int(np.argmin(counts))
        yield (
            f"The largest class, {names[most]}, has {max(counts) / min(counts):.0f} times as many photos as the"
            f" smallest, {names[least]} ({max(counts)} and {min(counts)})."
        )
    for name in schema.names:
        yield from _number_notes(learnt, schema[name])
    for view, seen, told in leaks:
        for name, found in told:
            if found is not None and found.verdict == "unclear":
                yield _leak_text(name, found, seen)
            elif found is not None and found.verdict != "no":
                yield (
                    f"{_leak_text(name, found, seen)} A model may learn the background in place of the face: compare a"
                    f" fit with one that has --background mean (view {view.name}; mattes are made by maskprep rembg)."
                )


def _number_notes(learnt: pd.DataFrame, attribute: Attribute) -> Iterator[str]:
    if not attribute.bins or attribute.name not in learnt:
        return
    numbers = pd.to_numeric(learnt[attribute.name], errors="coerce").dropna()
    if numbers.empty:
        return
    reach = min(NEAR, float(numbers.max() - numbers.min()) / 10)
    near = np.any([(numbers - limit).abs() < reach for limit in attribute.bins], axis=0)
    limits = ", ".join(f"{limit:g}" for limit in attribute.bins)
    yield (
        f"{attribute.name}: {near.mean():.0%} of the photos have a number less than {reach:.2g} away from a limit"
        f" ({limits}); there, neighbouring classes look alike."
    )
    index = np.digitize(numbers, attribute.bins)
    for k, name in enumerate(attribute.classes):
        inside = numbers[index == k]
        if len(inside) >= RARE and (share := (inside == inside.mode().iloc[0]).mean()) > HEAPED:
            yield (
                f"{attribute.name}: {share:.0%} of the photos of {name} have the number {inside.mode().iloc[0]:g}: it"
                " may stand for a whole range, and a model of the number learns less from it."
            )


def _counts(learnt: pd.DataFrame, schema: Schema) -> list[int]:
    """Photos of each joint class."""
    labels = learnt["label"].to_numpy(dtype=np.int64)
    return np.bincount(labels, minlength=schema.num_classes).tolist() if schema.num_classes else []


def _classes(learnt: pd.DataFrame, schema: Schema, known: bool) -> Iterator[str]:
    """Joint classes: photos and people of each."""
    yield "<h2>Classes</h2>"
    if not schema.num_classes or learnt.empty:
        yield "<p>No photo of the split train has a label.</p>"
        return
    counts = _counts(learnt, schema)
    people = learnt.groupby(learnt["label"].astype(int))["person"].nunique()
    yield "<p class=soft>Photos of each class; under the pointer its people.</p><div class=beside>"
    if len(schema.joint) > 1 and schema.num_classes <= MANY:
        *first, last = (schema[name] for name in schema.joint)
        wide = len(last.classes)
        notes = {(k // wide, k % wide): _people_of(int(people.get(k, 0))) for k in range(len(counts) if known else 0)}
        grid = np.reshape(counts, (-1, wide)).tolist()
        corner = f"{' / '.join(a.name for a in first)} × {last.name}"
        rows = Schema(tuple(first)).class_names
        yield HeatMap(rows, last.classes, grid, corner, shares=False, right=False, notes=notes).__html__()
    order = list(range(len(counts)))
    if len(counts) > MANY:
        order.sort(key=lambda k: (-counts[k], k))
        shown = [*order[:ENDS], *order[-ENDS:]]
        yield _spread(counts, "photos of a class (classes)").__html__()
    else:
        shown = order
    rows_ = [(schema.class_names[k], counts[k], int(people.get(k, 0)), f"{counts[k] / len(learnt):.1%}") for k in shown]
    kept = [0, 1, 2, 3] if known else [0, 1, 3]
    head = ("class", "photos", "people", "share")
    bars = [(counts[k] / max(counts), 0.0, 0.0) for k in shown]
    if len(shown) < len(counts):
        yield f"<p>The {ENDS} largest and the {ENDS} smallest of {len(counts)} classes:</p>"
    yield Table([head[i] for i in kept], [[row[i] for i in kept] for row in rows_], bars, "share").__html__() + "</div>"


def _spread(numbers: Sequence[float], foot: str) -> Histogram:
    """A histogram of some forty bars of a round width, of whole numbers never less than 1."""
    values = np.asarray(numbers, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    marks = round_numbers(low, high, 40)
    width = marks[1] - marks[0] if len(marks) > 1 else 1.0
    width = max(1.0, width) if (values == np.floor(values)).all() else width
    first = np.floor(low / width + 1e-9)
    edges = np.arange(first, np.floor(high / width + 1e-9) + 2) * width
    counts, _ = np.histogram(values, edges)
    return Histogram(edges.tolist(), counts.tolist(), foot)


def _numbers(learnt: pd.DataFrame, attribute: Attribute, known: bool) -> Iterator[str]:
    """The numbers behind the classes of an attribute, with the limits."""
    numbers = pd.to_numeric(learnt[attribute.name], errors="coerce")
    there = numbers.notna()
    if not there.any():
        return
    yield f"<h2>{escape(attribute.name)}</h2><div class=plots>"
    plain = _spread([*numbers[there]], attribute.name)
    parts = np.digitize(numbers[there], attribute.bins)
    names = [f"{name}: {int((parts == k).sum())}" for k, name in enumerate(attribute.classes)]
    who = learnt["person"][there]
    place = np.digitize(numbers[there], plain.edges) - 1
    said = []
    for k, count in enumerate(plain.counts):
        people = f", {_people_of(who[place == k].nunique())}" if known else ""
        said.append(f"{_span(plain.edges[k], plain.edges[k + 1])}: {counted(int(count), 'photo')}{people}")
    yield Histogram(plain.edges, plain.counts, f"{attribute.name} (photos)", attribute.bins, names, said).__html__()
    if known:
        ones = pd.DataFrame({"person": who, "number": numbers[there]}).drop_duplicates()["number"]
        counts, _ = np.histogram(ones, plain.edges)
        persons_ = [int((np.digitize(ones, attribute.bins) == k).sum()) for k in range(len(attribute.classes))]
        names = [f"{name}: {n}" for name, n in zip(attribute.classes, persons_, strict=True)]
        yield Histogram(plain.edges, counts.tolist(), f"{attribute.name} (people)", attribute.bins, names).__html__()
    yield "</div>"
    if unknown := int((~there).sum()):
        yield f"<p class=soft>The number of {counted(unknown, 'photo')} is not known.</p>"


def _span(low: float, high: float) -> str:
    return f"{low:g}" if high - low == 1 and low == int(low) else f"{low:g} to {high:g}"


def _people(table: pd.DataFrame) -> Iterator[str]:
    each = table[table["split"] == "train"].groupby("person").size()
    if each.empty:
        return
    yield f"<h2>Photos of each person</h2><p>{_people_of(len(each))}; photos of each: {each.median():g} in the"
    yield f" median ({each.min()} to {each.max()}).</p>"
    if each.min() < each.max():
        yield f"<div class=plots>{_spread(each.tolist(), 'photos of a person (people)').__html__()}</div>"


def _sources(table: pd.DataFrame, photos: pd.DataFrame, source: dict[str, Any]) -> Iterator[str]:
    """Where photos come from, and their sizes."""
    yield f"<h2>Photos</h2><p>Layout <b>{escape(str(source.get('layout', 'unknown')))}</b>.</p>"
    rows = []
    for split, part in table.groupby("split", sort=False):
        ours = photos[photos["image"].isin(part["image"])]
        rows.append(
            (
                split,
                len(part),
                int(part["label"].notna().sum()),
                int(part["excluded"].notna().sum()),
                int(ours["error"].notna().sum()) if "error" in ours else 0,
                _listed(ours["format"]) if "format" in ours else "",
            )
        )
    yield Table(("split", "photos", "labelled", "excluded", "unreadable", "formats"), rows).__html__()
    if not {"width", "height"} <= set(photos):
        return
    sides = photos[["width", "height"]].dropna().astype(int)
    if sides.empty:
        return
    sizes = sides.value_counts()
    shown = [
        (f"{w} × {h}", int(n), f"{n / len(sides):.1%}")
        for (w, h), n in zip(sizes.index.tolist()[:SIZES], sizes.tolist(), strict=False)
    ]
    rest = f"; the {SIZES} most frequent of {len(sizes)}" if len(sizes) > SIZES else ""
    yield f"<h3>Sizes</h3><p class=soft>Width × height in pixels{rest}.</p>"
    yield Table(
        ("size", "photos", "share"), shown, [(n / shown[0][1], 0.0, 0.0) for _, n, _ in shown], "share"
    ).__html__()
    if len(sizes) > SIZES:
        shorter = sides.to_numpy().min(1).tolist()
        yield f"<div class=plots>{_spread(shorter, 'shorter side, pixels (photos)').__html__()}</div>"


def _people_of(number: int) -> str:
    """``1 person``, ``2 people``."""
    return counted(number, "person", "people")


def _listed(values: pd.Series[Any]) -> str:
    """How often each value occurs, the most frequent first."""
    return ", ".join(f"{value} {n}" for value, n in values.dropna().value_counts().items())


def _leaks(view: View, seen: Survey) -> list[tuple[str, Leak | None]]:
    """For each attribute, how well the background tells its class."""
    table = view.table
    learnt = ((table["split"] == "train") & table["label"].notna() & table["excluded"].isna()).to_numpy(dtype=bool)
    labels = np.where(learnt, table["label"].fillna(0).to_numpy(dtype=np.int64), 0)
    found = []
    for axis, name in enumerate(view.schema.joint):
        classes = np.unravel_index(labels, view.schema.sizes)[axis]
        found.append((name, leak(seen.grounds, np.where(learnt, classes, -1), table["person"].tolist())))
    return found


def _leak_text(name: str, found: Leak, seen: Survey) -> str:
    """One sentence: the verdict and its numbers."""
    verdict = {"no": "does not give", "unclear": "may give"}.get(found.verdict, f"{found.verdict} gives")
    few = " There are too few people to tell." if found.verdict == "unclear" else ""
    what = "the mattes leave" if seen.by_matte else "the upper edge of the crop shows"
    form = ".0%" if found.chance >= 0.05 else ".1%"
    return (
        f"The background {verdict} {name} away: by the mean colour of what {what}, a class of {name} is recognised in"
        f" {found.recall:{form}} of its photos (95 % over {_people_of(found.people)}: {found.low:{form}} to"
        f" {found.high:{form}}); guessing reaches {found.chance:{form}}.{few}"
    )


def _background(view: View, seen: Survey, told: Sequence[tuple[str, Leak | None]]) -> Iterator[str]:
    """Brightness of the background by class, and what it tells."""
    if not told:
        return
    yield f"<h2>Background by class, view {escape(view.name)}</h2>"
    for name, found in told:
        why = f"{name}: too few people or classes to say whether the background gives it away."
        yield f"<p>{escape(why if found is None else _leak_text(name, found, seen))}</p>"
    yield "<p class=soft>Mean brightness of each photo's background, 0 black to 1 white: the line spans 90 % of a"
    yield " class, the box half, the mark is the median.</p><div class=plots>"
    brightness = seen.grounds.mean(1)
    for axis, (name, _) in enumerate(told):
        labels = view.table["label"]
        usable = (labels.notna() & (view.table["split"] == "train")).to_numpy(dtype=bool) & np.isfinite(brightness)
        index = np.unravel_index(labels.fillna(0).to_numpy(dtype=np.int64), view.schema.sizes)[axis]
        classes = [(c, brightness[usable & (index == k)]) for k, c in enumerate(view.schema[name].classes)]
        classes = [(c, values) for c, values in classes if len(values)]
        if len(classes) > MANY:
            classes.sort(key=lambda c: float(np.median(c[1])))
            classes = [*classes[:ENDS], *classes[-ENDS:]]
        boxes = {c: np.percentile(values, [5, 25, 50, 75, 95]).tolist() for c, values in classes}
        if boxes:
            yield BoxPlot(boxes, f"brightness of the background by {name}").__html__()
    yield "</div>"


def _pixels(view: View, seen: Survey) -> Iterator[str]:
    """Histograms of the channels, and mean faces."""
    yield f"<h2>Pixels, view {escape(view.name)}</h2>"
    yield f"<p class=soft>{counted(len(view), 'crop')} of {view.size[0]} × {view.size[1]} pixels.</p><div class=plots>"
    values = np.arange(256)
    for what, histogram in (("all pixels", seen.whole), ("pixels of the subjects", seen.foreground)):
        if histogram.any():
            shares = 100 * histogram.reshape(3, 64, 4).sum(2) / histogram.sum(1, keepdims=True)
            means = histogram @ values / histogram.sum(1) / 255
            lines = {
                f"{c}, mean {m:.3f}": s.tolist()
                for c, m, s in zip(("red", "green", "blue"), means, shares, strict=True)
            }
            high = max(float(shares[:, 1:-1].max()), 0.1)  # clipped pixels would dwarf the rest
            top = round_numbers(0, high * 1.25)[-1] or high
            clipped = {name: [min(v, top) for v in line] for name, line in lines.items()}
            yield LineChart(
                clipped,
                f"value, 0 to 255 (% of {what})",
                low=0.0,
                high=top,
                first=2,
                step=4,
                table=False,
                colours=("orange", "green", "blue"),
            ).__html__()
    yield "</div><h3>Mean of the crops of each class</h3>"
    yield Pictures([(picture(face), [name, counted(count, "crop")]) for name, count, face in seen.faces]).__html__()
