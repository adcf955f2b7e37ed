"""Keeps what judges made of images, so that scoring needs neither an image nor a judge a second time.

An evidence store is a folder beside the images, with one folder a judge: `judge.json` says which judge it is. A chunk
is a `NAME.json`, which lists its rows and the hashes of its other files: arrays as `NAME.ARRAY.npy`, as the judge gave
them, or rows of plain values as the lines of `NAME.jsonl`. The `NAME.json` is written last and alone makes a chunk
count, so several processes may add to one store at once, and a process may die at any moment.

The key of a row is (SHA-256 of the image, digest of what was asked about it): evidence survives another order of the
images, another store, and prompts that ask the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JudgeSpec, Unjudged
from diffusionbench.judges.judge import Evidence, JudgeFacts, JudgeManifest
from diffusionbench.limits import parse_json, read_small
from diffusionbench.schema import Strict, digest, file_digest
from diffusionbench.shown import first_line
from diffusionbench.writing import write_atomic

EVIDENCE: Final = "evidence"
MANIFEST: Final = "judge.json"
# Chunks whose arrays or lines are held open at once.
_OPEN: Final = 16

Keep = Literal["moments", "features"]
"""Whether arrays of features are kept on the disk; metrics of moments need none once they have seen them."""

Key = tuple[str, str]
"""SHA-256 of an image's pixels, and the digest of what was asked about it ("" for nothing)."""


class EvidenceChunk(Strict):
    """The list of a chunk.

    Attributes:
        judge: key of its facts.
        rows: keys of the rows, in their order.
        files: SHA-256 of the chunk's other files, by the ending of their names.
        sha256: over all of the above.
    """

    judge: str
    rows: tuple[Key, ...]
    files: dict[str, str]
    sha256: str

    def seal(self) -> str:
        """Return the hash that `sha256` must be."""
        return digest(self.model_dump(mode="json", exclude={"sha256"}))


class _Place(NamedTuple):
    chunk: str
    row: int


class ArrayRow(dict[str, np.ndarray]):
    """What a judge of arrays made of one image: arrays [1, ...] by name."""


def split(evidence: Evidence) -> list[Any]:
    """Return the rows of evidence, each an `ArrayRow` or what the judge said of an image."""
    if not isinstance(evidence, Mapping):
        return list(evidence)
    count = len(next(iter(evidence.values())))
    return [ArrayRow({name: array[row : row + 1] for name, array in evidence.items()}) for row in range(count)]


def join(rows: Sequence[Any]) -> Evidence:
    """Return rows as evidence: `split` undone."""
    if not isinstance(rows[0], ArrayRow):
        return list(rows)
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def question_digest(questions: Sequence[str]) -> str:
    """Return the second part of a row's key."""
    return digest(list(questions)) if questions else ""


