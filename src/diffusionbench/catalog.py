"""Look-ups of the metric keys that records hold: parts of a score, directions, aliases. Nothing here computes a metric.

Metrics of other packages are not looked up: their direction comes from the record that holds the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from diffusionbench.errors import RequestError
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.record import Value
from diffusionbench.registry import nearest
from diffusionbench.shown import few
from diffusionbench.study.published import BLOG, PAPER

# Metrics on prompts by what their parts (a task, a category, a mode) begin with: the key without "_overall". A part has
# the range of the whole. The longest first, as one key may begin with another.
_WHOLES: Final = {
    f"{key.removesuffix('_overall')}_": key
    for key in sorted(METRICS.own, key=lambda key: len(key.removesuffix("_overall")), reverse=True)
    if METRICS.own[key].items == "prompts"
} | {"dpgbench_": "dpgbench", "vqascore_": "genaibench_overall"}

# What a training cost (`study.cost`), by the field of a record's `cost`.
DERIVED: Final = {
    key: MetricSpec(key=key, title=title, higher_is_better=False, low=0, unit=unit, about=about)
    for key, title, unit, about in (
        ("training_images", "Training images", "images", "images that the optimizer saw, repeats among them"),
        ("training_flops", "Training FLOPs", "operations", "floating-point operations of forward and backward passes"),
        ("device_hours", "Device hours", "hours", "hours of training times devices"),
        ("money", "Cost of training", "US dollars", "device hours at the stated price"),
    )
}

# A metric's name stands for its headline key; extractors also go by their upstream names.
ALIASES: Final = {
    "geneval": "geneval_overall",
    "dpg": "dpgbench",
    "dpg-bench": "dpgbench",
    "genaibench": "genaibench_overall",
    "genai-bench": "genaibench_overall",
    "vqascore": "vqascore_clip-flant5-xl",
    "is": "inception_score",
    **{f"{kind}_{key}_cls": f"{kind}_{key}" for kind in ("fdr", "mind") for key in ("dinov2", "mae", "siglip", "clip")},
}
# Names that stand for several metrics, which have no common value.
BUNDLES: Final = {"mind6": tuple(f"mind_{key}" for key in ("inception", "convnext", "dinov2", "mae", "siglip", "clip"))}
SIMPLEEVAL: Final = {PAPER: "simpleeval_published_2026_06", BLOG: "simpleeval_published_2026_05"}


def asked_metrics(names: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of metrics that users name: keys, aliases and bundles; what is unknown stays as it is."""
    plain = [ALIASES.get(name, name) for name in names]
    return tuple(key for name in plain for key in BUNDLES.get(name, (name,)))


def metric_info(key: str) -> MetricSpec:
    """Return what is known of a key; an unlisted one has no direction, axis or range."""
    if known := METRICS.own.get(key) or DERIVED.get(key):
        return known
    if key.startswith("epochs_to_"):
        metric, _, value = key.removeprefix("epochs_to_").partition("@")
        title = f"Epochs to {metric_info(metric).title} {value}"
        about = "passes over the training set until the first evaluation during training that is at least as good"
        return MetricSpec(key=key, title=title, higher_is_better=False, low=0, unit="epochs", about=about)
    for prefix, whole in _WHOLES.items():
        if key.startswith(prefix):
            part = key.removeprefix(prefix).replace("_", " ")
            return replace(METRICS.own[whole], key=key, title=f"{METRICS.own[whole].title}: {part}", load=None)
    return MetricSpec(key=key, title=key, higher_is_better=None)


def direction(key: str, value: Value) -> bool | None:
    """Return whether higher is better, from the catalog or else from the record that holds the value."""
    listed = metric_info(key).higher_is_better
    return value.higher_is_better if listed is None else listed


def is_auxiliary(key: str, values: Mapping[str, Value]) -> bool:
    """Return whether a number stands beside a score without being one: a listed spread, or what a metric adds.

    The latter carries the name of the score as a prefix, such as "colour_accuracy_spread".
    """
    if direction(key, values[key]) is not None:
        return False
    if key in METRICS.own:
        return True
    scores = [other for other in values if other not in METRICS.own and direction(other, values[other]) is not None]
    return any(key.startswith(f"{score}_") for score in scores)


def resolve_metric(name: str, score_set: str, present: Iterable[str]) -> str:
    """Return the key that a name given by a user stands for in one score set.

    Args:
        name: a key or an alias; "simpleeval" is the definition of the score set, or ours among measured records.
        score_set: published set, or "measured".
        present: keys that the records at hand hold.

    Raises:
        RequestError: if no record at hand holds it.
    """
    keys = set(present)
    key = ALIASES.get(name.lower(), name.lower())
    if key == "simpleeval":
        key = SIMPLEEVAL.get(score_set, "simpleeval_v1")
    if key in keys:
        return key
    if name in keys:
        return name
    if key == "fdr6" and any(present_key.startswith("fdr_") for present_key in keys):
        found = few(sorted(present_key for present_key in keys if present_key.startswith("fdr_")))
        raise RequestError(
            f"metric 'fdr6' is not defined in set '{score_set}': it needs all six extractors, found {found}. "
            "Ask for one of these."
        )
    # A suggestion is a name that works.
    known = sorted(keys | {alias for alias, wanted in ALIASES.items() if wanted in keys})
    raise RequestError(f"unknown metric '{name}' in set '{score_set}'. {nearest(name.lower(), known)}")
