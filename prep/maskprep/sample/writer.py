"""A made-up data set in the boostcamp layout, to try every command on: masks drawn on the landmarks of real faces.

Built in is one portrait, NASA's of an astronaut, which scikit-image ships. All its "people" are that one face in other
framings, light and rooms. Such a set shows how everything works; it cannot show how well a model knows new people, and
its gender and age columns stay unknown. A folder of portraits with a table of person, gender and age gives a set with
all 18 classes and with people who are different people.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.sample.drape import Bytes
from maskprep.sample.studio import NAMES, Person, Studio, built_in_portrait, joint_label, open_landmarker, read_people

_CLASS = {"incorrect_mask": "incorrect", "normal": "normal"}
_ONLY_MASK = """\
# The sample's people have no known gender or age: only the mask is a label.
source:
  layout: boostcamp
schema:
  attributes:
    mask: {classes: [wear, incorrect, normal]}
  joint: [mask]
"""


@dataclass(frozen=True)
class Fault:
    """A file that is broken or odd on purpose: path relative to the data set, and what is the matter with it."""

    file: str
    fault: str


@dataclass(frozen=True)
class SampleSummary:
    """What :func:`write_sample` wrote. ``skipped`` holds (portrait, reason) for every portrait not used."""

    folder: Path
    photos: int
    eval_photos: int
    people: int
    eval_people: int
    faults: tuple[Fault, ...]
    skipped: tuple[tuple[str, str], ...]
    answers: Path


def write_sample(
    out: Path,
    *,
    people: int = 24,
    eval_people: int | None = None,
    portraits: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
    faults: bool = True,
    progress: Callable[[int, int], None] | None = None,
    landmarker: Path | None = None,
) -> SampleSummary:
    """Write a data set of 384x512 photos with drawn masks: seven of each person, train/ labelled, eval/ not.

    The answers for eval/ go to ``eval_answers.csv`` and a list of the files broken on purpose to ``faults.csv``, both
    in the root of the data set. The same arguments give the same bytes.

    Args:
        out: folder to write; must not exist or be empty. It appears only when everything is written.
        people: people in train/; with portraits at most, as far as the portraits go.
        eval_people: people in eval/, never those of train/. Default: a quarter of ``people``, at least one.
        portraits: folder of portraits instead of the built-in one.
        labels: CSV for them with columns file, person, gender, age, and race if known; several rows per person are
            several shots. ``file`` is relative to ``portraits``.
        seed: another seed, another data set.
        faults: add broken and odd files, in train/ only.
        progress: called with (photos done, photos in all).
        landmarker: MediaPipe face landmark model; default: the weight ``face_landmarker``.

    Raises:
        UsageError: a folder that is not empty, numbers out of range, portraits without labels or the other way round,
            or a table that lacks columns or holds values that cannot be read.
        UserError: no usable portrait, or scikit-image or the model is missing.
    """
    if people < 1 or (eval_people is not None and eval_people < 0):
        raise UsageError("A sample needs at least one person in train and none or more in eval.")
    if (portraits is None) != (labels is None):
        raise UsageError("--portraits and --labels belong together.", "Give both, or none for the built-in portrait.")
    _check_free(out)
    wanted_eval = max(1, round(people / 4)) if eval_people is None else eval_people
    cast = read_people(portraits, labels, seed) if portraits and labels else None
    if landmarker is None:
        from maskprep.weights.fetch import locate

        landmarker = locate("face_landmarker")

    with open_landmarker(landmarker) as find, _unfinished(out) as folder:
        if cast is None:
            studio = Studio(find, built_in_portrait(find))
            train = [Person(f"{i + 1:06d}", "", "", "", ()) for i in range(people + wanted_eval)]
            train, held_out = train[:people], train[people:]
        else:
            studio = Studio(find, {})
            usable = [p for p in cast if len(studio) < people + wanted_eval and studio.add(p)]
            if len(usable) < (2 if wanted_eval else 1):
                raise UserError(f"Only {len(usable)} of the people in {labels} have a usable portrait.", studio.why())
            if len(usable) < people + wanted_eval:
                share = wanted_eval / (people + wanted_eval)
                wanted_eval = min(len(usable) - 1, max(1, round(len(usable) * share))) if wanted_eval else 0
            train, held_out = usable[: len(usable) - wanted_eval], usable[len(usable) - wanted_eval :]
        total = len(NAMES) * (len(train) + len(held_out))
        done = _Counter(total, progress)
        _write_train(folder, train, studio, seed, done)
        _write_eval(folder, train, held_out, studio, seed, done)
        if cast is None:
            (folder / "maskprep.yaml").write_text(_ONLY_MASK, encoding="utf-8")
        broken = _add_faults(folder, seed) if faults else ()
    return SampleSummary(
        folder=out,
        photos=len(NAMES) * len(train),
        eval_photos=len(NAMES) * len(held_out),
        people=len(train),
        eval_people=len(held_out),
        faults=broken,
        skipped=tuple(studio.skipped),
        answers=out / "eval_answers.csv",
    )


def _check_free(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise UsageError(f"The folder {out} is not empty.", "Name a new folder, or empty this one first.")
    elif out.exists() or out.is_symlink():
        raise UsageError(f"{out} is not a folder.", "Name a new folder.")


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its name at the end, or disappears when something goes wrong."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
        work.chmod(0o777 & ~_umask())
    except OSError as error:
        raise UserError(f"Cannot write to {out.parent}: {error.strerror}.") from error
    try:
        yield work
        _check_free(out)  # somebody may have written there meanwhile
        if out.exists():
            out.rmdir()
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _Counter:
    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def step(self) -> None:
        self.done += 1
        if self.tell:
            self.tell(self.done, self.total)


def _write_train(folder: Path, people: list[Person], studio: Studio, seed: int, done: _Counter) -> None:
    rows: list[list[object]] = []
    for index, person in enumerate(people):
        number = f"{index + 1:06d}"
        gender, race, age = person.gender or "unknown", person.race or "unknown", person.age or "unknown"
        name = f"{number}_{gender}_{race}_{age}"
        home = folder / "train" / "images" / name
        home.mkdir(parents=True)
        suffixes = np.random.default_rng([seed, 3, index])
        for photo, pixels in studio.photos(person, people, [seed, 1, index]):
            suffix = str(suffixes.choice([".jpg", ".jpeg", ".JPG", ".png"], p=[0.94, 0.03, 0.015, 0.015]))
            _save(home / f"{photo}{suffix}", pixels)
            done.step()
        rows.append([number, person.gender, person.race, person.age, name])
    _write_csv(folder / "train" / "train.csv", ["id", "gender", "race", "age", "path"], rows)


def _write_eval(
    folder: Path, train: list[Person], people: list[Person], studio: Studio, seed: int, done: _Counter
) -> None:
    home = folder / "eval" / "images"
    home.mkdir(parents=True)
    answers: list[list[object]] = []
    for index, person in enumerate(people):
        number = f"{len(train) + index + 1:06d}"
        for photo, pixels in studio.photos(person, people, [seed, 2, index]):
            name = hashlib.sha1(f"{seed}/{number}/{photo}".encode()).hexdigest() + ".jpg"
            _save(home / name, pixels)
            mask = _CLASS.get(photo, "wear")
            answers.append([name, joint_label(mask, person), mask, person.gender, person.age, number])
            done.step()
    answers.sort(key=lambda row: str(row[0]))
    _write_csv(folder / "eval" / "info.csv", ["ImageID", "ans"], [[row[0], 0] for row in answers])
    _write_csv(folder / "eval_answers.csv", ["ImageID", "ans", "mask", "gender", "age", "person"], answers)


def _save(path: Path, pixels: Bytes) -> None:
    if path.suffix.lower() == ".png":
        Image.fromarray(pixels).save(path, format="PNG", compress_level=4)
    else:
        Image.fromarray(pixels).save(path, format="JPEG", quality=92)


def _write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def _add_faults(folder: Path, seed: int) -> tuple[Fault, ...]:
    """Break or disguise a few files of train/, each of another photo, and list them in faults.csv."""
    rng = np.random.default_rng([seed, 5])
    jpegs = sorted((folder / "train" / "images").glob("*/*.jpg"))
    spare = [p for p in jpegs if p.stem in NAMES[1:5]]  # a person keeps mask1, incorrect_mask and normal whole
    spare = [spare[int(i)] for i in rng.permutation(len(spare))]
    others = [p for p in jpegs if p.stem not in NAMES[1:5]]
    made: list[Fault] = []
    for fault, apply in _FAULTS.items():
        harmless = [] if fault in ("truncated", "empty") else others
        if pool := spare or harmless:
            made.append(Fault(apply(pool.pop(0)).relative_to(folder).as_posix(), fault))
    _write_csv(folder / "faults.csv", ["file", "fault"], [[f.file, f.fault] for f in made])
    return tuple(made)


def _truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.55)])
    return path


def _empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def _rotate(path: Path) -> Path:
    with Image.open(path) as image:
        turned, exif = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn to the right
    turned.save(path, format="JPEG", quality=92, exif=exif)
    return path


def _to_grey(path: Path) -> Path:
    with Image.open(path) as image:
        grey = image.convert("L")
    grey.save(path, format="JPEG", quality=92)
    return path


def _to_png(path: Path) -> Path:
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    pixels.save(path, format="PNG")
    return path


def _shout(path: Path) -> Path:
    return path.rename(path.with_suffix(".JPG"))


def _apple_double(path: Path) -> Path:
    double = path.with_name("._mask1.jpg")
    double.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58))
    return double


_FAULTS: dict[str, Callable[[Path], Path]] = {
    "truncated": _truncate,
    "empty": _empty,
    "exif_rotated": _rotate,
    "grayscale": _to_grey,
    "png_named_jpg": _to_png,
    "upper_case_suffix": _shout,
    "apple_double": _apple_double,
}
