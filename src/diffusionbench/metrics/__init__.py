"""The table of metrics: what each key means, what it needs, and where its code is. Nothing here imports torch or numpy.

A family of metrics is one function of a judge, so that a new judge brings its metrics without a row of their own. Rows
without `load` are keys of published figures, or numbers that stand beside a score. Metrics reduce the evidence of
judges; they never see a file or a model. To add a metric: one row here, and one file with a `metrics.metric.Metric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final, Literal

from diffusionbench.benchmarks import dpgbench, genaibench, geneval, simpleeval
from diffusionbench.judges import (
    CLIP_L14,
    EFFLITE0,
    FLAN_T5,
    INCEPTION,
    INCEPTION_SPATIAL,
    JUDGES,
    NETWORKS,
    NETWORKS_UPSTREAM,
    QWEN,
    QWEN_ORIGINAL,
    JudgeSpec,
)
from diffusionbench.registry import Table
from diffusionbench.specs import RIGHT, MetricSpec

# A Frechet distance of equal sets may come out a rounding error below zero.
_DISTANCE: Final[dict[str, Any]] = {"higher_is_better": False, "low": -1e-3}
_SHARE: Final[dict[str, Any]] = {"higher_is_better": True, "low": 0, "high": 1, "unit": "share"}
_SPREAD: Final = "standard deviation over the parts that the score is a mean of; says nothing of its uncertainty"
_SIMPLE: Final = "SimpleEval as published; the two score sets define it differently, and neither is ours"
_SIX: Final = (INCEPTION, *NETWORKS)
_UPSTREAM: Final = {judge.name.removesuffix("_upstream"): judge for judge in NETWORKS_UPSTREAM}
_SIX_UPSTREAM: Final = tuple(_UPSTREAM.get(judge.name, judge) for judge in _SIX)
_IS_VARIANTS: Final = {
    "inception_score": ("Inception Score", "InceptionScoreMetric", "upstream's variant"),
    "inception_score_torch_fidelity": (
        "Inception Score (torch-fidelity)", "TorchFidelityScoreMetric", "torch-fidelity's variant"
    ),
    "inception_score_adm": (
        "Inception Score (ADM)", "AdmScoreMetric", "ADM's variant, blocks of 5,000 in the order of the images"
    ),
}  # fmt: skip

Real = Literal["moments", "features"]


def _row(
    judges: Sequence[JudgeSpec], key: str, title: str, load: str, about: str, real: Real | None = None, **facts: Any
) -> MetricSpec:
    """Return the row of a metric of some judges, which takes `real` of the real images as each of them sees them."""
    names = tuple(judge.name for judge in judges)
    return MetricSpec(
        **{"axis": "class_conditional", **facts},
        key=key,
        title=title,
        load=f"diffusionbench.metrics.{load}",
        about=about,
        judges=names,
        reference=dict.fromkeys(names, real) if real else {},
    )


def _named(
    judge: JudgeSpec, kind: str, title: str, load: str, about: str, real: Real | None = None, **facts: Any
) -> MetricSpec:
    """Return the row of a metric whose key and title end in its judge's name."""
    return _row((judge,), f"{kind}_{judge.name}", f"{title} ({judge.name})", load, about, real, **facts)


def _fd(judge: JudgeSpec) -> MetricSpec:
    about = f"Frechet distance in {judge.title}'s features"
    return _named(judge, "fd", "FD", "frechet:FrechetMetric", about, "moments", min_samples=2, **_DISTANCE)


def _kd(judge: JudgeSpec) -> MetricSpec:
    about = "unbiased squared maximum mean discrepancy with a cubic kernel; arXiv 1801.01401"
    least = judge.kid_subset
    return _named(judge, "kd", "KD", "kid:KidMetric", about, "features", higher_is_better=False, min_samples=least)


def _is(judge: JudgeSpec) -> MetricSpec:
    about = f"the Inception Score's formula on {judge.title}'s predictions; arXiv 1606.03498"
    facts: dict[str, Any] = {"higher_is_better": True, "min_samples": 10, "low": 1, "high": judge.num_classes or inf}
    return _named(judge, "is", "IS", "inception_score:InceptionScoreMetric", about, **facts)


