"""What a record tells of one image: its value in each metric, and what judges said of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diffusionbench.errors import RequestError
from diffusionbench.limits import parse_json, reads_extra
from diffusionbench.record import PER_SAMPLE, Record, attachment, facts_of
from diffusionbench.shown import clipped, printable


@reads_extra
def about_samples(path: Path, record: Record) -> dict[int, dict[str, Any]]:
    """Return what a record and the files beside it tell of each sample, by its id.

    Returns:
        "sample", and as far as known "item", "k", "image" (SHA-256), "unscored" (why not), "values" by metric, "said"
        by judge (a row, or {"unjudged": reason}), and "verdicts" by metric.

    Raises:
        RequestError: if the files are not what judges and metrics write.
        DataError: if a file was changed or damaged.
    """
    every: dict[int, dict[str, Any]] = {}

    def found(sample: int) -> dict[str, Any]:
        return every.setdefault(sample, {"sample": sample})

    if (text := attachment(record, path, PER_SAMPLE)) is not None:
        table = parse_json(text)
        for place, (sample, item, k, image) in enumerate(table["samples"]):
            values = {key: of[place] for key, of in table["values"].items()}
            found(sample).update(item=item, k=k, image=image, values=values)
    for name in record.evidence:
        if name.endswith(".jsonl") and (text := attachment(record, path, name)) is not None:
            for row in map(parse_json, text.splitlines()):
                one = found(row["sample"])
                one |= {key: row[key] for key in ("item", "k", "image")}
                said = row["row"] if "row" in row else {"unjudged": row["unjudged"]}
                one.setdefault("said", {})[name.removesuffix(".jsonl")] = said
    for key, facts in facts_of(record).items():
        verdicts = facts.get("verdicts")
        for sample, verdict in verdicts.items() if isinstance(verdicts, dict) else ():
            if sample.isdecimal():
                found(int(sample)).setdefault("verdicts", {})[key] = verdict
    for sentence in record.unscored:
        if named := re.match(r"image ([0-9]{1,9}): ", sentence):
            found(int(named[1])).setdefault("unscored", []).append(sentence)
    return every


def about_sample(path: Path, record: Record, sample: int) -> dict[str, Any]:
    """Return what `about_samples` tells of one sample.

    Raises:
        RequestError: if nothing is known of the sample, or the files are not what judges and metrics write.
        DataError: if a file was changed or damaged.
    """
    found = about_samples(path, record).get(sample)
    if found is None:
        raise RequestError(
            f"record {path} tells nothing of sample {sample}. Samples are numbered from 0 in the order of the "
            "evaluation; metrics of whole sets have no values of single images."
        )
    return found


def as_text(found: dict[str, Any]) -> str:
    """Return what is known of a sample in lines for a terminal."""
    head = [f"sample {found['sample']}"]
    head += [f"{key} {found[key]}" for key in ("item", "k") if key in found]
    lines = [", ".join(head), *found.get("unscored", ())]
    if "image" in found:
        lines.append(f"image {found['image']}")
    lines += [f"{key}: {'not scored' if value is None else value}" for key, value in found.get("values", {}).items()]
    for part in ("verdicts", "said"):
        for name, what in found.get(part, {}).items():
            lines.append(f"{name} {part}: {clipped(json.dumps(what, ensure_ascii=False), 1_000)}")
    return "\n".join(map(printable, lines))
