"""Builds the whole site in a temporary folder beside the wanted one, then renames: it is there whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from diffusionbench.errors import RequestError
from diffusionbench.record import Record
from diffusionbench.site import board_page, downloads, figure_page, method_pages, metric_pages, record_pages, text_pages
from diffusionbench.site.contents import Contents
from diffusionbench.site.render import STYLE, Pages, stylesheet
from diffusionbench.site.samples import find_stores

# Each has `pages(contents, site)`, which yields (path below the site, text).
KINDS: Final = (figure_page, board_page, record_pages, method_pages, metric_pages, text_pages, downloads)
# Marks a folder that this module made and may replace.
MARK: Final = "site.json"


def build(records: Iterable[Record], out: Path, folders: Iterable[Path] = ()) -> dict[str, int]:
    """Write the site.

    Args:
        records: what it shows.
        out: the folder; one that an earlier build made is replaced, any other must be empty or missing.
        folders: where image stores may lie; the first images of a record that has one are shown.

    Returns:
        Numbers of records, pages and bytes, and the size of the largest page.

    Raises:
        RequestError: if the folder holds something else, or cannot be written.
        MissingPackageError: if jinja2 is not installed.
    """
    # The folder itself is renamed: "." and a link must stand for what they lead to.
    out = out.resolve()
    _check(out)
    contents = Contents(tuple(records), tuple(find_stores(folders)))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            counts = _write(made, files(contents))
            made.chmod(0o755)
            counts["records"] = len(contents.records)
            (made / MARK).write_text(json.dumps({"made_by": "diffusionbench site", **counts}) + "\n", encoding="utf-8")
            _put(made, out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise RequestError(f"site {out} cannot be written: {error.strerror or error}.") from None
    return counts


def files(contents: Contents) -> Iterator[tuple[str, str | bytes]]:
    """Every file of the site: path and text."""
    site = Pages()
    yield STYLE, stylesheet()
    for kind in KINDS:
        yield from kind.pages(contents, site)


def _check(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RequestError(f"site {out} is a file. Give a folder that is new, empty or an earlier site.")
    if out == Path.cwd():
        raise RequestError(f"site {out} is the current folder, which cannot be replaced. Give a folder inside it.")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise RequestError(
            f"site {out} holds files that no earlier build made (no {MARK}). Give a folder that is new or empty."
        )


def _write(folder: Path, written: Iterable[tuple[str, str | bytes]]) -> dict[str, int]:
    counts = {"pages": 0, "bytes": 0, "largest_page": 0}
    known: set[Path] = set()
    for name, text in written:
        path = folder / name
        if path.parent not in known:
            path.parent.mkdir(parents=True, exist_ok=True)
            known.add(path.parent)
        content = text.encode() if isinstance(text, str) else text
        # "x": two pages under one name would be a bug, not a page to lose.
        with path.open("xb") as file:
            file.write(content)
        counts["bytes"] += len(content)
        if name.endswith(".html"):
            counts["pages"] += 1
            counts["largest_page"] = max(counts["largest_page"], len(content))
    return counts


def _put(made: Path, out: Path) -> None:
    """Rename the new site into place; an earlier one steps aside first and comes back if that fails."""
    if not out.exists():
        made.rename(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) / "before"
    out.rename(aside)
    try:
        made.rename(out)
    except OSError:
        aside.rename(out)
        raise
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
