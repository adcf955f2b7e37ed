"""The table of metrics: what each key means, what it needs, and where its code is. Nothing here imports torch or numpy.

A family of metrics is one function of a judge, so that a new judge brings its metrics without a row of their own. Rows
without `load` are keys of published figures, or numbers that stand beside a score. Metrics reduce the evidence of
judges; they never see a file or a model. To add a metric: one row here, and one file with a `metrics.metric.Metric`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final

from diffusionbench.benchmarks import dpgbench, genaibench, geneval, simpleeval
from diffusionbench.judges import (
    CLIP_L14,
    DIGITS,
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
from diffusionbench.specs import MetricSpec

_CLASS: Final = "class_conditional"
_KID: Final = "unbiased squared maximum mean discrepancy with a cubic kernel; arXiv 1801.01401"
_MIND: Final = "Monge Inception Distance: sliced 2-Wasserstein distance"


def _fd(judge: JudgeSpec) -> MetricSpec:
    return replace(
        _distance(f"fd_{judge.name}", f"FD ({judge.name})", f"Frechet distance in {judge.title}'s features"),
        judges=(judge.name,),
        reference={judge.name: "moments"},
        min_samples=2,
        load="diffusionbench.metrics.frechet:FrechetMetric",
    )


def _kd(judge: JudgeSpec) -> MetricSpec:
    return MetricSpec(
        key=f"kd_{judge.name}",
        title=f"KD ({judge.name})",
        higher_is_better=False,
        axis=_CLASS,
        about=_KID,
        judges=(judge.name,),
        reference={judge.name: "features"},
        min_samples=judge.kid_subset,
        load="diffusionbench.metrics.kid:KidMetric",
    )


def _is(judge: JudgeSpec) -> MetricSpec:
    return MetricSpec(
        key=f"is_{judge.name}",
        title=f"IS ({judge.name})",
        higher_is_better=True,
        axis=_CLASS,
        low=1,
        high=judge.num_classes or inf,
        about=f"the Inception Score's formula on {judge.title}'s predictions; arXiv 1606.03498",
        judges=(judge.name,),
        min_samples=10,
        load="diffusionbench.metrics.inception_score:InceptionScoreMetric",
    )


def _precision(judge: JudgeSpec) -> MetricSpec:
    return replace(
        _share(
            f"precision_{judge.name}", f"Precision ({judge.name})", f"precision in {judge.title}'s features", _CLASS
        ),
        judges=(judge.name,),
        reference={judge.name: "features"},
        min_samples=4,
        load="diffusionbench.metrics.precision_recall:PrecisionMetric",
    )


def _recall(judge: JudgeSpec) -> MetricSpec:
    return replace(
        _precision(judge),
        key=f"recall_{judge.name}",
        title=f"Recall ({judge.name})",
        about=f"recall in {judge.title}'s features",
        load="diffusionbench.metrics.precision_recall:RecallMetric",
    )


def _mind(judge: JudgeSpec) -> MetricSpec:
    return MetricSpec(
        key=f"mind_{judge.name}",
        title=f"MIND {judge.title}" if judge in (INCEPTION, *NETWORKS) else f"MIND ({judge.name})",
        higher_is_better=False,
        axis=_CLASS,
        low=0,
        about=f"{_MIND} in {judge.title}'s features; arXiv 2605.06797",
        judges=(judge.name,),
        reference={judge.name: "features"},
        min_samples=2,
        load="diffusionbench.metrics.mind:MindMetric",
    )


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
        accuracy = replace(
            _share(f"accuracy_{judge.name}", f"Accuracy ({judge.name})", about, _CLASS),
            judges=(judge.name,),
            items="classes",
            load="diffusionbench.metrics.accuracy:AccuracyMetric",
        )
        rows += [score, _spread(f"{score.key}_std", f"{score.title}, spread over splits"), accuracy]
    return rows


def _distance(key: str, title: str, about: str, axis: str = _CLASS) -> MetricSpec:
    # A Frechet distance of equal sets may come out a rounding error below zero.
    return MetricSpec(key=key, title=title, higher_is_better=False, axis=axis, low=-1e-3, about=about)


def _share(key: str, title: str, about: str, axis: str = "t2i") -> MetricSpec:
    return MetricSpec(key=key, title=title, higher_is_better=True, axis=axis, low=0, high=1, unit="share", about=about)


def _spread(key: str, title: str) -> MetricSpec:
    about = "standard deviation over the parts that the score is a mean of; says nothing of its uncertainty"
    return MetricSpec(key=key, title=title, higher_is_better=None, axis=_CLASS, low=0, about=about)


def _reconstruction(
    key: str, title: str, higher: bool, about: str, low: float, high: float = inf, unit: str = ""
) -> MetricSpec:
    """Return the row of a mean over pairs, judged by the judge of its name."""
    return MetricSpec(
        key=key,
        title=title,
        higher_is_better=higher,
        axis="reconstruction",
        low=low,
        high=high,
        unit=unit,
        about=about,
        judges=(key,),
        reference={key: "pairs"},
        items="originals",
        load="diffusionbench.metrics.pairs:PairMetric",
    )


_FDR: Final = "Frechet distance in {}'s features over that of ImageNet's validation images; arXiv 2604.28190"
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


def _fdr(judge: JudgeSpec) -> MetricSpec:
    title = f"FDr {judge.title}"
    return replace(
        _fd(judge),
        key=f"fdr_{judge.name}",
        title=title,
        about=_FDR.format(judge.title),
        load="diffusionbench.metrics.fdr:FdrMetric",
    )


def _fdr6(key: str, title: str, judges: Sequence[JudgeSpec]) -> MetricSpec:
    return replace(
        _distance(key, title, "mean of FDr over all six extractors; arXiv 2604.28190"),
        judges=tuple(judge.name for judge in judges),
        reference={judge.name: "moments" for judge in judges},
        min_samples=2,
        load="diffusionbench.metrics.fdr:Fdr6Metric",
    )


def _vqascore(judge: JudgeSpec) -> MetricSpec:
    about = f"how likely {judge.title.partition(',')[0]} says that the image shows its text; arXiv 2404.01291"
    return replace(
        _share(f"vqascore_{judge.name}", f"VQAScore ({judge.name})", about),
        judges=(judge.name,),
        items="prompts",
        load="diffusionbench.metrics.text_match:TextMatch",
    )


_SIMPLE: Final = "SimpleEval as published; the two score sets define it differently, and neither is ours"

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
    *of_judge(DIGITS),
    *of_judge(EFFLITE0),
    *(row for judge in NETWORKS for row in of_judge(judge)),
    *geneval.METRICS,
    *dpgbench.METRICS,
    *genaibench.METRICS,
    _share("simpleeval_published_2026_06", "SimpleEval (published, June 2026)", _SIMPLE),
    _share("simpleeval_published_2026_05", "SimpleEval (published, May 2026)", _SIMPLE),
    *simpleeval.METRICS,
    *of_judge(simpleeval.OBJECTS_JUDGE),
    MetricSpec(
        key="clipscore",
        title="CLIPScore",
        higher_is_better=True,
        axis="t2i",
        about="cosine of CLIP's vectors of image and text, neither scaled nor clipped; arXiv 2104.08718",
        low=-1,
        high=1,
        judges=(CLIP_L14.name,),
        items="prompts",
        load="diffusionbench.metrics.text_match:TextMatch",
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
