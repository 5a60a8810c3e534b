"""The list of checks in docs/audit.md is what the checks are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from maskprep.audit.examine import CHECKS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def lister() -> ModuleType:
    spec = importlib.util.spec_from_file_location("list_checks", DOCS / "list_checks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_is_up_to_date(lister: ModuleType) -> None:
    page = (DOCS / "audit.md").read_text(encoding="utf-8")
    assert page == lister.renewed(page), "run: python docs/list_checks.py --write"
    assert all(f"| `{name}` | {check.about} |" in page for name, check in CHECKS.items())


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("dark", ["0.3 at 0.35 to 0.9 at 0.1"]),
        ("face_none", ["0.95"]),
        ("face_shape", ["0.25 at 3.5 to 0.6 at 10"]),  # names of constants become their numbers
        ("duplicate", ["1", "0.8", "0.9", "0.65", "0.6", "0.2"]),
        ("matte_unsure", ["0.5"]),
        ("identity_same", []),
    ],
)
def test_limits_are_read_from_the_code(lister: ModuleType, name: str, limits: list[str]) -> None:
    assert lister.limits(CHECKS[name]) == limits


def test_limits_that_depend_on_the_settings_are_named(lister: ModuleType) -> None:
    [limit] = lister.limits(CHECKS["face_ambiguous"])
    assert "at `1.25 * choose.close` to" in limit
