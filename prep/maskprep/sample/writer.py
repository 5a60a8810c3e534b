"""A made-up data set in the boostcamp layout, to try every command on: photos of portraits with drawn masks.

Built in is one portrait, NASA's of an astronaut, which scikit-image ships: all "people" are that face in other frames,
light and rooms. Such a set shows how everything works; it cannot show how well a model knows new people, and gender and
age stay unknown. The generated portraits (:mod:`maskprep.sample.generated`), or a folder of portraits with a table of
person, gender and age, give all 18 classes.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from maskprep.base import Progress, Silent, UsageError, UserError, counted
from maskprep.photos import PhotoError
from maskprep.sample.generated import LABELS, fetch_portraits
from maskprep.sample.masks import KINDS, State
from maskprep.sample.scene import LOOK, Read, draw_room, open_portraits, take_photo

STATES = {**{f"mask{i}": "wear" for i in range(1, 6)}, "incorrect_mask": "incorrect", "normal": "normal"}
"""The photos of one person, as the layout names them, and the class of the mask on each."""

_ONLY_MASK = """\
# The sample's people have no known gender or age: only the mask is a label.
source: {layout: boostcamp}
schema: {attributes: {mask: {classes: [wear, incorrect, normal]}}, joint: [mask]}
"""


@dataclass(frozen=True)
class SampleSummary:
    """What :func:`write_sample` wrote: people in train/ and in eval/, the file with each fault, portraits not used, and
    why the built-in portrait was used where generated ones were preferred."""

    folder: Path
    people: int
    eval_people: int
    faults: dict[str, str]
    skipped: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class Person:
    """Someone in the set; gender and age are empty where they are not known. ``shots`` are portraits."""

    name: str
    gender: str
    age: str
    shots: tuple[Path, ...]

    def label(self, state: str) -> int:
        """The class of a photo: of 18, or of the three of the mask where gender and age are not known."""
        mask = ("wear", "incorrect", "normal").index(state)
        if not self.age:
            return mask
        return 6 * mask + 3 * (self.gender == "female") + (int(self.age) >= 30) + (int(self.age) >= 60)


def write_sample(
    out: Path,
    *,
    people: int = 24,
    eval_people: int | None = None,
    portraits: Path | str | None = None,
    labels: Path | None = None,
    seed: int = 0,
    faults: bool = True,
    progress: Progress | None = None,
) -> SampleSummary:
    """Write a data set of 384x512 photos, seven of each person, and eval_answers.csv. Same arguments, same bytes.

    Args:
        out: folder to write; must not exist or be empty. It appears only when everything is written.
        people: people in train/; fewer where there are not so many portraits.
        eval_people: other people in eval/. Default: a quarter of ``people``, at least one.
        portraits: folder of portraits instead of the built-in one; or ``generated``: 60 generated ones, fetched when
            they are first used; or ``auto``: these, or the built-in one where they cannot be fetched.
        labels: CSV for a folder of portraits: file, person (may have several), gender, age.
        faults: add broken and odd files to train/, and list them in faults.csv.

    Raises:
        UserError: no usable portrait, or portraits or a model cannot be fetched; UsageError for wrong arguments.
    """
    if people < 1 or (eval_people is not None and eval_people < 0):
        raise UsageError("A sample needs at least one person in train and none or more in eval.")
    fetched = portraits in ("generated", "auto")  # a folder of this name is Path("generated")
    if (portraits is not None and not fetched) != (labels is not None):
        hint = "Give both for portraits of your own; neither the built-in nor the generated ones take --labels."
        raise UsageError("A folder of --portraits and --labels belong together.", hint)
    _check_free(out)
    progress, note = progress or Silent(), ""
    if fetched:
        try:
            portraits, labels = fetch_portraits(progress), LABELS
        except UserError as error:
            if portraits == "generated":
                raise
            portraits = None
            note = f"{error.message} The built-in portrait is used: everybody has its face, only the mask is a label."
    held_out = max(1, round(people / 4)) if eval_people is None else eval_people
    wanted = people + held_out
    if portraits and labels:
        cast = _alternating(_read_people(Path(portraits), labels), seed)
    else:
        from skimage import data

        cast = [Person(str(i), "", "", (Path(data.__file__).with_name("astronaut.png"),)) for i in range(wanted)]
    skipped: dict[str, str] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_portraits() as read_new, tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as partial:
        read, folder = functools.lru_cache(64)(read_new), Path(partial) / out.name
        cast = _usable(cast, wanted, read, skipped)
        if len(cast) < 1 + bool(held_out):
            reasons = ", ".join(sorted({reason.split(":")[0] for reason in skipped.values()})) or "none"
            raise UserError(
                f"{labels} has usable portraits of only {counted(len(cast), 'person', 'people')}.",
                f"Skipped: {reasons}.",
            )
        held_out = min(len(cast) - 1, round(len(cast) * held_out / wanted) or bool(held_out))
        train = cast[: len(cast) - held_out]
        _write_photos(folder, train, cast[len(train) :], read, seed, progress)
        if portraits is None:
            (folder / "maskprep.yaml").write_text(_ONLY_MASK, encoding="utf-8")
        broken = _add_faults(folder, seed) if faults else {}
        _check_free(out)  # somebody may have written there meanwhile
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return SampleSummary(out, len(train), held_out, broken, skipped, note)


def _check_free(out: Path) -> None:
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UsageError(f"{out} exists and is not an empty folder.", "Name a new folder, or empty this one first.")


def _read_people(portraits: Path, labels: Path) -> list[Person]:
    """The people of a table of portraits, in its order."""
    try:
        reader = csv.DictReader(labels.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {labels}: {error}.", "--labels wants a CSV file in UTF-8.") from error
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
    needed = ("file", "person", "gender", "age")
    if missing := [name for name in needed if name not in reader.fieldnames]:
        raise UsageError(f"{labels} has no column {', '.join(missing)}.", f"It needs: {', '.join(needed)}.")
    people: dict[str, Person] = {}
    for cells in reader:
        row = {name: (cells[name] or "").strip() for name in reader.fieldnames}
        path, gender, age = portraits / row["file"], row["gender"].lower(), row["age"].partition(".")[0]
        known = people.get(row["person"], Person(row["person"], gender, age, ()))
        for right, what in (
            (row["person"] and row["file"], "person and file must not be empty"),
            (path.is_file(), f"there is no file {path}"),
            (gender in ("male", "female"), f"gender '{row['gender']}' is neither male nor female"),
            (re.fullmatch(r"\d\d?|1[0-4]\d", age), f"age '{row['age']}' is not a number of years"),
            ((known.gender, known.age) == (gender, age), f"{known.name} has another gender or age in an earlier line"),
        ):
            if not right:
                raise UsageError(f"{labels}, line {reader.line_num}: {what}.")
        people[known.name] = replace(known, shots=(*known.shots, path))
    if not people:
        raise UsageError(f"{labels} names no portraits.")
    return list(people.values())


def _alternating(people: list[Person], seed: int) -> list[Person]:
    """One of each gender and age group in turn, shuffled within the groups."""
    groups: dict[int, list[Person]] = {}
    for i in np.random.default_rng([seed, 4]).permutation(len(people)):
        groups.setdefault(people[i].label("wear"), []).append(people[i])
    turns = itertools.zip_longest(*(groups[label] for label in sorted(groups)))
    return [person for turn in turns for person in turn if person]


def _usable(people: list[Person], wanted: int, read: Read, skipped: dict[str, str]) -> list[Person]:
    """The first people with portraits that can be used, and only those portraits; the others go to ``skipped``."""
    usable: list[Person] = []
    for person in people:
        for path in person.shots:
            try:
                read(path)
            except PhotoError as error:
                skipped[str(path)] = str(error)
        if shots := tuple(path for path in person.shots if str(path) not in skipped):
            usable.append(replace(person, shots=shots))
        if len(usable) == wanted:
            break
    return usable


def _write_photos(
    folder: Path, train: list[Person], held_out: list[Person], read: Read, seed: int, progress: Progress
) -> None:
    """Photos and tables of train/ and eval/, and the answers for eval/."""
    progress.start("sample", len(STATES) * (len(train) + len(held_out)))
    people, answers = [], []
    for number, person in enumerate([*train, *held_out], start=1):
        home = f"{number:06d}_{person.gender or 'unknown'}_unknown_{person.age or 'unknown'}"  # nobody's race is known
        learnt = number <= len(train)
        if learnt:
            people.append([f"{number:06d}", person.gender, "", person.age, home])
        rng = np.random.default_rng([seed, 3, number])
        for photo, picture in _photos(person, train if learnt else held_out, read, [seed, 1, number]):
            if learnt:
                suffix = rng.choice([".jpg", ".jpeg", ".JPG", ".png"], p=[0.94, 0.03, 0.015, 0.015])
                path = folder / "train" / "images" / home / f"{photo}{suffix}"
            else:
                digest = hashlib.sha1(f"{seed}/{home}/{photo}".encode()).hexdigest()
                path = folder / "eval" / "images" / f"{digest}.jpg"
                label = str(person.label(STATES[photo]))
                answers.append([path.name, label, STATES[photo], person.gender, person.age, f"{number:06d}"])
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=92)
            progress.advance()
    answers.sort()
    (folder / "eval").mkdir(exist_ok=True)
    _write_csv(folder / "train" / "train.csv", ["id", "gender", "race", "age", "path"], people)
    _write_csv(folder / "eval" / "info.csv", ["ImageID", "ans"], [[row[0], "0"] for row in answers])
    _write_csv(folder / "eval_answers.csv", ["ImageID", "ans", "mask", "gender", "age", "person"], answers)


def _photos(person: Person, others: Sequence[Person], read: Read, key: list[int]) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture of the seven photos of a person."""
    rng = np.random.default_rng(key)
    look, mirror, home = rng.normal(*LOOK), rng.random() < 0.5, draw_room(rng)
    kinds = rng.choice(list(KINDS), 3, p=[kind.share for kind in KINDS.values()])
    strangers = [other.shots[0] for other in others if other.name != person.name]
    for k, (name, state) in enumerate(STATES.items()):
        rng = np.random.default_rng([*key, k])
        worn: State = "worn" if state == "wear" else "nose" if rng.random() < 0.6 else "chin"
        mask = None if state == "normal" else (str(rng.choice(kinds)), worn)
        count = int(rng.choice(3, p=[0.78, 0.15, 0.07]))
        behind = [read(strangers[i]) for i in rng.permutation(len(strangers))[:count]]
        room = (home, draw_room(rng), None)[int(rng.choice(3, p=[0.2, 0.3, 0.5]))]
        pixels = take_photo(read(person.shots[k % len(person.shots)]), look, mask, behind, room, rng)
        yield name, Image.fromarray(pixels[:, ::-1] if mirror else pixels)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _turned(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn to the right
    picture.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)


