"""GenEval's decisions on written detections, its colour words, its scores, and the whole path with a real detector."""

import json
import math
import shlex
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import diffusionbench as db
from diffusionbench import runner
from diffusionbench.benchmarks.geneval import COLOURS, GENEVAL, TASKS
from diffusionbench.benchmarks.geneval.evidence import WORDS, PixelColours, to_lab, vote, words_of
from diffusionbench.benchmarks.geneval.prompts import read
from diffusionbench.benchmarks.geneval.score import Rule, decide, iou, relations, select
from diffusionbench.judges import Unjudged
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context
from diffusionbench.prompts import PROMPTS
from diffusionbench.sample import Item, Sample
from diffusionbench.stats import wilson


def box(label: str, score: float = 0.95, at: tuple[float, float, float, float] = (0, 0, 10, 10)) -> dict:
    return {"label": label, "score": score, "box": list(at)}


def clause(name: str, count: int = 1, **more) -> dict:
    return {"class": name, "count": count, **more}


def verdict(include, boxes, colours=None, exclude=(), **options):
    colours = [None] * len(boxes) if colours is None else colours
    return decide({"include": include, "exclude": list(exclude)}, boxes, colours, **options)


def test_objects_must_be_there_often_enough_and_not_too_often():
    cats = [box("cat", 0.99), box("cat", 0.95), box("cat", 0.91), box("cat", 0.5), box("dog", 0.3)]
    assert verdict([clause("cat", 3)], cats).correct
    assert verdict([clause("cat", 4)], cats).correct
    # Counting looks at scores above 0.9 alone; the threshold itself does not count.
    assert verdict([clause("cat", 4)], cats, counting=True).reasons == ("missing: 3 of 4 cat",)
    assert verdict([clause("dog")], cats).reasons == ("missing: 0 of 1 dog",)
    many = verdict([clause("cat", 2)], cats, exclude=[clause("cat", 3)], counting=True)
    assert many.reasons == ("too many: 3 of cat, fewer than 3 asked for",)
    assert many.kept == {"cat": (0, 1, 2)}
    assert verdict([clause("cat", 3)], cats, exclude=[clause("cat", 4)], counting=True).correct
    assert verdict([], cats).correct


def test_several_reasons_are_told():
    found = verdict([clause("cat"), clause("dog", 2, color="red")], [box("dog")], ["blue"])
    assert found.reasons == ("missing: 0 of 1 cat", "missing: 1 of 2 dog")


def test_only_the_best_candidates_are_asked_for_their_colour():
    cars = [box("car", 0.99), box("car", 0.5)]
    assert verdict([clause("car", color="red")], cars, ["red", "blue"]).correct
    wrong = verdict([clause("car", color="red")], cars, ["blue", "red"])
    assert wrong.reasons == ("wrong colour: car is blue, asked for red",)
    assert verdict([clause("car", 2, color="red")], cars, ["red", "red"]).correct


def test_every_candidate_lies_so_to_every_target():
    boxes = [box("dog", 0.9, (0, 0, 10, 10)), box("cat", 0.9, (50, 0, 60, 10)), box("cat", 0.8, (90, 0, 99, 10))]
    asked = [clause("cat", 2), clause("dog", position=["left of", 0])]
    assert verdict(asked, boxes).correct
    boxes[2]["box"] = [-90, 0, -80, 10]
    assert verdict(asked, boxes).reasons == ("wrong position: dog is right of, not left of",)
    # A clause that failed is no target, in place or colour.
    lost = verdict([clause("cat", color="red"), clause("dog", position=["left of", 0])], boxes[:2], [None, "blue"])
    assert lost.reasons == (
        "wrong colour: cat is blue, asked for red",
        "no target: dog is to be left of what is not there",
    )


def test_names_of_coco_and_of_the_hub_are_geneval_s():
    named = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard", "sofa": "couch"}
    for found, asked in named.items():
        assert verdict([clause(asked)], [box(found)]).correct
    assert not verdict([clause("mouse")], [box("mouse")]).correct


@pytest.mark.parametrize(
    "place, words",
    [
        ((50, 0), {"right of"}), ((-50, 0), {"left of"}), ((0, 50), {"below"}), ((0, -50), {"above"}),
        ((50, 50), {"right of", "below"}), ((-50, 40), {"left of", "below"}), ((0, 0), set()), ((2, 1), set()),
        ((50, 20), {"right of"}),
    ],
)  # fmt: skip
def test_relations_by_the_shrunk_offset(place, words):
    x, y = place
    assert relations((x, y, x + 10, y + 10), (0, 0, 10, 10)) == words


