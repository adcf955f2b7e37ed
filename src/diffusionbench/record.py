"""The result record: one JSON file per result, with everything needed to trust it or to repeat it.

A number exists only inside a record. The schema is versioned; a record of an older version stays readable.
This file imports neither torch nor a metric, so that boards and pages are built from records anywhere.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from diffusionbench.errors import RequestError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict
from diffusionbench.shown import clipped, few, printable
from diffusionbench.writing import check_gives_way, check_place, write_result

SCHEMA_VERSION: Final = 1
# An id is also a file name, and those end at 255 bytes.
MAX_ID: Final = 200
MAX_NAME: Final = 300
# Other programs read records, and most have no larger integers.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# How the file of a record begins.
MARK: Final = f'{{\n  "schema_version": {SCHEMA_VERSION},\n  "kind": "'


class Value(Strict):
    """One number with its uncertainty over the draw of images; neither training seeds nor the bias of a finite n.

    Published figures carry no uncertainty and often no count: None says "not stated", never zero.
    """

    value: float
    stderr: float | None = None
    interval: tuple[float, float] | None = Field(None, description="95 % interval (low, high)")
    method: str | None = Field(None, description="how the uncertainty was formed: jackknife, wilson, prompts, ...")
    scored: Whole | None = Field(None, description="images or prompts behind the value")
    unscored: Whole = Field(0, description="images or prompts that could not be judged")
    higher_is_better: bool | None = Field(None, description="direction, where the metric is another package's")
    note: str | None = None


class Guidance(Strict):
    """Classifier-free guidance: strength (1.0 is off) and the closed interval of times on which it acts."""

    scale: float | None = Field(description="None: guided, but the source does not state how strongly")
    interval: tuple[float, float] = (0.0, 1.0)


class Protocol(Strict):
    """Under which rules the images were made and scored. Records whose protocols differ are not compared silently.

    A field is None where it is unknown or has no meaning (a folder of images tells nothing of its sampler).
    """

    name: str = Field(description="short name of the rule set, such as 'class_conditional' or 'paper-2026-06'")
    axis: str
    reference: str | None = Field(None, description="name of the reference images or statistics")
    reference_digest: str | None = Field(None, description="SHA-256 over them")
    extractors: dict[str, str] = Field({}, description="feature extractor -> SHA-256 over weights and preprocessing")
    count: Whole | None = Field(None, description="images asked for")
    images_per_prompt: Whole | None = None
    prompts: str | None = None
    prompts_digest: str | None = None
    seed: Whole | None = None
    noise: str | None = Field(None, description="rule by which a sample's noise follows from seed and index")
    sampler: str | None = None
    num_steps: Whole | None = None
    shift: float | None = None
    guidance: Guidance | None = None
    quantisation: Literal["truncate", "round"] | None = None
    ema: bool | None = None
    precision: str | None = None
    notes: tuple[str, ...] = ()


class Provenance(Strict):
    """Where the images and the numbers come from."""

    source: str = Field(description="checkpoint, folder or archive; for published figures the publication")
    url: str | None = None
    config_hash: str | None = None
    checkpoint_digest: str | None = None
    images_digest: str | None = Field(None, description="SHA-256 over the image store's manifest")
    step: Whole | None = None
    command: str | None = Field(None, description="what to type to get this record again")
    commit: str | None = None
    dirty: bool | None = None
    packages: dict[str, str] = {}
    hardware: str | None = None
    created: str | None = Field(None, description="UTC, ISO 8601")
    wall_seconds: float | None = None
    selftest: Literal["passed", "failed"] | None = Field(None, description="of the extractors that have one")


class Record(Strict):
    """All values of one generator under one protocol.

    Attributes:
        method: row of the method table, or the generator's own name.
        variant: what tells results of one method apart that are not repeats ("200k", "nfe-2"); None for the main one.
        family: rae, vae, e2e-vae, pixel, few-step or reference; None where unknown.
        anchors: the same metrics on image sets that say what a value means (held-out real images, class means).
        breakdown: values of parts (tasks, families, classes), by part and then metric.
        unscored: what could not be judged, named.
        partial: whether anything asked for is missing.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["measured", "published"]
    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_ID, description="unique over all records; also the file name"
    )
    method: str = Field(max_length=MAX_NAME)
    variant: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=MAX_ID)
    title: str = Field(max_length=MAX_NAME)
    family: str | None = None
    protocol: Protocol
    values: dict[str, Value]
    anchors: dict[str, dict[str, Value]] = {}
    breakdown: dict[str, dict[str, Value]] = {}
    unscored: tuple[str, ...] = ()
    partial: bool = False
    provenance: Provenance
    extra: dict[str, Any] = Field({}, description="facts of one source that no other record has")

    def save(self, path: Path) -> None:
        """Write the record as readable JSON, whole or not at all.

        Raises:
            RequestError: if it cannot be written there, or a file that is no record would be lost.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False)
        check_gives_way(path, MARK)
        write_result(path, text + "\n")


def check_record_place(path: Path) -> None:
    """Check that a record may be written to a file, before the work is done.

    Raises:
        RequestError: if it cannot be written there, or a file that is no record would be lost.
    """
    check_place(path)
    check_gives_way(path, MARK)


def printed_digits(record: Record, key: str) -> str | None:
    """Return the digits in which a published table prints a value; only there may text stand for a number."""
    printed = record.extra.get("printed") if record.kind == "published" else None
    digits = printed.get(key) if isinstance(printed, dict) else None
    return digits if isinstance(digits, str) else None


def load(path: Path) -> Record:
    """Read one record.

    Raises:
        RequestError: if the file is missing, is not JSON or breaks the schema; every breach is named.
    """
    try:
        return Record.model_validate_json(read_record(path))
    except ValidationError as error:
        raise RequestError(
            f"record {printable(str(path))} does not fit the schema: {few(breaches(error), '; ')}"
        ) from None


def facts_of(record: Record) -> dict[str, dict[str, Any]]:
    """Return what metrics wrote beside their values, by key; anybody may write there, and only objects count."""
    facts = record.extra.get("facts")
    return {key: fact for key, fact in facts.items() if isinstance(fact, dict)} if isinstance(facts, dict) else {}


def read_record(path: Path) -> bytes:
    """Return the text of a record.

    Raises:
        RequestError: if the file is missing, is no regular one or is too large.
    """
    try:
        return read_small(path).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise RequestError(
            f"record {printable(str(path))}: {error.strerror}. Give the path of a record's JSON file."
        ) from None


def breaches(error: ValidationError) -> list[str]:
    """Return where and how a record breaks the schema, one sentence per breach."""
    found = error.errors(include_input=False, include_url=False)
    return [f"{'.'.join(clipped(str(part), 80) for part in one['loc']) or 'file'}: {one['msg']}" for one in found]
