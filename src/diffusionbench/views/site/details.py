"""The lists of methods and metrics, one page for each of them, and one page that shows any record.

Templates read records themselves, through the functions of `contents` that `render.Pages` hands to them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

from diffusionbench.available import metric_words
from diffusionbench.catalog import DERIVED, direction, metric_info
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Value, reference_names
from diffusionbench.schema import canonical_json
from diffusionbench.shown import few
from diffusionbench.study.analysis import rescoring_noise
from diffusionbench.study.columns import guidance_state, score_set_of
from diffusionbench.study.cost import derived_value
from diffusionbench.study.published import METHODS
from diffusionbench.views.figure import STYLES
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    caption,
    doubt,
    family_look,
    guidance_words,
    mark,
    method_page,
    metric_page,
    not_ranked,
    printed,
    sheet_picture,
    slug,
    uncertainty,
)
from diffusionbench.views.site.render import Pages, safe_link, to_json
from diffusionbench.views.site.samples import sheet_of
from diffusionbench.views.terminal import digits

AXES: Final = {
    "class_conditional": "Class-conditional",
    "t2i": "Text-to-image",
    "reconstruction": "Reconstruction",
    None: "Of other packages",
}
BETTER: Final = {True: "higher is better", False: "lower is better", None: "no better end"}
# Tasks of this package that train on the data of the published study.
_TASKS: Final = {"class_conditional": "imagenet256", "t2i": "t2i256"}
# Rows of one set on a metric's page; the data files hold all.
_LISTED: Final = 200
# Records in one file of the data of the page of records.
_IN_FILE: Final = 50
# Samples without a score that are named.
_NAMED: Final = 50
# Levels of nested facts that are names of their own, and items of a list in one fact.
_LEVELS: Final = 2
_LISTED_FACTS: Final = 24
# Sheets of images on a method's page; every record's page has its own.
_PICTURES: Final = 6


def _set_title(name: str) -> str:
    return SETS[name][0] if name in SETS else name


def _by_set(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(score_set_of(record), []).append(record)
    return found


# --- Records ---------------------------------------------------------------------------------------------------------


def record_files(contents: Contents, site: Pages) -> Iterator[tuple[str, str | bytes]]:
    """Yield the page that shows any record, the scripts that hand it the records, and PNGs of samples."""
    ordered = sorted(contents.records, key=lambda record: slug(record.id))
    paths: list[tuple[str, str]] = []
    for start in range(0, len(ordered), _IN_FILE):
        found = []
        for record in ordered[start : start + _IN_FILE]:
            sheet = sheet_of(record, contents.stores)
            if sheet is not None:
                contents.sheets[record.id] = replace(sheet, png=b"")
                yield sheet_picture(record.id), sheet.png
            found.append((slug(record.id), [*_blocks(contents, record)]))
        path = f"records/{len(paths):04d}.js"
        paths.append((found[0][0], path))
        yield path, f"addRecords({to_json(found)});\n"
    yield "record.html", site.render("record.html", scripts=("record.js",), data={"files": paths}, loads=True)


def _blocks(contents: Contents, record: Record) -> Iterator[tuple[str, Any]]:
    """Yield kind and content of what stands on a record's page, from top to bottom; `record.js` draws them."""
    score_set, state = score_set_of(record), guidance_words(record)
    doubts = dict.fromkeys(filter(None, (mark(record, key).strip(" ()") for key in record.values)))
    family = STYLES[record.family].title if record.family in STYLES else record.family
    tags = [(record.kind, record.kind), *([(family, "")] if family else []), *((doubt, "warn") for doubt in doubts)]
    yield "crumbs", ((record.method, method_page(record.method)), record.id)
    yield "h1", record.title
    yield "lead", {"tags": tags, "text": f"{_set_title(score_set)} · {record.protocol.axis} · guidance: {state}"}
    if facts := published_facts(record, contents.by_method[record.method]):
        yield "facts", facts
    yield "h2", "Values"
    yield "table", _values(record, _ranks(contents, record))
    if not any(map(uncertainty, record.values.values())):
        yield "about", "The source states no uncertainty."
    yield from (("about", f"{key}: {value.note}") for key, value in record.values.items() if value.note)
    if record.breakdown:
        yield "h2", "Breakdown"
        yield "table", _breakdown(record)
    if record.unscored:
        yield "h2", "Not scored"
        yield "list", record.unscored[:_NAMED]
        if (more := len(record.unscored) - _NAMED) > 0:
            yield "text", f"and {more} more; all are in the record."
    if (sheet := contents.sheets.get(record.id)) is not None:
        yield "h2", "Samples"
        yield "about", f"The first {sheet.count} stored images of this evaluation, not selected."
        alt, size = f"The first {sheet.count} images of this evaluation", {"width": sheet.width, "height": sheet.height}
        yield "picture", {"src": sheet_picture(record.id), "alt": alt, **size}
        if sheet.prompts:
            yield "prompts", sheet.prompts
    yield "h2", "How to reproduce it"
    if record.provenance.command:
        yield "code", record.provenance.command
    elif record.kind == "published":
        yield "text", "Published by others, not measured here. The row in this package:"
        yield "code", f"diffusionbench board --set {score_set} --columns all --trace"
    else:
        yield "text", "The record does not state a command."
    if record.cost is not None:
        costs = ((metric_info(key).title, digits_of(record, key)) for key in DERIVED)
        yield "h2", "Cost of training"
        yield "facts", [(name, text) for name, text in costs if text]
    protocol = record.protocol.model_dump(mode="json", exclude={"guidance"}, exclude_none=True)
    provenance = record.provenance.model_dump(mode="json", exclude={"command"}, exclude_none=True)
    extra = {key: value for key, value in record.extra.items() if key != "printed"}
    sections = {
        "Protocol": protocol | {"guidance": state},
        "Provenance": {"record": record.id, **provenance},
        "Further facts": extra,
    }
    for title, content in sections.items():
        if content:
            yield "h2", title
            yield (
                "facts",
                [(name, (fact, link) if (link := safe_link(fact)) else fact) for name, fact in _facts(content)],
            )


