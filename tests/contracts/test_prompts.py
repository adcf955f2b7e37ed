"""What every prompt set promises."""

import json
import re

import pytest
from making import ConstantSource

from diffusionbench.errors import UserError
from diffusionbench.prompts import PROMPTS, PromptChoice
from diffusionbench.request import EvalRequest, Evaluation


@pytest.fixture(params=list(PROMPTS))
def source(request):
    if PROMPTS[request.param].files:
        request.getfixturevalue("prompts_installed")
    return PROMPTS[request.param], PROMPTS.load(request.param)


def test_the_row_says_what_the_code_does(source):
    row, found = source
    assert PROMPTS[row.name] is row
    assert row.title
    assert row.licence
    assert len(row.layouts) == len(set(row.layouts)) > 0
    digests = {layout: found.open("public-0", layout).digest for layout in row.layouts}
    assert len(set(digests.values())) == len(digests), f"layouts differ in what they ask, so in their digest: {digests}"


def test_keys_are_all_different_and_stay_below_a_folder(source):
    row, found = source
    opened = found.open("public-0", None)
    assert opened.name == row.name
    files = [item.key for item in opened.items]
    assert len(files) == len(set(files)) > 0
    assert len(files) == (row.count or len(files))
    # Published lists are taken as they are: they repeat texts, and two end in white space.
    if not row.files:
        assert len(set(opened.texts)) == len(opened.texts)
        assert all(text.strip() == text and text.isprintable() for text in opened.texts)
    assert all(text.strip() for text in opened.texts)
    assert all(re.fullmatch(r"[\w-][\w.-]*", part) for file in files for part in file.split("/"))
    assert len({sample.file for sample in opened.samples()}) == len(opened.texts) * opened.images_per_prompt
    if opened.noise_seeds is not None:
        assert [len(seeds) for seeds in opened.noise_seeds] == [opened.images_per_prompt] * len(opened.texts)


def test_opening_again_gives_the_same_set(source):
    row, found = source
    first, second = (found.open("public-0", None) for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{64}", first.digest)
    assert (first.digest, first.texts, first.jsonl) == (second.digest, second.texts, second.jsonl)
    assert found.open("public-0", row.layouts[0]).digest == first.digest


def test_the_listing_holds_every_text_in_order(source):
    _, found = source
    opened = found.open("public-0", None)
    values = [value for line in opened.jsonl.splitlines() for value in json.loads(line).values()]
    known = set(opened.texts)
    assert [value for value in values if isinstance(value, str) and value in known] == list(opened.texts)


def test_images_are_asked_for_prompt_by_prompt(source):
    row, found = source
    opened = found.open("public-0", None)
    count = opened.count
    request = EvalRequest(
        axis="t2i", metrics=("is_digits",), prompts=PromptChoice(name=row.name), count=count, method="x", title="X"
    )
    samples = Evaluation(request).samples(ConstantSource((8, 8)))
    assert [sample.file for sample in samples] == [sample.file for sample in opened.samples()]
    every = range(opened.images_per_prompt)
    assert [sample.prompt for sample in samples] == [text for text in opened.texts for _ in every]
    if opened.noise_seeds is not None:
        assert [sample.seed for sample in samples] == [seed for seeds in opened.noise_seeds for seed in seeds]


def test_summary_and_refusals(source):
    _, found = source
    assert found.summary(found.open("public-0", None))
    with pytest.raises(UserError):
        found.open("public-0", "no-such-layout")
    with pytest.raises(UserError):
        found.open("no-such-seed", None)
