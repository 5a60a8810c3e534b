"""requirements.lock against pyproject.toml: what it must name, and what it may not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maskprep.base import machine

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][0-9A-Za-z.]*)")


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """Package -> version. No line is anything else: no address, no path, no option of pip."""
    rows = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in rows]
    assert [row for row, match in zip(rows, found, strict=True) if match is None] == []
    return {canonicalize_name(match["name"]): match["version"] for match in found if match}


def wanted(project: dict[str, dict[str, list[str]]], extra: str) -> list[Requirement]:
    """What an extra asks for, and the extras of this project that it names."""
    asked = [Requirement(line) for line in project["optional-dependencies"][extra]]
    own = [inner for one in asked if one.name == "maskprep" for inner in sorted(one.extras)]
    return [one for one in asked if one.name != "maskprep"] + [one for inner in own for one in wanted(project, inner)]


def test_every_package_of_the_tests_is_locked_within_its_range(locked: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*map(Requirement, project["dependencies"]), *wanted(project, "dev")]
    assert len(asked) > 30
    missing = [str(one) for one in asked if locked.get(canonicalize_name(one.name)) is None]
    assert missing == [], "make lock"
    outside = [str(one) for one in asked if not one.specifier.contains(locked[canonicalize_name(one.name)])]
    assert outside == [], "make lock"


def test_one_opencv(locked: dict[str, str]) -> None:
    versions = {name: locked[name] for name in machine.OPENCV if name in locked}
    assert len(versions) == 3 and len(set(versions.values())) == 1, versions
