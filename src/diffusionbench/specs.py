"""The rows of the tables that other packages bring: judges, metrics, prompt sets, sources; without torch or numpy.

They stand apart from the tables, so that a benchmark's folder can hold its rows and a table can import them. The table
of sources stands here as well: it has no rows of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal

from diffusionbench.registry import Table

#: What is said of an image that is not, or is, what was asked for.
RIGHT: Final = ("wrong", "right")


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """One row of `JUDGES`: all that a request is checked by, without code or weights.

    Attributes:
        name: its key in the table, and the ending of its metrics' keys.
        title: what it is, in a few words, as in "accuracy by <title>".
        load: "module:Class" of its `Judge`.
        output: "array": a mapping of arrays with one row an image; "rows": a list with one row an image.
        pairs: whether it compares each image with the partner that its item has.
        uses: names of the judges whose evidence it is given.
        dim: width of its "features", 0 where it has none.
        num_classes: width of its "logits" where these are the classes 0..num_classes - 1 of a request, else None.
        classes: names of those classes, by which folders of images are numbered; None where they have none.
        image_size: the only (height, width) it accepts, or None for any.
        licence: of its weights.
        sha256: of its weight file, or the first digits that are published; None where it has none.
        package: the package that brings its weights or is needed to read them, as registries call it; None for none.
        extra: of ours, which installs that package.
        file: its weight file, in the package's folder or else in the cache folder; None where the judge ships with it.
        url: where that file can be fetched.
        command: what else gives that file, for `diffusionbench prepare judge NAME --from FILE`.
        size: of the file in bytes, 0 where unknown.
        hub: repositories of the Hugging Face hub that hold its weights.
        moment_keys: names of its mean and covariance in published files of statistics, before the usual ones.
        kid_subset: images in a subset of the kernel distance in its features.
        options: thresholds and other settings with their defaults; part of the digest.
        version: of its own code: another number where it may judge some image otherwise; part of the digest.
        precision: of its arithmetic; part of the digest.
        kept: whether its evidence is kept beside the images; no where it is the images themselves.
        self_test: whether it was shipped with outputs to test against.
        example: of a judge of rows, a text or question about a plain picture with {} for its colour, or "", where it
            can be tested against itself without such outputs; None where it cannot.
        in_protocol: whether its digest stands in a record's protocol; no only where the record holds it elsewhere.
    """

    name: str
    title: str
    load: str
    output: Literal["array", "rows"] = "array"
    pairs: bool = False
    uses: tuple[str, ...] = ()
    dim: int = 0
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    licence: str
    sha256: str | None = None
    package: str | None = None
    extra: str | None = None
    file: str | None = None
    url: str | None = None
    command: str | None = None
    size: int = 0
    hub: tuple[str, ...] = ()
    moment_keys: tuple[str, str] | None = None
    kid_subset: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    precision: str = "float32"
    kept: bool = True
    self_test: bool = False
    example: str | None = None
    in_protocol: bool = True


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric key, for users and for the checks of a request.

    Attributes:
        key: final lower-case name, as stored in records.
        title: a few words for users.
        higher_is_better: direction; None where there is no better end, or none is known.
        axis: "class_conditional", "t2i" or "reconstruction"; None where unknown.
        low, high: closed range of possible values.
        unit: "share" for 0..1, "dB", or "" for none.
        about: what is computed, with its source.
        judges: names in `JUDGES` of those whose evidence it reduces.
        reference: what it takes of the real images as each of its judges sees them; nothing where one is not named.
        items: what every image must have been made for, None where that plays no part.
        prompts: key in `PROMPTS` of the only set whose images it judges, or None for any.
        min_samples: smallest number of images it is defined for.
        verdicts: words for an image of value 0 and for one of value 1; None where there are other values.
        load: "module:Class" of its `Metric`, or None where nothing here computes it.
    """

    key: str
    title: str
    higher_is_better: bool | None
    axis: str | None = None
    low: float = -inf
    high: float = inf
    unit: str = ""
    about: str = ""
    judges: tuple[str, ...] = ()
    reference: Mapping[str, Literal["moments", "features", "pairs"]] = field(default_factory=dict)
    items: Literal["classes", "prompts", "originals"] | None = None
    prompts: str | None = None
    min_samples: int = 1
    verdicts: tuple[str, str] | None = None
    load: str | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """One row of `PROMPTS`.

    Attributes:
        name: its key in the table, and what records call it.
        title: one line for users.
        licence: of the texts.
        layouts: sizes it comes in, the one first that is meant where none is named.
        load: "module:name" of its `PromptSource`.
        count: prompts of a list that is fixed; 0 where it is built.
        source: where the texts come from, with the commit.
        files: SHA-256 by name of the files in the cache folder that hold it; "" for one that may be absent and whose
            hash is not known. None of them where the set ships with the package.
        url: where those files are, by adding their names; with `build`, of what they are made from.
        build: "module:function" that makes the files by name from the bytes at `url`; None where they lie there.
    """

    name: str
    title: str
    licence: str
    layouts: tuple[str, ...]
    load: str
    count: int = 0
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    url: str | None = None
    build: str | None = None


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One row of `SOURCES`: how the text "NAME:ARGUMENT" becomes images.

    Attributes:
        name: its key in the table.
        title: what the argument names, in a few words.
        load: "module:name" of a function of the argument ("" where there is none) that returns an `ImageSource`, or
            a function as `diffusionbench.callables.CallableSource` takes it.
        example: an argument that works anywhere; "" where it takes a file.
    """

    name: str
    title: str
    load: str
    example: str = ""


SOURCES: Final[Table[SourceSpec]] = Table("source", {}, group="diffusionbench.sources")
