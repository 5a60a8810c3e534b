"""Examples of code in the documentation that no other test runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from audit_rows import context, photo

from maskprep.audit import findings
from maskprep.audit.context import Context

PAGE = Path(__file__).parents[2] / "docs/guides/extending.md"


def test_the_check_of_the_guide_finds_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CHECKS", {})
    code = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {
        "__name__": "maskprep.audit.pixels",
        "check": findings.check,
        "ramp": findings.ramp,
        "Context": Context,
        "Iterable": Iterable,
        "Hit": findings.Hit,
    }
    exec(compile(code, str(PAGE), "exec"), names)
    rows = [photo("large.jpg", width=500, height=400), photo("small.jpg", width=500, height=64)]
    assert list(findings.CHECKS) == ["small_photo"]
    [hit] = findings.CHECKS["small_photo"].hits(context(rows))
    assert hit == ("small.jpg", 0.6, "the photo is 500x64 pixels")