def test_the_offset_that_divides_is_not_shrunk():
    # Offset (20, 0), shrunk to 20 - 0.1 * (60 + 60) = 8, and 8 / 20 = 0.4 is no relation; 12.1 / 24.1 is one.
    assert relations((20, 0, 80, 60), (0, 0, 60, 60)) == set()
    assert relations((24.1, 0, 84.1, 60), (0, 0, 60, 60)) == {"right of"}


def test_overlap_counts_inclusive_pixels():
    assert iou((0, 0, 9, 9), (0, 0, 9, 4)) == 0.5
    assert iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0
    assert iou((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)


def test_selection_caps_before_it_suppresses():
    boxes = [box("cat", at=(place, 0, place + 9, 9)) for place in range(0, 200, 10)]
    scores = [0.5 + place / 100 for place in range(20)]
    assert select(boxes, scores, 0.3, Rule()) == tuple(range(19, 3, -1))
    near = [box("cat", at=(0, 0, 9, 9)), box("cat", at=(0, 0, 9, 4)), box("cat", at=(0, 0, 9, 3))]
    assert select(near, [0.9, 0.8, 0.7], 0.3, Rule(overlap=0.5)) == (0, 2)
    assert select(near, [0.9, 0.8, 0.8], 0.3, Rule()) == (0, 1, 2)


def test_upstream_rounds_scores_before_it_compares():
    almost = [box("cat", 0.3000001)]
    assert verdict([clause("cat")], almost).correct
    assert not verdict([clause("cat")], almost, rule=Rule(decimals=6)).correct


def test_ten_thousand_images_a_second():
    rng = np.random.default_rng(0)
    names = ("cat", "dog", "car", "bench", "mouse")
    sets = [
        [box(names[rng.integers(5)], float(rng.random()), tuple(map(float, rng.integers(0, 200, 4)))) for _ in range(6)]
        for _ in range(500)
    ]
    asked = {"include": [clause("cat", color="red"), clause("dog", position=["left of", 0])], "exclude": []}
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        for boxes in sets:
            decide(asked, boxes, ["red"] * 6)
        best = min(best, (time.process_time() - start) / len(sets))
    assert best < 1e-4


# --- Colours


PATCHES = {
    "red": (200, 20, 30), "orange": (250, 140, 20), "yellow": (250, 220, 40), "green": (40, 150, 60),
    "blue": (30, 60, 200), "purple": (120, 40, 160), "pink": (250, 150, 190), "brown": (100, 60, 30),
    "black": (15, 15, 15), "white": (245, 245, 245), "grey": (128, 128, 128),
}  # fmt: skip


def test_lab_of_known_colours():
    # Of sRGB white, red and mid grey under D65 (CIE 15).
    lab = to_lab(np.array([[255, 255, 255], [255, 0, 0], [119, 119, 119]], np.uint8))
    np.testing.assert_allclose(lab[0], [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab[1], [53.24, 80.09, 67.20], atol=0.02)
    np.testing.assert_allclose(lab[2], [50.03, 0, 0], atol=0.02)


@pytest.mark.parametrize("word, colour", PATCHES.items())
def test_plain_patches_have_their_words(word, colour):
    assert WORDS[words_of(np.array([colour], np.uint8))[0]] == word
    assert vote(np.tile(np.array(colour, np.uint8), (50, 1)), 0.3) == word


def test_thirty_per_cent_of_colour_win_and_ties_go_by_the_order():
    def pixels(**counts):
        return np.concatenate([np.tile(np.array(PATCHES[word], np.uint8), (n, 1)) for word, n in counts.items()])

    assert vote(pixels(white=70, red=30), 0.3) == "red"
    assert vote(pixels(white=71, red=29), 0.3) == "white"
    assert vote(pixels(purple=10, orange=10), 0.3) == "orange"
    assert vote(pixels(white=10, black=10), 0.3) == "black"
    assert WORDS[:10] == COLOURS


def test_the_middle_of_the_box_votes():
    image = np.full((100, 200, 3), 245, np.uint8)
    # The middle 70 % of the box 20..120 x 10..60 is 35..105 x 17..53 (17.5 and 52.5, outwards).
    image[17:53, 35:105] = PATCHES["blue"]
    rows = [{"boxes": [box("car", at=(20, 10, 120, 60)), box("car", at=(198.5, 99.2, 200, 100))]}, Unjudged("lost")]
    found = PixelColours()(np.stack([image, image]), (Item("a"), Item("b")), {"coco_ssd": rows})
    assert found == [{"colours": ["blue", "white"]}, Unjudged("lost")]
    pixels = PixelColours()._middle(image, (20, 10, 120, 60))
    assert len(pixels) == 70 * 36
    assert np.unique(pixels, axis=0).tolist() == [list(PATCHES["blue"])]


# --- Scores


def items() -> list[Item]:
    """Two prompts of each task, whose clause a cat fulfils."""
    detail = {"include": [clause("cat")], "exclude": []}
    return [Item(f"{task}/{n}", text="a cat", tags=(task,), detail=detail) for task in TASKS for n in range(2)]


def scored(right: dict[str, list[list[bool]]], key: str = "geneval_ssd", count: int = 0, prompts=None):
    """The estimate where each prompt of a task has images of these verdicts; None is unjudged."""
    metric = METRICS.load(key)(METRICS[key], Context(count=count, prompts=prompts))
    place, rows, samples = 0, [], []
    for item in items():
        task, number = item.key.split("/")
        for k, good in enumerate(right.get(task, [[], []])[int(number)]):
            rows.append(Unjudged("lost") if good is None else {"boxes": [box("cat")] if good else []})
            samples.append(Sample(place, item, k))
            place += 1
    colours = [{"colours": [None] * 5} for _ in rows]
    judges = METRICS[key].judges
    metric.update({judges[0]: rows, judges[1]: colours}, samples)
    return metric.compute()


def test_the_headline_is_the_mean_of_the_tasks_and_not_of_the_images():
    right = {task: [[True, True], [True, False]] for task in TASKS}
    right["counting"] = [[False, False, False, False], [False, True, False, False]]
    found = scored(right)
    assert found.value == pytest.approx((5 * 0.75 + 1 / 8) / 6)
    assert found.parts["geneval_ssd_counting"].value == 1 / 8
    assert found.parts["geneval_ssd_image_mean"].value == pytest.approx((5 * 3 + 1) / 28)
    assert found.parts["geneval_ssd_prompt_any"].value == 11 / 12
    assert found.parts["geneval_ssd_prompt_any"].interval == wilson(11, 12)
    assert {*found.parts} == {f"geneval_ssd_{name}" for name in (*TASKS, "image_mean", "prompt_any")}
    # Prompts of one task: means 1 and 1/2, so the error is 0.25; of counting 0 and 1/4: 0.125.
    assert found.parts["geneval_ssd_position"].stderr == pytest.approx(0.25)
    assert found.stderr == pytest.approx(math.sqrt(5 * 0.25**2 + 0.125**2) / 6)
    assert found.status == "ok"
    assert found.facts["verdicts"]["1"] == {"correct": True, "reasons": [], "kept": {"cat": [0]}}


def test_one_image_a_prompt_has_wilson_s_interval():
    found = scored({task: [[True], [False]] for task in TASKS})
    assert found.parts["geneval_ssd_colors"].interval == wilson(1, 2)
    assert found.parts["geneval_ssd_colors"].method == "wilson"
    assert found.stderr == pytest.approx(math.sqrt(6 * 0.25) / 6)
    assert found.interval == (pytest.approx(0.5 - 1.96 * found.stderr, abs=1e-3), pytest.approx(0.9, abs=0.01))
    # Shares do not exceed one.
    near = scored({task: [[True], [task != "colors"]] for task in TASKS})
    assert near.interval == (pytest.approx(11 / 12 - 1.96 / 12, abs=1e-3), 1.0)


def test_a_set_without_a_task_is_partial_and_says_which():
    found = scored({task: [[True], [False]] for task in TASKS if task != "colors"})
    assert (found.status, found.reason) == ("partial", "no image of: colors")
    assert found.value == 0.5


class Listed:
    """Stands in for an opened prompt set with one image a prompt."""

    @staticmethod
    def sample(place: int) -> Sample:
        return Sample(place, items()[place])


def test_only_the_original_mode_counts_what_is_lost_as_wrong():
    right = {task: [[True], [None]] for task in TASKS}
    assert (scored(right).value, scored(right).unscored) == (1.0, 6)
    found = scored(right, "geneval_overall_original", count=12, prompts=Listed())
    assert found.value == 0.5
    assert "geneval_counting_original" in found.parts
    assert "geneval_image_mean_upstream" in scored(right, "geneval_overall_upstream").parts
    assert "geneval_counting" in scored(right, "geneval_overall").parts


# --- Prompts and the whole path


def test_the_prompts_are_those_of_the_paper(prompts_installed):
    opened = PROMPTS.load("geneval").open("public-0")
    assert Counter(item.tags[0] for item in opened.items) == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100
    }  # fmt: skip
    assert (opened.count, opened.items[0].key) == (2212, "geneval/00000")
    asked = [one for item in opened.items for one in item.detail["include"]]
    assert Counter(one["position"][0] for one in asked if "position" in one) == {
        "below": 28, "right of": 27, "above": 26, "left of": 19
    }  # fmt: skip
    assert {one["color"] for one in asked if "color" in one} == set(COLOURS)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "dance"},
        {"include": [clause("cat", color="beige")]},
        {"include": [clause("cat", position=["above", 0])]},
    ],
)
def test_a_prompt_with_unknown_words_is_refused(change):
    row = {"tag": "colors", "include": [clause("cat")], "prompt": "a cat"} | change
    with pytest.raises(ValueError, match="line 1"):
        list(read({"x": json.dumps(row).encode()}))


