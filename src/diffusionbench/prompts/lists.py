"""Published lists of texts without questions: PartiPrompts (arXiv 2206.10789) and T2I-CompBench (arXiv 2307.06350)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from diffusionbench.prompts import PARTI, T2I_COMPBENCH
from diffusionbench.prompts.pinned import PinnedPrompts
from diffusionbench.sample import Item


def _parti(files: Mapping[str, bytes]) -> Iterator[Item]:
    (table,) = files.values()
    rows = csv.DictReader(io.StringIO(table.decode()), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(rows):
        tags = (f"category: {row['Category']}", f"challenge: {row['Challenge']}")
        yield Item(f"{PARTI.name}/{number:05d}", text=row["Prompt"], tags=tags)


def _compbench(files: Mapping[str, bytes]) -> Iterator[Item]:
    for name in T2I_COMPBENCH.files:
        category = name.removesuffix("_val.txt")
        for number, line in enumerate(files[name].decode().splitlines()):
            yield Item(f"{T2I_COMPBENCH.name}/{category}/{number:05d}", text=line, tags=(category,))


PARTI_PROMPTS = PinnedPrompts(PARTI, _parti)
COMPBENCH = PinnedPrompts(T2I_COMPBENCH, _compbench)
