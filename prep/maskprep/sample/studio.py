"""Portraits, the people they show, and the photos made of them."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from maskprep.base.quiet import quiet
from maskprep.errors import UsageError, UserError, missing_extra
from maskprep.labels.schema import MASK_SCHEMA
from maskprep.photos.decode import PhotoError, load
from maskprep.sample.backdrops import backdrop
from maskprep.sample.cutouts import cut_out
from maskprep.sample.drape import Bytes, Floats, State
from maskprep.sample.fabrics import pick_style
from maskprep.sample.scenes import CLEAN, HEIGHT, WIDTH, Look, Portrait, take_photo

NAMES = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
"""The photos of one person, as the layout names them."""

_LONGEST = 1200  # portraits are reduced to this side before anything else

Landmarker = Callable[[Bytes], Floats | None]


@dataclass(frozen=True)
class Person:
    name: str
    gender: str
    race: str
    age: str
    shots: tuple[Path, ...]  # none: the built-in portrait


def joint_label(mask: str, person: Person) -> int | None:
    """The class of a photo: of 18, or of the three of the mask where gender and age are not known."""
    if not person.shots:
        return MASK_SCHEMA["mask"].index(mask)
    return MASK_SCHEMA.label({"mask": mask, "gender": person.gender, "age": person.age})


class Studio:
    """Portraits of everybody in the set, and the photos made of them."""

    def __init__(self, find: Landmarker, built_in: dict[str, list[Portrait]]) -> None:
        self._find = find
        self._shots: dict[str, list[Portrait]] = built_in
        self._files: dict[str, list[Path]] = {}
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """How many people have usable portraits so far."""
        return len(self._files)

    def add(self, person: Person) -> bool:
        """Look through a person's portraits; those that cannot be used are noted. False when none is left."""
        good = []
        for path in person.shots:
            try:
                pixels = _reduced(load(path))
            except PhotoError as error:
                self.skipped.append((str(path), f"cannot be read: {error}"))
                continue
            if self._find(pixels) is None:
                self.skipped.append((str(path), "no face found"))
            else:
                good.append(path)
        if good:
            self._files[person.name] = good
        return bool(good)

    def why(self) -> str:
        """The reasons for skipped portraits, in one line."""
        counts = Counter(reason.split(":")[0] for _, reason in self.skipped)
        return "Skipped: " + (", ".join(f"{n} {reason}" for reason, n in sorted(counts.items())) or "none") + "."

    def photos(self, person: Person, others: list[Person], key: list[int]) -> Iterator[tuple[str, Bytes]]:
        """The seven photos of a person in the order of the layout."""
        rng = np.random.default_rng(key)
        look = Look.draw(rng)
        mirror = not person.shots and bool(rng.random() < 0.5)
        home = backdrop(HEIGHT, WIDTH, rng)  # where this person is seen more than once
        styles = [pick_style(rng) for _ in range(3)]
        for k, photo in enumerate(NAMES):
            rng = np.random.default_rng([*key, k])
            own = self._portraits(person)
            subject = own[int(mirror)] if not person.shots else own[k % len(own)]
            state: State | None = "worn"
            if photo == "incorrect_mask":
                state = "nose" if rng.random() < 0.6 else "chin"
            elif photo == "normal":
                state = None
            mask = (styles[int(rng.integers(3))], state) if state else None
            behind = self._bystanders(person, others, mirror, rng)
            where = rng.random()
            room = home if where < 0.3 else backdrop(HEIGHT, WIDTH, rng) if where < 0.6 else None
            yield photo, take_photo(subject, look.shaken(rng), mask, behind, rng, room)

    def _bystanders(
        self, person: Person, others: list[Person], mirror: bool, rng: np.random.Generator
    ) -> list[Portrait]:
        if not person.shots:
            count = int(rng.choice([0, 1, 2], p=[0.8, 0.14, 0.06]))
            return [self._portraits(person)[int(mirror) ^ (i == 0)] for i in range(count)]
        # Nobody can stand behind a person who cannot be cut out, so the others have company more often.
        count = int(rng.choice([0, 1, 2], p=[0.6, 0.28, 0.12]))
        clean: list[Portrait] = []
        for i in rng.permutation(len(others))[:8]:
            if len(clean) < count and others[int(i)].name != person.name:
                clean += [p for p in self._portraits(others[int(i)])[:1] if p.cutout.quality >= CLEAN]
        return clean

    def _portraits(self, person: Person) -> list[Portrait]:
        if not person.shots:
            return self._shots[""]
        if person.name not in self._shots:
            shots = []
            for path in self._files[person.name]:
                pixels = _reduced(load(path))
                points = self._find(pixels)
                if points is not None:
                    shots.append(Portrait(pixels, points, cut_out(pixels, points)))
            if len(self._shots) >= 64:  # enough for neighbours and bystanders, without holding a whole folder
                self._shots.pop(next(iter(self._shots)))
            self._shots[person.name] = shots
        return self._shots[person.name]


