"""A cache folder: where everything lies, what it was made from, and who is at work on it."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, UserError, keep_out, lock, read_once, write_atomic, write_json

FORMAT = 1
"""Version of the cache layout. A newer one is refused, never guessed at."""

PARTS = {
    "source": {"root", "settings", "schema_given", "config"},
    "schema": {"attributes"},
    "settings": {"index", "detect", "choose", "views"},
}
"""What dataset.json cannot do without."""

DATASET = "dataset.json"
VIEW, INDEX, MATTES = "view.json", "index.parquet", "mattes.parquet"
"""Files of a view's folder: its geometry, the crops that count, and the judgement of their mattes."""

CACHES = Path("cache")
"""Default folder for caches, relative to where the command is run."""


class _Part:
    """A file of a cache, by its name within the cache's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, cache: Cache, owner: type) -> Path:
        return cache.root / self.name


@dataclass(frozen=True)
class Cache:
    """Paths inside one cache folder. Creating the object touches nothing."""

    root: Path

    dataset = _Part(DATASET)
    """What the cache was made from."""
    written = _Part(f".{DATASET}")
    """Sums of dataset.json and the tables, by which those of another cache are recognised."""
    images = _Part("images.parquet")
    """Table of every file met in the source."""
    faces = _Part("faces.parquet")
    """Table of every face of every detector."""
    subjects = _Part("subjects.parquet")
    """Table of the face that counts, one row per image."""
    labels = _Part("labels.parquet")
    """Table of the final labels, one row per image."""
    duplicates = _Part("duplicates.parquet")
    """Table of pairs of photos that are the same or nearly so."""
    stats = _Part("stats.json")
    """Mean and standard deviation per view and split."""
    findings = _Part("audit/findings.parquet")
    """Table of what the audit has found."""
    decisions = _Part("decisions.csv")
    """People's decisions; the only file that is edited by hand and cannot be rebuilt."""
    log = _Part("log.jsonl")
    """One line per command."""

    def rows(self, stage: str) -> Path:
        """Shards of a stage whose rows are assembled into a table (index, detect)."""
        return self.root / "stages" / stage

    def view(self, name: str) -> Path:
        """Folder of a view: shards of its crops, and the files VIEW, INDEX and MATTES."""
        return self.root / "views" / name

    def views(self) -> list[str]:
        """Names of the views that exist, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"views/*/{VIEW}"))

    def read(self) -> dict[str, Any]:
        """Contents of dataset.json.

        Raises:
            UserError: no cache, damaged, or written by a newer version.
        """
        again = "Restore it from a copy, or make a new cache: maskprep run PHOTOS --cache ANOTHER_PLACE"
        try:
            text = read_once(self.dataset)
            data = json.loads(text)
        except FileNotFoundError as error:
            what = f"is not a cache: it has no {DATASET}" if self.root.exists() else "does not exist"
            raise UsageError(f"'{self.root}' {what}.", "Make a cache: maskprep run PHOTOS") from error
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"'{self.dataset}' is damaged: {error}.", again) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else None
            raise UserError(
                f"'{self.root}' has cache format {found}; this version reads {FORMAT}.",
                "Install a newer version of maskprep.",
            )
        attributes = (data["schema"] if isinstance(data.get("schema"), dict) else {}).get("attributes")
        right = isinstance(attributes, dict) and all(isinstance(spec, dict) for spec in attributes.values())
        for section, keys in PARTS.items():
            part = data.get(section)
            if not isinstance(part, dict) or not keys <= part.keys() or (section == "schema" and not right):
                raise UserError(f"'{self.dataset}' is damaged: '{section}' is not whole.", again)
        if not self.is_own(DATASET, _sum_of(text)):
            raise UserError(
                f"'{self.dataset}' is not the one that maskprep has written here: it may be of another cache.",
                f"{again}\nIf it belongs to this cache, delete '{self.written}' and run the command again.",
            )
        return data

    def _sums(self) -> dict[str, list[str]]:
        """File -> its sums, see :meth:`keep_sum`; empty where none are known, as of an earlier version's cache."""
        try:
            sums = json.loads(read_once(self.written))
            return {name: list(map(str, values)) for name, values in sums.items()}
        except (OSError, ValueError, RecursionError, TypeError, AttributeError):
            return {}

    def is_own(self, name: str, value: str) -> bool:
        """Whether a file with this sum was made for this cache, as far as that is known."""
        return value in self._sums().get(name, [value])

    def keep_sum(self, name: str, value: str, *, written: bool) -> None:
        """Keep the sum of a file that is about to be written beside the one before, and alone once it is written."""
        sums = self._sums()
        kept = [value] if written else list(dict.fromkeys([*sums.get(name, []), value]))
        if sums.get(name) != kept:
            write_json(self.written, {**sums, name: kept})

    def photos(self) -> Path:
        """The folder of the photos that the cache was made from. Raises UserError as :meth:`read` does."""
        return Path(self.read()["source"]["root"])

    def clear_of_photos(self, out: Path | None, option: str = "--out") -> None:
        """Nothing is written among the photos that the cache was made from; None writes nothing.

        Raises:
            UsageError: the path lies there.
        """
        if out is not None:
            keep_out(out, self.photos(), option=option)

    def write(self, data: dict[str, Any]) -> None:
        """Replace dataset.json, unless it says the same already."""
        text = (json.dumps({"format": FORMAT, **data}, indent=2, ensure_ascii=False) + "\n").encode()
        if not self.dataset.exists() or read_once(self.dataset) != text:
            self.keep_sum(DATASET, _sum_of(text), written=False)
            write_atomic(self.dataset, text)
        self.keep_sum(DATASET, _sum_of(text), written=True)

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add one line to log.jsonl, with the time of day."""
        line = json.dumps({"when": datetime.now(UTC).isoformat(timespec="seconds"), **entry}, ensure_ascii=False)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def lock(self) -> AbstractContextManager[bool]:
        """Hold the cache for one writing command.

        Raises:
            UserError: another command is at work on it.
        """
        return lock(
            self.root / ".lock",
            lambda process: UserError(
                f"Another maskprep command (process {process}) is working on '{self.root}'.",
                "Wait for it to end, or give another cache with --cache.",
            ),
        )


def _sum_of(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def is_cache(path: Path) -> bool:
    """Whether a folder is a cache. Photos may lie beside a dataset.json of someone else's; ours tells its format."""
    try:
        data = json.loads(read_once(path / DATASET))
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True  # damaged, and whoever reads it will say so
    return isinstance(data, dict) and "format" in data


