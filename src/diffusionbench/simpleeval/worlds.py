"""The two worlds as the report sees them: families in the headline, baselines of the guards, kin of the scorers."""

from __future__ import annotations

from diffusionbench.simpleeval.guards import References
from diffusionbench.simpleeval.report import World
from diffusionbench.simpleeval.shapes_world import FAMILIES

#: Baselines: medians over `simulate(p)`, p = 0.9, 0.8, 0.7, 0.6 on public-0 (docs/simpleeval.md).
SHAPES = World(
    key="simpleeval_shapes_v1",
    world="shapes",
    headline=FAMILIES,
    references=References(clean=0.0, split=0.0, variety=1.0),
)
