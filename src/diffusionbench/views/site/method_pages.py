"""The list of methods, and one page for each: what it is, and every result it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from diffusionbench.catalog import metric_info
from diffusionbench.record import Record
from diffusionbench.study.points import guidance_state, score_set_of
from diffusionbench.study.published import METHODS
from diffusionbench.views.figure import STYLES
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    caption,
    digits,
    family_look,
    guidance_words,
    method_page,
    metric_page,
    record_page,
)
from diffusionbench.views.site.render import Pages


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, HTML) of the list and of every method."""
    groups: dict[str, list[dict[str, str]]] = {}
    for name, records in contents.methods.items():
        family = _family(records)
        entry = {"title": _title(name, records), "page": method_page(name), "caption": caption(records)}
        groups.setdefault(family, []).append(entry)
    keys = [*(key for key in STYLES if key in groups), *sorted(groups.keys() - STYLES.keys())]
    listed = [(family_look(key), sorted(groups[key], key=lambda entry: entry["title"].casefold())) for key in keys]
    yield "methods.html", site.render("methods.html", here="methods.html", groups=listed)
    for name, records in contents.methods.items():
        yield method_page(name), _page(name, records, site)


def _family(records: Sequence[Record]) -> str:
    return next((record.family for record in records if record.family), "")


def _title(name: str, records: Sequence[Record]) -> str:
    return METHODS[name].published if name in METHODS else next((r.title for r in records if r.variant is None), name)


def _page(name: str, records: Sequence[Record], site: Pages) -> str:
    known = METHODS.get(name)
    facts = [("name here", name)]
    if known:
        facts += [
            ("name in the published tables", known.published),
            ("name in the public implementation", known.upstream),
        ]
    sets = list(dict.fromkeys(score_set_of(record) for record in records))
    return site.render(
        "method.html",
        depth=1,
        name=name,
        title=_title(name, records),
        family=family_look(_family(records))["title"],
        latent=known.latent if known else None,
        caption=caption(records),
        facts=facts,
        sets=[
            {
                "title": SETS[key][0] if key in SETS else key,
                "groups": _groups([record for record in records if score_set_of(record) == key]),
            }
            for key in sets
        ],
    )


def _groups(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A table for each axis."""
    found = []
    for axis in dict.fromkeys(record.protocol.axis for record in records):
        alike = [record for record in records if record.protocol.axis == axis]
        keys = list(dict.fromkeys(key for record in alike for key in record.values))
        found.append(
            {
                "heads": [{"title": metric_info(key).title, "page": metric_page(key)} for key in keys],
                "rows": [
                    {
                        "title": _row_title(record),
                        "page": record_page(record.id),
                        "guidance": guidance_words(record),
                        "cells": [digits(record, key) if key in record.values else "" for key in keys],
                    }
                    for record in sorted(alike, key=lambda record: guidance_state(record) == "cfg")
                ],
            }
        )
    return found


def _row_title(record: Record) -> str:
    """The title, with the variant unless the title says it already."""
    said = record.variant is None or record.variant.replace("nfe-", "nfe=") in record.title.lower()
    return record.title if said else f"{record.title} ({record.variant})"
