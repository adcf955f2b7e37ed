"""The lists of methods and metrics, and one page for each record, method and metric.

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
from diffusionbench.record import Record, reference_names
from diffusionbench.schema import canonical_json
from diffusionbench.study.analysis import rescoring_noise
from diffusionbench.study.columns import guidance_state, score_set_of
from diffusionbench.study.cost import derived_value
from diffusionbench.study.published import METHODS
from diffusionbench.views.figure import STYLES
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    caption,
    family_look,
    guidance_words,
    mark,
    method_page,
    metric_page,
    not_ranked,
    record_page,
    uncertainty,
)
from diffusionbench.views.site.render import Pages
from diffusionbench.views.site.samples import sheet_of

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


def record_pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str | bytes]]:
    """Yield (path, HTML) of every record, and (path, PNG) of its samples."""
    for record in contents.records:
        path = record_page(record.id)
        picture = path.removesuffix(".html") + ".png"
        sheet = sheet_of(record, contents.stores)
        if sheet is not None:
            contents.sheets[record.id] = replace(sheet, png=b"")
            yield picture, sheet.png
        keys = list(dict.fromkeys(key for values in record.breakdown.values() for key in values))
        protocol = record.protocol.model_dump(mode="json", exclude={"guidance"}, exclude_none=True)
        provenance = record.provenance.model_dump(mode="json", exclude={"command"}, exclude_none=True)
        sections = [
            ("Protocol", _facts(protocol | {"guidance": guidance_words(record)})),
            ("Provenance", _facts({"record": record.id, **provenance})),
        ]
        if record.cost is not None:
            costs = [(metric_info(key).title, digits_of(record, key)) for key in DERIVED]
            sections.insert(0, ("Cost of training", [(name, text) for name, text in costs if text]))
        if extra := {key: value for key, value in record.extra.items() if key != "printed"}:
            sections.append(("Further facts", _facts(extra)))
        yield (
            path,
            site.render(
                "record.html",
                depth=1,
                record=record,
                family=STYLES[record.family].title if record.family in STYLES else record.family,
                set_name=score_set_of(record),
                set_title=_set_title(score_set_of(record)),
                better={key: direction(key, value) for key, value in record.values.items()},
                notes=[f"{key}: {value.note}" for key, value in record.values.items() if value.note],
                breakdown=[(name, [values.get(key) for key in keys]) for name, values in record.breakdown.items()],
                breakdown_heads=[metric_info(key).title if key in METRICS.own else key for key in keys],
                sections=sections,
                samples=sheet,
                picture=picture,
                known=any(uncertainty(value) for value in record.values.values()),
                doubts=dict.fromkeys(filter(None, (mark(record, key).strip(" ()") for key in record.values))),
                counted=any(value.scored is not None for value in record.values.values()),
                known_facts=published_facts(record, contents.by_method[record.method]),
                ranks=_ranks(contents, record),
            ),
        )


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


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for name, value in content.items():
        shown = name.replace("_", " ")
        if isinstance(value, dict):
            facts += ((f"{shown}: {key}", _text(one)) for key, one in value.items() if one is not None)
        elif isinstance(value, list):
            facts += ((shown.removesuffix("s"), _text(one)) for one in value)
        else:
            facts.append((shown, _text(value)))
    return facts


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else canonical_json(value)


# --- Methods ---------------------------------------------------------------------------------------------------------


def method_pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """Yield (path, HTML) of the list of methods and of every method; after `record_pages`, whose pictures they show."""
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
            pictures=[
                (one, contents.sheets[one.id], record_page(one.id).removesuffix(".html") + ".png")
                for one in records
                if one.id in contents.sheets
            ][:_PICTURES],
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
