"""Checklists: the walk through a graph, its published readings, and DSG-1k with its released answers."""

import csv
import math
import time

import numpy as np
import pytest

from diffusionbench.benchmarks.dpgbench.prompts import graphs, read_dpg
from diffusionbench.judges import Unjudged
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.checklist import adjusted, slug
from diffusionbench.metrics.metric import Context
from diffusionbench.metrics.prompt_means import PromptMeans, combined, ratio
from diffusionbench.prompts import PROMPTS
from diffusionbench.sample import Item, Sample

KEY = "dpgbench_qwen2.5-vl-7b"


def question(number, *parents, category="entity - whole"):
    return {"id": number, "question": f"{number}?", "parents": list(parents), "category": category}


@pytest.mark.parametrize(
    "parents, raw, counted",
    [
        # A chain falls as a whole; a sibling stands.
        ([(), (1,), (2,), ()], "nyyy", "nnny"),
        ([(), (1,), (1,)], "yny", "yny"),
        # Every parent must count.
        ([(), (), (1, 2)], "yny", "ynn"),
        # A child in front of its parent sees the parent's own answer, not what becomes of it.
        ([(), (3,), (1,)], "nyy", "nyn"),
        # Nobody knows parent 9: it counts as answered yes.
        ([(), (9,)], "yy", "yy"),
    ],
)
def test_children_of_a_failed_parent_are_moot(parents, raw, counted):
    questions = [question(number + 1, *above) for number, above in enumerate(parents)]
    assert adjusted(questions, [one == "y" for one in raw]) == [one == "y" for one in counted]


def answers(raw: str, odds=None) -> dict:
    words = {"y": "yes", "n": "no", "b": "no bus"}
    given = [{"question": "?", "answer": words[one]} for one in raw]
    for one, odd in zip(given, odds or (), strict=False):
        one["probability"] = odd
    return {"answers": given}


def scored(key: str, rows: list[tuple[Item, list]]):
    """The estimate where each item's images have these rows."""
    metric = METRICS.load(key)(METRICS[key], Context())
    samples, evidence = [], []
    for item, images in rows:
        for k, row in enumerate(images):
            samples.append(Sample(len(samples), item, k))
            evidence.append(row)
    metric.update({METRICS[key].judges[0]: evidence}, samples)
    return metric.compute()


FIRST = Item("a", text="a", detail={"first_in_table": True, "questions": [
    question(1), question(2, 1, category="attribute - color"), question(3, category="global"),
]})  # fmt: skip
SECOND = Item("b", text="b", detail={"questions": [question(1), question(2, 1, category="attribute - color")]})


def test_the_score_is_the_mean_of_images_and_then_of_prompts():
    found = scored(KEY, [(FIRST, [answers("nyy"), answers("yyb")]), (SECOND, [answers("yn")])])
    # One of three counts, then two; then one of two. "no bus" is no.
    assert found.value == pytest.approx(((1 / 3 + 2 / 3) / 2 + 1 / 2) / 2)
    assert found.per_sample == pytest.approx({0: 1 / 3, 1: 2 / 3, 2: 1 / 2})
    assert found.stderr == pytest.approx(0.0)
    # Categories take the answers as they are, over all images: yes to 2 of 3 first questions, to 2 of 3 colours.
    parts = {name.removeprefix(f"{KEY}_"): one.value for name, one in found.parts.items()}
    assert parts == pytest.approx(
        {"entity": 2 / 3, "entity_whole": 2 / 3, "attribute": 2 / 3, "attribute_color": 2 / 3, "global": 1 / 2}
    )
    verdict = found.facts["verdicts"]["0"]
    assert verdict == {"correct": False, "reasons": ["no: 1?", "moot: 2?"]}


def test_published_readings_skip_the_first_row_of_the_table():
    rows = [(FIRST, [answers("nyy"), answers("nyn")]), (SECOND, [answers("yn")])]
    upstream, original = (scored(f"{KEY}_{mode}", rows) for mode in ("upstream", "original"))
    # Question 2 of the first item has a parent that is gone, which counts as yes; the original loses the item.
    assert upstream.value == pytest.approx(((1 + 1 / 2) / 2 + 1 / 2) / 2)
    assert (original.value, original.scored, original.unscored) == (0.5, 1, 2)
    assert set(original.unjudged.values()) == {"its questions cannot be scored"}
    assert upstream.facts["unreadable_questions"] == {"a": [2]}
    # Categories of the original see the last image alone.
    rows = [(SECOND, [answers("yy"), answers("yn")])]
    assert scored(f"{KEY}_original", rows).parts[f"{KEY}_original_attribute"].value == 0
    assert scored(f"{KEY}_upstream", rows).parts[f"{KEY}_upstream_attribute"].value == 0.5


def test_soft_scores_are_means_of_probabilities():
    found = scored(KEY, [(SECOND, [answers("yy", (0.9, 0.4)), answers("nn", (0.1, 0.0))])])
    assert found.parts[f"{KEY}_soft_am"].value == pytest.approx(((0.9 + 0.4) / 2 + 0.05) / 2)
    assert found.parts[f"{KEY}_soft_gm"].value == pytest.approx((math.sqrt(0.36) + math.sqrt(0.1e-12)) / 2)
    assert f"{KEY}_soft_am" not in scored(KEY, [(SECOND, [answers("yy", (0.9, 0.4)), answers("yy")])]).parts


