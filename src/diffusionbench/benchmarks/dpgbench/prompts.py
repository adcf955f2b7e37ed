"""Prompts and question graphs of DPG-Bench (github.com/TencentQQGYLab/ELLA) and DSG-1k (github.com/j-min/DSG)."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from diffusionbench.benchmarks.dpgbench import DPG_BENCH, DSG_1K, QUESTIONS
from diffusionbench.errors import DataError
from diffusionbench.limits import parse_json
from diffusionbench.prompts.pinned import PinnedPrompts
from diffusionbench.sample import Item
from diffusionbench.shown import first_line

_COLUMNS: Final = {"item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"}


def from_archive(data: bytes) -> dict[str, bytes]:
    """Return the set's files from the repository's archive: its texts as one list, and its table where it is there.

    Raises:
        DataError: if it is no such archive.
    """
    texts, files = {}, {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isfile() and path.suffix in (".txt", ".csv") and "dpg_bench" in path.parts:
                    content = tar.extractfile(member)
                    assert content is not None
                    texts[path] = content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"prompt set '{DPG_BENCH.name}': what was fetched is no archive ({first_line(error)}). Give the files of "
            "the repository with --from."
        ) from None
    rows = [
        {"item_id": path.stem, "prompt": texts[path].decode()}
        for path in sorted(texts, key=lambda path: path.name)
        if path.suffix == ".txt" and path.parent.name == "prompts"
    ]
    files["prompts.jsonl"] = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    tables = [content for path, content in texts.items() if path.name == QUESTIONS and content]
    return files | ({QUESTIONS: tables[0]} if tables else {})


def graphs(table: bytes) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Return text and questions of each item of a table of questions, by its id, in the table's order.

    An id or a parent that is no number stays as it is written: it is unknown, and counts as answered yes.

    Raises:
        ValueError: if a column is missing.
    """
    rows = csv.DictReader(io.StringIO(table.decode("utf-8-sig")))
    if absent := sorted(_COLUMNS - {*(rows.fieldnames or ())}):
        raise ValueError(f"column {absent[0]} is missing")
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for row in rows:
        number, parents = _number(row["proposition_id"]), [_number(one) for one in row["dependency"].split(",")]
        question = {
            "id": number,
            "question": row["question_natural_language"],
            "parents": [one for one in parents if one not in (0, "")],
            "category": row["tuple"].partition("(")[0].strip(),
        }
        if any(isinstance(one, str) for one in (number, *parents)):
            question["unreadable"] = True
        found.setdefault(row["item_id"], (row["text"], []))[1].append(question)
    return found


def _number(text: str) -> int | str:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else text


def read_dpg(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Give the items of DPG-Bench, with questions where the table is there.

    Raises:
        ValueError: if the table lacks an item.
    """
    asked = graphs(files[QUESTIONS]) if QUESTIONS in files else None
    first = next(iter(asked or {}), None)
    for line in files["prompts.jsonl"].splitlines():
        row = parse_json(line)
        key, detail = row["item_id"], {}
        if asked is not None:
            if key not in asked:
                raise ValueError(f"{QUESTIONS} has no question on item {key}")
            # The published readers skip the first row of the table.
            detail = {"questions": asked[key][1], **({"first_in_table": True} if key == first else {})}
        yield Item(key, text=row["prompt"], detail=detail)


def read_dsg(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Give the items of DSG-1k with their questions."""
    (table,) = files.values()
    for key, (text, questions) in graphs(table).items():
        yield Item(key, text=text, detail={"questions": questions})


DPG_PROMPTS = PinnedPrompts(DPG_BENCH, read_dpg)
DSG_PROMPTS = PinnedPrompts(DSG_1K, read_dsg)
