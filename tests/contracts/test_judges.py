"""What every judge promises."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from diffusionbench.benchmarks import geneval
from diffusionbench.errors import RequestError
from diffusionbench.judges import (
    CHECKLISTS,
    CLIP_L14,
    COCO_SSD,
    FLAN_T5,
    JUDGES,
    MASK2FORMER,
    QWEN,
    QWEN_ORIGINAL,
    Unjudged,
)
from diffusionbench.judges.detector import CLASSES
from diffusionbench.prompts import PROMPTS
from diffusionbench.sample import Item, plain_item

# For a judge that asks questions, or is given the evidence of others: three items it can be asked about.
ITEMS: dict[str, tuple[Item, ...]] = {
    "simpleeval_open": PROMPTS.load("simpleeval_v1").open("public-0", "quick").items[:3],
    "simpleeval_shapes": PROMPTS.load("simpleeval_shapes_v1").open("public-0", "quick").items[:3],
}
ASKED = {
    "include": [{"class": name, "count": 1, "color": "red"} for name in CLASSES[::2]],
    "questions": [{"id": 1, "question": "Is there a bench?", "parents": []}, {"id": 2, "question": "Is it red?"}],
}
T2I = tuple(Item(f"asked/{n}", text=f"{n} red benches", detail=ASKED) for n in range(3))
ITEMS |= {
    row.name: T2I
    for row in (COCO_SSD, MASK2FORMER, CLIP_L14, FLAN_T5[0], *CHECKLISTS, geneval.SSD_COLOURS, geneval.CLIP_COLOURS)
}
# For each option of a judge another value than the default.
OPTIONS: dict[str, dict[str, object]] = {
    "coco_ssd": {"score": 0.1, "iou": 0.4},
    "ssd_colours": {"middle": 0.5, "chromatic": 0.5},
}
# Rows whose code and whose kind of network are another row's; what tells them apart is tested by name.
ALIKE = {FLAN_T5[1].name: FLAN_T5[0].name}
for rows in (QWEN, QWEN_ORIGINAL):
    for one in rows:
        family = one.hub[0][:10]
        ALIKE[one.name] = next(other.name for other in rows if other.hub[0].startswith(family))
FIRST_OF = {name: first for name, first in ALIKE.items() if name != first}
ITEMS |= dict.fromkeys(ALIKE.values(), T2I)
MODES = {
    f"{name}_{mode}": (name, mode) for name in ("mask2former", "clip_colours") for mode in ("upstream", "original")
}


@pytest.fixture(params=[name for name in JUDGES if name not in FIRST_OF and name not in MODES])
def row(
    request, inception_installed, networks_installed, encoders_installed, lpips_installed, coco_ssd_found, hub_installed
):
    found = JUDGES[request.param]
    if request.param in ("coco_ssd", "ssd_colours") and coco_ssd_found:
        pytest.skip(coco_ssd_found)
    needs_items = found.output == "rows" or found.uses
    assert not needs_items or request.param in ITEMS, (
        f"give judge '{request.param}' an entry in ITEMS of this test: three items that it can be asked about"
    )
    JUDGES.load(request.param).check()
    return found


@pytest.mark.parametrize("name, first", FIRST_OF.items())
def test_rows_of_one_kind_differ_by_their_weights_alone(name, first):
    kind, other = JUDGES.load(name), JUDGES.load(first)
    assert kind.spec is JUDGES[name]
    assert kind.__mro__[1:] == other.__mro__[1:]
    assert set(vars(kind)) == set(vars(other)) == {"spec", "__module__", "__doc__", "__abstractmethods__", "_abc_impl"}
    same = {"name": first, "title": "", "load": "", "hub": (), "licence": ""}
    assert replace(JUDGES[name], **same) == replace(JUDGES[first], **same)


@pytest.mark.parametrize("name, base, mode", [(name, *facts) for name, facts in MODES.items()])
def test_a_mode_is_the_same_network_with_another_digest(name, base, mode, hub_installed):
    kind, plain = JUDGES.load(name), JUDGES.load(base)
    assert kind.spec is JUDGES[name]
    assert issubclass(kind, plain)
    assert JUDGES[name].hub == JUDGES[base].hub
    assert kind().digest != plain().digest
    assert JUDGES[name].uses == tuple(f"{used}_{mode}" for used in JUDGES[base].uses)


def pictures(row, count: int = 3) -> np.ndarray:
    height, width = row.image_size or (32, 32)
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def items(row) -> tuple[Item, ...]:
    if row.pairs:
        partners = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        return tuple(Item(str(k), target=str(k), detail={"partner": partners[k].copy}) for k in range(3))
    return ITEMS.get(row.name) or tuple(plain_item(label) for label in range(3))


def evidence(row, images, asked, options=None):
    """What a judge makes of images, after the judges whose evidence it uses."""
    given = {name: evidence(JUDGES[name], images, asked) for name in row.uses}
    return JUDGES.load(row.name)("cpu", options)(images, asked, given)


def assert_same(row, one, other, place: int, at: int = 0) -> None:
    """The evidence of image `place` in one batch is that of image `at` in the other."""
    if row.output == "rows":
        assert one[place] == other[at]
    for name, rows in one.items() if row.output == "array" else ():
        wanted = rows[place].astype(np.float64)
        np.testing.assert_allclose(other[name][at], wanted, rtol=1e-4, atol=1e-4 * np.abs(rows).max())


def test_the_row_says_what_the_code_is(row):
    kind = JUDGES.load(row.name)
    assert kind.spec is row
    assert row.title
    assert row.licence
    assert row.sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", row.sha256)
    assert row.classes is None or len(row.classes) == row.num_classes
    assert all(name in JUDGES for name in row.uses)
    assert kind.check().packages == tuple(dict.fromkeys(kind.check().packages))


def test_evidence_depends_on_the_image_and_its_item_alone(row):
    images, asked = pictures(row), items(row)
    before = images.copy()
    together = evidence(row, images, asked)
    np.testing.assert_array_equal(images, before)
    turned = evidence(row, images[::-1].copy(), asked[::-1])
    for place in range(3):
        assert_same(row, together, evidence(row, images[place : place + 1], asked[place : place + 1]), place)
        assert_same(row, together, turned, place, 2 - place)


def test_evidence_is_of_the_kind_that_the_row_says(row):
    found = evidence(row, pictures(row), items(row))
    if row.output == "rows":
        assert len(found) == 3
        assert all(isinstance(one, Unjudged) or json.loads(json.dumps(one)) == one for one in found)
        assert not all(isinstance(one, Unjudged) for one in found), "an item of ITEMS that it can judge is needed"
        return
    assert all(len(rows) == 3 for rows in found.values())
    if row.dim:
        assert found["features"].shape == (3, row.dim)
        assert np.abs(found["features"][0] - found["features"][1]).max() > 0
        assert {rows.dtype for rows in found.values()} == {np.dtype(np.float32)}
        assert all(np.isfinite(rows).all() for rows in found.values())
    if row.num_classes:
        assert found["logits"].shape == (3, row.num_classes)


def test_the_digest_is_that_of_weights_and_options(row):
    kind = JUDGES.load(row.name)
    first = kind("cpu").digest
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert kind("cpu").digest == first
    assert kind("cpu", dict(row.options)).digest == first
    others = OPTIONS.get(row.name, {})
    assert others.keys() == row.options.keys(), f"judge '{row.name}' needs each of its options in OPTIONS of this test"
    changed = [kind("cpu", {name: value}).digest for name, value in others.items()]
    assert len({first, *changed}) == 1 + len(changed)
    with pytest.raises(RequestError, match=f"judge '{row.name}' has no option 'no_such'"):
        kind("cpu", {"no_such": 1})


def test_questions_are_words_and_follow_from_the_item(row):
    judge = JUDGES.load(row.name)("cpu")
    for item in items(row):
        asked = judge.questions(item)
        assert asked == judge.questions(item)
        assert all(isinstance(question, str) and question for question in asked)
    if row.output == "array" and not row.uses and not row.pairs:
        assert {judge.questions(item) for item in items(row)} == {()}


def test_a_self_test_passes_where_the_row_says_there_is_one(row):
    if row.self_test:
        assert JUDGES.load(row.name)("cpu").self_test() < 1e-5


def test_digests_differ(
    inception_installed, networks_installed, encoders_installed, lpips_installed, coco_ssd_found, hub_installed
):
    alike = {*FIRST_OF, *([] if not coco_ssd_found else ["coco_ssd"])}
    digests = [JUDGES.load(name)("cpu").digest for name in JUDGES if name not in alike]
    assert len(set(digests)) == len(digests)
