"""Build the whole site in a temporary folder beside the wanted one, and put it in place in one step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from diffusionbench.errors import RequestError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.record import Record
from diffusionbench.views.site import details, overview
from diffusionbench.views.site.contents import Contents
from diffusionbench.views.site.render import STYLE, Pages, stylesheet
from diffusionbench.views.site.samples import LIVE, find_live, find_stores
from diffusionbench.writing import check_replaceable, whole_folder, write_errors

# The list of a site's files: a folder that holds these and no others may be replaced.
MARK: Final = "site.json"
MAKER: Final = "diffusionbench site"


def build(
    records: Iterable[Record], out: Path, folders: Iterable[Path] = (), *, flagged: bool = False
) -> dict[str, int]:
    """Write the site.

    Args:
        records: all records to show.
        out: the folder: missing, empty, or with nothing but an earlier site, which is replaced.
        folders: searched for image stores, whose first images are shown with their record, and for a live page.
        flagged: whether values that a guard flags are points of the figure of measured records, as in `select_points`.

    Returns:
        Numbers of records, pages and bytes, and the size of the largest page.

    Raises:
        RequestError: if the folder holds something else, or cannot be written.
        MissingPackageError: if jinja2 is not installed.
    """
    _check(out)
    folders = list(folders)
    contents = Contents(tuple(records), tuple(find_stores(folders)), find_live(folders), flagged)
    with write_errors(f"site {out}"), whole_folder(out, _check) as made:
        counts = {"pages": 0, "bytes": 0, "largest_page": 0}
        names = []
        for name, text in files(contents):
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = text.encode() if isinstance(text, str) else text
            # "x": two pages under one name would be a bug, not a page to lose.
            with path.open("xb") as file:
                file.write(content)
            names.append(name)
            counts["bytes"] += len(content)
            if name.endswith(".html"):
                counts["pages"] += 1
                counts["largest_page"] = max(counts["largest_page"], len(content))
        counts["records"] = len(contents.records)
        mark = {"made_by": MAKER, **counts, "files": [*names, MARK]}
        (made / MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    return counts


def files(contents: Contents) -> Iterator[tuple[str, str | bytes]]:
    """Yield every file of the site: path below it, and content."""
    site = Pages()
    yield STYLE, stylesheet()
    yield from overview.figure_page(contents, site)
    yield from overview.board_page(contents, site)
    yield from details.record_files(contents, site)
    yield from details.method_pages(contents, site)
    yield from details.metric_pages(contents, site)
    yield "contribute.html", site.render("contribute.html", here="contribute.html")
    yield from overview.downloads(contents, site)
    if contents.live is not None:
        yield LIVE, contents.live


def _check(out: Path) -> None:
    if out.resolve() == Path.cwd():
        raise RequestError(f"site {out} is the current folder, which cannot be replaced. Give a folder inside it.")
    try:
        mark = parse_json(read_small(out / MARK))
        earlier = [str(name) for name in mark["files"]] if mark["made_by"] == MAKER else []
    except (OSError, ValueError, KeyError, TypeError):
        earlier = []
    check_replaceable(out, "site", earlier, RequestError)
