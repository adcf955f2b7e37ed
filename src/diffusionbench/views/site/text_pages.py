"""The page on how to contribute."""

from __future__ import annotations

from collections.abc import Iterator

from diffusionbench.views.site.contents import Contents
from diffusionbench.views.site.render import Pages


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, HTML)."""
    yield "contribute.html", site.render("contribute.html", here="contribute.html")
