"""Builds a prompt set: fixed quotas per cell, no text twice, the same bytes for the same seed."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from types import ModuleType
from typing import Final

from diffusionbench.benchmarks.simpleeval.blocks import TWINS, Draft, Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.decks import DeadEndError
from diffusionbench.benchmarks.simpleeval.stream import Stream
from diffusionbench.errors import RequestError
from diffusionbench.registry import nearest

WORLDS: Final = {
    "open": "diffusionbench.benchmarks.simpleeval.open_world",
    "shapes": "diffusionbench.benchmarks.simpleeval.shapes_world",
}
STRATA: Final = ("easy", "medium", "hard")
#: Dealt round and round within a cell; with two blocks a cell, T0 and then the others in turn.
TEMPLATES: Final = ("T0", "T1", "T0", "T2", "T3")
PARAPHRASES: Final = ("T1", "T2", "T3")
MAX_REDRAWS: Final = 100


def world_module(world: str) -> ModuleType:
    """The module that draws and words a world: TYPES, FAMILIES, LAYOUTS, Drawer, caption.

    Raises:
        RequestError: if the world is unknown.
    """
    if world not in WORLDS:
        raise RequestError(f"unknown SimpleEval world '{world}'. {nearest(world, list(WORLDS))}")
    return importlib.import_module(WORLDS[world])


def normalised(text: str) -> str:
    """Lower case, single spaces: what makes two prompts the same."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=16)
def build(world: str, seed: str, layout: str = "standard", avoid: Collection[str] = frozenset()) -> PromptSet:
    """The prompt set of a seed.

    Args:
        world: "open" or "shapes".
        seed: "public-0" ... "public-4", a bound seed or a sealed one (`seeds.py`).
        layout: size of the set, a key of the world's LAYOUTS.
        avoid: normalised texts of other prompt sets; a block that holds one is drawn again.

    Raises:
        RequestError: if the world or the layout is unknown.
    """
    module = world_module(world)
    if layout not in module.LAYOUTS:
        raise RequestError(f"unknown layout '{layout}' of world '{world}'. {nearest(layout, list(module.LAYOUTS))}")
    per_cell, images = module.LAYOUTS[layout]
    drawer = module.Drawer(seed)
    seen = set(avoid)
    rejected: Counter[str] = Counter()
    prompts: list[Prompt] = []
    cells = [(type_, stratum) for type_ in module.TYPES for stratum in STRATA]
    for cell, (type_, stratum) in enumerate(cells):
        for place in range(per_cell):
            template = ("T0" if place == 0 else PARAPHRASES[cell % 3]) if per_cell == 2 else TEMPLATES[place % 5]
            index = len(prompts) // 4
            for redraw in range(MAX_REDRAWS):
                stream = Stream(seed, f"block/{index:04d}" + (f"/r{redraw}" if redraw else ""))
                try:
                    draft = drawer.draw(type_, stratum, stream)
                except DeadEndError:
                    rejected["dead end"] += 1
                    continue
                block = _worded(module, draft, seed, index, (type_, stratum, template))
                texts = {normalised(prompt.text) for prompt in block}
                if len(texts) == 4 and not texts & seen:
                    break
                rejected["text seen before"] += 1
            else:
                raise RuntimeError(f"no legal block of type {type_}, {stratum}, after {MAX_REDRAWS} draws")
            seen |= texts
            prompts += block
    return PromptSet(world, seed, layout, module.FAMILIES, images, tuple(prompts), dict(rejected))


def _worded(module: ModuleType, draft: Draft, seed: str, index: int, cell: tuple[str, str, str]) -> list[Prompt]:
    type_, stratum, template = cell
    prompts = []
    for i, j in TWINS:
        facts = draft.scene(i, j)
        text = module.caption(facts, template)
        identity = f"{seed}/{index:04d}/{i}{j}"
        prompts.append(Prompt(identity, text, index, type_, stratum, template, facts, draft.questions(i, j)))
    return prompts
