"""GenEval: objects, counts, colours and positions in 553 prompts (arXiv 2310.11513), and its rows of the tables.

One decision rule (`score.py`) reads detections and colour words of any pair of judges: Mask2Former and CLIP give
`geneval_overall`, the detector that needs no hub gives `geneval_ssd`.
"""

from dataclasses import replace
from typing import Final

from diffusionbench.specs import RIGHT, JudgeSpec, MetricSpec, PromptSpec

_HERE: Final = "diffusionbench.benchmarks.geneval"
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TASKS: Final = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
_COMMIT: Final = "af4902f24d3ca90ebbb446dd9891a59e0f82725f"
_ABOUT: Final = "GenEval: a detector judges objects, counts, colours and positions; arXiv 2310.11513"

GENEVAL: Final = PromptSpec(
    name="geneval",
    title="GenEval: 553 prompts of six tasks",
    licence="MIT",
    layouts=("4x", "1x"),
    load=f"{_HERE}.prompts:GENEVAL_PROMPTS",
    count=553,
    source=f"GitHub djghosh13/geneval, commit {_COMMIT}",
    files={"evaluation_metadata.jsonl": "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"},
    url=f"https://raw.githubusercontent.com/djghosh13/geneval/{_COMMIT}/prompts/",
)
PROMPTS: Final = (GENEVAL,)

SSD_COLOURS: Final = JudgeSpec(
    name="ssd_colours",
    title="ten colour words by a rule on the pixels of each box",
    load=f"{_HERE}.evidence:PixelColours",
    output="rows",
    uses=("coco_ssd",),
    licence="Apache-2.0 (our code, no weights)",
    options={"middle": 0.7, "chromatic": 0.3},
)
CLIP_COLOURS: Final = JudgeSpec(
    name="clip_colours",
    title="ten colour words by CLIP ViT-L/14 on each object cut out",
    load=f"{_HERE}.evidence:ClipColours",
    output="rows",
    uses=("mask2former",),
    licence="MIT",
    package="transformers",
    extra="eval-t2i",
    hub=("openai/clip-vit-large-patch14",),
)


def _in_mode(mode: str) -> JudgeSpec:
    name = f"{CLIP_COLOURS.name}_{mode}"
    code = f"{_HERE}.evidence:ClipColours{mode.capitalize()}"
    return replace(CLIP_COLOURS, name=name, load=code, uses=(f"mask2former_{mode}",))


UPSTREAM_COLOURS: Final = _in_mode("upstream")
ORIGINAL_COLOURS: Final = _in_mode("original")
JUDGES: Final = (SSD_COLOURS, CLIP_COLOURS, UPSTREAM_COLOURS, ORIGINAL_COLOURS)


def _metric(key: str, title: str, judges: tuple[str, str], about: str) -> MetricSpec:
    return MetricSpec(
        key=key,
        title=title,
        higher_is_better=True,
        axis="t2i",
        low=0,
        high=1,
        unit="share",
        about=f"{_ABOUT}; {about}",
        judges=judges,
        items="prompts",
        prompts=GENEVAL.name,
        verdicts=RIGHT,
        load=f"{_HERE}.score:GenEval",
    )


def _part(key: str, title: str, about: str) -> MetricSpec:
    return replace(_metric(key, title, ("", ""), about), judges=(), items=None, prompts=None, load=None)


METRICS: Final = (
    _metric("geneval_overall", "GenEval", ("mask2former", "clip_colours"), "mean of the six task scores"),
    _part("geneval_image_mean", "GenEval, mean over images", "share of correct images"),
    _part("geneval_prompt_any", "GenEval, any image right", "prompts with at least one correct image"),
    _metric(
        "geneval_overall_upstream",
        "GenEval (upstream)",
        ("mask2former_upstream", "clip_colours_upstream"),
        "inclusive boxes, padding kept, scores rounded to six decimals",
    ),
    _metric(
        "geneval_overall_original",
        "GenEval (original)",
        ("mask2former_original", "clip_colours_original"),
        "bilinear masks; an image that cannot be read counts as wrong",
    ),
    _metric(
        "geneval_ssd",
        "GenEval's tasks by coco_ssd",
        ("coco_ssd", "ssd_colours"),
        "with a small detector and a colour rule in place of the published judges, so no published figure compares",
    ),
)
