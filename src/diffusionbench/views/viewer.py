"""Pages of images with what judges said of them, each one HTML file that needs no network.

A page is a list of cards over one script: filters by task and verdict, a search, keys, and a large view with boxes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from diffusionbench.catalog import metric_info
from diffusionbench.record import Record
from diffusionbench.shown import clipped, few
from diffusionbench.specs import RIGHT
from diffusionbench.study.comparison import Comparison
from diffusionbench.views.site.render import asset, policy, to_json
from diffusionbench.views.why import about_samples

Pictures = Callable[[int], np.ndarray | None]
"""Gives an image uint8 [H, W, 3] by the id of its sample, or None."""

MARK: Final = '<meta name="generator" content="diffusionbench viewer">'
"""Stands in every page, and in no other file that one may replace."""

MOST: Final = 2500
"""Cards of one page: every image of GenEval's prompts, and about 40 MB."""

# Longer sides are reduced; up to the smaller one pixels are kept and enlarged by the browser.
_SIDE, _SMALL = 384, 64
# Judges write vectors too, which nobody reads.
_LONGEST: Final = 400
NOT_HERE: Final = (
    "are not stored here: name the folder of their store with --stores, or score them again with --store FOLDER."
)


def page(title: str, notes: Sequence[str], cards: Sequence[Mapping[str, Any]]) -> str:
    """Return a page; all texts are shown as they are.

    Args:
        notes: sentences below the title.
        cards: each with `title`, `text`, `task`, `verdict`, `score` (a number or None), `images` (of `picture`),
            `answers` (of question, answer, probability, reason) and `facts` (names and texts).
    """
    style, script = f"\n{asset('viewer.css')}", f"\n{asset('viewer.js')}"
    lines = "".join(f"<p>{escape(note)}</p>\n" for note in notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta http-equiv="Content-Security-Policy" content="{escape(policy([script], style))}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{lines}<form id="filters"></form>
<p id="count" role="status"></p>
<p class="keys">Arrow keys move, Enter enlarges, Escape closes, V and T change verdict and task, / searches.</p>
</header>
<main id="cards" tabindex="-1"></main>
<dialog id="large"></dialog>
<noscript><p>This page needs its script, which it carries.</p></noscript>
<script type="application/json" id="data">{to_json(cards)}</script>
<script>{script}</script>
</body>
</html>
"""


def picture(pixels: np.ndarray | None, name: str, boxes: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return an image of a card: small ones without loss, others as WebP of at most 384 pixels a side.

    Args:
        pixels: uint8 [H, W, 3]; None where it cannot be shown, which the card says.
        boxes: with `box` [x0, y0, x1, y1] in pixels, and perhaps `label` and `score`.
    """
    if pixels is None:
        return {"name": name}
    height, width = pixels.shape[:2]
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if max(height, width) <= _SMALL:
        kind = "png"
        image.save(buffer, format="PNG")
    else:
        kind = "webp"
        image.thumbnail((_SIDE, _SIDE))
        image.save(buffer, format="WEBP", quality=80)
    drawn = [[*map(float, one["box"]), str(one.get("label", "")), one.get("score")] for one in boxes]
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"name": name, "src": source, "width": width, "height": height, "boxes": drawn}


def record_page(path: Path, record: Record, pictures: Pictures | None, texts: Mapping[str, tuple[str, str]]) -> str:
    """Return the page of a record: its images with values, verdicts, boxes, questions and reasons.

    Args:
        path: the record's file.
        pictures: its images, or None where they are not stored here.
        texts: task and text by the key of an item, as far as they are known.

    Raises:
        RequestError, DataError: see `about_samples`.
    """
    about = about_samples(path, record)
    chosen = sorted(about)[:MOST]
    scores = ", ".join(f"{metric_info(key).title} {value.value:.4g}" for key, value in record.values.items())
    notes = [f"{len(about):,} images with evidence. {clipped(scores, 600)}"]
    if len(chosen) < len(about):
        notes.append(f"Shown are the first {MOST:,}; {len(about) - MOST:,} are left out.")
    if pictures is None:
        notes.append(f"The images {NOT_HERE}")
    cards = [_card(about[sample], pictures, texts) for sample in chosen]
    lost = sum("src" not in card["images"][0] for card in cards)
    if pictures is not None and lost:
        notes.append(f"{lost:,} images cannot be shown: they are gone, too large, or others than the record's.")
    return page(record.title, notes, cards)


