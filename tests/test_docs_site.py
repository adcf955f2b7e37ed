"""The documentation site: built strictly, asks for nothing elsewhere, holds every page, public name and formula."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
# Attributes that make a browser fetch something; the address of an anchor does not.
FETCHED = {"src", "srcset", "data", "poster", "href"}


class Requests(HTMLParser):
    """What a page fetches by itself, and which labels its pictures lack."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.unnamed = 0
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in FETCHED and value and tag != "a":
                self.fetched.append(value)
            if tag == "a" and name == "href" and value:
                self.hrefs.append(value)
        if tag == "img" and not dict(attrs).get("alt"):
            self.unnamed += 1


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; `make docs` installs it")
    out = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Requests]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Requests()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


def test_no_page_fetches_anything_from_elsewhere(site, pages):
    assert len(pages) > 50
    for page, requests in pages.items():
        for address in requests.fetched:
            assert not re.match(r"([a-z]+:)?//", address), f"{page.name} fetches {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_links_between_pages_lead_somewhere(site, pages):
    for page, requests in pages.items():
        for address in requests.hrefs:
            if page.name == "404.html" or re.match(r"[a-z]+:", address):
                continue
            path = unquote(address.partition("#")[0])
            assert not path or (page.parent / path).exists(), f"{page.relative_to(site)} links to {address}"


def test_formulas_are_mathml(site):
    text = (site / "metrics.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20
    assert "arithmatex" not in text
    assert "<mfrac>" in text


def test_pictures_have_a_text(pages):
    assert not [page.name for page, requests in pages.items() if requests.unnamed]


def test_the_first_page_is_light(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    styles = [site / name for name in re.findall(r'<link rel="stylesheet" href="([^"]+)"', text)]
    assert len(styles) >= 2
    pictures = [site / name for name in re.findall(r'(?:src|srcset)="([^"]+\.svg)"', text)]
    assert sum(path.stat().st_size for path in (site / "index.html", *styles, *pictures)) < 500_000


def test_every_document_is_in_the_navigation_once():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f" {path.name}\n" not in navigation]
    assert missing == []
    pages = re.findall(r"(\S+\.md)\n", navigation)
    assert len(pages) == len(set(pages))


@pytest.mark.browser
def test_a_browser_asks_for_nothing_elsewhere(site, browser):
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for name in ("index.html", "metrics.html", "api/nanogen.html"):
        page.goto((site / name).as_uri())
        page.wait_for_load_state("networkidle")
    page.close()
    assert len(asked) > 6
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
