"""What the audit page and the program both know is the same in both: topics, holders, CSV cells, columns."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from typing import Any

import pytest

from maskprep.audit.findings import LIKELY
from maskprep.base.csv_files import guard
from maskprep.store.decisions import COLUMNS, VERDICTS, Decision, holders, images_by_content, to_csv

TEXTS = [
    "=1+1", "@sum", "+cmd|' /C calc'!A0", "-5.0 10 20 30", "-5", "-x", "plain", "'quoted", "", "\tx", "a,b", 'a "b"',
    "two\nlines", "ü😀", "1.5 2", "--1",
]  # fmt: skip
CONTENTS = {"a.jpg": "c", "copy/a.jpg": "c", "b.jpg": "d"}
ROWS = [
    *(Decision("c", "a.jpg", verdict, "mask = wear" if verdict == "relabel" else "x") for verdict in VERDICTS),
    Decision("c", "renamed.jpg", "drop"),
    Decision("gone", "gone.jpg", "keep"),
    *(Decision("d", "b.jpg", "drop", reason=text) for text in TEXTS),
]

STUB = """
const none = new Proxy(() => none, { get: () => none, set: () => true });
const [document, localStorage, addEventListener, matchMedia] = [none, none, none, none];
"""


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's script makes of ROWS and TEXTS, run by Node without a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed")
    folder = resources.files("maskprep.audit") / "report"
    data, decisions = ((folder / f"{name}.js").read_text(encoding="utf-8") for name in ("data", "decisions"))
    n = len(CONTENTS)
    given = {
        "path": list(CONTENTS), "content": list(CONTENTS.values()), "people": [], "person": [-1] * n, "checks": [],
        "findings": [], "label": [-1] * n, "classes": [], "faces": [[]] * n, "states": [], "id": "", "copies": [],
        "decisions": [row.row for row in ROWS],
    }  # fmt: skip
    data = data.replace('JSON.parse(document.getElementById("data").textContent)', json.dumps(given))
    asked = "{ LIKELY, COLUMNS, topics: decisions.map(topic), csv: csv(), guarded: TEXTS.map(guard),"
    asked += " held: decisions.map((row) => holders(row).map((i) => data.path[i])) }"
    script = f"{STUB}{data}{decisions}const TEXTS = {json.dumps(TEXTS)};console.log(JSON.stringify({asked}))"
    done = subprocess.run([node, "-"], input=script, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_page_and_the_program_agree(page: dict[str, Any]) -> None:
    assert page["LIKELY"] == LIKELY and tuple(page["COLUMNS"]) == COLUMNS
    assert page["guarded"] == [guard(text) for text in TEXTS]
    assert page["topics"] == ["\x1f".join(row.topic) for row in ROWS]
    by_content = images_by_content(CONTENTS)
    assert page["held"] == [holders(row, by_content) for row in ROWS]
    assert page["csv"] == to_csv(ROWS)