def _values(record: Record, ranks: Mapping[str, str]) -> dict[str, Any]:
    """Return the table of a record's values; columns that no value fills are left out."""
    better = {True: "higher", False: "lower", None: ""}
    columns: list[tuple[str, str, list[Any]]] = [
        ("Metric", "", [(metric_info(key).title, metric_page(key)) for key in record.values]),
        ("Better", "", [better[direction(key, value)] for key, value in record.values.items()]),
        ("Value", "number", [printed(record, key) for key in record.values]),
        ("Place", "number", [ranks.get(key, "") for key in record.values]),
        ("95 % or ± standard error", "", [*map(uncertainty, record.values.values())]),
    ]
    counts = [value.scored for value in record.values.values()]
    columns += [
        ("Scored", "number", ["" if count is None else f"{count:,}" for count in counts]),
        ("Not scored", "number", [f"{value.unscored:,}" if value.unscored else "" for value in record.values.values()]),
    ]
    for name, anchors in record.anchors.items():
        shown = [digits(anchors[key].value) if key in anchors else "" for key in record.values]
        columns.append((name.replace("_", " "), "number", shown))
    doubts = [doubt(record, key) for key in record.values]
    columns.append(("Status", "status", [text or "ok" for text in doubts] if any(doubts) else []))
    columns = [one for one in columns if any(one[2])]
    return {"heads": [one[:2] for one in columns], "rows": [*zip(*(cells for *_, cells in columns), strict=True)]}


def _breakdown(record: Record) -> dict[str, Any]:
    """Return the table of a record's parts."""
    keys = list(dict.fromkeys(key for values in record.breakdown.values() for key in values))
    heads = [("Part", ""), *((metric_info(key).title if key in METRICS.own else key, "number") for key in keys)]
    rows = []
    for name, values in record.breakdown.items():
        cells = [values.get(key) for key in keys]
        rows.append([name, *("" if cell is None else _with_uncertainty(cell) for cell in cells)])
    return {"heads": heads, "rows": rows}


