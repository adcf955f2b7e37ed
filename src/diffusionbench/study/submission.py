"""Check records for the board: `submit` checks one, `validate` a folder.

A problem refuses the record; a warning is shown to its author and reviewer. All are reported at once.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from diffusionbench.axes import AXES
from diffusionbench.catalog import direction, is_auxiliary, metric_info
from diffusionbench.errors import DataError, RequestError, UserError
from diffusionbench.limits import parse_json
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS
from diffusionbench.protocol import protocol_difference
from diffusionbench.record import (
    SCHEMA_VERSION,
    Record,
    Value,
    breaches,
    evidence_folder,
    facts_of,
    load,
    read_record,
    record_id,
    simpleeval_status,
    with_attachments,
)
from diffusionbench.registry import nearest
from diffusionbench.study import published
from diffusionbench.study.columns import guidance_state
from diffusionbench.study.points import looks_like_record, record_files
from diffusionbench.study.published import FAMILIES

_OLD: Final = "{version}; its protocol lacks what version 2 states, so it fits no column. Score the images again"
_MAX_NAME: Final = 120
# A generator with a better score than held-out real images is reported.
_ANCHOR: Final = "held_out"


@dataclass(frozen=True)
class RecordCheck:
    """Problems and warnings of one file; `record` is None where the file does not fit the schema.

    Attributes:
        path: the file.
        version: of the schema that the file is written in.
    """

    record: Record | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    path: Path
    version: int = SCHEMA_VERSION

    def with_more(self, problems: Iterable[str], warnings: Iterable[str] = ()) -> RecordCheck:
        """Return the check with further problems and warnings."""
        return replace(self, problems=(*self.problems, *problems), warnings=(*self.warnings, *warnings))


def check(path: Path, folder: Path | None = None) -> RecordCheck:
    """Check one record for submission; `folder` holds the records already there, for duplicates, and need not exist."""
    report = _check(path, record_files(folder) if folder is not None and folder.is_dir() else [])
    if report.version == SCHEMA_VERSION:
        return report
    return report.with_more([f"schema_version: {_OLD.format(version=report.version)}"])


def _check(path: Path, files: Sequence[Path]) -> RecordCheck:
    """Check one record, against others for duplicates."""
    report = _read(path)
    if report.record is None:
        return report
    known = _Known()
    unreadable = []
    for other in files:
        if os.path.realpath(other) == os.path.realpath(path) or not looks_like_record(other):
            continue
        try:
            known.add(str(other), load(other))
        except RequestError:
            unreadable.append(f"{other} cannot be read, so it was not checked for duplicates")
    problems, warnings = known.repeats(report.record)
    return report.with_more(problems, [*warnings, *unreadable])


def check_folder(folder: Path) -> dict[Path, RecordCheck]:
    """Check every record below a folder, or one file, each against all others there.

    Raises:
        RequestError: if there is no such folder.
    """
    if folder.is_file():
        return {folder: _check(folder, record_files(folder.parent, nested=False))}
    if not folder.is_dir():
        raise RequestError(f"records folder {folder} does not exist. Give a folder of record JSON files.")
    known = _Known()
    checked = {}
    for path in record_files(folder):
        try:
            report = _read(path)
        except RequestError as error:
            report = RecordCheck(None, (str(error),), (), path)
        if report.record is not None:
            problems, warnings = known.repeats(report.record)
            known.add(str(path), report.record)
            if path.name != f"{report.record.id}.json":
                problems = [*problems, f"the file must be named {report.record.id}.json, as its id"]
            report = report.with_more(problems, warnings)
        checked[path] = report
    return checked


def write(report: RecordCheck, folder: Path) -> Path:
    """Write a record without problems under the name of its id, its long attachments beside it.

    Raises:
        RequestError: if the record has problems.
        DataError: if an attachment was changed since it was checked.
    """
    record = report.record
    if record is None or report.problems:
        raise RequestError("a record with problems is not written.")
    path = folder / f"{record.id}.json"
    with_attachments(record, report.path).save(path)
    return path


def _read(path: Path) -> RecordCheck:
    content = read_record(path)
    try:
        record = Record.model_validate_json(content)
    except ValidationError as error:
        return RecordCheck(None, tuple(breaches(error)), (), path)
    problems, warnings, version = [*_problems(record)], [*_warnings(record)], SCHEMA_VERSION
    edited = record.kind == "measured" and record.id != record_id(record)
    if edited and (version := parse_json(content)["schema_version"]) != SCHEMA_VERSION:
        warnings.append(f"schema_version: {_OLD.format(version=version)}")
    else:
        problems += _statuses(record)
    if edited and version == SCHEMA_VERSION:
        problems.append(f"id: '{record.id}' is not '{record_id(record)}', that of its content; a record is not edited")
    found, missing = _attachments(record, path)
    return RecordCheck(record, (*problems, *found), (*warnings, *missing), path, version)


def _attachments(record: Record, path: Path) -> tuple[list[str], list[str]]:
    """Return problems and warnings of the attachments of a record in a file."""
    problems, warnings = [], []
    for name in record.evidence:
        try:
            only = record.model_copy(update={"evidence": {name: record.evidence[name]}})
            if with_attachments(only, path).evidence[name].text is None:
                folder = evidence_folder(record, path).name
                warnings.append(f"evidence.{name}: is not in {folder} beside the record, so nobody can compare by it")
        except DataError as error:
            problems.append(f"evidence.{name}: {error}")
    return problems, warnings


def _problems(record: Record) -> Iterator[str]:
    if record.kind != "measured":
        yield f"kind: '{record.kind}' records are shipped with the package; a submission is 'measured'"
    if record.partial:
        yield "partial: something that was asked for is missing; submit a complete evaluation"
    if not record.values:
        yield "values: the record holds no value"
    if record.family is not None and record.family not in FAMILIES:
        yield f"family: unknown family '{record.family}'. {nearest(record.family, list(FAMILIES))}"
    for name, text in (("method", record.method), ("title", record.title)):
        if not text.strip() or len(text) > _MAX_NAME or not text.isprintable():
            yield f"{name}: must be 1 to {_MAX_NAME} printable characters"
    url = record.provenance.url
    if url is not None and not re.match(r"^https?://[^\s]+$", url):
        yield "provenance.url: must start with https:// or http://"
    for key, value in record.values.items():
        # A metric of another package states its own direction.
        if key not in METRICS and direction(key, value) is None and not is_auxiliary(key, record.values):
            yield f"values.{key}: unknown metric '{key}'. {nearest(key, sorted(METRICS))}"
    yield from _hashes(record)
    yield from _prompts(record)
    parts = {
        "values": record.values,
        **{f"anchors.{name}": values for name, values in record.anchors.items()},
        **{f"breakdown.{name}": values for name, values in record.breakdown.items()},
    }
    for where, values in parts.items():
        for key, value in values.items():
            yield from _value(f"{where}.{key}", key, value, record.protocol.count)
    if record.provenance.selftest == "failed":
        yield "provenance.selftest: failed; that installation gives wrong numbers. Run: diffusionbench selftest"
    try:
        json.dumps(record.extra, allow_nan=False)
    except ValueError:
        yield "extra: holds a number that is not finite"


def _hashes(record: Record) -> Iterator[str]:
    """Yield malformed hashes, and missing facts without which a measured number cannot be repeated."""
    protocol, provenance = record.protocol, record.provenance
    hashes = {
        "protocol.prompts_digest": protocol.prompts_digest,
        "provenance.config_hash": provenance.config_hash,
        "provenance.checkpoint_digest": provenance.checkpoint_digest,
        "provenance.images_digest": provenance.images_digest,
        "protocol.items_digest": protocol.items_digest,
        **{f"protocol.judges.{name}.digest": used.digest for name, used in protocol.judges.items()},
        **{f"protocol.references.{name}.digest": used.digest for name, used in protocol.references.items()},
    }
    for where, value in hashes.items():
        if value is not None and not re.fullmatch(r"[0-9a-f]{64}", value):
            yield f"{where}: not a SHA-256 (64 hex digits)"
    if provenance.commit is not None and not re.fullmatch(r"[0-9a-f]{7,64}", provenance.commit):
        yield "provenance.commit: not a commit (7 to 64 hex digits)"
    for name, used in protocol.references.items():
        if used.digest is None:
            yield f"protocol.references.{name}.digest: missing; the hash says which real images were compared with"
    if protocol.prompts is not None and protocol.prompts_digest is None:
        yield "protocol.prompts_digest: missing; the hash says which prompts were scored"
    if protocol.count is None:
        yield "protocol.count: missing; say how many images were asked for"
    if provenance.images_digest is None:
        yield "provenance.images_digest: missing; the hash says which images were scored"
    if provenance.commit is None and "diffusionbench" not in provenance.packages:
        yield "provenance: neither a commit nor the version of diffusionbench is stated"


def _prompts(record: Record) -> Iterator[str]:
    """Yield a problem where a known prompt set has another hash than its seed and layout give."""
    protocol = record.protocol
    request = record.extra.get("request")
    chosen = request.get("prompts") if isinstance(request, dict) else None
    if protocol.prompts not in PROMPTS or protocol.prompts_digest is None or not isinstance(chosen, dict):
        return
    seed, layout = chosen.get("seed"), chosen.get("layout")
    try:
        found = _digest_of_prompts(protocol.prompts, str(seed), None if layout is None else str(layout))
    except UserError as error:
        yield f"extra.request.prompts: {error}"
        return
    if found != protocol.prompts_digest:
        yield (
            f"protocol.prompts_digest: {protocol.prompts_digest[:12]} is not the hash {found[:12]} of "
            f"'{protocol.prompts}' with seed {seed}; it was made by another version or changed"
        )


@cache
def _digest_of_prompts(name: str, seed: str, layout: str | None) -> str:
    found: str = PROMPTS.load(name).open(seed, layout).digest
    return found


def _statuses(record: Record) -> Iterator[str]:
    """Yield values that claim a better status than the rest of the record allows, or do not say whose they are."""
    protocol, facts = record.protocol, facts_of(record)
    if protocol.items_digest is None:
        yield "protocol.items_digest: missing; the hash says what was asked for, in which order"
    for key, value in record.values.items():
        where = f"values.{key}"
        if value.status != "ok":
            if not value.reason:
                yield f"{where}.reason: missing; say why the status is '{value.status}'"
            continue
        if value.unscored:
            yield f"{where}.status: 'ok', and {value.unscored} images are unscored; it is 'partial'"
        if trained := sorted({*value.judges} & {*record.trained_with}):
            yield f"{where}.status: 'ok', and the method was trained with judge '{trained[0]}'; it is 'flagged'"
        compares = key not in METRICS or METRICS[key].reference
        made_by = {protocol.references[judge].made_by or "" for judge in value.judges if judge in protocol.references}
        if compares and any(one.startswith("asserted") for one in made_by):
            yield f"{where}.status: 'ok', and the statistics it compares with are asserted; it is 'asserted'"
        word = facts.get(key, {}).get("status")
        if isinstance(word, str) and (status := simpleeval_status(word)) != "ok":
            yield f"{where}.status: 'ok', and its own facts say '{word}'; it is '{status}'"
        unknown = [judge for judge in value.judges if judge not in protocol.judges]
        if unknown or (key in METRICS and not value.judges):
            named = f"judge '{unknown[0]}' is not in protocol.judges" if unknown else "missing"
            yield f"{where}.judges: {named}; the protocol says by which judges a value was measured"


def _value(where: str, key: str, value: Value, count: int | None) -> Iterator[str]:
    info = metric_info(key)
    numbers = [value.value, *([] if value.stderr is None else [value.stderr]), *(value.interval or ())]
    if not all(map(math.isfinite, numbers)):
        yield f"{where}: holds a number that is not finite"
        return
    if not info.low <= value.value <= info.high:
        possible = f"[{info.low:g}, {info.high:g}]" if math.isfinite(info.high) else f"from {info.low:g}"
        yield f"{where}: {value.value:g} is outside the possible range {possible}"
    if value.stderr is not None and value.stderr < 0:
        yield f"{where}.stderr: {value.stderr:g} is negative"
    if value.interval is not None and value.interval[0] > value.interval[1]:
        yield f"{where}.interval: low {value.interval[0]:g} is above high {value.interval[1]:g}"
    if value.unscored < 0 or (value.scored is not None and value.scored < 1):
        yield f"{where}: counts must be positive"
    elif where.startswith("values") and count is not None and (value.scored or 0) + value.unscored > count:
        yield f"{where}: {value.scored} scored and {value.unscored} unscored are more than the {count} asked for"


def _warnings(record: Record) -> Iterator[str]:
    if record.provenance.dirty:
        yield "provenance.dirty: the code had uncommitted changes, so the commit does not reproduce it"
    if record.provenance.selftest is None:
        yield "provenance.selftest: not stated, as where no extractor has one. See: diffusionbench selftest"
    if record.provenance.command is None:
        yield "provenance.command: not stated; say how to get the record again"
    if record.protocol.axis not in AXES:
        yield f"protocol.axis: '{record.protocol.axis}' is not known here. {nearest(record.protocol.axis, list(AXES))}"
    if record.family is None:
        yield "family: not stated; the board cannot group the method"
    for key, value in record.values.items():
        if value.unscored and not record.unscored:
            yield f"values.{key}: {value.unscored} unscored, but none is named"
        if value.stderr is None and value.interval is None and not is_auxiliary(key, record.values):
            yield f"values.{key}: has no uncertainty"
        if value.scored is None:
            yield f"values.{key}: does not say how many were scored"
        real = record.anchors.get(_ANCHOR, {}).get(key)
        higher = metric_info(key).higher_is_better
        better = real is not None and higher is not None and (value.value > real.value) == higher
        # The same images in other batches give values that differ by rounding.
        if real is not None and better and not math.isclose(value.value, real.value, rel_tol=1e-3):
            yield f"values.{key}: {value.value:g} is better than held-out real images ({real.value:g})"


class _Known:
    """Records seen so far with their places, by id and by their images."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._images: dict[str, list[tuple[str, Record]]] = {}
        for record in published.records():
            self.add(f"'{record.id}' as published", record)

    def add(self, where: str, record: Record) -> None:
        self._ids.setdefault(record.id, where)
        if record.provenance.images_digest is not None:
            self._images.setdefault(record.provenance.images_digest, []).append((where, record))

    def repeats(self, record: Record) -> tuple[list[str], list[str]]:
        """Return problems and warnings of a record that repeats an id, a measurement or some of its values."""
        if record.id in self._ids:
            return [f"id: '{record.id}' stands in another record already, {self._ids[record.id]}"], []
        problems, warnings = [], []
        for where, other in self._images.get(record.provenance.images_digest or "", ()):
            # Where tuning finds that no guidance is best, the unguided images have a tuned score, too.
            if guidance_state(record) != guidance_state(other):
                continue
            # Of version 1 less is known than a comparison needs, and the images are the same.
            old = {record.protocol.items_digest, other.protocol.items_digest} >= {None}
            shared = [
                key
                for key in record.values.keys() & other.values.keys()
                if old or not protocol_difference(record, other, key)
            ]
            if len(shared) == len(record.values) == len(other.values):
                problems.append(f"the same images under the same protocol are in record '{other.id}' already, {where}")
            elif shared:
                warnings.append(f"values.{min(shared)}: of the same images stands in record '{other.id}' too, {where}")
        return problems, warnings