def _apple_double(picture: Image.Image, path: Path) -> Path:
    path = path.with_name("._mask1.jpg")
    path.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58))
    return path


FAULTS: dict[str, Callable[[Image.Image, Path], Path | None]] = {
    "truncated": lambda picture, path: os.truncate(path, int(path.stat().st_size * 0.55)),
    "empty": lambda picture, path: os.truncate(path, 0),
    "exif_rotated": _turned,
    "grayscale": lambda picture, path: picture.convert("L").save(path, quality=92),
    "png_named_jpg": lambda picture, path: picture.save(path, format="PNG"),
    "upper_case_suffix": lambda picture, path: path.rename(path.with_suffix(".JPG")),
    "apple_double": _apple_double,
}
"""What makes a JPEG file broken or odd; the new path where it has one."""


def _add_faults(folder: Path, seed: int) -> dict[str, str]:
    """Break or disguise a few files of train/, each of another photo, and list them in faults.csv."""
    jpegs = sorted((folder / "train" / "images").glob("*/*.jpg"))
    spare = [path for path in jpegs if path.stem[-1] in "2345"]  # a person keeps mask1, incorrect_mask and normal whole
    spare = [spare[i] for i in np.random.default_rng([seed, 5]).permutation(len(spare))]
    others = [path for path in jpegs if path not in spare]
    made: dict[str, str] = {}
    for fault, change in FAULTS.items():
        if pool := spare or ([] if fault in ("truncated", "empty") else others):
            with Image.open(path := pool.pop(0)) as image:
                picture = image.convert("RGB")
            made[fault] = (change(picture, path) or path).relative_to(folder).as_posix()
    _write_csv(folder / "faults.csv", ["file", "fault"], [[file, fault] for fault, file in made.items()])
    return made