def _with_uncertainty(value: Value) -> str:
    return digits(value.value) + (f" ({text})" if (text := uncertainty(value)) else "")


def digits_of(record: Record, key: str) -> str:
    """Return a cost with its unit; nothing where it is not stated."""
    value = derived_value(record, key)
    return "" if value is None else f"{value.value:,.4g} {metric_info(key).unit}"


def published_facts(record: Record, alike: Sequence[Record]) -> list[tuple[str, str]]:
    """Return what is known of a published row beyond its numbers; nothing of a measured one, which says so itself.

    Args:
        alike: all records of its method.
    """
    if record.kind != "published":
        return []
    known, parameters = METHODS.get(record.method), record.extra.get("parameters")
    protocol = record.protocol
    facts = [
        ("what it is", known.published if known else record.title),
        ("image space", known.latent if known else ""),
        ("name in the public implementation", known.upstream if known else ""),
        ("parameters", f"{parameters:,}" if isinstance(parameters, int) else ""),
        ("training iterations", "" if record.provenance.step is None else f"{record.provenance.step:,}"),
        ("sampler", f"{protocol.sampler}, {protocol.num_steps} steps" if protocol.sampler else ""),
        ("real images", reference_names(protocol)),
        ("trained here by", f"nanogen train --task {_TASKS[protocol.axis]} --method {known.name}" if known else ""),
    ]
    others = [one.title for one in alike if one.kind == "measured"]
    facts.append(("measured here", f"{len(others)} records" if others else "not yet"))
    return [(name, text) for name, text in facts if text]


def _ranks(contents: Contents, record: Record) -> dict[str, str]:
    """Return by metric the place of a published value among the rows of its set that were sampled alike."""
    if record.kind != "published":
        return {}
    key = (score_set_of(record), record.protocol.axis, guidance_state(record))
    found = {}
    for name, value in record.values.items():
        held = contents.published_values.get((*key, name), ())
        if (better := direction(name, value)) is not None and len(held) > 1:
            ahead = sum(one > value.value if better else one < value.value for one in held)
            found[name] = f"{ahead + 1} of {len(held)}"
    return found


