"""The rows of a small benchmark from outside DiffusionBench's tree: axis, prompt set, judge, metric and source."""

from diffusionbench.axes import AxisSpec
from diffusionbench.specs import JudgeSpec, MetricSpec, PromptSpec, SourceSpec

NAMES = ("red", "green", "blue")

AXIS = AxisSpec(
    name="colours",
    title="plain red, green and blue images in turn",
    load="diffusionbench_colours.axis:Colours",
)
PROMPT_SET = PromptSpec(
    name="plain_colours",
    title="plain colours: three texts",
    licence="Apache-2.0",
    layouts=("all",),
    load="diffusionbench_colours.prompts:PLAIN_COLOURS",
)
JUDGE = JudgeSpec(
    name="mean_colour",
    title="the mean of each channel",
    load="diffusionbench_colours.evidence:MeanColour",
    dim=3,
    licence="none",
)
METRIC = MetricSpec(
    key="colour_accuracy",
    title="Colour accuracy",
    higher_is_better=True,
    low=0,
    high=1,
    unit="share",
    about="share of images whose strongest channel is the colour asked for",
    judges=("mean_colour",),
    load="diffusionbench_colours.score:ColourAccuracy",
)
SOURCE = SourceSpec(
    name="painter",
    title="paints the colour that is asked for, with the strength behind the colon",
    load="diffusionbench_colours.painter:open_painter",
    example="200",
)
