"""The result record: one JSON file per result, with everything needed to trust it or to repeat it.

A number exists only inside a record. The schema is versioned: `upgrade` turns version 1 into version 2 wherever a
record is read. This file imports neither torch nor a metric, so that boards and pages are built from records anywhere.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import json
import math
import re
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, ValidationError, field_validator, model_validator

from diffusionbench.errors import DataError, RequestError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict, digest
from diffusionbench.shown import clipped, few, printable
from diffusionbench.stats import NORMAL_975, STUDENT_975
from diffusionbench.writing import check_gives_way, check_place, make_folder, write_errors, write_result, write_results

SCHEMA_VERSION: Final = 2
# An id is also a file name, and those end at 255 bytes.
MAX_ID: Final = 200
MAX_NAME: Final = 300
# Of an attachment: neither a folder nor hidden.
FILE_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
# Other programs read records, and most have no larger integers.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
# What stands near the beginning of the file of a record of any version.
MARK: Final = '"kind": "{kind}",\n  "id": "'
# Name of the attachment that holds the values of single images.
PER_SAMPLE: Final = "per_sample.json"
# Longer attachments are files beside the record.
INLINE: Final = 2**16

Status = Literal["ok", "partial", "provisional", "flagged", "asserted"]
# Which of several reasons names a value: the last that holds.
SEVERITY: Final[tuple[Status, ...]] = ("ok", "provisional", "asserted", "partial", "flagged")
# SimpleEval's own words; any other, such as "unverified" or "dependent", is provisional.
_SIMPLEEVAL: Final[Mapping[str, Status]] = {"ranked": "ok", "incomplete": "partial", "flagged": "flagged"}

# Views read records, so that a record cannot import them.
_VIEW: Final = partial(importlib.import_module, "diffusionbench.views.notebook")


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
    status: Status = Field("ok", description="only 'ok' takes a place on a leaderboard")
    reason: str | None = Field(None, description="why the status is not 'ok'")
    judges: tuple[str, ...] = Field((), description="whose evidence it reduces; empty: not stated")


class JudgeUsed(Strict):
    """The judge behind a value: equal digests mean comparable evidence."""

    digest: str = Field(description="SHA-256 over weights, preprocessing, options, precision and version of its code")
    precision: str | None = None
    options: dict[str, Any] = {}


class ReferenceUsed(Strict):
    """The real images as one judge saw them."""

    name: str
    digest: str | None = Field(None, description="SHA-256 over the images or the file of statistics")
    role: Literal["train", "val", "test"] | None = None
    made_by: str | None = Field(None, description="extractor of a file of statistics; 'asserted: NAME' by the user")


class Tuning(Strict):
    """On which images guidance or another setting was chosen."""

    split: str | None = None
    seeds: tuple[Whole, ...] = ()
    count: Whole | None = None
    records: tuple[str, ...] = Field((), description="ids of the records that were compared")


class InternalGuidance(Strict):
    """Guidance by an early output of the network: strengths of the branches with and without a condition, and times."""

    scale: float
    null_scale: float
    interval: tuple[float, float]


class Guidance(Strict):
    """Classifier-free guidance: strength (1.0 is off) and the closed interval of times on which it acts."""

    scale: float | None = Field(description="None: guided, but the source does not state how strongly")
    interval: tuple[float, float] = (0.0, 1.0)
    internal: InternalGuidance | None = None


class Protocol(Strict):
    """Under which rules the images were made and scored. Records whose protocols differ are not compared silently.

    A field is None where it is unknown or has no meaning (a folder of images tells nothing of its sampler).
    """

    name: str = Field(description="short name of the rule set, such as 'class_conditional' or 'paper-2026-06'")
    axis: str
    judges: dict[str, JudgeUsed] = {}
    references: dict[str, ReferenceUsed] = Field({}, description="by the judge that saw them")
    items_digest: str | None = Field(None, description="SHA-256 over what was asked: order, keys, labels and texts")
    count: Whole | None = Field(None, description="images asked for")
    images_per_prompt: Whole | None = None
    prompts: str | None = None
    prompts_digest: str | None = None
    seed: Whole | None = Field(None, description="of the generator's noise; None for images that existed already")
    noise: str | None = Field(None, description="rule by which a sample's noise follows from seed and index")
    sampler: str | None = None
    num_steps: Whole | None = None
    shift: float | None = None
    guidance: Guidance | None = None
    quantisation: Literal["truncate", "round"] | None = None
    ema: bool | None = None
    precision: str | None = None
    image_format: str | None = Field(None, description="in which the images came: png, jpeg, webp, npz, tar, ...")
    tuning: Tuning | None = None
    notes: tuple[str, ...] = ()


class Attachment(Strict):
    """Evidence beside the record: inline where it is small, else a file of this name in the folder `ID.evidence`."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    text: str | None = None


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
    wall_seconds: float | None = Field(
        None, description="of making all images, summed over processes, and of this scoring"
    )
    selftest: Literal["passed", "failed"] | None = Field(None, description="of the extractors that have one")