def test_what_is_unjudged_is_left_out_and_counted():
    found = scored(KEY, [(SECOND, [answers("yy"), Unjudged("dark")])])
    assert (found.value, found.scored, found.unscored, found.unjudged) == (1.0, 1, 1, {1: "dark"})


def test_the_error_of_unequal_prompts_is_that_of_a_ratio():
    rng = np.random.default_rng(0)
    drawn = [ratio([(float(rng.binomial(n, 0.7)), int(n)) for n in rng.integers(1, 9, 200)]) for _ in range(300)]
    spread = np.std([one.value for one in drawn], ddof=1)
    assert np.mean([one.stderr for one in drawn]) == pytest.approx(spread, rel=0.15)
    covered = np.mean([one.interval[0] <= 0.7 <= one.interval[1] for one in drawn])
    assert 0.9 < covered < 0.99
    assert ratio([(1.0, 2)]).stderr is None


def test_images_of_one_prompt_are_one_draw():
    item, other = Item("a", text="a"), Item("b", text="a")
    scores = {Sample(place, (item, other)[place // 4], place % 4): float(place < 4) for place in range(8)}
    # Equal texts under two keys are two prompts.
    found = PromptMeans(scores).of()
    assert (found.value, found.stderr, found.scored) == (0.5, 0.5, 8)
    assert PromptMeans(scores).of(tag="none") is None
    assert combined([found, found], 16).stderr == pytest.approx(math.hypot(0.5, 0.5) / 2)


# --- Tables


TABLE = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language\n"
    "x,a cat,,1,0,entity,whole,entity - whole (cat),Is there a cat?\n"
    'x,a cat,,2,"1, 3",attribute,color,"attribute - color (cat, red)",Is the cat red?\n'
    "x,a cat,,three,-,other,count,other - count (cat),Is it one?\n"
)


def test_a_table_becomes_graphs():
    ((text, questions),) = graphs(TABLE.encode()).values()
    assert text == "a cat"
    assert [(one["id"], one["parents"], one["category"], one.get("unreadable", False)) for one in questions] == [
        (1, [], "entity - whole", False), (2, [1, 3], "attribute - color", False),
        ("three", ["-"], "other - count", True),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="column dependency is missing"):
        graphs(TABLE.replace("dependency", "depends").encode())
    assert slug("relation - non-spatial ") == "relation_non_spatial"


def test_dense_prompts_have_questions_where_the_table_is_there():
    files = {"prompts.jsonl": b'{"item_id": "x", "prompt": "a cat"}\n'}
    assert next(iter(read_dpg(files))).detail == {}
    (item,) = read_dpg({**files, "dpg_bench.csv": TABLE.encode()})
    assert item.detail["first_in_table"]
    assert len(item.detail["questions"]) == 3
    with pytest.raises(ValueError, match=r"dpg_bench.csv has no question on item y"):
        list(read_dpg({"prompts.jsonl": b'{"item_id": "y", "prompt": "a dog"}', "dpg_bench.csv": TABLE.encode()}))


def released(shared) -> dict[str, dict[tuple[str, str], str]]:
    """mPLUG's answers by model, item and id."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    with open(shared("prompts", "dsg1k", "mplug_dsg.csv"), encoding="utf-8") as table:
        for row in csv.DictReader(table):
            found.setdefault(row["t2i_model"], {})[row["item_id"], row["question_id"].strip()] = row["answer"]
    return found


def test_dsg_1k_with_its_released_answers_in_a_second(prompts_installed, shared):
    items = PROMPTS.load("dsg1k").open("public-0").items
    for model, given in released(shared).items():
        rows = []
        for item in items:
            words = [given.get((item.key, str(one["id"]))) for one in item.detail["questions"]]
            if None not in words:
                rows.append((item, [{"answers": [{"answer": word} for word in words]}]))
        assert len(rows) >= (1050 if model == "sd2dot1" else 150)
        start = time.process_time()
        found = scored("dsg1k_qwen2.5-vl-7b", rows)
        assert time.process_time() - start < 1
        assert found.value == pytest.approx(plainly(rows), abs=1e-12)
        # Eight items of the table have a parent that is no number; one without its first question is unanswered.
        assert len(found.facts["unreadable_questions"]) == (8 if model == "sd2dot1" else 1)
        if model == "sd2dot1":
            assert (round(found.value, 4), found.scored) == (0.8297, 1059)


def plainly(rows) -> float:
    """The same by the words of the rule: a question counts while no parent has been set to 0."""
    total = 0.0
    for item, ((row),) in rows:
        state = {}
        for one, answer in zip(item.detail["questions"], row["answers"], strict=True):
            state[one["id"]] = int(answer["answer"] == "yes")
        for one in item.detail["questions"]:
            for parent in one["parents"]:
                if state.get(parent, 1) == 0:
                    state[one["id"]] = 0
        total += sum(state[one["id"]] for one in item.detail["questions"]) / len(item.detail["questions"])
    return total / len(rows)