def _reduced(pixels: Bytes) -> Bytes:
    factor = _LONGEST / max(pixels.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(pixels)
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


# In the built-in portrait: flag and model of the shuttle on its table (-1), the collar's pale ring and the helmet (1).
_OUTLINES: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (-1, ((0, 0), (118, 0), (118, 140), (60, 230), (20, 300), (0, 480))),
    (-1, ((330, 0), (511, 0), (511, 345), (362, 345), (330, 230))),
    (1, ((128, 168), (141, 156), (158, 151), (176, 150), (254, 176), (270, 184), (286, 203), (299, 223), (303, 240))),
    (1, ((303, 240), (297, 264), (265, 288), (215, 288), (154, 262), (127, 215), (125, 188), (128, 168))),
    (
        1,
        (
            (284, 440),
            (302, 396),
            (332, 366),
            (366, 351),
            (400, 347),
            (440, 357),
            (474, 392),
            (493, 440),
            (497, 511),
            (284, 511),
        ),
    ),
)


def built_in_portrait(find: Landmarker) -> dict[str, list[Portrait]]:
    """The NASA portrait, as it is and mirrored."""
    try:
        from skimage import data
    except ImportError:
        raise missing_extra("scikit-image", "sample") from None
    image = np.ascontiguousarray(data.astronaut()[..., :3])
    known = np.zeros(image.shape[:2], np.int8)
    for value, outline in _OUTLINES:
        filled = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [np.array(outline, np.int32)], 1)
        known[filled > 0] = value
    portraits = []
    for step in (1, -1):
        pixels = np.ascontiguousarray(image[:, ::step])
        points = find(pixels)
        if points is None:
            raise UserError("No face was found in the built-in portrait.", "Check the landmark model that was given.")
        portraits.append(Portrait(pixels, points, cut_out(pixels, points, np.ascontiguousarray(known[:, ::step]))))
    return {"": portraits}


def read_people(portraits: Path, labels: Path, seed: int) -> list[Person]:
    """People of the table, mixed so that genders and ages alternate."""
    if not portraits.is_dir():
        raise UsageError(f"There is no folder {portraits}.", "--portraits wants a folder of pictures.")
    try:
        text = labels.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {labels}: {error}.", "--labels wants a CSV file in UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text))
    columns = {(name or "").strip().lower(): name for name in reader.fieldnames or []}
    missing = [name for name in ("file", "person", "gender", "age") if name not in columns]
    if missing:
        raise UsageError(f"{labels} has no column {', '.join(missing)}.", "It needs: file, person, gender, age.")
    found: dict[str, Person] = {}
    for row in reader:
        where = f"{labels}, line {reader.line_num}"
        person = _read_row({key: (row[name] or "").strip() for key, name in columns.items()}, portraits, where)
        known = found.get(person.name)
        if known and (known.gender, known.age) != (person.gender, person.age):
            raise UsageError(f"{where}: {person.name} has another gender or age than in an earlier line.")
        found[person.name] = (
            Person(known.name, known.gender, known.race, known.age, known.shots + person.shots) if known else person
        )
    if not found:
        raise UsageError(f"{labels} names no portraits.")
    return _alternating(list(found.values()), seed)


def _read_row(row: dict[str, str], portraits: Path, where: str) -> Person:
    if not row["person"] or not row["file"]:
        raise UsageError(f"{where}: person and file must not be empty.")
    path = portraits / row["file"]
    if not path.is_file():
        raise UsageError(f"{where}: there is no file {path}.")
    if MASK_SCHEMA["gender"].index(row["gender"]) is None:
        raise UsageError(f"{where}: gender '{row['gender']}' is neither male nor female.")
    try:
        age = float(row["age"])
    except ValueError:
        age = math.nan
    if not 0 <= age < 150:
        raise UsageError(f"{where}: age '{row['age']}' is not a number of years.")
    race = row.get("race", "").replace("_", "-").replace("/", "-").replace("\\", "-")
    return Person(row["person"], row["gender"].lower(), race, str(int(age)), (path,))


def _alternating(people: list[Person], seed: int) -> list[Person]:
    """One of each gender and age group in turn, shuffled within the groups."""
    order = np.random.default_rng([seed, 4]).permutation(len(people))
    groups: dict[int | None, list[Person]] = {}
    for i in order:
        groups.setdefault(joint_label("wear", people[int(i)]), []).append(people[int(i)])
    mixed: list[Person] = []
    queues = [groups[key] for key in sorted(groups, key=str)]
    while any(queues):
        mixed += [queue.pop(0) for queue in queues if queue]
    return mixed


@contextlib.contextmanager
def open_landmarker(path: Path) -> Iterator[Landmarker]:
    """A function from RGB pixels to the 478 landmarks [478, 3] of the largest face, in pixels, or None."""
    try:
        with quiet():
            import mediapipe as mp
            from mediapipe.tasks.python import BaseOptions, vision

            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=path.read_bytes()), num_faces=3
            )
            task = vision.FaceLandmarker.create_from_options(options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"The landmark model {path} cannot be opened: {str(error).splitlines()[0]}") from error

    def find(pixels: Bytes) -> Floats | None:
        h, w = pixels.shape[:2]
        result = task.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)))
        faces = [np.array([[p.x * w, p.y * h, p.z * w] for p in face], np.float32) for face in result.face_landmarks]
        return max(faces, key=lambda p: float(np.ptp(p[:, 0])), default=None)

    with task:
        find(np.zeros((64, 64, 3), np.uint8))
        yield find