class Cost(Strict):
    """What a training cost, summed over its devices; evaluation is not in it."""

    training_images: Natural = Field(description="images that the optimizer saw, repeats among them")
    training_flops: FiniteFloat = Field(
        ge=0, description="floating-point operations of the forward and backward passes"
    )
    device_hours: FiniteFloat = Field(ge=0, description="hours of training times devices")
    device: str = Field(min_length=1, max_length=MAX_NAME, description="kind of device whose hours are counted")
    price_per_hour: FiniteFloat | None = Field(None, ge=0, description="of one device, in US dollars; None: not stated")
    money: FiniteFloat | None = Field(None, ge=0, description="device_hours * price_per_hour, in US dollars")

    @model_validator(mode="after")
    def _priced(self) -> Cost:
        due = None if self.price_per_hour is None else self.device_hours * self.price_per_hour
        agree = (
            self.money == due if None in (self.money, due) else math.isclose(self.money or 0, due or 0, rel_tol=1e-3)
        )
        if not agree:
            raise ValueError(
                f"money is {self.money}, and device_hours * price_per_hour is {due}; state both or neither"
            )
        return self


class ProgressPoint(Strict):
    """Scores of one evaluation during training."""

    images: Natural = Field(description="images that the optimizer had seen")
    epoch: FiniteFloat = Field(ge=0, description="the same in passes over the training set")
    scores: dict[str, FiniteFloat] = Field(min_length=1, description="by metric")


class Record(Strict):
    """All values of one generator under one protocol.

    Attributes:
        method: row of the method table, or the generator's own name.
        variant: what tells results of one method apart that are not repeats ("200k", "nfe-2"); None for the main one.
        family: rae, vae, e2e-vae, pixel, few-step or reference; None where unknown.
        anchors: the same metrics on image sets that say what a value means (held-out real images, class means).
        breakdown: values of parts (tasks, families, classes), by part and then metric.
        unscored: what could not be judged, named.
        evidence: attachments by file name, such as `per_sample.json`.
        trained_with: names of judges or networks that the method was trained with.
        cost: of the training; None where it is not known.
        progress: scores during the training, in the order of its images.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
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
    provenance: Provenance
    evidence: dict[Annotated[str, Field(pattern=FILE_NAME, max_length=MAX_ID)], Attachment] = {}
    trained_with: tuple[str, ...] = ()
    cost: Cost | None = None
    progress: tuple[ProgressPoint, ...] = ()
    extra: dict[str, Any] = Field({}, description="facts of one source that no other record has")

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, found: Any) -> Any:
        return upgrade(found) if isinstance(found, dict) and found.get("schema_version") == 1 else found

    @field_validator("progress")
    @classmethod
    def _in_order(cls, progress: tuple[ProgressPoint, ...]) -> tuple[ProgressPoint, ...]:
        for before, after in pairwise(progress):
            if after.images <= before.images or after.epoch < before.epoch:
                raise ValueError(
                    f"{after.images} images (epoch {after.epoch}) stand after {before.images} ({before.epoch})"
                )
        return progress

    @property
    def partial(self) -> bool:
        """Whether anything that was asked for is missing."""
        return any(value.status == "partial" or value.unscored for value in self.values.values())

    def __repr__(self) -> str:
        return _VIEW().as_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the record as a table, which a notebook shows."""
        return _VIEW().as_html(self)

    def save(self, path: str | Path) -> None:
        """Write the record as readable JSON, whole or not at all; long attachments into a folder beside it, first.

        Raises:
            RequestError: if it cannot be written there, or a file that is no record would be lost.
        """
        path, mark = Path(path), MARK.format(kind=self.kind)
        check_gives_way(path, mark)
        content = self.model_dump(mode="json")
        for name, attached in self.evidence.items():
            if attached.text is not None and len(attached.text) > INLINE:
                place = evidence_folder(self, path) / name
                with write_errors(place):
                    make_folder(place.parent)
                write_result(place, attached.text)
                content["evidence"][name]["text"] = None
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_results({path: (text + "\n", mark)})


