"""Records to comparable points: one per method, two metrics each, all under one protocol.

`correlate`, `figure` and the site take their points from here, so all of them compare the same methods. Values count
here that are ok or provisional; every other one, and every record of another protocol or setting, is left out by name.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusionbench.catalog import ALIASES, resolve_metric
from diffusionbench.errors import RequestError
from diffusionbench.limits import TooDeepError, parse_json, read_small
from diffusionbench.protocol import protocol_difference
from diffusionbench.record import Record, Value, load
from diffusionbench.registry import nearest
from diffusionbench.shown import few, message, printable
from diffusionbench.study import published
from diffusionbench.study.cells import cell_of, distinct, setting_of, status_of
from diffusionbench.study.columns import MEASURED, SETS, declared, guidance_state, place_of, score_set_of
from diffusionbench.study.cost import is_derived, with_derived
from diffusionbench.study.published import FAMILIES

#: Statuses of the values that correlations and figures take.
COUNTED: Final = ("ok", "provisional")
LATENT: Final = ("rae", "vae", "e2e-vae")
# The families of the 24 methods that the published study charts.
CHARTED: Final = (*LATENT, "pixel")
#: Families by the names that users give; "vae" holds the end-to-end ones.
NAMED: Final = {
    **{name: (name,) for name in FAMILIES},
    "vae": ("vae", "e2e-vae"),
    "e2e": ("e2e-vae",),
    "fewstep": ("few-step",),
    "pixels": ("pixel",),
    "latent": LATENT,
    "charted": CHARTED,
    "all": FAMILIES,
}

_OUTLINE: Final = {"schema_version", "kind", "values", "protocol", "provenance"}


@dataclass(frozen=True)
class Point:
    """One method in the plane of two metrics.

    Attributes:
        name: method, and its variant where it has one; unique among the points of a comparison.
        title: for display.
        family: key of `FAMILIES`, or None where the records do not say.
        x, y: values.
        x_record, y_record: ids of the records that hold them, the first of each where repeats are averaged.
        x_value, y_value: the values with their uncertainty.
        x_runs, y_runs: the values of all repeats, which x and y are means of.
    """

    name: str
    title: str
    family: str | None
    x: float
    y: float
    x_record: str
    y_record: str
    x_value: Value
    y_value: Value
    x_runs: tuple[float, ...] = ()
    y_runs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selection:
    """The points of one comparison, and the methods left out of it.

    Attributes:
        x_key, y_key: metric keys after aliases.
        left_out: (name, reason) of each method that has one of the two metrics but is not among the points, and of each
            record of a method whose other records are.
    """

    score_set: str
    guidance: str
    x_key: str
    y_key: str
    points: tuple[Point, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def doubtful(self) -> list[tuple[str, str, str, str | None]]:
        """Return (name, metric, status, reason) of every value among the points that is not ok."""
        keyed = [(p, key, one) for p in self.points for key, one in ((self.x_key, p.x_value), (self.y_key, p.y_value))]
        return [(point.name, key, one.status, one.reason) for point, key, one in keyed if one.status != "ok"]


def method_key(record: Record) -> str:
    """Return the name of a method in comparisons: the method, with its variant where it has one."""
    return record.method if record.variant is None else f"{record.method}-{record.variant}"


def in_set(records: Iterable[Record], score_set: str) -> list[Record]:
    """Return the records of one set; RequestError for an unknown one."""
    if score_set not in SETS:
        raise RequestError(f"unknown score set '{score_set}'. {nearest(score_set, list(SETS))}")
    return [record for record in records if score_set_of(record) == score_set]


def gather(folders: Iterable[Path]) -> list[Record]:
    """Return the published records, and those of the folders given.

    Raises:
        RequestError: for a folder that is missing or holds a broken record, and for an id that stands twice.
    """
    records = list(published.records())
    for folder in folders:
        records += load_folder(folder)
    twice = [identifier for identifier, times in Counter(record.id for record in records).items() if times > 1]
    if twice:
        raise RequestError(f"id {few([*map(repr, twice)])} stands in more than one record. Give each its own id.")
    return records


def load_folder(folder: Path) -> list[Record]:
    """Return every record below a folder, in order of the file names; other JSON files are ignored.

    A file that cannot be a record (a folder, a pipe, a broken link, gigabytes, 100,000 levels) is left out, counted and
    named on stderr, so that one bad file does not stop the board. A damaged record does: without it the board would
    look complete.

    Raises:
        RequestError: naming the files that are damaged records, and every id that two files share.
    """
    if not folder.is_dir():
        raise RequestError(f"records {folder}: there is no such folder. Give a folder of record JSON files.")
    found: dict[str, Path] = {}
    records, problems, strange = [], [], []
    for path in record_files(folder):
        try:
            record = load(path)
        except RequestError as error:
            if reason := unreadable(path):
                strange.append(f"{printable(str(path))} {reason}")
            elif looks_like_record(path):
                problems.append(str(error))
            continue
        if record.id in found:
            both = " and ".join(printable(str(one)) for one in (found[record.id], path))
            problems.append(f"id '{record.id}' stands in both {both}")
        found[record.id] = path
        records.append(record)
    if problems:
        raise RequestError(few(problems, "\n"))
    if strange:
        print(message(f"left out of {folder}, as no record: {few(strange, '; ', 1)}"), file=sys.stderr)
    return records


def record_files(folder: Path, nested: bool = True) -> list[Path]:
    """Return the JSON files in a folder (and below it) that may be records.

    Not schemas, hidden files and the attachments of records, which lie in folders `ID.evidence`.
    """
    return sorted(
        path
        for path in (folder.rglob if nested else folder.glob)("*.json")
        if not any(part.startswith(".") or part.endswith(".evidence") for part in path.relative_to(folder).parts)
        and not path.name.endswith(".schema.json")
    )


def unreadable(path: Path) -> str | None:
    """Return the reason why no JSON can be read from a file, or None; JSON that is cut off counts as readable."""
    try:
        parse_json(read_small(path))
    except OSError as error:
        return f"({error.strerror})"
    except TooDeepError as error:
        return f"({error})"
    except ValueError:
        return None
    return None


def looks_like_record(path: Path) -> bool:
    """Return True for a JSON file with the main keys of a record, and for one that is cut off: it may have been one."""
    try:
        content = parse_json(read_small(path))
    except (OSError, TooDeepError):
        return False
    except ValueError:
        return True
    return isinstance(content, dict) and len(_OUTLINE & content.keys()) >= 2


def families(names: Sequence[str]) -> tuple[str, ...]:
    """Return the family keys for names given by a user.

    Args:
        names: keys, "e2e", or a group: "latent" (rae, vae, e2e-vae), "charted" (latent and pixel), "all".
            "vae" includes the end-to-end VAEs.

    Raises:
        RequestError: for an unknown name.
    """
    keys: set[str] = set()
    for name in map(str.lower, names):
        if name not in NAMED:
            raise RequestError(f"unknown family '{name}'. {nearest(name, [*NAMED])}")
        keys.update(NAMED[name])
    return tuple(family for family in FAMILIES if family in keys)


def _candidates(records: Iterable[Record], key: str, guidance: str) -> dict[str, list[Record]]:
    """Return the records that hold a metric, by method key; guidance selects class-conditional records only."""
    found: dict[str, list[Record]] = {}
    for record in records:
        guided = record.protocol.axis != "class_conditional" or guidance_state(record) == guidance
        if guided and key in record.values:
            found.setdefault(method_key(record), []).append(record)
    return found


def check_one_protocol(records: Sequence[Record], key: str) -> None:
    """Check that all values were measured under one protocol.

    Raises:
        RequestError: naming two records and each field in which their protocols differ.
    """
    for record in records[1:]:
        if difference := protocol_difference(records[0], record, key):
            fields = few([f"{field}: {a!r} and {b!r}" for field, (a, b) in difference.items()], "; ")
            raise RequestError(
                f"mixed protocols in one comparison of {key}: '{records[0].id}' and '{record.id}' differ in {fields}. "
                "Choose records of one protocol with --select."
            )


def _chosen(records: list[Record], select: Sequence[str]) -> list[Record]:
    """Return the records selected by method key, method, title or id."""
    names = {record.id: {record.id, method_key(record), record.method, record.title} for record in records}
    known = sorted(set().union(*names.values())) if names else []
    for wanted in select:
        if wanted not in known:
            raise RequestError(f"unknown method or record '{wanted}' in --select. {nearest(wanted, known)}")
    by_id = set(select) & names.keys()
    # An id decides the record of its method on its own axis only; the other axis keeps all its records.
    settled = {(method_key(record), record.protocol.axis) for record in records if record.id in by_id}
    methods = {name for name, _ in settled}
    return [
        record
        for record in records
        if record.id in by_id
        or (
            ((method_key(record), record.protocol.axis) not in settled)
            and (method_key(record) in methods or names[record.id] & set(select))
        )
    ]


def select_points(
    records: Iterable[Record],
    x: str = "fid",
    y: str = "geneval",
    *,
    guidance: str = "none",
    score_set: str = published.PAPER,
    family: Sequence[str] = (),
    select: Sequence[str] = (),
    flagged: bool = False,
) -> Selection:
    """Return the points of two metrics over methods, within one score set and one protocol per metric.

    Args:
        records: any mixture; only those of the set are used.
        x, y: metric keys or aliases ("geneval", "simpleeval"), or a cost (`study.cost`), which is that of the network
            whose other metric is taken.
        guidance: "none" or "cfg": which class-conditional column.
        score_set: "paper-2026-06", "blog-2026-05" or "measured".
        family: families to keep (see `families`); empty: those the study charts, or all among measured records.
        select: names, titles or record ids to keep; empty: all. It overrules the default of `family`.
        flagged: whether values that a guard flags count too: in a study of your own nobody games a metric, but networks
            that are not trained far repeat themselves, and raise the guards that look for it.

    Raises:
        RequestError: for an unknown set, guidance, metric, family or name, mixed protocols, or several records
            for one method.
    """
    if guidance not in ("none", "cfg"):
        raise RequestError(f"unknown guidance '{guidance}'. Known: cfg, none.")
    pool = _with_costs(in_set(records, score_set), x, y)
    present = {key for record in pool for key in record.values}
    if not pool:
        raise RequestError(f"set '{score_set}' has no records here. Add some with --records DIR.")
    x_key, y_key = (resolve_metric(name, score_set, present) for name in (x, y))
    kept = families(family) if family else (CHARTED if score_set != MEASURED and not select else None)
    if select:
        pool = _chosen(pool, select)
    pairs, left_out = _pair(pool, x_key, y_key, guidance, kept, (*COUNTED, "flagged") if flagged else COUNTED)
    check_one_protocol([record for a, _ in pairs for record in a], x_key)
    check_one_protocol([record for _, b in pairs for record in b], y_key)
    points = tuple(_point(a, b, x_key, y_key) for a, b in pairs)
    return Selection(score_set, guidance, x_key, y_key, points, tuple(left_out))


def _point(a: Sequence[Record], b: Sequence[Record], x_key: str, y_key: str) -> Point:
    x_value, y_value = _value(a, x_key), _value(b, y_key)
    return Point(
        name=method_key(a[0]),
        title=a[0].title,
        family=a[0].family or b[0].family,
        x=x_value.value,
        y=y_value.value,
        x_record=a[0].id,
        y_record=b[0].id,
        x_value=x_value,
        y_value=y_value,
        x_runs=_runs(a, x_key),
        y_runs=_runs(b, y_key),
    )


def _with_costs(pool: list[Record], x: str, y: str) -> list[Record]:
    """Return the records with the costs that are asked for, of the networks that hold the other metric."""
    costs, others = [key for key in (x, y) if is_derived(key)], [key for key in (x, y) if not is_derived(key)]
    if not costs:
        return pool
    wanted = {ALIASES.get(key.lower(), key) for key in others} | {*others}
    return [with_derived(record, costs) if not others or wanted & record.values.keys() else record for record in pool]


def _runs(records: Sequence[Record], key: str) -> tuple[float, ...]:
    """Return a metric's value of every repeat; records of the same images count once."""
    return tuple(record.values[key].value for record in distinct(records))


