"""The list of audit's checks in docs/audit.md, from the checks themselves.

python docs/list_checks.py            # print it
python docs/list_checks.py --write    # renew it in docs/audit.md
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path

from maskprep.audit import examine  # noqa: F401  (importing it registers the checks)
from maskprep.audit.findings import CHECKS, KINDS, Check

PAGE = Path(__file__).with_name("audit.md")
FROM, TO = "<!-- checks -->\n", "<!-- end of checks -->\n"


def listing() -> str:
    """Markdown: one table a kind with the name, the meaning, what is measured, and limits."""
    parts = []
    for kind in KINDS:
        rows = [each for each in CHECKS.values() if each.kind == kind]
        parts.append(f"### {kind}\n\n| check | finds | measured | severity |\n|---|---|---|---|\n")
        parts.extend(
            f"| `{each.name}` | {each.about} | {measured(each)} | {'; '.join(limits(each)) or 'computed'} |\n"
            for each in rows
        )
        parts.append("\n")
    return "".join(parts)


def measured(check: Check) -> str:
    """The docstring of a check in one line, as Markdown."""
    text = re.sub(r":\w+:`~?\.?(?:[\w.]+\.)?(\w+)`", r"`\1`", inspect.getdoc(check.find) or "")
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def limits(check: Check) -> list[str]:
    """From which value on a check reports what severity, as its code says: its ramps and the severities it yields."""
    found: list[str] = []
    tree = ast.parse(textwrap.dedent(inspect.getsource(check.find)))
    known = {name: value for name, value in check.find.__globals__.items() if isinstance(value, int | float)}
    local = {
        node.targets[0].id: ast.unparse(node.value).replace("c.choose", "choose")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ramp":
            low, high, *ends = [number(each, known, local) for each in node.args[1:]]
            bottom, top = ends or ("0", "1")
            found.append(f"{bottom} at {low} to {top} at {high}")
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            found += fixed(node.value.elts[1])
        elif isinstance(node, ast.IfExp):
            found += fixed(node.body.elts[0] if isinstance(node.body, ast.Tuple) else node.body)
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "severity" for t in node.targets):
            found += fixed(node.value)
    return list(dict.fromkeys(found))


def fixed(node: ast.expr) -> list[str]:
    """The numbers that an expression without ramps can be."""
    if isinstance(node, ast.IfExp):
        return [*fixed(node.body), *fixed(node.orelse)]
    return [f"{node.value:g}"] if isinstance(node, ast.Constant) and isinstance(node.value, float) else []


def number(node: ast.expr, known: dict[str, float], local: dict[str, str]) -> str:
    """A limit: its number, or the expression where it depends on the settings."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return f"{node.value:g}"
    text = ast.unparse(node)
    return f"{known[text]:g}" if text in known else f"`{local.get(text, text)}`"


def renewed(page: str) -> str:
    """The page with the list as it is now."""
    before, rest = page.split(FROM)
    return before + FROM + "\n" + listing() + TO + rest.split(TO)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(listing())
