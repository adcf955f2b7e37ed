"""GenAI-Bench: 1,600 compositional prompts with skills, scored by VQAScore (arXiv 2406.13743), and its rows."""

from typing import Final

from diffusionbench.specs import MetricSpec, PromptSpec

_HERE: Final = "diffusionbench.benchmarks.genaibench"
_REPOSITORY: Final = "BoatHermit/T2I-RL-Eval"
_COMMIT: Final = "0afae46fec93b246fb9b45858ee6a00cec517581"

GENAI_BENCH: Final = PromptSpec(
    name="genai_bench",
    title="GenAI-Bench: 1,600 prompts with skills",
    licence="unstated (its authors' code is Apache-2.0)",
    layouts=("1x", "4x"),
    load=f"{_HERE}.prompts:GENAI_PROMPTS",
    count=1600,
    source=f"hub data set BaiqiL/GenAI-Bench-1600, copy in GitHub {_REPOSITORY}, commit {_COMMIT}",
    files={
        "genai_image.json": "a7e15e46786b64f5d3518d3450b2b5a86438f2b946e8d093dcaf0d5c5c094b1e",
        "genai_skills.json": "8df390cb89d0584389747c69acecd03615ffc229c1db71a90e4abd3d12d9a3d2",
    },
    url=f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/data/evaluation/genai_bench/raw/",
)
PROMPTS: Final = (GENAI_BENCH,)
METRICS: Final = (
    MetricSpec(
        key="genaibench_overall",
        title="GenAI-Bench",
        higher_is_better=True,
        axis="t2i",
        low=0,
        high=1,
        unit="share",
        about="GenAI-Bench prompts scored by VQAScore (CLIP-FlanT5 XXL); arXiv 2406.13743",
        judges=("clip-flant5-xxl",),
        items="prompts",
        prompts=GENAI_BENCH.name,
        load=f"{_HERE}.score:GenAIBench",
    ),
)
