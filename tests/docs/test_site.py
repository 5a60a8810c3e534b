"""The site: it is built without warnings, every link in it leads somewhere, and its reference is complete."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import build_site
import pytest
import reference

from maskprep.pipeline.config import Config
from masktrain.config.config import keys

ROOT = Path(__file__).parents[2]
WORDS = 1200
"""Most words of the README."""


class Links(HTMLParser):
    """The targets of a page: its anchors, and what it links to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {key: value or "" for key, value in attrs}
        self.anchors |= {known[key] for key in ("id", "name") if key in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        if tag in ("img", "script", "link") and known.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.loaded += [known[key] for key in ("src", "href") if key in known]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built strictly."""
    return build_site.build(tmp_path_factory.mktemp("docs")).parent


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 25
    for page, found in pages.items():
        if page.name == "404.html":
            continue
        for link in [*found.links, *found.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{page.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                anchors = pages[target].anchors
                assert unquote(parts.fragment) in anchors, f"{page.relative_to(site)}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for link in Links(page.read_text(encoding="utf-8")).loaded:
            assert not urlsplit(link).netloc, f"{page.relative_to(site)}: {link}"


def test_every_page_is_in_the_contents(site: Path) -> None:
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "docs/zensical.toml").read_text(encoding="utf-8")))
    pages = {page.relative_to(site.parent / "pages").as_posix() for page in (site.parent / "pages").rglob("*.md")}
    assert listed == pages


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copyfile(ROOT / "docs/zensical.toml", docs / "zensical.toml")
    (docs / "index.md").write_text("# A\n\n[b](index.md#nowhere)\n", encoding="utf-8")
    monkeypatch.setattr(build_site, "DOCS", docs)
    monkeypatch.setattr(build_site.reference, "pages", dict)
    with pytest.raises(Exception, match="zensical"):
        build_site.build(tmp_path / "out")


@pytest.mark.parametrize("program", list(reference.PROGRAMS))
def test_every_command_and_option_is_in_the_reference(program: str) -> None:
    page = reference.pages()[f"reference/{program}.md"]
    page = html.unescape(page.replace("<code>", "`").replace("</code>", "`"))
    parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    group = reference.group_of(program)
    assert set(parts) == {name for name, command in group.commands.items() if not command.hidden}
    for name, text in parts.items():
        for parameter in group.commands[name].params:
            spellings = parameter.opts if parameter.param_type_name == "option" else [reference.label(parameter)]
            for spelling in [*spellings, *parameter.secondary_opts]:
                assert re.search(rf"`{re.escape(spelling)}[ `]", text), f"{name} {spelling}"


def test_every_setting_is_in_the_reference() -> None:
    pages = reference.pages()
    assert all(f"| `{key}` |" in pages["reference/settings.md"] for key in keys())
    text = pages["reference/maskprep-yaml.md"]
    titles = set(re.findall(r"^## (\w+)", text, re.MULTILINE))
    assert titles == {field.name for field in dataclasses.fields(Config)} - {"schema"}
    assert all(
        row.rstrip(" |").count(" | ") == 2 for row in text.splitlines() if row.startswith("| `")
    )  # all explained


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= WORDS
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert urlsplit(link).scheme or (ROOT / link).exists(), link