def check_record_place(path: Path) -> None:
    """Check that a record may be written to a file, before the work is done; raises as `Record.save`."""
    check_place(path)
    check_gives_way(path, MARK.format(kind="measured"))


def record_id(record: Record) -> str:
    """Return the id that a record must have: its method, and a digest of protocol, images and metrics.

    Remarks and unknown fields of the protocol count nothing, so a field that is added later leaves old ids alone.
    """
    protocol = record.protocol.model_dump(mode="json", exclude={"notes"}, exclude_none=True)
    images = record.provenance.images_digest
    return f"{slug(record.method)}-{digest([protocol, images, sorted(record.values)])[:12]}"


def slug(name: str) -> str:
    """Return a name as the first part of an id; a hash follows, and both together are a file name."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[: MAX_ID // 2] or "unnamed"


def reference_names(protocol: Protocol) -> str:
    """Return the names of the real images behind a record, each once; empty without any."""
    return ", ".join(dict.fromkeys(used.name for used in protocol.references.values()))


def stderr_of(value: Value) -> float | None:
    """Return the standard error of a value: the stated one, else half its 95 % interval by the quantile of its method.

    None where neither is stated. Boards, comparisons and figures all take the error from here.
    """
    if value.stderr is not None or value.interval is None:
        return value.stderr
    low, high = value.interval
    return (high - low) / (2 * (STUDENT_975 if value.method == "jackknife" else NORMAL_975))


def evidence_folder(record: Record, path: Path) -> Path:
    """Return the folder of a record's long attachments; `path` is the record's file."""
    return path.parent / f"{record.id}.evidence"


def attachment(record: Record, path: Path, name: str) -> bytes | None:
    """Return an attachment of the record in a file, or None where it names none or the attachment is not beside it.

    Raises:
        DataError: if it does not have the hash that the record states, or cannot be read.
    """
    stated = record.evidence.get(name)
    if stated is None:
        return None
    place = evidence_folder(record, path) / name
    if stated.text is not None:
        content = stated.text.encode("utf-8", "surrogatepass")
    else:
        try:
            content = read_small(place)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"attachment {printable(str(place))}: {error.strerror}. Score the images again.") from None
    if hashlib.sha256(content).hexdigest() != stated.sha256:
        raise DataError(
            f"attachment '{name}' of record {printable(str(path))} does not have the SHA-256 that the record states, "
            "so it was changed or damaged. Score the images again."
        )
    return content


def with_attachments(record: Record, path: Path) -> Record:
    """Return the record in a file with the long attachments that lie beside it, so that it can be saved elsewhere.

    Raises:
        DataError: if an attachment does not have its hash, or is no text.
    """
    evidence = {}
    for name, stated in record.evidence.items():
        content = attachment(record, path, name)
        try:
            evidence[name] = stated if content is None else stated.model_copy(update={"text": content.decode()})
        except UnicodeDecodeError:
            raise DataError(f"attachment '{name}' of record {printable(str(path))} is no UTF-8 text.") from None
    return record.model_copy(update={"evidence": evidence})


def printed_digits(record: Record, key: str) -> str | None:
    """Return the digits in which a published table prints a value; only there may text stand for a number."""
    printed = record.extra.get("printed") if record.kind == "published" else None
    digits = printed.get(key) if isinstance(printed, dict) else None
    return digits if isinstance(digits, str) else None


def load(path: str | Path) -> Record:
    """Read one record.

    Raises:
        RequestError: if the file is missing, is not JSON or breaks the schema; every breach is named.
    """
    try:
        return Record.model_validate_json(read_record(Path(path)))
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


def upgrade(v1: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of version 1 as one of version 2.

    What version 1 did not state is null and the id is the stored one, so the record fits no declared column. What
    breaks the schema of version 1 stays as it is, for the schema of version 2 to refuse.
    """
    new = {**v1, "schema_version": SCHEMA_VERSION}
    partial = new.pop("partial", False)
    if isinstance(protocol := v1.get("protocol"), dict):
        new["protocol"] = _upgraded_protocol(protocol, "inception" if v1.get("kind") == "published" else "unknown")
    values = v1.get("values")
    if not isinstance(values, dict):
        return new
    extra, provenance = v1.get("extra"), v1.get("provenance")
    facts = extra.get("facts") if isinstance(extra, dict) else None
    failed = isinstance(provenance, dict) and provenance.get("selftest") == "failed"
    new["values"] = {}
    for key, value in values.items():
        if not isinstance(value, dict):
            new["values"][key] = value
            continue
        doubts = _simpleeval_doubts(key, facts) if isinstance(facts, dict) else []
        if partial:
            doubts.append(("partial", "something that was asked for is missing"))
        if failed:
            doubts.append(("flagged", "a judge failed its self-test"))
        status, reason = worst(doubts)
        new["values"][key] = {**value, "status": status, "reason": reason}
    return new


