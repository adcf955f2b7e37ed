"""The prompts of GenEval with their clauses (github.com/djghosh13/geneval, evaluation_metadata.jsonl)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diffusionbench.benchmarks.geneval import COLOURS, GENEVAL, TASKS
from diffusionbench.limits import parse_json
from diffusionbench.prompts.pinned import PinnedPrompts
from diffusionbench.sample import Item


def read(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Give the items: tag as tag, `include` and `exclude` clauses as detail.

    Raises:
        ValueError: if a line is no such prompt.
    """
    (lines,) = files.values()
    for number, line in enumerate(lines.splitlines()):
        row = parse_json(line)
        include, exclude = row["include"], row.get("exclude", [])
        for place, clause in enumerate(include):
            earlier = "position" not in clause or 0 <= clause["position"][1] < place
            if not earlier or clause.get("color", "red") not in COLOURS or row["tag"] not in TASKS:
                raise ValueError(f"line {number + 1}: unknown task or colour, or a position relative to no clause")
        detail = {"include": include, "exclude": exclude}
        yield Item(f"{GENEVAL.name}/{number:05d}", text=row["prompt"], tags=(row["tag"],), detail=detail)


GENEVAL_PROMPTS = PinnedPrompts(GENEVAL, read)
