"""Dense prompts and their question graphs: DPG-Bench (arXiv 2403.05135) and DSG-1k (arXiv 2310.18235), and their rows.

Both ask yes/no questions whose children are moot where a parent is answered no. The published DPG-Bench asks mPLUG,
which no maintained package loads; here other networks answer, and metrics carry their names.
"""

from dataclasses import replace
from typing import Final

from diffusionbench.specs import MetricSpec, PromptSpec

_HERE: Final = "diffusionbench.benchmarks.dpgbench"
_ELLA: Final = "3c228f1dc6c4d3cad0a47493816151a419f14db3"
_DSG: Final = "7330119a39f76ff90e619a8bd3ff321e71aa986b"
QUESTIONS: Final = "dpg_bench.csv"

DPG_BENCH: Final = PromptSpec(
    name="dpg_bench",
    title="DPG-Bench: 1,065 dense prompts; questions where dpg_bench.csv is there too",
    licence="Apache-2.0",
    layouts=("4x", "1x"),
    load=f"{_HERE}.prompts:DPG_PROMPTS",
    count=1065,
    source=f"GitHub TencentQQGYLab/ELLA, commit {_ELLA}, dpg_bench/",
    files={"prompts.jsonl": "b71b8072c180a306c923c4fa0d7c13bfc6f4b7bc5071f9dc8d5e316348a7a5cb", QUESTIONS: ""},
    url=f"https://codeload.github.com/TencentQQGYLab/ELLA/tar.gz/{_ELLA}",
    build=f"{_HERE}.prompts:from_archive",
)
DSG_1K: Final = PromptSpec(
    name="dsg1k",
    title="DSG-1k: 1,060 prompts with 8,182 questions",
    licence="Apache-2.0",
    layouts=("1x", "4x"),
    load=f"{_HERE}.prompts:DSG_PROMPTS",
    count=1060,
    source=f"GitHub j-min/DSG, commit {_DSG}",
    files={"dsg-1k-anns.csv": "b7ce06ea8a0478ccfd8fba105ecd26d7d301eb99d5c412987546c4cc8e08917a"},
    url=f"https://raw.githubusercontent.com/j-min/DSG/{_DSG}/dsg/data/",
)
PROMPTS: Final = (DPG_BENCH, DSG_1K)

_PUBLISHED: Final = MetricSpec(
    key="dpgbench",
    title="DPG-Bench",
    higher_is_better=True,
    axis="t2i",
    low=0,
    high=1,
    unit="share",
    about="DPG-Bench: a question answerer judges dense prompts; arXiv 2403.05135",
)
ANSWERERS: Final = ("qwen2.5-vl-7b", "qwen3-vl-8b")


def _metric(benchmark: str, answerer: str, prompts: PromptSpec, mode: str = "") -> MetricSpec:
    title = "DPG-Bench" if prompts is DPG_BENCH else "DSG-1k"
    return replace(
        _PUBLISHED,
        key="_".join(filter(None, (benchmark, answerer, mode))),
        title=f"{title} by {answerer}{f' ({mode})' if mode else ''}",
        about=f"share of yes/no questions that {answerer} answers yes, children under their parents",
        judges=(f"{answerer}_checklist",),
        items="prompts",
        prompts=prompts.name,
        load=f"{_HERE}.score:{'Questions' + mode.capitalize()}",
    )


METRICS: Final = (
    _PUBLISHED,
    *(_metric("dpgbench", one, DPG_BENCH, mode) for one in ANSWERERS for mode in ("", "upstream", "original")),
    *(_metric("dsg1k", one, DSG_1K) for one in ANSWERERS),
)