def test_from_images_to_a_record_with_the_real_detector(coco_ssd_installed, prompts_installed, zebra, tmp_path):
    """Images of a zebra and of nothing, for the prompts that ask for one: verdicts, evidence, protocol."""
    assert PROMPTS.load("geneval").open("public-0").items[13].text == "a photo of a zebra"

    def draw(prompts, seeds):
        return np.stack([zebra if "zebra" in text else np.full_like(zebra, 128) for text in prompts])

    record = db.evaluate(draw, prompts="geneval", metrics="geneval_ssd", num=56, name="zebra", store=tmp_path)
    value = record.values["geneval_ssd_single_object"]
    assert (value.value, value.scored) == (4 / 56, 56)
    assert record.values["geneval_ssd_prompt_any"].value == 1 / 14
    assert record.values["geneval_ssd"].status == "partial"
    verdicts = record.extra["facts"]["geneval_ssd"]["verdicts"]
    assert [name for name, one in verdicts.items() if one["correct"]] == ["52", "53", "54", "55"]
    assert verdicts["0"]["reasons"] == ["missing: 0 of 1 bench"]
    assert record.protocol.judges["coco_ssd"].options == {"score": 0.3, "iou": 0.5}
    assert record.protocol.prompts == GENEVAL.name
    rows = [json.loads(line) for line in record.evidence["coco_ssd.jsonl"].text.splitlines()]
    assert [one["label"] for one in rows[52]["row"]["boxes"]] == ["zebra"]
    # Evidence is kept, so no judge is asked again; which images are right is kept for comparisons.
    again = runner.rescore(tmp_path, ("geneval_ssd",))
    assert again.values["geneval_ssd_image_mean"] == record.values["geneval_ssd_image_mean"]
    assert sum(json.loads(record.evidence["per_sample.json"].text)["values"]["geneval_ssd_image_mean"]) == 4


def test_folders_of_images_are_scored_by_the_command_line(
    coco_ssd_installed, prompts_installed, zebra, bench, tmp_path
):
    """The layout of GenEval's own tools, one image a prompt, and a command that gives the record again."""
    for number in range(14):
        folder = tmp_path / "made" / f"{number:05d}" / "samples"
        folder.mkdir(parents=True)
        Image.fromarray(zebra).save(folder / "0000.png")
    words = ("run", "made", "--axis", "t2i", "--prompts", "geneval:1x", "--metrics", "geneval_ssd", "--num", "14")
    code, out, err = bench(*words, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["values"]["geneval_ssd_single_object"]["value"] == 1 / 14
    assert record["values"]["geneval_ssd_single_object"]["method"] == "wilson"
    assert record["protocol"]["images_per_prompt"] == 1
    code, again, err = bench(*shlex.split(record["provenance"]["command"])[1:], "--json")
    assert (code, json.loads(again)["id"]) == (0, record["id"]), err
