"""The mask18 portraits, where they are: beside the repository as shared/mask18, or where MASK18 points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "acceptance" in Path(item.fspath).parts:
            item.add_marker(pytest.mark.acceptance)


@pytest.fixture(scope="session")
def mask18() -> Path:
    folder = Path(os.environ.get("MASK18", Path(__file__).parents[3] / "shared" / "mask18"))
    if not (folder / "truth").is_dir():
        pytest.skip("the mask18 portraits are not here (set MASK18)")
    return folder