def _card(about: Mapping[str, Any], pictures: Pictures | None, texts: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    sample, item = about["sample"], about.get("item", "")
    task, text = texts.get(item, (item.rpartition("/")[0] or item, ""))
    said: dict[str, Any] = about.get("said", {})
    boxes = [one for row in said.values() for one in _with(row, "box") if _is_box(one["box"])]
    verdict, score = _verdict(about)
    answers = [
        [str(one["question"]), _plain(one.get("answer", one.get("score"))), one.get("probability"), one.get("reason")]
        for row in said.values()
        for one in _with(row, "question")
    ]
    for verdicts in about.get("verdicts", {}).values():
        if isinstance(verdicts, list):
            # What was asked for, and what was seen.
            answers += [[f"{row[0]}: {row[1]}?", _plain(row[2]), None, None] for row in verdicts if len(row) == 3]
    return {
        "title": f"{item} #{about.get('k', 0)}" if item else f"image {sample}",
        "text": text,
        "task": task,
        "verdict": verdict,
        "score": score,
        "images": [picture(None if pictures is None else pictures(sample), "", boxes)],
        "answers": answers,
        "facts": [*_facts(about)],
    }


def _verdict(about: Mapping[str, Any]) -> tuple[str, float | None]:
    """Return the verdict on an image in a word, and the first of its values."""
    scored = {key: value for key, value in about.get("values", {}).items() if value is not None}
    first = next(iter(scored.values()), None)
    for one in about.get("verdicts", {}).values():
        if isinstance(one, dict) and isinstance(one.get("correct"), bool):
            return RIGHT[one["correct"]], first
        if isinstance(one, list) and one and all(isinstance(row, list) and len(row) == 3 for row in one):
            return RIGHT[all(row[1] == row[2] for row in one)], first
    for key, value in scored.items():
        if words := metric_info(key).verdicts:
            # The word says all that the number does.
            return words[value == 1], None
    return ("not scored" if first is None else "scored"), first


def _facts(about: Mapping[str, Any]) -> Iterator[list[str]]:
    """Give names and texts of what is not shown otherwise."""
    for sentence in about.get("unscored", ()):
        yield ["not scored", sentence]
    for key, value in about.get("values", {}).items():
        yield [metric_info(key).title, "not scored" if value is None else f"{value:.4g}"]
    for key, one in about.get("verdicts", {}).items():
        if isinstance(one, dict):
            reasons = one.get("reasons", [])
            yield from (["because", str(reason)] for reason in (reasons if isinstance(reasons, list) else [reasons]))
            rest = {name: what for name, what in one.items() if name not in ("correct", "reasons") and what}
            if rest:
                yield [key, clipped(_plain(rest), _LONGEST)]
    for name, row in about.get("said", {}).items():
        rest = {key: what for key, what in row.items() if not [*_with(what, "box")] and not [*_with(what, "question")]}
        if rest and "question" not in row and len(text := _plain(rest)) <= _LONGEST:
            yield [name, text]


def _with(value: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """Give every mapping in plain data that has a key, however deep."""
    if isinstance(value, dict):
        if key in value:
            yield value
        for one in value.values():
            yield from _with(one, key)
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for one in value:
            yield from _with(one, key)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(one, int | float) for one in box)


def _plain(value: Any) -> str:
    """Return plain data as a reader writes it."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return few(list(map(_plain, value)), first=12)
    if value is None:
        return "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flips_page(
    records: tuple[Record, Record], comparison: Comparison, pictures: tuple[Pictures | None, Pictures | None]
) -> str:
    """Return the page of the images of which two records' verdicts differ, side by side."""
    cards = []
    for key, found in comparison.values.items():
        for flip in found.flipped:
            won, words = flip.values[1] > flip.values[0], metric_info(key).verdicts or ("0", "1")
            sides = zip(pictures, flip.ids, records, flip.values, strict=True)
            cards.append(
                {
                    "title": f"{flip.item} #{flip.k}",
                    "text": "",
                    "task": metric_info(key).title,
                    "verdict": f"{words[1]} in the {'second' if won else 'first'} only",
                    "score": None,
                    "images": [
                        picture(of(sample) if of else None, f"{record.title}: {words[value == 1]}")
                        for of, sample, record, value in sides
                    ],
                    "answers": [],
                    "facts": [],
                }
            )
    notes = [f"{len(cards):,} images flipped."]
    if len(cards) > MOST:
        notes.append(f"Shown are the first {MOST:,}; {len(cards) - MOST:,} are left out.")
    notes += [
        f"The images of {record.title} {NOT_HERE}" for record, of in zip(records, pictures, strict=True) if of is None
    ]
    return page(f"{records[0].title} and {records[1].title}", notes, cards[:MOST])