def _precision(judge: JudgeSpec) -> MetricSpec:
    about, load = f"precision in {judge.title}'s features", "precision_recall:PrecisionMetric"
    facts: dict[str, Any] = {"min_samples": 4, "verdicts": ("outside the reference", "inside the reference"), **_SHARE}
    return _named(judge, "precision", "Precision", load, about, "features", **facts)


def _recall(judge: JudgeSpec) -> MetricSpec:
    about, load = f"recall in {judge.title}'s features", "precision_recall:RecallMetric"
    return _named(judge, "recall", "Recall", load, about, "features", min_samples=4, **_SHARE)


def _mind(judge: JudgeSpec) -> MetricSpec:
    about = f"Monge Inception Distance: sliced 2-Wasserstein distance in {judge.title}'s features; arXiv 2605.06797"
    facts: dict[str, Any] = {"higher_is_better": False, "low": 0, "min_samples": 2}
    found = _named(judge, "mind", "MIND", "mind:MindMetric", about, "features", **facts)
    return replace(found, title=f"MIND {judge.title}") if judge in _SIX else found


def _spread(key: str, title: str) -> MetricSpec:
    return MetricSpec(key=key, title=title, higher_is_better=None, axis="class_conditional", low=0, about=_SPREAD)


def of_judge(judge: JudgeSpec) -> list[MetricSpec]:
    """Return the metrics that a judge brings by having features, and logits of classes."""
    rows: list[MetricSpec] = []
    if judge.output == "array" and judge.dim:
        kd = _kd(judge)
        rows += [_fd(judge), kd, _spread(f"{kd.key}_std", f"{kd.title}, spread over subsets")]
        rows += [_precision(judge), _recall(judge), _mind(judge)]
    if judge.output == "array" and judge.num_classes:
        score = _is(judge)
        about = f"share of samples that {judge.title} takes for the class asked for"
        facts: dict[str, Any] = {"items": "classes", "verdicts": RIGHT, **_SHARE}
        accuracy = _named(judge, "accuracy", "Accuracy", "accuracy:AccuracyMetric", about, **facts)
        rows += [score, _spread(f"{score.key}_std", f"{score.title}, spread over splits"), accuracy]
    return rows


def _reconstruction(key: str, title: str, higher: bool, about: str, **facts: Any) -> MetricSpec:
    """Return the row of a mean over pairs, judged by the judge of its name."""
    return MetricSpec(
        key=key,
        title=title,
        higher_is_better=higher,
        axis="reconstruction",
        about=about,
        judges=(key,),
        reference={key: "pairs"},
        items="originals",
        load="diffusionbench.metrics.pairs:PairMetric",
        **facts,
    )


def _fdr(judge: JudgeSpec) -> MetricSpec:
    about = f"Frechet distance in {judge.title}'s features over that of ImageNet's validation images; arXiv 2604.28190"
    facts = {"min_samples": 2, **_DISTANCE}
    return _row((judge,), f"fdr_{judge.name}", f"FDr {judge.title}", "fdr:FdrMetric", about, "moments", **facts)


def _fdr6(key: str, title: str, judges: Sequence[JudgeSpec]) -> MetricSpec:
    about = "mean of FDr over all six extractors; arXiv 2604.28190"
    return _row(judges, key, title, "fdr:Fdr6Metric", about, "moments", min_samples=2, **_DISTANCE)


def _matched(judge: JudgeSpec, key: str, title: str, about: str, **facts: Any) -> MetricSpec:
    """Return the row of a mean over prompts of how well images fit their texts."""
    return _row((judge,), key, title, "text_match:TextMatch", about, axis="t2i", items="prompts", **facts)


def _vqascore(judge: JudgeSpec) -> MetricSpec:
    about = f"how likely {judge.title.partition(',')[0]} says that the image shows its text; arXiv 2404.01291"
    return _matched(judge, f"vqascore_{judge.name}", f"VQAScore ({judge.name})", about, **_SHARE)