class EvidenceStore:
    """One folder of evidence, or none, where nothing is kept; see the module."""

    def __init__(self, folder: Path | None, keep: Keep = "features") -> None:
        self.folder = folder
        self._keep = keep
        self._places: dict[str, dict[Key, _Place]] = {}
        # Rows that are in memory alone, with the judge and its self-test.
        self._held: dict[str, tuple[JudgeFacts, str | None, dict[Key, Any]]] = {}
        self._opened: OrderedDict[tuple[str, str], Mapping[str, np.ndarray] | list[bytes]] = OrderedDict()

    def keeps(self, row: JudgeSpec) -> bool:
        """Return whether evidence of a judge is kept here."""
        return self.folder is not None and row.kept and (self._keep == "features" or row.output == "rows")

    def judges(self) -> list[JudgeManifest]:
        """Return the judges of whom evidence is here, in order of folders; what is no manifest is left out."""
        found = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")) if self.folder else ():
            try:
                found.append(JudgeManifest.model_validate_json(read_small(path, 2**20)))
            except (OSError, ValidationError):
                continue
        return found

    def known(self, judge: JudgeFacts, keys: Sequence[Key]) -> list[bool]:
        """Return which rows are here."""
        places, held = self._index(judge), self._held_rows(judge)
        return [key in places or key in held for key in keys]

    def read(self, judge: JudgeFacts, keys: Sequence[Key]) -> Evidence:
        """Return rows that are here, in the order asked for.

        Raises:
            KeyError: if one is not here.
        """
        places, held = self._index(judge), self._held_rows(judge)
        return join([held[key] if key in held else self._stored(judge, places[key]) for key in keys])

    def hold(self, judge: JudgeFacts, keys: Sequence[Key], evidence: Evidence, self_test: str | None = None) -> None:
        """Take the evidence of some rows into memory, until `flush` keeps it."""
        self._held.setdefault(judge.key, (judge, self_test, {}))[2].update(zip(keys, split(evidence), strict=True))

    def flush(self) -> None:
        """Keep what is held, one chunk for each judge."""
        held, self._held = self._held, {}
        for judge, self_test, rows in held.values():
            self.add(judge, [*rows], join([*rows.values()]), self_test)

    def _held_rows(self, judge: JudgeFacts) -> Mapping[Key, Any]:
        return self._held[judge.key][2] if judge.key in self._held else {}

    def _stored(self, judge: JudgeFacts, place: _Place) -> Any:
        opened = self._open(judge, place.chunk)
        if not isinstance(opened, list):
            return ArrayRow({name: array[place.row : place.row + 1] for name, array in opened.items()})
        row = parse_json(opened[place.row])
        return Unjudged(row["unjudged"]) if "unjudged" in row else row["row"]

    def add(self, judge: JudgeFacts, keys: Sequence[Key], evidence: Evidence, self_test: str | None = None) -> None:
        """Keep the evidence of some rows as one chunk.

        Raises:
            RequestError: if it cannot be kept as it is: rows that are no plain JSON.
        """
        if self.folder is None:
            return
        folder, files = self._folder(judge), _files(judge.name, evidence)
        if not (folder / MANIFEST).exists():
            manifest = JudgeManifest(facts=judge, self_test=self_test)
            write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        chunk = EvidenceChunk(
            judge=judge.key,
            rows=tuple(keys),
            files={ending: hashlib.sha256(data).hexdigest() for ending, data in files.items()},
            sha256="",
        )
        chunk = chunk.model_copy(update={"sha256": chunk.seal()})
        name = digest([list(key) for key in keys])[:16]
        for ending, data in files.items():
            write_atomic(folder / f"{name}.{ending}", data)
        write_atomic(folder / f"{name}.json", chunk.model_dump_json() + "\n")
        places = self._index(judge)
        for row, key in enumerate(keys):
            places.setdefault(key, _Place(name, row))

    def adopt(self, other: EvidenceStore) -> None:
        """Copy what another store holds and this one lacks."""
        assert self.folder is not None
        for manifest in other.judges():
            source, target = other._folder(manifest.facts), self._folder(manifest.facts)
            if not (target / MANIFEST).exists():
                write_atomic(target / MANIFEST, (source / MANIFEST).read_bytes())
            own = {place.chunk for place in self._index(manifest.facts).values()}
            for name in sorted({place.chunk for place in other._index(manifest.facts).values()} - own):
                copy_files(source, target, name)
        self._places.clear()

    def _folder(self, judge: JudgeFacts) -> Path:
        assert self.folder is not None
        return self.folder / f"{judge.name}-{judge.key[:16]}"

    def _index(self, judge: JudgeFacts) -> dict[Key, _Place]:
        """Return where the rows of a judge lie; those of damaged chunks, or of another judge's, are not there."""
        if judge.key not in self._places:
            found = self._places[judge.key] = {}
            for name, chunk in self._chunks(judge) if self.folder else ():
                for row, key in enumerate(chunk.rows):
                    found.setdefault(key, _Place(name, row))
        return self._places[judge.key]

    def _chunks(self, judge: JudgeFacts) -> Iterator[tuple[str, EvidenceChunk]]:
        folder = self._folder(judge)
        for path in sorted(folder.glob("*.json")):
            if path.name == MANIFEST:
                continue
            try:
                chunk = EvidenceChunk.model_validate_json(read_small(path))
                files = {ending: folder / f"{path.stem}.{ending}" for ending in chunk.files}
                whole = chunk.sha256 == chunk.seal() and chunk.judge == judge.key
                whole = whole and all(file_digest(file) == chunk.files[ending] for ending, file in files.items())
            except (OSError, ValidationError):
                continue
            if whole:
                yield path.stem, chunk

    def _open(self, judge: JudgeFacts, name: str) -> Mapping[str, np.ndarray] | list[bytes]:
        """Return the arrays of a chunk, mapped into memory, or its lines; the last few stay open."""
        place = (judge.key, name)
        if place not in self._opened:
            folder = self._folder(judge)
            lines, arrays = folder / f"{name}.jsonl", sorted(folder.glob(f"{name}.*.npy"))
            try:
                if lines.exists():
                    self._opened[place] = lines.read_bytes().splitlines()
                else:
                    self._opened[place] = {path.name.split(".")[1]: np.load(path, mmap_mode="r") for path in arrays}
            except (OSError, ValueError) as error:
                raise DataError(
                    f"evidence {folder / name} was damaged while it was in use ({first_line(error)}). Run the same "
                    "command again."
                ) from None
        self._opened.move_to_end(place)
        while len(self._opened) > _OPEN:
            self._opened.popitem(last=False)
        return self._opened[place]


def copy_files(source: Path, target: Path, name: str) -> None:
    """Copy the files `name.*` of a chunk from one folder to another with their times, the list last."""
    for file in sorted(source.glob(f"{name}.*"), key=lambda file: file.suffix == ".json"):
        with file.open("rb") as data:
            write_atomic(target / file.name, lambda to, data=data: shutil.copyfileobj(data, to))  # type: ignore[misc]
        shutil.copystat(file, target / file.name)


def _files(judge: str, evidence: Evidence) -> dict[str, bytes]:
    """Return the content of a chunk's files by the ending of their names."""
    if isinstance(evidence, Mapping):
        files = {}
        for name, rows in evidence.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(rows), allow_pickle=False)
            files[f"{name}.npy"] = buffer.getvalue()
        return files
    return {"jsonl": "".join(f"{line_of(judge, row)}\n" for row in evidence).encode()}


def line_of(judge: str, row: Mapping[str, Any] | Unjudged, about: Mapping[str, Any] | None = None) -> str:
    """Return a row of evidence, behind what is `about` it, as a line of JSON from which an equal row is read back.

    Raises:
        RequestError: if there is none.
    """
    wrapped = {**(about or {}), **({"unjudged": row.reason} if isinstance(row, Unjudged) else {"row": row})}
    try:
        line = json.dumps(wrapped, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        fault = None if json.loads(line) == wrapped else "it reads back as another value"
    except (TypeError, ValueError) as error:
        fault = first_line(error)
    if fault is not None:
        raise RequestError(
            f"judge '{judge}' returned a row that cannot be kept as JSON ({fault}). Correct the judge: rows are plain "
            "numbers, texts, lists and mappings by name."
        )
    return line
