"""SimpleEval: a text-to-image metric built against hacking (docs/simpleeval.md), and its rows of the tables.

Prompts come in blocks of four twins that differ in one or two words; credit is given only where the image changes in
the requested way. Two worlds share all code but the pictures: `open` (natural prompts, two frozen dual encoders) and
`shapes` (rendered scenes, two hand-written readers, no weights).
"""

from typing import Final

from diffusionbench.benchmarks.simpleeval.shapes_facts import OBJECTS
from diffusionbench.specs import JudgeSpec, MetricSpec, PromptSpec

#: Any change to a prompt, question, view or weight is a new version and a new column.
VERSION: Final = "simpleeval-v1"
_HERE: Final = "diffusionbench.benchmarks.simpleeval"

OPEN_JUDGE: Final = JudgeSpec(
    name="simpleeval_open",
    title="two dual encoders on six damaged views",
    load=f"{_HERE}.open_scorer:OpenScorer",
    output="rows",
    # ALIGN's card names no licence.
    licence="MIT (CLIP), unstated (ALIGN)",
    package="transformers",
    extra="eval-t2i",
    hub=("openai/clip-vit-base-patch32", "kakaobrain/align-base"),
)
SHAPES_JUDGE: Final = JudgeSpec(
    name="simpleeval_shapes",
    title="two readers of drawn shapes on three damaged views",
    load=f"{_HERE}.shapes_scorer:ShapesScorer",
    output="rows",
    licence="Apache-2.0 (our code, no weights)",
)
# The last class is an image in which the readers agree on none of the others.
_OBJECT_NAMES: Final = (*(f"{colour} {shape}" for colour, shape in OBJECTS), "none of them")
OBJECTS_JUDGE: Final = JudgeSpec(
    name="simpleeval_objects",
    title="the readers of drawn shapes",
    load=f"{_HERE}.shapes_scorer:ObjectsJudge",
    num_classes=len(_OBJECT_NAMES),
    classes=_OBJECT_NAMES,
    licence="Apache-2.0 (our code, no weights)",
)
JUDGES: Final = (OPEN_JUDGE, SHAPES_JUDGE, OBJECTS_JUDGE)


def _prompts(key: str, title: str, layouts: tuple[str, ...], source: str) -> PromptSpec:
    return PromptSpec(name=key, title=title, licence="Apache-2.0", layouts=layouts, load=f"{_HERE}.prompts:{source}")


OPEN_PROMPTS: Final = _prompts(
    "simpleeval_v1",
    "SimpleEval (ours, v1): natural prompts, two dual encoders",
    ("quick", "standard", "wide"),
    "OPEN",
)
SHAPES_PROMPTS: Final = _prompts(
    "simpleeval_shapes_v1",
    "SimpleEval (ours, v1): rendered shapes, two readers",
    ("quick", "standard", "full"),
    "SHAPES",
)
PROMPTS: Final = (OPEN_PROMPTS, SHAPES_PROMPTS)


def _metric(prompts: PromptSpec, judge: JudgeSpec, title: str, about: str, code: str) -> MetricSpec:
    return MetricSpec(
        key=prompts.name,
        title=title,
        higher_is_better=True,
        axis="t2i",
        # Chance is 0; single questions of two options, all wrong, are at -1.
        low=-1,
        high=1,
        about=about,
        judges=(judge.name,),
        items="prompts",
        prompts=prompts.name,
        min_samples=8,
        load=f"{_HERE}.score:{code}",
    )


METRICS: Final = (
    _metric(
        OPEN_PROMPTS,
        OPEN_JUDGE,
        "SimpleEval (ours, v1)",
        "our own procedural prompts with a deliberately weak scorer",
        "OpenSimpleEval",
    ),
    _metric(
        SHAPES_PROMPTS,
        SHAPES_JUDGE,
        "SimpleEval shapes (ours, v1)",
        "the same in a world of drawn shapes, laptop scale",
        "ShapesSimpleEval",
    ),
)
