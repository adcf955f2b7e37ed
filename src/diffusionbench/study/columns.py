"""The declared boards (`boards.yaml`): their columns, and which column a value fits.

A column is a metric, guided or not, with the fields of the protocol that it insists on. Records are matched against
columns and never make one, so no record changes the columns or the ranks of others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from diffusionbench.catalog import direction, metric_info
from diffusionbench.errors import RequestError
from diffusionbench.limits import read_small
from diffusionbench.metrics import METRICS
from diffusionbench.protocol import COMPARED, LOSSLESS
from diffusionbench.record import JudgeUsed, Protocol, Record, ReferenceUsed, Status, breaches
from diffusionbench.registry import nearest
from diffusionbench.schema import Strict
from diffusionbench.shown import clipped, few, first_line, printable, short_hashes
from diffusionbench.study import published

BOARDS: Final = Path(__file__).with_name("boards.yaml")
MEASURED: Final = "measured"
SETS: Final = (*published.SCORE_SETS, MEASURED)
#: Bytes of the longest file of boards.
MOST: Final = 262_144
#: Stands for any content but null.
STATED: Final = "stated"
#: Stands for every image format that keeps each pixel, and for none.
KEEPS_PIXELS: Final = "lossless"
_SUFFIX: Final = {None: "", "none": "", "cfg": "@cfg"}
_WORDS: Final = {"none": "none", "cfg": "guided", None: "not stated"}

Scalar = str | int | float | bool | None
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
Guided = Literal["none", "cfg"]


class ColumnGroup(Strict):
    """Columns that share all but metric and guidance; `boards.yaml` says what each field means."""

    metrics: tuple[str, ...] = Field(min_length=1)
    guidance: tuple[Guided, ...] = ()
    title: str | None = None
    axis: str | None = None
    suffix: Annotated[str, Field(pattern="^[a-z0-9_]*$")] = ""
    judges: tuple[str, ...] = ()
    references: dict[str, str] = {}
    protocol: dict[str, Scalar | tuple[Scalar, ...]] = {}
    rank: bool = False
    shown: bool = False

    @field_validator("protocol")
    @classmethod
    def _fields(cls, protocol: Mapping[str, Any]) -> Mapping[str, Any]:
        for path in protocol:
            head, *rest = path.split(".")
            parts = {"judges": JudgeUsed.model_fields, "references": ReferenceUsed.model_fields}.get(head)
            known = head in Protocol.model_fields and ((len(rest) == 2 and rest[1] in parts) if parts else not rest)
            if not known:
                names = [*Protocol.model_fields, "judges.NAME.digest", "references.NAME.digest"]
                raise ValueError(f"no field of a protocol is called '{path}'. {nearest(path, names)}")
        return protocol


class Accepted(Strict):
    """SHA-256 digests that columns insist on, by the name of the judge or of the reference."""

    judges: dict[str, tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...]] = {}
    references: dict[str, tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...]] = {}


class DeclaredBoard(Strict):
    """One version of one board as the file declares it."""

    name: Name
    version: int = Field(ge=1)
    title: str
    about: str = ""
    records: str
    statuses: tuple[Literal["ok", "provisional"], ...] = ("ok",)
    columns: tuple[ColumnGroup, ...] = Field(min_length=1)

    @field_validator("records")
    @classmethod
    def _known_set(cls, records: str) -> str:
        if records not in SETS:
            raise ValueError(f"unknown set '{records}'. {nearest(records, list(SETS))}")
        return records


class BoardFile(Strict):
    """A file of declared boards."""

    accepted: Accepted = Accepted()
    boards: tuple[DeclaredBoard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> BoardFile:
        versions = [(board.name, board.version) for board in self.boards]
        if twice := [one for one in versions if versions.count(one) > 1]:
            raise ValueError(f"board '{twice[0][0]}' has version {twice[0][1]} twice. Give each its own number.")
        for board in self.boards:
            ids = [column.id for column in _columns(board, self.accepted)]
            if repeated := [name for name in ids if ids.count(name) > 1]:
                raise ValueError(f"board '{board.name}' declares column '{repeated[0]}' twice. Declare each once.")
        return self


@dataclass(frozen=True)
class Column:
    """One metric under the fields of the protocol that it insists on.

    Attributes:
        id: metric key, with "@cfg" where guided.
        rules: accepted contents by field of the protocol, such as {"count": (50000,)}.
        rank: whether it counts towards the mean rank.
        shown: whether it is a headline column.
    """

    id: str
    key: str
    axis: str
    title: str
    higher_is_better: bool | None
    guidance: Guided | None = None
    rules: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    rank: bool = False
    shown: bool = False

    def misfits(self, record: Record) -> list[str]:
        """Return why a record's value of this metric does not belong into the column; empty where it fits."""
        protocol = record.protocol
        found = []
        if protocol.axis != self.axis:
            found.append(f"axis is {protocol.axis} (the column's is {self.axis})")
        if self.guidance is not None and (state := guidance_state(record)) != self.guidance:
            found.append(f"guidance is {_WORDS[state]} (the column's is {_WORDS[self.guidance]})")
        for path, accepted in self.rules.items():
            content = _content(protocol, path)
            if not _accepts(accepted, content):
                found.append(f"{path} is {_shown(content)} ({_wanted(accepted)})")
        return found


