"""One page for each record: values with uncertainty, breakdown, protocol, provenance, how to get it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusionbench.catalog import CATALOG, direction, metric_info
from diffusionbench.record import Record, Value
from diffusionbench.schema import canonical_json
from diffusionbench.study.points import score_set_of
from diffusionbench.views.figure import STYLES
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    digits,
    guidance_words,
    method_page,
    metric_page,
    plain_digits,
    record_page,
    uncertainty,
)
from diffusionbench.views.site.render import Pages
from diffusionbench.views.site.samples import Sheet, sheet_of

ARROWS = {True: "higher", False: "lower", None: ""}


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str | bytes]]:
    """(path, HTML) of every record, and (path, PNG) of its samples."""
    for record in contents.records:
        sheet = sheet_of(record, contents.stores)
        picture = None
        if sheet is not None:
            picture = record_page(record.id).removesuffix(".html") + ".png"
            yield picture, sheet.png
        yield record_page(record.id), _page(record, site, sheet, picture)


def _page(record: Record, site: Pages, sheet: Sheet | None, picture: str | None) -> str:
    heads, breakdown = _breakdown(record)
    name = score_set_of(record)
    title = STYLES[record.family].title if record.family in STYLES else record.family
    return site.render(
        "record.html",
        depth=1,
        record=record,
        family=title,
        set_name=name,
        set_title=SETS[name][0] if name in SETS else name,
        guidance=guidance_words(record),
        method_page=method_page(record.method),
        rows=[_row(record, key, value) for key, value in record.values.items()],
        notes=[f"{key}: {value.note}" for key, value in record.values.items() if value.note],
        breakdown=breakdown,
        breakdown_heads=heads,
        sections=_sections(record),
        samples=sheet,
        picture=picture,
        known=any(uncertainty(value) for value in record.values.values()),
        counted=any(value.scored is not None for value in record.values.values()),
    )


def _row(record: Record, key: str, value: Value) -> dict[str, Any]:
    return {
        "title": metric_info(key).title,
        "page": metric_page(key),
        "better": ARROWS[direction(key, value)],
        "value": digits(record, key),
        "uncertainty": uncertainty(value),
        "scored": "" if value.scored is None else value.scored,
        "unscored": value.unscored or "",
        "anchors": [plain_digits(values[key].value) if key in values else "" for values in record.anchors.values()],
    }


def _breakdown(record: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The metrics of the parts, and each part with its values."""
    keys = list(dict.fromkeys(key for values in record.breakdown.values() for key in values))
    rows = [(name, [_part(values.get(key)) for key in keys]) for name, values in record.breakdown.items()]
    return [metric_info(key).title if key in CATALOG else key for key in keys], rows


def _part(value: Value | None) -> str:
    if value is None:
        return ""
    beside = uncertainty(value)
    return plain_digits(value.value) + (f" ({beside})" if beside else "")


def _sections(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """Protocol, provenance and further facts as names and texts; what is not known is left out."""
    protocol = record.protocol.model_dump(mode="json", exclude={"guidance"}, exclude_none=True)
    protocol["guidance"] = guidance_words(record)
    provenance = record.provenance.model_dump(mode="json", exclude={"command"}, exclude_none=True)
    extra = {key: value for key, value in record.extra.items() if key != "printed"}
    found = [("Protocol", _facts(protocol)), ("Provenance", _facts({"record": record.id, **provenance}))]
    return [*found, *([("Further facts", _facts(extra))] if extra else [])]


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