def _value(records: Sequence[Record], key: str) -> Value:
    """Return a record's value with the status that holds for it, or the mean over repeats."""
    status, reason = status_of(records[0], key)
    own = records[0].values[key]
    cell = cell_of(records, key)
    if cell.n > 1:
        own = Value(value=cell.value, stderr=cell.noise, method=f"mean of {cell.n} repeats", judges=own.judges)
    return own.model_copy(update={"status": status, "reason": reason})


def _pair(
    pool: Iterable[Record], x_key: str, y_key: str, guidance: str, kept: Sequence[str] | None, counted: Sequence[str]
) -> tuple[list[tuple[list[Record], list[Record]]], list[tuple[str, str]]]:
    """Return the records of each method with both metrics, and (name, reason) of what is left out."""
    records = list(pool)
    held = {key: _candidates(records, key, guidance) for key in (x_key, y_key)}
    xs, ys = held[x_key], held[y_key]
    left_out: list[tuple[str, str]] = []
    # Methods scored under another guidance only are no candidates, but must be named.
    others = {method_key(record): record for record in records if {x_key, y_key} & record.values.keys()}
    for name, record in others.items():
        if name in xs or name in ys:
            continue
        state = {None: "not stated", "none": "none", "cfg": "cfg"}[guidance_state(record)]
        left_out.append((name, f"guidance {state}"))
    names = []
    for name in dict.fromkeys([*xs, *ys]):
        family = (xs.get(name) or ys[name])[0].family
        if kept is not None and family not in kept:
            left_out.append((name, f"family {family or 'not stated'}"))
        elif name not in xs:
            left_out.append((name, f"no {x_key} (guidance {guidance})"))
        elif name not in ys:
            left_out.append((name, f"no {y_key}"))
        else:
            names.append(name)
    for key, found in held.items():
        usable, reasons = _usable([record for name in names for record in found[name]], key, counted)
        held[key] = {name: [record for record in found[name] if record.id in usable] for name in names}
        # A method that has records left is named with the records that it lost.
        left_out += [
            (f"{name} ({record.id})" if held[key][name] else name, reasons[record.id])
            for name in names
            for record in found[name]
            if record.id in reasons
        ]
        names = [name for name in names if held[key][name]]
    return [(held[x_key][name], held[y_key][name]) for name in names], left_out


