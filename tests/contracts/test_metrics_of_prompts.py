"""What every metric promises that judges images by their prompts."""

import math
import re

import numpy as np
import pytest

from diffusionbench.catalog import metric_info
from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES, Unjudged
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context
from diffusionbench.prompts import PROMPTS
from diffusionbench.sample import Item, Sample
from diffusionbench.stats import Estimate

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CLAUSES = {"include": [{"class": "cat", "count": 1}], "exclude": []}
QUESTIONS = [
    {"id": n, "question": f"{n}?", "parents": [n - 1] if n > 1 else [], "category": "entity - whole"} for n in (1, 2, 3)
]


def matched(odds: float) -> list[dict]:
    return [{"question": "?", "answer": "Yes", "probability": odds}]


def detected(odds: float) -> list[dict]:
    boxes = [{"label": "cat", "score": 0.95, "box": [0, 0, 9, 9]}] if odds > 0.5 else []
    return [{"boxes": boxes}, {"colours": [None] * len(boxes)}]


def answered(odds: float) -> list[dict]:
    # The better the image, the more of the chain of questions is answered yes.
    words = ["yes" if odds > place / 3 else "no" for place in (0.5, 1, 2)]
    return [{"answers": [{"question": "?", "answer": word, "probability": odds} for word in words]}]


# By the name of the code: rows of the judges for an image of a quality in 0..1, and what its item asks.
EXAMPLES = {
    "TextMatch": (matched, {}),
    "GenAIBench": (matched, {}),
    "GenEval": (detected, CLAUSES),
    **dict.fromkeys(("Questions", "QuestionsUpstream", "QuestionsOriginal"), (answered, {"questions": QUESTIONS})),
}
# Blocks of twins in a world of its own; tests/diffusionbench/simpleeval holds its contracts.
ELSEWHERE = {"SimpleEval"}
KEYS = [key for key in METRICS.with_code if METRICS[key].items == "prompts"]


@pytest.fixture(params=[key for key in KEYS if METRICS.load(key).__name__ not in ELSEWHERE])
def spec(request):
    name = METRICS.load(request.param).__name__
    assert name in EXAMPLES, (
        f"give {name}, the code of metric '{request.param}', an entry in EXAMPLES of this test: a function from a "
        "quality in 0..1 to the rows of its judges, and the `detail` of its items"
    )
    return METRICS[request.param]


def samples(spec, count: int = 48, images: int = 2) -> list[Sample]:
    detail = EXAMPLES[METRICS.load(spec.key).__name__][1]
    made = [Item(f"item/{n}", text="a cat", tags=(TASKS[n % 6],), detail=detail) for n in range(count // images)]
    return [Sample(place, made[place // images], place % images) for place in range(count)]


def qualities(count: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).uniform(0.2, 1, count).tolist()


def judged(spec, wanted, odds, order=None, batch=7, lost=()) -> Estimate:
    rows = EXAMPLES[METRICS.load(spec.key).__name__][0]
    metric = METRICS.load(spec.key)(spec, Context())
    order = list(range(len(wanted))) if order is None else order
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        evidence = [[Unjudged("lost") for _ in spec.judges] if one in lost else rows(odds[one]) for one in chosen]
        metric.update(dict(zip(spec.judges, zip(*evidence, strict=True), strict=True)), [wanted[one] for one in chosen])
    return metric.compute()


def same(one: Estimate, other: Estimate) -> None:
    assert one.value == pytest.approx(other.value, rel=1e-12)
    assert one.stderr == pytest.approx(other.stderr, rel=1e-9)
    assert one.parts.keys() == other.parts.keys()
    for key, part in one.parts.items():
        assert part.value == pytest.approx(other.parts[key].value, rel=1e-12), key
    assert one.facts == other.facts


def test_batches_and_order_play_no_part(spec):
    wanted, odds = samples(spec), qualities(48)
    plain = judged(spec, wanted, odds)
    same(judged(spec, wanted, odds, batch=1), plain)
    same(judged(spec, wanted, odds, np.random.default_rng(1).permutation(48).tolist(), batch=48), plain)


def test_an_estimate_is_complete_and_its_parts_have_final_keys(spec):
    found = judged(spec, samples(spec), qualities(48))
    assert (found.scored, found.unscored, found.status, found.method) == (48, 0, "ok", "prompts")
    low, high = found.interval
    assert low <= found.value <= high
    assert found.parts
    stem = spec.key.split("_overall")[0]
    for key, part in found.parts.items():
        assert re.fullmatch(r"[a-z0-9_.-]+", key)
        assert key.startswith(f"{stem}_")
        assert 0 <= part.value <= 1
        assert part.scored > 0
        # Boards and comparisons know what a part is; of another package the record says it.
        if spec.key in METRICS.own:
            assert metric_info(key).higher_is_better
            assert metric_info(key).unit == spec.unit
    whole = [found, *found.parts.values()]
    assert any(one.per_sample is not None and len(one.per_sample) == 48 for one in whole)


def test_better_images_score_higher_and_the_best_score_one(spec):
    wanted = samples(spec)
    best, worst = (judged(spec, wanted, [odds] * 48) for odds in (1.0, 0.2))
    assert best.value == pytest.approx(1.0)
    assert worst.value < 0.6
    assert spec.higher_is_better


def test_what_is_unjudged_is_counted_named_and_left_out(spec):
    wanted, odds = samples(spec), qualities(48)
    found = judged(spec, wanted, odds, lost=(3, 20))
    assert (found.scored, found.unscored, found.unjudged) == (46, 2, {3: "lost", 20: "lost"})
    kept = [place for place in range(48) if place not in (3, 20)]
    assert found.value == pytest.approx(judged(spec, wanted, odds, kept).value, rel=1e-12)
    with pytest.raises(RequestError, match=r"needs at least 1 images; 0 were scored and 48 could not be"):
        judged(spec, wanted, odds, lost=range(48))


def test_a_sample_counts_once(spec):
    with pytest.raises(RequestError, match="sample 5 a second time"):
        judged(spec, samples(spec), qualities(48), [5, 6, 5])


def test_the_error_is_that_of_drawing_prompts(spec):
    wanted = samples(spec, 240, 2)

    def drawn(seed):
        # Images of one prompt are alike.
        return np.repeat(np.random.default_rng(seed).uniform(0.2, 1, 120), 2).tolist()

    found = [judged(spec, wanted, drawn(seed), batch=240) for seed in range(40)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.5)


def test_names(spec):
    assert METRICS[spec.key] is spec
    assert all(judge in JUDGES for judge in spec.judges)
    assert spec.prompts is None or spec.prompts in PROMPTS
    assert spec.axis == "t2i"
    assert math.isfinite(spec.low)
    assert math.isfinite(spec.high)
    # A mode or another judge never has the name of the published value.
    if spec.key.endswith(("_original", "_upstream")):
        mode = spec.key.rpartition("_")[2]
        assert any(name.lower().endswith(mode) for name in (METRICS.load(spec.key).__name__, *spec.judges))