@dataclass(frozen=True, kw_only=True)
class BoardSpec:
    """One board with its columns in the order declared.

    Attributes:
        records: the set of records that it reads: a published one, or "measured".
        statuses: of the values that take a place.
    """

    name: str
    version: int
    title: str
    about: str
    records: str
    statuses: tuple[Status, ...]
    columns: tuple[Column, ...]


def guidance_state(record: Record) -> Guided | None:
    """Return "cfg" for guided images, "none" for unguided ones; None where the record does not say.

    A tuned scale counts as guided also where the best one turned out to be none.
    """
    guidance, tuned = record.protocol.guidance, record.protocol.tuning is not None
    if guidance is None:
        return None
    return "none" if guidance.scale == 1.0 and guidance.internal is None and not tuned else "cfg"


def score_set_of(record: Record) -> str:
    """Return the set a record belongs to: the published one it was printed in, or "measured"."""
    return record.protocol.name if record.kind == "published" else MEASURED


def read_file(path: Path) -> BoardFile:
    """Return a file of boards, checked.

    Raises:
        RequestError: if it cannot be read or breaks the schema; every breach is named.
    """
    where = f"boards {printable(str(path))}"
    try:
        text = read_small(path, MOST).decode()
        # A few hundred bytes of aliases unfold to more than memory holds.
        if re.search(r"(^|[\s\[{,:-])[&*][A-Za-z0-9]", text):
            raise RequestError(f"{where}: anchors and aliases (& and *) are not read. Write the content out.")
        return BoardFile.model_validate(YAML(typ="safe").load(text))
    except OSError as error:
        raise RequestError(f"{where}: {error.strerror}. Give the path of a YAML file of boards.") from None
    except ValidationError as error:
        raise RequestError(f"{where}: {few(breaches(error), '; ')}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        reason = first_line(error)
        raise RequestError(f"{where} is no YAML: {reason}. See diffusionbench/study/boards.yaml.") from None


def read_boards(path: Path = BOARDS) -> tuple[BoardSpec, ...]:
    """Return the boards of a file; errors as in `read_file`, order as in `boards_of`."""
    return boards_of(read_file(path))


def boards_of(file: BoardFile) -> tuple[BoardSpec, ...]:
    """Return the newest version of every board that a file declares, then the older ones as "name@version"."""
    newest = {board.name: max(one.version for one in file.boards if one.name == board.name) for board in file.boards}
    found = [
        BoardSpec(
            name=board.name if board.version == newest[board.name] else f"{board.name}@{board.version}",
            version=board.version,
            title=board.title,
            about=board.about,
            records=board.records,
            statuses=board.statuses,
            columns=tuple(_columns(board, file.accepted)),
        )
        for board in file.boards
    ]
    return tuple(sorted(found, key=lambda board: "@" in board.name))


@cache
def accepted() -> Accepted:
    """Return the digests that the boards of this package accept."""
    return read_file(BOARDS).accepted


@cache
def declared() -> dict[str, BoardSpec]:
    """Return the boards of this package by name, in the order declared; older versions last."""
    return {board.name: board for board in read_boards()}


def board_spec(name: str) -> BoardSpec:
    """Return a declared board by its name; RequestError for an unknown one."""
    if name not in declared():
        raise RequestError(f"unknown board '{name}'. {nearest(name, list(declared()))}")
    return declared()[name]


def board_like(record: Record) -> BoardSpec:
    """Return a board of the scores of a record, which holds what compares with it; the first one ranks."""
    protocol, columns = record.protocol, list[Column]()
    keeps_pixels = protocol.image_format is None or {*protocol.image_format.split("+")} <= LOSSLESS
    for key, value in record.values.items():
        if (better := direction(key, value)) is None:
            continue
        rules = {name: (getattr(protocol, name),) for name in COMPARED}
        if keeps_pixels:
            rules["image_format"] = (KEEPS_PIXELS,)
        for part, fields in (("judges", JudgeUsed.model_fields), ("references", ReferenceUsed.model_fields)):
            if part == "references" and key in METRICS and not METRICS[key].reference:
                continue
            held = getattr(protocol, part)
            names = [name for name in value.judges or held if name in held]
            rules |= {f"{part}.{name}.{one}": (getattr(held[name], one),) for name in names for one in fields}
        info, first = metric_info(key), not columns
        columns.append(Column(plain_id(key), key, protocol.axis, info.title, better, None, rules, first, shown=True))
    if not columns:
        raise RequestError(f"record '{record.id}' holds no value that can be ranked. Name another one.")
    return BoardSpec(
        name=f"like {record.id}",
        version=1,
        title=f"Like {record.title}",
        about=f"What compares with record {record.id}.",
        records=score_set_of(record),
        statuses=("ok",),
        columns=tuple(columns),
    )


def place_of(
    record: Record, key: str, columns: Sequence[Column], known: dict[object, list[str]] | None = None
) -> tuple[Column | None, str]:
    """Return the column that a record's value fits, or None and why it does not fit the nearest one.

    Args:
        columns: those of the metric.
        known: what was found of the record already; columns of one group insist on the same.
    """
    known = {} if known is None else known
    misfits = []
    for column in columns:
        same = (id(column.rules), column.axis, column.guidance)
        if same not in known:
            known[same] = column.misfits(record)
        misfits.append((known[same], column))
    if not misfits:
        return None, f"no column holds {key}"
    reasons, nearest_column = min(misfits, key=lambda pair: len(pair[0]))
    return (None, "; ".join(reasons)) if reasons else (nearest_column, "")


def plain_id(key: str) -> str:
    """Return a metric as the id of a column; one of another package called "fid@cfg" must not take that column's id."""
    return re.sub(r"[@\[\]#]", "_", key)


def _columns(board: DeclaredBoard, accepted: Accepted) -> list[Column]:
    found = []
    for group in board.columns:
        rules: dict[str, tuple[Scalar, ...]] = {
            **{f"judges.{name}.digest": accepted.judges.get(name, ()) for name in group.judges},
            **{f"references.{of}.digest": accepted.references.get(name, ()) for of, name in group.references.items()},
            **{path: one if isinstance(one, tuple) else (one,) for path, one in group.protocol.items()},
        }
        for guidance, key in product(group.guidance or (None,), group.metrics):
            info = metric_info(key)
            title = (group.title or "{}").replace("{}", info.title) + (", guided" if guidance == "cfg" else "")
            better = METRICS[key].higher_is_better if key in METRICS else info.higher_is_better
            identifier = plain_id(key) + _SUFFIX[guidance] + (f"#{group.suffix}" if group.suffix else "")
            axis = group.axis or info.axis or ("class_conditional" if guidance else "t2i")
            found.append(Column(identifier, key, axis, title, better, guidance, rules, group.rank, group.shown))
    return found


def _accepts(accepted: Sequence[Scalar], content: Any) -> bool:
    if accepted == (STATED,):
        return content is not None
    if accepted == (KEEPS_PIXELS,):
        return content is None or {*str(content).split("+")} <= LOSSLESS
    return content in accepted


def _content(protocol: Protocol, path: str) -> Any:
    head, *rest = path.split(".")
    found = getattr(protocol, head)
    for part in rest:
        found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
    return found


def _shown(content: Any) -> str:
    return "not stated" if content is None else clipped(short_hashes(str(content)), 40)


def _wanted(accepted: Sequence[Scalar]) -> str:
    if not accepted:
        return "the column accepts none yet"
    if accepted == (STATED,):
        return "the column insists on one"
    if accepted == (KEEPS_PIXELS,):
        return f"the column insists on {few(sorted(LOSSLESS), ' or ', 9)}"
    return "the column insists on " + few([_shown(one) for one in accepted], " or ", 3)
