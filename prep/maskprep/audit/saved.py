"""filters.json: filters of the review page under the names that people gave them; beside decisions.csv, as it cannot be
rebuilt either."""

from __future__ import annotations

import json
from typing import Any

from maskprep.base import UserError, lock, write_json
from maskprep.store import Cache

FILE = "filters.json"
LONGEST_NAME, LONGEST_FILTER = 80, 4000
"""In characters."""


def read_filters(cache: Cache) -> dict[str, str]:
    """Name -> filter, as the fragment of the page's address; empty without a file.

    Raises:
        UserError: the file is damaged.
    """
    path = cache.root / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"'{path}' does not hold names and filters.", "Mend it, or delete it to begin anew.")
    return found


def save_filter(cache: Cache, name: Any, filter: Any) -> None:
    """Save a filter under a name, in place of one of the same name; an empty filter deletes the name.

    Raises:
        UserError: no usable name or filter, or the file is damaged; nothing is changed.
    """
    if not isinstance(name, str) or not 0 < len(name.strip()) <= LONGEST_NAME:
        raise UserError(f"A filter has a name of 1 to {LONGEST_NAME} characters.")
    if not isinstance(filter, str) or len(filter) > LONGEST_FILTER:
        raise UserError(f"A filter is a text of at most {LONGEST_FILTER} characters.")
    try:
        (name + filter).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise UserError("The name of a filter holds characters that no file can hold.") from error
    with lock(cache.root / ".filters.lock"):  # other writers wait
        others = {key: value for key, value in read_filters(cache).items() if key != name.strip()}
        added = {name.strip(): filter} if filter else {}
        write_json(cache.root / FILE, dict(sorted((others | added).items())))
