"""The prompts of GenAI-Bench with the skills they need (hub data set BaiqiL/GenAI-Bench-1600)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diffusionbench.benchmarks.genaibench import GENAI_BENCH
from diffusionbench.limits import parse_json
from diffusionbench.prompts.pinned import PinnedPrompts
from diffusionbench.sample import Item


def read(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Give the items in the order of their ids; a prompt's skills are its tags, seven have none."""
    images, skills = (parse_json(files[name]) for name in GENAI_BENCH.files)
    members = {tag: frozenset(numbers) for tag, numbers in skills.items()}
    for name in sorted(images):
        tags = tuple(tag for tag, numbers in members.items() if int(name) in numbers)
        yield Item(f"{GENAI_BENCH.name}/{name}", text=images[name]["prompt"], tags=tags)


GENAI_PROMPTS = PinnedPrompts(GENAI_BENCH, read)
