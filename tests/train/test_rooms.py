"""Every room of the trainer uses only those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import masktrain

FLOORS = ("config", "data", "train", "runs", "score", "answer", "combine", "pages", "study", "cli")
ROOT = Path(masktrain.__file__).parent


def imports(file: Path) -> set[str]:
    """Names of the package's modules that a file imports when it is loaded, ``options.config`` for example."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "masktrain":
            inner = (node.module or "").removeprefix("masktrain").lstrip(".")
            found |= {f"{inner}.{alias.name}".lstrip(".") for alias in node.names}
    return found


def test_rooms_use_only_those_below() -> None:
    assert {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()} == set(FLOORS)
    seen, wrong = 0, []
    for number, room in enumerate(FLOORS):
        for file in sorted((ROOT / room).glob("*.py")):
            for used in imports(file):
                above = used.split(".")[0] not in FLOORS[: number + 1]
                wrong += [f"{room}/{file.name} imports {used}"] if above else []
                seen += 1
    assert seen > 300 and not wrong


def test_the_core_stays_small() -> None:
    """What one fit runs through: its lines are counted together, so that nothing is gained by parting modules."""
    core = [*(ROOT / "train").glob("*.py"), ROOT / "study/fit.py", ROOT / "study/recorder.py"]
    assert sum(len(f.read_text(encoding="utf-8").splitlines()) for f in core) <= 4050