_ROWS: Final = (
    # Only the Inception network may produce a number called `fid`.
    replace(
        _fd(INCEPTION), key="fid", title="FID", about="Frechet distance of Inception-v3 features; arXiv 1706.08500"
    ),
    replace(
        _fd(INCEPTION_SPATIAL),
        key="sfid",
        title="sFID",
        about="Frechet distance of spatial Inception-v3 features, not checked against a published value; "
        "arXiv 2103.03841",
        load="diffusionbench.metrics.frechet:SpatialFrechetMetric",
    ),
    *(
        replace(
            _is(INCEPTION),
            key=key,
            title=title,
            about=f"exponential of the mean divergence of class predictions, {about}; arXiv 1606.03498",
            load=f"diffusionbench.metrics.inception_score:{load}",
        )
        for key, (title, load, about) in _IS_VARIANTS.items()
    ),
    *map(_fdr, (*_SIX, *NETWORKS_UPSTREAM)),
    _fdr6("fdr6", "FDr6", _SIX),
    _fdr6("fdr6_upstream", "FDr6 (upstream)", _SIX_UPSTREAM),
    _mind(INCEPTION),
    replace(_kd(INCEPTION), key="kid_mean", title="KID", low=-1),
    _spread("kid_std", "KID, spread over subsets"),
    *(_spread(f"{key}_std", f"{title}, spread over splits") for key, (title, *_) in _IS_VARIANTS.items()),
    replace(
        _precision(INCEPTION),
        key="precision",
        title="Precision",
        about="share of samples inside the real manifold; arXiv 1904.06991",
    ),
    replace(
        _recall(INCEPTION),
        key="recall",
        title="Recall",
        about="share of real images inside the sample manifold; arXiv 1904.06991",
    ),
    # Those of the Inception network have published names; another mode of a network is read by FDr alone.
    *(
        row
        for judge in JUDGES.own.values()
        if judge not in (INCEPTION, INCEPTION_SPATIAL, *NETWORKS_UPSTREAM)
        for row in of_judge(judge)
    ),
    *geneval.METRICS,
    *dpgbench.METRICS,
    *genaibench.METRICS,
    *(
        MetricSpec(key=key, title=f"SimpleEval (published, {month} 2026)", axis="t2i", about=_SIMPLE, **_SHARE)
        for key, month in (("simpleeval_published_2026_06", "June"), ("simpleeval_published_2026_05", "May"))
    ),
    *simpleeval.METRICS,
    _matched(
        CLIP_L14,
        "clipscore",
        "CLIPScore",
        "cosine of CLIP's vectors of image and text, neither scaled nor clipped; arXiv 2104.08718",
        higher_is_better=True,
        low=-1,
        high=1,
    ),
    *map(_vqascore, (*FLAN_T5, *QWEN, *QWEN_ORIGINAL)),
    _reconstruction("psnr", "PSNR", True, "peak signal over the root mean squared error", low=0, unit="dB"),
    _reconstruction("ssim", "SSIM", True, "structural similarity; Wang et al. 2004", low=-1, high=1),
    _reconstruction(
        "lpips", "LPIPS", False, "distance of deep features, fitted to human judgements; arXiv 1801.03924", low=0
    ),
    _reconstruction(
        "pd_efflite0",
        "PD (efflite0)",
        False,
        "squared distance of unit features over the stages of EfficientNet-Lite0, as LPIPS without learned weights",
        low=0,
    ),
    replace(
        _fd(INCEPTION), key="rfid", title="rFID", axis="reconstruction", about="FID of reconstructions to the originals"
    ),
    replace(
        _fd(EFFLITE0),
        key="rfd_efflite0",
        title="rFD (efflite0)",
        axis="reconstruction",
        about="Frechet distance of reconstructions to the originals in EfficientNet-Lite0's features",
    ),
)


METRICS: Final = Table(
    "metric",
    {row.key: row for row in _ROWS},
    group="diffusionbench.metrics",
    derived=lambda: {row.key: row for name in JUDGES if name not in JUDGES.own for row in of_judge(JUDGES[name])},
)
