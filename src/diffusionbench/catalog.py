"""What each metric key means, readable without torch and without the metric: direction, axis, unit, range.

A metric of another package is not listed here; its direction then comes from the record that holds its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from diffusionbench.errors import RequestError
from diffusionbench.record import Value
from diffusionbench.registry import nearest
from diffusionbench.shown import few
from diffusionbench.study.published import BLOG, PAPER


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """One metric key.

    Attributes:
        key: as stored in records.
        title: for people, a few words.
        higher_is_better: direction; None where unknown.
        axis: "class_conditional", "t2i" or "reconstruction"; None where unknown.
        low, high: closed range of possible values.
        unit: "share" for 0..1, "dB", or "" for none.
        about: what is computed, with its source.
    """

    key: str
    title: str
    higher_is_better: bool | None
    axis: str | None
    low: float = -inf
    high: float = inf
    unit: str = ""
    about: str = ""


EXTRACTORS: Final = {
    "inception": "Inception-v3",
    "convnext": "ConvNeXt V2",
    "dinov2": "DINOv2",
    "mae": "MAE",
    "siglip": "SigLIP 2",
    "clip": "CLIP",
}


def _distance(key: str, title: str, about: str, axis: str = "class_conditional") -> MetricInfo:
    # A Frechet distance of equal sets may come out a rounding error below zero.
    return MetricInfo(key=key, title=title, higher_is_better=False, axis=axis, low=-1e-3, about=about)


def _reconstruction(
    key: str, title: str, higher: bool, about: str, low: float, high: float = inf, unit: str = ""
) -> MetricInfo:
    return MetricInfo(
        key=key,
        title=title,
        higher_is_better=higher,
        axis="reconstruction",
        low=low,
        high=high,
        unit=unit,
        about=about,
    )


def _share(key: str, title: str, about: str, axis: str = "t2i") -> MetricInfo:
    return MetricInfo(key=key, title=title, higher_is_better=True, axis=axis, low=0, high=1, unit="share", about=about)


def _credit(key: str, title: str, about: str) -> MetricInfo:
    # Chance is 0; single questions of two options, all wrong, are at -1.
    return MetricInfo(key=key, title=title, higher_is_better=True, axis="t2i", low=-1, high=1, about=about)


def _spread(key: str, title: str) -> MetricInfo:
    about = "standard deviation over the parts that the score is a mean of; says nothing of its uncertainty"
    return MetricInfo(key=key, title=title, higher_is_better=None, axis="class_conditional", low=0, about=about)


_CLASS: Final = "class_conditional"
_FDR: Final = "FDr: Frechet distance in this extractor's features over that of the validation images; arXiv 2604.28190"
_MIND: Final = "Monge Inception Distance: sliced 2-Wasserstein distance in this extractor's features; arXiv 2605.06797"
_KID: Final = "unbiased squared maximum mean discrepancy with a cubic kernel; arXiv 1801.01401"
_GENEVAL: Final = "GenEval: a detector judges objects, counts, colours and positions; arXiv 2310.11513"
_DPG: Final = "DPG-Bench: a question answerer judges dense prompts; arXiv 2403.05135"
_GENAI: Final = "GenAI-Bench prompts scored by VQAScore; arXiv 2406.13743"
_CLIPSCORE: Final = "cosine of CLIP's image and caption embeddings, scaled; arXiv 2104.08718"
_SIMPLE: Final = "SimpleEval as published; the two score sets define it differently, and neither is ours"

_ENTRIES: Final = (
    _distance("fid", "FID", "Frechet distance of Inception-v3 features; arXiv 1706.08500"),
    _distance("sfid", "sFID", "Frechet distance of spatial Inception-v3 features; arXiv 2103.03841"),
    MetricInfo(
        key="inception_score",
        title="Inception Score",
        higher_is_better=True,
        axis=_CLASS,
        low=1,
        about="exponential of the mean divergence of class predictions; arXiv 1606.03498",
    ),
    *(_distance(f"fdr_{key}", f"FDr {title}", _FDR) for key, title in EXTRACTORS.items()),
    _distance("fdr6", "FDr6", "mean of FDr over all six extractors; arXiv 2604.28190"),
    *(_distance(f"mind_{key}", f"MIND {title}", _MIND) for key, title in EXTRACTORS.items()),
    MetricInfo(key="kid_mean", title="KID", higher_is_better=False, axis=_CLASS, low=-1, about=_KID),
    _spread("kid_std", "KID, spread over subsets"),
    _spread("kd_digits_std", "KD (digits), spread over subsets"),
    _spread("inception_score_std", "Inception Score, spread over splits"),
    _spread("is_digits_std", "IS (digits), spread over splits"),
    _share("precision", "Precision", "share of samples inside the real manifold; arXiv 1904.06991", _CLASS),
    _share("recall", "Recall", "share of real images inside the sample manifold; arXiv 1904.06991", _CLASS),
    _distance("fd_digits", "FD (digits)", "Frechet distance in the digit classifier's features"),
    MetricInfo(key="kd_digits", title="KD (digits)", higher_is_better=False, axis=_CLASS, about=_KID),
    MetricInfo(
        key="is_digits",
        title="IS (digits)",
        higher_is_better=True,
        axis=_CLASS,
        low=1,
        high=10,
        about="the Inception Score's formula on the digit classifier's predictions; arXiv 1606.03498",
    ),
    _share("precision_digits", "Precision (digits)", "precision in the digit classifier's features", _CLASS),
    _share("recall_digits", "Recall (digits)", "recall in the digit classifier's features", _CLASS),
    _share("accuracy_digits", "Accuracy (digits)", "share of samples classified as the digit asked for", _CLASS),
    _share("geneval_overall", "GenEval", f"{_GENEVAL}; mean of the six task scores"),
    _share("geneval_image_mean", "GenEval, mean over images", f"{_GENEVAL}; share of correct images"),
    _share("geneval_prompt_any", "GenEval, any image right", f"{_GENEVAL}; prompts with at least one correct image"),
    _share("dpgbench", "DPG-Bench", _DPG),
    _share("genaibench_overall", "GenAI-Bench", _GENAI),
    _share("simpleeval_published_2026_06", "SimpleEval (published, June 2026)", _SIMPLE),
    _share("simpleeval_published_2026_05", "SimpleEval (published, May 2026)", _SIMPLE),
    _credit("simpleeval_v1", "SimpleEval (ours, v1)", "our own procedural prompts with a deliberately weak scorer"),
    _credit(
        "simpleeval_shapes_v1", "SimpleEval shapes (ours, v1)", "the same in a world of drawn shapes, laptop scale"
    ),
    MetricInfo(key="clipscore", title="CLIPScore", higher_is_better=True, axis="t2i", about=_CLIPSCORE),
    _reconstruction("psnr", "PSNR", True, "peak signal over the root mean squared error", low=0, unit="dB"),
    _reconstruction("ssim", "SSIM", True, "structural similarity; Wang et al. 2004", low=-1, high=1),
    _reconstruction("lpips", "LPIPS", False, "distance of deep features, fitted to people; arXiv 1801.03924", low=0),
    _distance("rfid", "rFID", "FID of reconstructions", axis="reconstruction"),
)
CATALOG: Final = {info.key: info for info in _ENTRIES}

# Keys whose ending names a part (a task, a category, a family, a mode): the part has the range of the whole.
_PARTS: Final = {
    "geneval_": "geneval_overall",
    "dpgbench_": "dpgbench",
    "genaibench_": "genaibench_overall",
    "vqascore_": "genaibench_overall",
    "simpleeval_shapes_v1_": "simpleeval_shapes_v1",
    "simpleeval_v1_": "simpleeval_v1",
}

# A metric's name stands for its headline key; extractors also go by their upstream names.
ALIASES: Final = {
    "geneval": "geneval_overall",
    "dpg": "dpgbench",
    "dpg-bench": "dpgbench",
    "genaibench": "genaibench_overall",
    "genai-bench": "genaibench_overall",
    "is": "inception_score",
    **{f"{kind}_{key}_cls": f"{kind}_{key}" for kind in ("fdr", "mind") for key in ("dinov2", "mae", "siglip", "clip")},
}
SIMPLEEVAL: Final = {PAPER: "simpleeval_published_2026_06", BLOG: "simpleeval_published_2026_05"}


def metric_info(key: str) -> MetricInfo:
    """Return what is known of a key; an unlisted one has no direction, axis or range."""
    if key in CATALOG:
        return CATALOG[key]
    for prefix, whole in _PARTS.items():
        if key.startswith(prefix):
            base = CATALOG[whole]
            part = key.removeprefix(prefix).replace("_", " ")
            return MetricInfo(
                key=key,
                title=f"{base.title}: {part}",
                higher_is_better=base.higher_is_better,
                axis=base.axis,
                low=base.low,
                high=base.high,
                unit=base.unit,
                about=base.about,
            )
    return MetricInfo(key=key, title=key, higher_is_better=None, axis=None)


def direction(key: str, value: Value) -> bool | None:
    """Return whether higher is better, from the catalog or else from the record that holds the value."""
    listed = metric_info(key).higher_is_better
    return value.higher_is_better if listed is None else listed


def is_auxiliary(key: str, values: Mapping[str, Value]) -> bool:
    """Whether a number stands beside a score without being one: a listed spread, or what another package's metric adds.

    The latter carries the name of the score as a prefix, such as "colour_accuracy_spread".
    """
    if direction(key, values[key]) is not None:
        return False
    if key in CATALOG:
        return True
    scores = [other for other in values if other not in CATALOG and direction(other, values[other]) is not None]
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
    raise RequestError(
        f"unknown metric '{name}' in set '{score_set}'. {nearest(name.lower(), sorted(keys | _reachable(keys)))}"
    )


def _reachable(keys: set[str]) -> set[str]:
    """The aliases that lead to one of the keys, so that a suggestion is a name that works."""
    return {alias for alias, key in ALIASES.items() if key in keys}
