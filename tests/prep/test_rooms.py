"""Every room of maskprep uses only rooms on lower floors, and of those only what their ``__init__.pyi`` exports; so
does the trainer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import maskprep
import masktrain

ROOT = Path(maskprep.__file__).parent

FLOORS = (
    ("base",),
    ("store", "weights", "photos", "pages"),
    ("labels", "faces", "crops", "sample"),
    ("mattes", "dataset"),
    ("audit",),
    ("pipeline",),
    ("cli",),
)


def imports(file: Path) -> Iterator[tuple[str, str, bool]]:
    """Room, name and whether a module of the room was named, for everything a file imports from a room, late or not."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maskprep."):
            room, _, module = (node.module or "").removeprefix("maskprep.").partition(".")
            if room != "errors" or "prep/" in str(file):
                yield from ((room, alias.name, bool(module)) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (("", alias.name, True) for alias in node.names if alias.name.startswith("maskprep."))


def exports(room: str) -> set[str]:
    nodes = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8")).body
    return {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_rooms_use_only_those_below() -> None:
    rooms = [room for floor in FLOORS for room in floor]
    assert {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()} == set(rooms)
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py", "errors.py"}, "nothing lies loose in the package"
    seen, wrong = 0, []
    for number, floor in enumerate(FLOORS):
        below = {room for lower in FLOORS[:number] for room in lower}
        for room in floor:
            for file in sorted((ROOT / room).rglob("*.py")):
                for used, name, _ in imports(file):
                    if used != room:
                        seen += 1
                        wrong += [] if used in below else [f"{room}/{file.name} imports {name} of {used}"]
    assert seen > 200 and not wrong


def test_only_what_a_room_exports_is_used() -> None:
    seen, wrong = 0, []
    files = [*ROOT.rglob("*.py"), *Path(masktrain.__file__).parent.rglob("*.py")]
    for file in sorted(files):
        own = file.relative_to(ROOT).parts[0] if file.is_relative_to(ROOT) else ""
        for room, name, inside in imports(file):
            if room not in (own, "") and file.parent != ROOT:
                seen += 1
                wrong += [] if not inside and name in exports(room) else [f"{file.name}: {name} of {room}"]
    assert seen > 400 and not wrong


def test_what_is_exported_is_used() -> None:
    used: dict[str, set[str]] = {}
    for file in [*ROOT.rglob("*.py"), *Path(masktrain.__file__).parent.rglob("*.py")]:
        own = file.relative_to(ROOT).parts[0] if file.is_relative_to(ROOT) else ""
        for room, name, _ in imports(file):
            if room != own:
                used.setdefault(room, set()).add(name)
    for floor in FLOORS[:-1]:
        for room in floor:
            assert exports(room) <= used.get(room, set()), room


def test_modules_stay_readable() -> None:
    long = {str(f): n for f in ROOT.rglob("*.py") if (n := len(f.read_text(encoding="utf-8").splitlines())) > 500}
    assert not long


def test_no_export_has_the_name_of_a_module() -> None:
    """Once such a module is loaded, the room would give it in place of what it exports."""
    for floor in FLOORS[:-1]:
        for room in floor:
            nodes = ast.parse((ROOT / room / "__init__.pyi").read_text(encoding="utf-8")).body
            own = {a.name for node in nodes if isinstance(node, ast.ImportFrom) and node.module for a in node.names}
            assert not own & {file.stem for file in (ROOT / room).glob("*.py")}, room
