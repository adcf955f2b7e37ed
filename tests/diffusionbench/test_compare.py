"""Comparisons of two records: closed forms of the paired errors, what flipped, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
from making import invoke

from diffusionbench.errors import DataError
from diffusionbench.record import PER_SAMPLE, Attachment, Guidance, Protocol, Provenance, Record, Value
from diffusionbench.study.comparison import bootstrap, compare, mcnemar
from diffusionbench.views.viewer import flips_page


def record(name, scores, key="accuracy_digits", *, items=None, value=None, prompts=None, text=None, **stated):
    """A record with the values of single images; its value is their mean, or the mean over prompts of their means."""
    ids = range(len(scores))
    items = items or [f"class/{i % 3}" for i in ids]
    content = {"samples": [[i, items[i], 0, f"{i:064x}"] for i in ids], "values": {key: scores}}
    text = json.dumps(content) if text is None else text
    judged = [one for one in scores if one is not None]
    stated = {"value": float(np.mean(judged)) if value is None else value, "scored": len(judged)} | stated
    axis = "t2i" if prompts else "class_conditional"
    return Record(
        kind="measured",
        id=name,
        method=name,
        title=name,
        protocol=Protocol(name=axis, axis=axis, count=len(scores), prompts=prompts, guidance=Guidance(scale=1.0)),
        values={key: Value(**stated)},
        provenance=Provenance(source="made up", images_digest=hashlib.sha256(name.encode()).hexdigest()),
        evidence={PER_SAMPLE: Attachment(sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)},
    )


def single(first, second, **options):
    return next(iter(compare(first, second, **options).values.values()))


@pytest.mark.parametrize(
    "lost, won, p_value",
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 2**6),
        # 2 (1 + 10 + 45) / 2^10
        (2, 8, 112 / 1024),
        (5, 5, 1.0),
        (3000, 3200, None),
    ],
)
def test_mcnemar_by_hand(lost, won, p_value):
    if p_value is None:
        few, count = min(lost, won), lost + won
        p_value = 2 * sum(math.comb(count, k) for k in range(few + 1)) / 2**count
    assert mcnemar(lost, won) == pytest.approx(p_value, rel=1e-9)
    assert mcnemar(won, lost) == mcnemar(lost, won)


def test_shares_are_tested_by_the_images_that_flipped():
    first, second = [1] * 8 + [0] * 12, [1] * 6 + [0] * 2 + [1] * 8 + [0] * 4
    found = single(record("a", first), record("b", second))
    assert (found.p_value, found.beyond, found.paired) == (pytest.approx(112 / 1024), False, 20)
    assert found.difference == pytest.approx(0.3)
    # Exact for pairs: the variance of the mean of differences -1, 0 and 1.
    assert found.stderr == pytest.approx(np.std(np.subtract(second, first)) / math.sqrt(20))
    assert [(one.item, one.k, one.values) for one in found.flipped[:2]] == [
        ("class/0", 2, (1.0, 0.0)),
        ("class/1", 2, (1.0, 0.0)),
    ]
    assert [one.ids for one in found.flipped] == [(i, i) for i in range(6, 16)]
    text = compare(record("a", first), record("b", second)).as_text()
    assert "p = 0.109; paired: McNemar's exact test over 20 images" in text
    assert "right in the first only: class/0 #2, class/1 #2" in text
    assert text.count("class/2 #") == 3
    assert single(record("a", [1] * 20), record("b", [0] * 20)).beyond


@pytest.mark.parametrize(
    "key, word", [("accuracy_digits", "right"), ("precision_digits", "inside the reference"), ("colourful", "1")]
)
def test_flipped_images_are_told_in_the_words_of_the_metric(key, word):
    pair = [record(name, scores, key, higher_is_better=True) for name, scores in (("a", [1, 1, 0]), ("b", [0, 1, 1]))]
    assert f"  {word} in the first only: class/0 #0\n  {word} in the second only" in compare(*pair).as_text()
    cards = flips_page(pair, compare(*pair), (None, None))
    assert f'"verdict":"{word} in the first only"' in cards.replace('": "', '":"')


def test_images_are_paired_by_what_was_asked_not_by_their_place():
    names = [f"prompt/{i}" for i in range(30)]
    scores = [i % 2 for i in range(30)]
    turned = record("b", scores[::-1], items=names[::-1])
    found = single(record("a", scores, items=names), turned)
    assert (found.difference, found.flipped, found.paired) == (0, (), 30)


@pytest.mark.parametrize("prompts", [None, "set"])
def test_the_bootstrap_has_the_exact_paired_error(prompts):
    rng = np.random.default_rng(0)
    count, images = 200, 4
    items = [f"item/{i // images}" for i in range(count * images)]
    prompt = np.repeat(rng.normal(size=count), images)
    first = prompt + rng.normal(size=count * images)
    second = first + 0.2 + np.repeat(rng.normal(size=count), images) * 0.5 + 0.1 * rng.normal(size=count * images)
    pair = [record(n, [*map(float, s)], items=items, prompts=prompts) for n, s in (("a", first), ("b", second))]
    found = single(*pair, draws=4000)
    gaps = second - first
    if prompts:
        gaps = gaps.reshape(count, images).mean(1)
    assert found.stderr == pytest.approx(gaps.std() / math.sqrt(len(gaps)), rel=0.05)
    assert found.difference == pytest.approx(gaps.mean())
    assert found.interval == pytest.approx(
        (gaps.mean() - 1.96 * found.stderr, gaps.mean() + 1.96 * found.stderr), rel=0.1
    )
    things = "200 prompts" if prompts else "800 images"
    assert found.how == f"paired: bootstrap over {things}, 4000 draws, seed 0"
    # Two independent draws would have an error several times as large.
    assert found.stderr < 0.5 * math.hypot(first.std(), second.std()) / math.sqrt(len(gaps))
    assert single(*pair, draws=4000) == found
    assert single(*pair, draws=4000, seed=1).stderr != found.stderr


def test_prompts_with_several_images_have_no_mcnemar():
    items = [f"prompt/{i // 2}" for i in range(40)]
    pair = [record(n, [1] * k + [0] * (40 - k), items=items, prompts="set") for n, k in (("a", 20), ("b", 30))]
    found = single(*pair)
    assert found.p_value is None
    assert len(found.flipped) == 10
    assert "over 20 prompts" in found.how
    # One image of each prompt: they are independent again.
    alone = [
        record(n, [1] * k + [0] * (40 - k), items=[f"prompt/{i}" for i in range(40)], prompts="set")
        for n, k in (("a", 20), ("b", 30))
    ]
    assert "McNemar's exact test over 40 images" in single(*alone).how


def test_a_mean_over_prompts_is_redrawn_as_such():
    """Three images of one prompt and one of each other: the value says which mean it is."""
    items = ["p0"] * 3 + [f"p{i}" for i in range(1, 30)]
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=32), rng.normal(size=32)]
    means = [float(np.mean([one[:3].mean(), *one[3:]])) for one in scores]
    pair = [
        record(n, [*map(float, one)], items=items, prompts="set", value=mean)
        for n, one, mean in zip("ab", scores, means, strict=True)
    ]
    assert single(*pair, draws=500).difference == pytest.approx(means[1] - means[0])
    sums = bootstrap(np.array([3.0, 3.0, 3.0, 0.0]), np.array([0, 0, 0, 1]), 4000, 0)
    units = bootstrap(np.array([3.0, 3.0, 3.0, 0.0]), np.array([0, 0, 0, 1]), 4000, 0, of_units=True)
    assert units[0] == pytest.approx(1.5 / math.sqrt(2), rel=0.05)
    assert sums[0] > units[0]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"value": 0.123}, "the metric is no mean over images"),
        ({"items": ["unknown"] * 20}, "what the images were made for is not known"),
        ({"key": "fd_digits"}, "there are no values of single images in both records"),
    ],
)
def test_without_pairs_the_draws_are_independent_and_it_says_so(changes, reason):
    scores = [0.1 * i for i in range(20)]
    pair = [record(name, scores, **{"stderr": 0.1, **changes}) for name in "ab"]
    if "key" in changes:
        pair = [one.model_copy(update={"evidence": {}}) for one in pair]
    found = single(*pair)
    assert found.how == f"unpaired: {reason}"
    assert found.stderr == pytest.approx(0.1 * math.sqrt(2))
    assert reason in compare(*pair).as_text()


def test_the_error_of_ten_groups_has_their_quantile():
    """A jackknife of ten groups has nine degrees of freedom: 2.262 joint errors, not 1.96."""

    def pair(gap, method):
        values = [Value(value=v, stderr=0.1, method=method) for v in (1.0, 1.0 + gap)]
        made = [record(n, [1], "fd_digits") for n in "ab"]
        return [r.model_copy(update={"values": {"fd_digits": v}}) for r, v in zip(made, values, strict=True)]

    assert single(*pair(0.30, None)).beyond
    assert not single(*pair(0.30, "jackknife")).beyond
    assert single(*pair(0.33, "jackknife")).beyond


def test_a_partial_record_is_compared_with_nothing_but_itself():
    whole = record("a", [1, 0] * 10)
    partial = record("b", [1, 0] * 9 + [1, None], value=10 / 19, unscored=1)
    found = compare(whole, partial)
    assert found.differs
    assert found.values["accuracy_digits"].refused == {"status": ("ok", "partial: 1 could not be scored")}
    assert "not compared: the protocols differ in status: ok and partial" in found.as_text()
    assert not compare(partial, partial).differs
    assert compare(partial, partial.model_copy(update={"id": "c"})).differs


def test_unlike_protocols_are_refused_metric_by_metric():
    """The judge of one metric differs: only that metric is refused."""
    digits, other = "digits", "inception"

    def made(name, judge):
        values = {
            "fd_digits": Value(value=1.0, stderr=0.1, judges=(digits,)),
            "fid": Value(value=1.0, stderr=0.1, judges=(other,)),
        }
        judges = {digits: {"digest": "a" * 64}, other: {"digest": judge * 64}}
        protocol = {"name": "x", "axis": "class_conditional", "judges": judges}
        one = record(name, [1])
        return one.model_copy(update={"values": values, "protocol": Protocol.model_validate(protocol)})

    found = compare(made("a", "b"), made("b", "c"))
    assert [key for key, one in found.values.items() if one.refused] == ["fid"]
    assert [*found.values["fid"].refused] == ["judges.inception.digest"]
    assert found.values["fd_digits"].beyond is False
    assert found.differs
    assert "fid: 1 and 1, not compared: the protocols differ in judges.inception.digest: " in found.as_text()
    # Twelve digits tell one hash from another, as everywhere.
    assert found.as_text().splitlines()[-1].endswith(f"{'b' * 12}... and {'c' * 12}...")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "holds something else"),
        ('{"samples": [], "values": {"accuracy_digits": [1]}}', "holds 1 values of 'accuracy_digits' for 0 images"),
        ('{"samples": [[-1, "a", 0, "b"]], "values": {}}', "holds something else: samples.0.0"),
        ("[" * 3000, "holds something else"),
    ],
)
def test_an_attachment_of_something_else_is_one_sentence(text, message):
    with pytest.raises(DataError, match=message) as refused:
        compare(record("a", [1], text=text), record("b", [1]))
    assert len(str(refused.value).splitlines()) == 1


def test_values_that_are_no_numbers_are_no_pairs():
    samples = '[[0, "a", 0, "x"], [1, "b", 0, "x"], [2, "c", 0, "x"]]'
    content = f'{{"samples": {samples}, "values": {{"accuracy_digits": [1, NaN, 0]}}}}'
    pair = [record(name, [1, 0], text=content) for name in "ab"]
    assert single(*pair).paired == 2


def test_command(tmp_path):
    first, second = [1] * 8 + [0] * 12, [1] * 6 + [0] * 2 + [1] * 10 + [0] * 2
    for name, scores in (("a", first), ("b", second)):
        record(name, scores).save(tmp_path / f"{name}.json")
    paths = [str(tmp_path / f"{name}.json") for name in "ab"]
    done = invoke("compare", *paths, "--json", "--draws", "100")
    found = json.loads(done.output)
    assert done.exit_code == 3
    one = found["values"]["accuracy_digits"]
    assert (one["beyond"], len(one["flipped"]), one["p_value"]) == (True, 12, pytest.approx(158 / 4096))
    assert invoke("compare", paths[0], paths[0]).exit_code == 0
