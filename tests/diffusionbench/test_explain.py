"""Explanations: every field has its words, and an effect is what scoring the stored images anew gives."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from declaring import laptop_protocol
from making import invoke
from site_records import measured

from diffusionbench.isolation import effects, find_store
from diffusionbench.record import JudgeUsed, Protocol, Record, ReferenceUsed, load
from diffusionbench.references import digits
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import run
from diffusionbench.source import ArraySource
from diffusionbench.study.explain import PARTS, WORDS, explain, words_of


def test_every_field_has_words():
    assert WORDS.keys() == Protocol.model_fields.keys()
    parts = {f"judges.{name}" for name in JudgeUsed.model_fields} | {
        f"references.{name}" for name in ReferenceUsed.model_fields
    }
    assert PARTS.keys() == parts
    assert words_of("references.digits.role") == PARTS["references.role"]
    assert words_of("judges.digits") == WORDS["judges"]


def test_gaps_say_what_they_keep_apart():
    values = {"fd_digits": 2.0, "accuracy_digits": 0.5}
    first = measured("a", "class_conditional", values, protocol=laptop_protocol())
    second = measured(
        *("b", "class_conditional", values),
        protocol=laptop_protocol(
            references={"digits": {"name": "other"}}, quantisation="round", sampler="heun", seed=4, notes=["x"]
        ),
    )
    found = {gap.field: (gap.kind, gap.metrics) for gap in explain(first, second).gaps}
    assert found == {
        "quantisation": ("rule", ("fd_digits", "accuracy_digits")),
        "references.digits.name": ("rule", ("fd_digits",)),
        "references.digits.digest": ("rule", ("fd_digits",)),
        "sampler": ("method", ()),
        "seed": ("draw", ()),
        "notes": ("draw", ()),
    }
    assert explain(first, first).gaps == ()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two records of noisy digits: other images, another number of them, another reference; and their stores."""
    folder = tmp_path_factory.mktemp("scored")
    images, labels = digits.read("train")
    rng = np.random.default_rng(0)
    noisy = np.clip(images + rng.integers(-40, 41, images.shape), 0, 255).astype(np.uint8)
    order = np.argsort(labels[:300], kind="stable")
    np.savez(folder / "real.npz", arr_0=images[600:1000], arr_1=labels[600:1000])
    made: list[Record] = []
    for name, chosen, reference in (("a", order, "digits"), ("b", 300 + order[:200], str(folder / "real.npz"))):
        source = ArraySource(noisy[chosen], labels[chosen], name)
        request = EvalRequest(
            metrics=("fd_digits", "accuracy_digits"), reference=reference, count=len(chosen), method=name, title=name
        )
        made.append(run(Evaluation(request), source, folder / "stores"))
        made[-1].save(folder / f"{name}.json")
    return folder, made, noisy[order], labels[order]


def test_an_effect_is_the_value_of_the_images_under_the_other_setting(scored):
    folder, (first, second), images, labels = scored
    paths = [folder / f"{name}.json" for name in "ab"]
    stores = [find_store(record, path) for record, path in zip((first, second), paths, strict=True)]
    assert all(stores)
    assert stores[0].folder != stores[1].folder
    found, measured_ = effects(first, second, stores)
    by = {(one.field, one.metric): one for one in measured_}

    def direct(chosen, reference):
        request = EvalRequest(metrics=("fd_digits",), reference=reference, count=len(chosen), method="x", title="x")
        return run(Evaluation(request), ArraySource(images[chosen], labels[chosen], "x")).values["fd_digits"].value

    real = str(folder / "real.npz")
    everything = np.arange(300)
    alone = by["references.digits", "fd_digits"]
    assert alone.value == pytest.approx(direct(everything, real))
    assert alone.change == pytest.approx(alone.value - first.values["fd_digits"].value)
    # Two thirds of each class, although the images are in the order of their classes.
    kept = np.concatenate([np.flatnonzero(labels == c)[: round(2 / 3 * (labels == c).sum())] for c in range(10)])
    few = by["count", "fd_digits"].value
    assert few == pytest.approx(direct(kept, "digits"), rel=0.05)
    assert few < 0.7 * direct(everything[:200], "digits")
    both = by["all of these", "fd_digits"]
    assert both.value == pytest.approx(direct(kept, real), rel=0.05)
    assert by["count", "accuracy_digits"].value is not None
    assert "references.digits" in {gap.field.rsplit(".", 1)[0] for gap in found.gaps}
    # Without a store nothing is measured, and the reason is there.
    _, none = effects(first, second, (None, None))
    assert {one.value for one in none} == {None}
    assert all("not stored here" in one.reason for one in none if one.field != "items_digest")


def test_what_cannot_be_measured_says_why(scored):
    folder, (first, _), _, _ = scored
    store = find_store(first, folder / "a.json")

    def reason(**changes):
        other = first.model_copy(update={"id": "c", "protocol": first.protocol.model_copy(update=changes)})
        (one,) = [one for one in effects(first, other, (store, None))[1] if one.metric == "fd_digits"]
        assert one.value is None
        return one.reason

    assert "8 bits" in reason(quantisation="round")
    assert "after compression" in reason(image_format="jpeg")
    assert "300 images, fewer than 5000" in reason(count=5_000)
    assert "when the images were made" in reason(sampler="heun")
    assert "another one here" in reason(judges={"digits": JudgeUsed(digest="0" * 64)})
    used = first.protocol.references["digits"].model_copy(update={"digest": "0" * 64})
    assert "are others here" in reason(references={"digits": used})


def test_a_store_of_other_images_is_not_taken(scored, tmp_path):
    folder, (first, second), _, _ = scored
    changed = first.model_copy(
        update={"provenance": first.provenance.model_copy(update={"images_digest": "0" * 64, "command": "run 'open"})}
    )
    assert find_store(changed, folder / "a.json") is None
    assert find_store(second, tmp_path / "b.json") is None
    assert find_store(second, tmp_path / "b.json", [folder / "stores"]) is not None


def test_command(scored):
    folder, _, _, _ = scored
    paths = [str(folder / f"{name}.json") for name in "ab"]
    done = invoke("explain", *paths, "--table")
    assert done.exit_code == 0, done.output
    assert "other real images" in " ".join(done.output.split())
    assert "becomes" not in done.output
    assert not re.search("[0-9a-f]{13}", done.output)
    assert "there is no such folder" in str(invoke("explain", *paths, "--stores", str(folder / "none")).exception)
    done = invoke("explain", *paths)
    assert "fd_digits, images of the first record, count of the other" in " ".join(done.output.split())
    found = json.loads(invoke("explain", *paths, "--json").output)
    assert {one["field"] for one in found["effects"] if one["value"] is not None} == {
        *("count", "references.digits", "all of these")
    }
    assert load(folder / "a.json").values["fd_digits"].value == found["metrics"]["fd_digits"][0]
