"""Sixty generated portraits (no real people), CC0 1.0: faker-js/assets-person-portrait on GitHub.

``generated.csv`` lists them: file, person, gender, age (both as asked for in the prompt of the picture) and sha256; ten
of each gender and age group (under 30, 30 to 59, from 60). They are fetched once and kept beside the model files.
"""

from __future__ import annotations

import csv
from pathlib import Path

from maskprep.base import Progress, UserError
from maskprep.weights import fetch as weights
from maskprep.weights import fetch_file, sha256_of

LABELS = Path(__file__).with_name("generated.csv")
"""The table of the portraits, as ``labels`` of :func:`maskprep.sample.write_sample`."""

_COMMIT = "faker-js/assets-person-portrait{}63aef57b5a839aebe3ad913ec7c76469aabbb6c5"
ADDRESSES = (
    f"https://cdn.jsdelivr.net/gh/{_COMMIT.format('@')}",
    f"https://raw.githubusercontent.com/{_COMMIT.format('/')}",
)
"""Where the files are, asked in order."""


def fetch_portraits(progress: Progress) -> Path:
    """The folder with all portraits of :data:`LABELS`. Those that are not there, or have other bytes, are fetched.

    Raises:
        UserError: a portrait cannot be fetched; those that were stay, and the next call fetches the others.
    """
    folder = weights.folder() / "portraits"
    digests = {row["file"]: row["sha256"] for row in csv.DictReader(LABELS.read_text(encoding="utf-8").splitlines())}
    if missing := [file for file, digest in digests.items() if not _is(folder / file, digest)]:
        progress.start("portraits", len(missing))
    for file in missing:
        failures = [f"{weights.OFFLINE} forbids it"]
        if not weights.forbidden():
            (folder / file).unlink(missing_ok=True)
            sources = [f"{address}/{file}" for address in ADDRESSES]
            failures = fetch_file(sources, f"sha256:{digests[file]}", folder / file, bar=False)
        if failures:
            raise UserError(
                f"The generated portraits cannot be fetched ({'; '.join(failures)}).",
                f"Try again where there is a network, or copy the files of {ADDRESSES[1]} into {folder}.",
            )
        progress.advance()
    return folder


def _is(path: Path, digest: str) -> bool:
    """Whether a file has these bytes."""
    try:
        return sha256_of(path) == digest
    except OSError:
        return False