def simpleeval_status(word: str) -> Status:
    """Return the status of a value for SimpleEval's own word, such as "flagged: clean, mirror"."""
    return _SIMPLEEVAL.get(word.partition(":")[0], "provisional")


def told_doubt(status: str, reason: str | None) -> str:
    """Return a status with its reason; a reason that begins with the status says it already."""
    if reason is None or reason.startswith(f"{status}:"):
        return reason or status
    return f"{status}: {reason}"


def told_doubts(record: Record) -> dict[str, list[str]]:
    """Return why values are not "ok": each status with its reason once, and the metrics it holds for."""
    found: dict[str, list[str]] = {}
    for key, value in record.values.items():
        if value.status != "ok":
            found.setdefault(told_doubt(value.status, value.reason), []).append(key)
    return found


def worst(doubts: list[tuple[Status, str]]) -> tuple[Status, str | None]:
    """Return the gravest status of several, and all reasons; "ok" and None without any."""
    if not doubts:
        return "ok", None
    status = max((one for one, _ in doubts), key=SEVERITY.index)
    return status, "; ".join(dict.fromkeys(reason for _, reason in doubts)) or None


def _simpleeval_doubts(key: str, facts: dict[str, Any]) -> list[tuple[Status, str]]:
    """Return what SimpleEval says of a value in the facts of version 1; its parts begin with its own key."""
    for owner, fact in facts.items():
        word = fact.get("status") if isinstance(fact, dict) and f"{key}_".startswith(f"{owner}_") else None
        if isinstance(word, str) and (status := simpleeval_status(word)) != "ok":
            return [(status, word)]
    return []


def _upgraded_protocol(v1: dict[str, Any], unstated: str) -> dict[str, Any]:
    """Return the rules of version 1 in version 2; `unstated` names the judge of a reference where none is stated."""
    new = dict(v1)
    extractors = new.get("extractors", {})
    if not isinstance(extractors, dict):
        return new
    new.pop("extractors", None)
    new["judges"] = {name: {"digest": found} for name, found in extractors.items()}
    name, found = new.pop("reference", None), new.pop("reference_digest", None)
    if name is not None or found is not None:
        used = {"name": name, "digest": found}
        new["references"] = dict.fromkeys([*extractors] or [unstated], used)
    return new