def _outnumbered(records: Sequence[Record], key: str) -> dict[str, str]:
    """Return by id why records in declared columns do not count: under another column most methods are scored."""
    groups: list[list[Record]] = []
    for record in records:
        for group in groups:
            if not protocol_difference(group[0], record, key):
                group.append(record)
                break
        else:
            groups.append([record])
    most = max(groups, key=lambda group: len({method_key(record) for record in group}), default=[])
    why = f"{key} under another protocol than that of most methods; choose it with --select"
    return {record.id: why for group in groups if group is not most for record in group}


def _usable(records: Sequence[Record], key: str, counted: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """Return the ids of the records that can be compared, and why each of the others cannot.

    Where protocols are mixed, those count that fit a declared column, if any do, and of columns that differ the one
    that most methods fill; of the settings of one method the oldest counts. So one further record takes no point from
    others.
    """
    reasons: dict[str, str] = {}
    for record in records:
        status, reason = status_of(record, key)
        if not math.isfinite(record.values[key].value):
            reasons[record.id] = f"{key} is not finite"
        elif status not in counted:
            reasons[record.id] = f"{key} is {status}: {reason}"
    left = [record for record in records if record.id not in reasons]
    if any(protocol_difference(left[0], record, key) for record in left[1:]):
        boards = [board for board in declared().values() if board.records == score_set_of(left[0])]
        columns = [column for board in boards for column in board.columns if column.key == key]
        misfits = {record.id: place_of(record, key, columns)[1] for record in left}
        if not all(misfits.values()):
            reasons |= {name: f"{key} fits no column: {why}" for name, why in misfits.items() if why}
            left = [record for record in left if record.id not in reasons]
            reasons |= _outnumbered(left, key)
            left = [record for record in left if record.id not in reasons]
    oldest: dict[str, str] = {}
    for record in sorted(left, key=lambda record: record.provenance.created or "~"):
        if oldest.setdefault(method_key(record), setting_of(record)) != setting_of(record):
            reasons[record.id] = f"{key} at another setting than the method's oldest record; choose it with --select"
    return {record.id for record in records} - reasons.keys(), reasons