def resolve(source: Path, cache: Path | None = None) -> tuple[Cache, Path]:
    """The cache (which may not exist yet) and the absolute photo folder that a command's argument means.

    Args:
        source: a photo folder or a cache.
        cache: where the cache is wanted, None for ``cache/<name of the photo folder>``.

    Raises:
        UsageError: neither exists, both are caches, or the cache belongs to other photos that still exist.
    """
    if is_cache(source):
        if cache is not None and cache.resolve() != source.resolve():
            raise UsageError(
                f"'{source}' is a cache already; --cache '{cache}' names another.", "Give the photos instead."
            )
        root = Cache(source).photos()
        if not root.is_dir():
            raise UserError(
                f"The photos of '{source}' were in '{root}', which is not there.",
                f"If they moved: maskprep run NEW_FOLDER --cache {source}",
            )
        return Cache(source), root
    if (source / "images.parquet").is_file() and (source / "stages").is_dir():
        raise UserError(
            f"'{source}' is a cache whose {DATASET} is gone: it says what the cache was made from.",
            "Restore it, or make a new cache: maskprep run PHOTOS",
        )
    if not source.is_dir():
        raise UsageError(f"'{source}' is neither a photo folder nor a cache.", "Give an existing folder.")
    root = source.resolve()
    if str(root).encode(errors="ignore").decode() != str(root):
        raise UsageError(f"The name of the folder '{root}' is not valid UTF-8.", "Rename it.")
    home = cache or CACHES / (root.name or "photos")
    if home.resolve().is_relative_to(root):
        raise UsageError(f"The cache '{home}' would lie inside the photos.", "Name another place with --cache.")
    if is_cache(home):
        earlier = Cache(home).photos()
        if earlier != root and earlier.is_dir():
            raise UsageError(
                f"'{home}' is the cache of '{earlier}', not of '{root}'.", "Name another place with --cache."
            )
    elif home.exists() and (not home.is_dir() or any(path.name[0] != "." for path in home.iterdir())):
        raise UsageError(f"'{home}' exists and is not a cache.", "Name another place with --cache.")
    return Cache(home), root
