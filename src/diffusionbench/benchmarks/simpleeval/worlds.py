"""The two worlds as the report sees them: families in the headline, baselines of the guards, kin of the scorers."""

from __future__ import annotations

from typing import Final

from diffusionbench.benchmarks.simpleeval import competence, open_world, shapes_world
from diffusionbench.benchmarks.simpleeval.guards import References
from diffusionbench.benchmarks.simpleeval.report import World

#: Baselines: medians over `simulate(p)`, p = 0.9, 0.8, 0.7, 0.6 on public-0 (docs/simpleeval.md).
SHAPES: Final = World(
    key="simpleeval_shapes_v1",
    world="shapes",
    headline=shapes_world.FAMILIES,
    references=References(clean=0.0, split=0.0, variety=0.9),
    ceiling=1.0,
)

_HEADLINE, _PROVISIONAL = competence.headline(open_world.FAMILIES)
#: Never run on the real weights of its scorers: until it is, it has no baselines and stays provisional.
OPEN: Final = World(
    key="simpleeval_v1",
    world="open",
    headline=_HEADLINE,
    references=None,
    relatives=("openai/clip", "clip-vit-base-patch32", "align-base", "coyo-align"),
    provisional=_PROVISIONAL,
)
