"""Differences of two protocols in words: what each field decides, and which values it keeps apart.

What a difference alone does to a number is measured by `isolation`, where images are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from diffusionbench.catalog import direction
from diffusionbench.protocol import COMPARED, NOT_COMPARED, protocol_difference
from diffusionbench.record import Record
from diffusionbench.study.comparison import plain_content

Kind = Literal["rule", "method", "draw"]

#: What each field of a protocol decides.
WORDS: Final[Mapping[str, str]] = {
    "name": "rules of different names are taken for different rules",
    "axis": "another task: images for classes and images for texts are not compared",
    "items_digest": "other classes or texts, another order of them or another number was asked for",
    "count": "distances, KID among them with less bias, fall as the number of images grows",
    "images_per_prompt": "the prompt is the unit of the score: more images of each make its value steadier",
    "prompts": "another set of texts is another number",
    "prompts_digest": "other texts or questions under the same name are another number",
    "quantisation": "truncating is half a grey level darker than rounding, which moves distances a little",
    "image_format": "lossy formats change the pixels that judges see",
    "judges": "another judge sees other things",
    "references": "a distance to other real images is another number",
    "sampler": "part of how the method samples",
    "num_steps": "part of how the method samples",
    "shift": "part of how the method samples",
    "guidance": "part of how the method samples: the same weights give another distribution",
    "ema": "part of the method: averaged weights are other weights",
    "precision": "part of how the method samples",
    "tuning": "guidance or another setting was chosen on other images",
    "seed": "another draw of noise under the same rules",
    "noise": "another draw of noise under the same rules",
    "notes": "a remark",
}
#: What is said of a judge and of a reference.
PARTS: Final[Mapping[str, str]] = {
    "judges.digest": "other weights, preprocessing (its resize among them), options or version of the judge",
    "judges.precision": "the judge computed in another number type, which moves its features",
    "judges.options": "the judge has other thresholds",
    "references.name": "other real images, or the same under another name",
    "references.digest": "other real images or another file of statistics",
    "references.role": "another split of the real images: training images flatter a generator that has learnt them",
    "references.made_by": "the statistics were made by another extractor, or only the user says by which",
}


@dataclass(frozen=True)
class Gap:
    """One field in which two protocols differ.

    Attributes:
        field: such as "count" or "references.digits.digest".
        first, second: its contents.
        about: what it decides.
        kind: a "rule", which keeps values apart; part of the "method"; or of the "draw" of images.
        metrics: shared metrics that it keeps apart; of rules only.
    """

    field: str
    first: Any
    second: Any
    about: str
    kind: Kind
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What one difference alone does to one metric, as `isolation` measures it.

    Attributes:
        field: "references.JUDGE", "count" or "judges.JUDGE"; "all of these" is every one that could be measured.
        metric: key.
        of: whose images were scored, "first" or "second".
        value: their value under the other record's setting; None where it could not be measured.
        change: from their own value.
        reason: why it could not be measured.
    """

    field: str
    metric: str
    of: str
    value: float | None = None
    change: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """The differences of two protocols.

    Attributes:
        gaps: rules first.
        metrics: values of the metrics that both records hold.
    """

    gaps: tuple[Gap, ...]
    metrics: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def explain(first: Record, second: Record) -> Explanation:
    """Return every difference of two protocols in words."""
    shared = [key for key, value in first.values.items() if key in second.values and direction(key, value) is not None]
    apart: dict[str, list[str]] = {}
    contents: dict[str, tuple[object, object]] = {}
    for key in shared:
        for field, pair in protocol_difference(first, second, key).items():
            apart.setdefault(field, []).append(key)
            contents[field] = pair
    a, b = first.protocol, second.protocol
    for field in (*COMPARED, "judges", "references", *NOT_COMPARED):
        whole = (getattr(a, field), getattr(b, field))
        # Of judges and references, what the shared metrics use stands there already.
        if whole[0] != whole[1] and not any(name == field or name.startswith(f"{field}.") for name in contents):
            contents[field] = whole
    gaps = []
    for field, (one, other) in contents.items():
        kind: Kind = "draw" if field in ("seed", "noise", "notes") else "method" if field in NOT_COMPARED else "rule"
        pair = plain_content(one), plain_content(other)
        gaps.append(Gap(field, *pair, words_of(field), kind, tuple(apart.get(field, ()))))
    gaps.sort(key=lambda gap: ("rule", "method", "draw").index(gap.kind))
    values = {key: (first.values[key].value, second.values[key].value) for key in shared}
    return Explanation(tuple(gaps), values)


def words_of(field: str) -> str:
    """Return what a field of a protocol decides, such as "references.digits.digest"."""
    head, *rest = field.split(".")
    return PARTS.get(f"{head}.{rest[-1]}", WORDS[head]) if len(rest) > 1 else WORDS[head]