def _facts(content: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return nested content as names and texts, without what is empty."""
    facts: list[tuple[str, str]] = []
    for name, value in content.items():
        shown = before + name.replace("_", " ")
        if isinstance(value, dict) and before.count(": ") < _LEVELS:
            facts += _facts(value, f"{shown}: ")
        elif isinstance(value, list) and not before:
            facts += ((shown.removesuffix("s"), _text(one)) for one in value)
        elif value not in (None, "", [], {}):
            facts.append((shown, _text(value)))
    return facts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return few([*map(_text, value)], first=_LISTED_FACTS)
    return value if isinstance(value, str) else canonical_json(value)


# --- Methods ---------------------------------------------------------------------------------------------------------


def method_pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """Yield (path, HTML) of the list of methods and of every method; after `record_files`, whose pictures they show."""
    methods = contents.by_method
    groups: dict[str, list[dict[str, str]]] = {}
    pages = []
    for name, records in methods.items():
        known = METHODS.get(name)
        family = next((record.family for record in records if record.family), "")
        title = known.published if known else next((r.title for r in records if r.variant is None), name)
        facts = [("name here", name)]
        if known:
            facts.append(("name in the published tables", known.published))
            facts.append(("name in the public implementation", known.upstream))
        entry = {"title": title, "page": method_page(name), "caption": caption(records)}
        groups.setdefault(family, []).append(entry)
        page = site.render(
            "method.html",
            depth=1,
            name=name,
            title=title,
            family=family_look(family)["title"],
            latent=known.latent if known else None,
            caption=caption(records),
            facts=facts,
            sets=[{"title": _set_title(key), "groups": _by_axis(held)} for key, held in _by_set(records).items()],
            pictures=[(one, contents.sheets[one.id]) for one in records if one.id in contents.sheets][:_PICTURES],
        )
        pages.append((method_page(name), page))
    keys = [*(key for key in STYLES if key in groups), *sorted(groups.keys() - STYLES.keys())]
    listed = [(family_look(key), sorted(groups[key], key=lambda entry: entry["title"].casefold())) for key in keys]
    yield "methods.html", site.render("methods.html", here="methods.html", groups=listed)
    yield from pages


def _by_axis(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the tables of a method's records, one for each axis, unguided records first."""
    found = []
    for axis in dict.fromkeys(record.protocol.axis for record in records):
        alike = [record for record in records if record.protocol.axis == axis]
        keys = list(dict.fromkeys(key for record in alike for key in record.values))
        rows = []
        for record in sorted(alike, key=lambda record: guidance_state(record) == "cfg"):
            in_title = record.variant is None or record.variant.replace("nfe-", "nfe=") in record.title.lower()
            rows.append((record.title if in_title else f"{record.title} ({record.variant})", record))
        found.append({"keys": keys, "rows": rows})
    return found


# --- Metrics ---------------------------------------------------------------------------------------------------------


def metric_pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """Yield (path, HTML) of the list of metrics and of every metric that is in the catalog or in a record."""
    holders: dict[str, list[Record]] = {key: [] for key in METRICS.own}
    for record in contents.records:
        for key in record.values:
            holders.setdefault(key, []).append(record)
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in AXES.values()}
    pages = []
    for key, records in holders.items():
        info = metric_info(key)
        better = direction(key, records[0].values[key]) if records else info.higher_is_better
        entry = {"key": key, "info": info, "better": BETTER[better], "count": len(records)}
        entry["needs"] = metric_words(key, anywhere=True)
        groups[AXES.get(info.axis, AXES[None])].append(entry)
        paper = re.search(r"arXiv (\d{4}\.\d{4,5})", info.about)
        # A Frechet distance may come out a rounding error below zero; its mathematical range is shown.
        low = 0 if -0.01 < info.low < 0 else info.low
        ends = f"{low:g}" if low > -math.inf else "no lower end", f"{info.high:g}" if info.high < math.inf else "open"
        again = rescoring_noise(key)
        noise = f"standard deviation {again.sd:.4f}: {again.source}" if again else ""
        if errors := [error for record in records if (error := record.values[key].stderr) is not None]:
            own = f"median standard error {median(errors):.3g} over {len(errors)} records"
            noise = f"{noise}; {own}" if noise else own
        facts = [
            ("key in records", key),
            ("what is computed", info.about or "not described; the metric belongs to another package"),
            ("how to compute it", metric_words(key, anywhere=True)),
            ("direction", BETTER[better]),
            ("range", " to ".join(ends) + (f" ({info.unit})" if info.unit else "")),
            ("noise of one scoring", noise or "not known: no record states it, and no two published sets hold it"),
            ("records", str(len(records))),
        ]
        page = site.render(
            "metric.html",
            depth=1,
            key=key,
            title=info.title,
            facts=facts,
            reference=f"https://arxiv.org/abs/{paper[1]}" if paper else None,
            groups=_ranked(key, records, better),
        )
        pages.append((metric_page(key), page))
    listed = [(title, entries) for title, entries in groups.items() if entries]
    yield "metrics.html", site.render("metrics.html", here="metrics.html", groups=listed)
    yield from pages


def _ranked(key: str, records: Sequence[Record], better: bool | None) -> list[dict[str, Any]]:
    """Return the records of each set, best first; those that take no place come last."""

    def order(record: Record) -> tuple[bool, float]:
        value = record.values[key].value
        return bool(not_ranked(record, key)), math.inf if not math.isfinite(value) else -value if better else value

    return [
        {
            "title": _set_title(name),
            "known": any(uncertainty(record.values[key]) for record in held),
            "noted": any(not_ranked(record, key) for record in held[:_LISTED]),
            "more": max(0, len(held) - _LISTED),
            "records": (held if better is None else sorted(held, key=order))[:_LISTED],
        }
        for name, held in _by_set(records).items()
    ]
