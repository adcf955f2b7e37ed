"""Hooks of mkdocs for the documentation site: one set of Markdown files reads well both in the repository and here.

Links out of docs/ lead to pages made from the files they name, so that none is broken and none needs a network.
Formulas become MathML while the site is built.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Documents outside docs/ that are pages of the site.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml", ".md": "", ".js": "js"}
# Characters of a file that a page shows.
SHOWN = 100_000
# Blocks and spans of code, which hold no links.
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(|\b(?:src|srcset|href)=\")([^)\s\"]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def page_of(path: str) -> str:
    """Return the place within the site's sources of a file of the repository, "docs/data.md" as "data.md"."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}" if path.endswith(".md") else f"files/{path}.md"


def origin_of(page: str) -> str:
    """Return the file of the repository that a page is made of; the inverse of `page_of`."""
    for path, place in PAGES.items():
        if page == place:
            return path
    if not page.startswith("files/"):
        return f"docs/{page}"
    path = page.removeprefix("files/")
    return path if (ROOT / path).exists() else path.removesuffix(".md")


def targets(text: str, origin: str) -> set[str]:
    """Return the files of the repository that a document links to, from the root."""
    found = set()
    for piece in _CODE.split(text)[::2]:
        for _, target in _LINK.findall(piece):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target.partition("#")[0]))
            if ":" not in target and not target.startswith("#") and (ROOT / path).exists():
                found.add(path)
    return found


def relinked(text: str, origin: str) -> str:
    """Return a document with its links to files of the repository as links between pages of the site."""
    here = posixpath.dirname(page_of(origin)) or "."

    def link(match: re.Match[str]) -> str:
        path, mark, anchor = match[2].partition("#")
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if not path or ":" in match[2] or not (ROOT / whole).exists():
            return match[0]
        return f"{match[1]}{posixpath.relpath(page_of(whole), here)}{mark}{anchor}"

    pieces = _CODE.split(text)
    pieces[::2] = [_LINK.sub(link, piece) for piece in pieces[::2]]
    return "".join(pieces)


def page_text(path: str) -> str:
    """Return the page made of a file or folder outside docs/."""
    file = ROOT / path
    hidden = "---\nsearch: {exclude: true}\n---\n"
    if file.is_dir():
        inside = sorted(entry.name for entry in file.iterdir() if not entry.name.startswith((".", "__")))
        return f"{hidden}# {path}/\n\n" + "".join(f"- `{name}`\n" for name in inside)
    text = file.read_text(encoding="utf-8", errors="replace")
    if path.endswith(".md"):
        return text
    cut = f"\n\n*The first {SHOWN:,} characters.*\n" if len(text) > SHOWN else ""
    return f"{hidden}# {path}\n\n`````{LANGUAGES.get(file.suffix, 'text')}\n{text[:SHOWN]}\n`````\n{cut}"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file outside docs/ that a page of the site links to."""
    docs = Path(config.docs_dir)
    waiting = [*PAGES, *(f"docs/{path.relative_to(docs).as_posix()}" for path in docs.rglob("*.md"))]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        content = page_text(path)
        if not path.startswith("docs/"):
            files.append(File.generated(config, page_of(path), content=content))
        if path.endswith(".md"):
            for target in targets(content, path) - seen:
                seen.add(target)
                if not target.startswith("docs/"):
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files into links between pages."""
    return relinked(markdown, origin_of(page.file.src_uri))


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML."""

    def formula(match: re.Match[str]) -> str:
        return convert(html.unescape(match[3]), display="inline" if match[2] == "(" else "block")

    return _FORMULA.sub(formula, content)
