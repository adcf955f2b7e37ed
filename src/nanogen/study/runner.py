"""Runs the cells of a study one after another; killed at any moment, the same command continues.

A cell is `nanogen train`, then `nanogen sweep` where guidance is chosen and `nanogen eval` elsewhere, each a process of
its own: what kills one leaves the study standing. What is finished stands in `cells/NAME/state.json`, written last.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from diffusionbench.errors import CheckpointError, RunError, Stopped, UserError, lacking
from diffusionbench.limits import read_small
from diffusionbench.record import Record, load
from diffusionbench.schema import Strict
from diffusionbench.shown import few
from diffusionbench.writing import free_bytes, make_folder, remove, write_atomic, write_errors
from nanogen import run as runs
from nanogen.config import differences, reload
from nanogen.lock import locked
from nanogen.plan import read_config
from nanogen.stop import Stop
from nanogen.study.file import StudyCell, StudyFile
from nanogen.study.planning import CellPlan
from nanogen.study.records import cell_records, short

MARK: Final = "study.json"
Tell = Callable[[str, str, str], None]
"""Called with a cell's name, its state in words, and the newest score."""

# Seconds between two looks at a cell, and how often it waits for another process to leave its run folder.
_LOOK, _WAITS = 0.5, 60
_BUSY = "is in use by process"


class CellState(Strict):
    """What is known of a cell that ended: its config, the ids of its records, and the error of a failed one."""

    state: Literal["done", "failed"]
    config: dict[str, Any]
    records: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study: `cells`, `runs`, `records`, then `site` and `report.md`."""

    path: Path

    def open(self, study: StudyFile) -> None:
        """Make the folder, or check that an existing one is this study's; CheckpointError if it is another's."""
        mark, content = self.path / MARK, study.model_dump(mode="json")
        if mark.exists():
            try:
                there = json.loads(read_small(mark))
                owner = (there["name"], there["scale"])
            except (OSError, ValueError, KeyError, TypeError):
                raise CheckpointError(f"{mark} is damaged. Restore it, or use another folder (--run NAME).") from None
            if owner != (study.name, study.scale):
                raise CheckpointError(
                    f"{self.path} belongs to study '{owner[0]}' at scale {owner[1]}; asked is '{study.name}' at scale "
                    f"{study.scale}. Use another folder (--run NAME)."
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise CheckpointError(f"{self.path} exists and is no study's folder. Use another one (--run NAME).")
        with write_errors(self.path, "Choose another folder (--run PATH).", CheckpointError):
            write_atomic(mark, json.dumps(content, indent=2) + "\n")

    def run(self, cell: StudyCell) -> Path:
        return self.path / "runs" / cell.name

    def place(self, cell: StudyCell) -> Path:
        """Folder of state, log and lock of a cell."""
        return self.path / "cells" / cell.name

    def state(self, cell: StudyCell) -> CellState | None:
        """Return how a cell ended; None where it has not, or the file is cut off."""
        try:
            return CellState.model_validate_json(read_small(self.place(cell) / "state.json"))
        except (OSError, ValueError, ValidationError):
            return None

    def is_done(self, cell: StudyCell) -> bool:
        """Return whether a cell is finished and all its records are there."""
        state = self.state(cell)
        return state is not None and state.state == "done" and all(self.record(name).exists() for name in state.records)

    def record(self, name: str) -> Path:
        return self.path / "records" / f"{name}.json"

    def keep(self, cell: StudyCell, state: CellState) -> None:
        write_atomic(self.place(cell) / "state.json", state.model_dump_json(indent=2) + "\n")

    def forget(self, cell: StudyCell) -> None:
        """Remove all that a cell has left: its run, state and records."""
        with self.held(cell):
            known = self.state(cell)
            for name in known.records if known else ():
                remove(self.record(name))
            remove(self.run(cell))
            remove(self.place(cell) / "state.json")

    @contextmanager
    def held(self, cell: StudyCell) -> Iterator[None]:
        """Hold a cell against other processes; CheckpointError where one has it."""
        make_folder(self.place(cell))
        with locked(self.place(cell)):
            yield

    def records_of(self, cell: StudyCell) -> list[Record]:
        """Return the records of a cell that are there, its score first."""
        state = self.state(cell)
        return [load(self.record(name)) for name in (state.records if state else ()) if self.record(name).exists()]

    def records(self) -> list[Record]:
        """Return the records of finished cells."""
        return [load(path) for path in sorted((self.path / "records").glob("*.json"))]

    def check(self, cells: Sequence[StudyCell]) -> None:
        """Refuse cells of another config; CheckpointError with the keys that differ."""
        problems = []
        for cell in cells:
            state = self.state(cell)
            try:
                if state is not None and state.state == "done":
                    there = reload(state.config, str(self.place(cell)))
                else:
                    there = read_config(self.run(cell))
            except UserError:
                # There is none, or the training itself says what is wrong with its folder, or restores it.
                continue
            found = differences(there, cell.composed.config).items()
            # What is counted in the data stands in a run's config, in its place "auto" in the composed one.
            other = [
                f"{key}: {old} there, {new} asked"
                for key, (old, new) in found
                if new != "auto" and not key.startswith(runs.RESUMABLE_KEYS)
            ]
            if other:
                problems.append(f"{cell.name} ({few(other, '; ', 3)})")
        if problems:
            raise CheckpointError(
                f"{self.path}: {len(problems)} cell(s) were trained under another config: {few(problems, '; ')}. Use "
                f"the same values, another folder (--run NAME), or measure them anew (--fresh CELL)."
            )

    def check_room(self, plans: Sequence[CellPlan]) -> None:
        """Refuse to start where the disk does not hold what is left to do; CheckpointError with what is needed."""
        needed, free = sum(plan.num_bytes for plan in plans), free_bytes(self.path)
        if free < needed:
            raise CheckpointError(
                f"{self.path}: {free / 1e9:.1f} GB are free, and {len(plans)} cell(s) need {needed / 1e9:.1f} GB. Make "
                "room, choose another disk (--run PATH), or fewer cells (--only)."
            )


def run_cells(
    study: StudyFile, cells: Sequence[StudyCell], folder: StudyFolder, launch: Sequence[str], tell: Tell
) -> dict[str, str]:
    """Run what is not finished, one cell at a time; a cell that fails is named, and the rest goes on.

    Args:
        launch: words before "train", "sweep" and "eval", such as those of torchrun; empty: this Python.

    Returns:
        What is wrong, by the cell's name; "" where another process has the cell.

    Raises:
        Stopped: by a signal, after the cell's process has written its checkpoint.
    """
    failed: dict[str, str] = {}
    with Stop():
        for cell in cells:
            if folder.is_done(cell):
                tell(cell.name, "done", "")
                continue
            try:
                with folder.held(cell):
                    _run_cell(study, cell, folder, launch, tell)
            except CheckpointError as error:
                elsewhere = _BUSY in str(error)
                failed[cell.name] = "" if elsewhere else str(error)
                tell(cell.name, "in use elsewhere" if elsewhere else "failed", "")
            except Stopped:
                raise
            except (UserError, RunError, OSError) as error:
                failed[cell.name] = str(lacking(error) or error)
                tell(cell.name, "failed", "")
    return failed


def _run_cell(study: StudyFile, cell: StudyCell, folder: StudyFolder, launch: Sequence[str], tell: Tell) -> None:
    """Train, tune and score one cell, and write its records; RunError with what the cell's process said last."""
    started, path, config = time.monotonic(), folder.run(cell), cell.composed.config
    train = ["train", *cell.words, "--run-dir", str(path)]
    protocol = study.protocol
    num = [] if protocol.num is None else ["--num", str(protocol.num)]
    score = ["eval", str(path), "--json"]
    if cell.tunes:
        search = ["--evaluations", str(protocol.evaluations), "--high", f"{protocol.high:g}"]
        score = ["sweep", str(path), *search, *num, "--json"]
    state = partial(CellState, config=config.model_dump(mode="json"))
    try:
        _child(cell, folder, [*launch, *train], partial(tell, cell.name, "training"))
        out = _child(cell, folder, [*launch, *score], partial(tell, cell.name, "scoring"))
        records = cell_records(study, cell, runs.read(path), json.loads(out)["id"], shlex.join(["nanogen", *train]))
        for record in records:
            record.save(folder.record(record.id))
    except Stopped:
        raise
    except (UserError, RunError, OSError, ValueError) as error:
        folder.keep(cell, state(state="failed", seconds=time.monotonic() - started, error=str(error)))
        raise
    names = tuple(record.id for record in records)
    folder.keep(cell, state(state="done", records=names, seconds=time.monotonic() - started))
    tell(cell.name, "done", "")


def _child(cell: StudyCell, folder: StudyFolder, words: Sequence[str], tell: Callable[[str], None]) -> str:
    """Run a program to its end and return its stdout; its stderr goes into the log, its last sentence into RunError."""
    place = folder.place(cell)
    for _ in range(_WAITS):
        with (place / "log.txt").open("a+b") as said, (place / "out.txt").open("w+b") as out:
            begin = said.seek(0, os.SEEK_END)
            said.write(f"$ {shlex.join(words)}\n".encode())
            said.flush()
            with _process(words, out, said) as process:
                while process.poll() is None:
                    tell("")
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK)
            said.seek(begin)
            text = said.read().decode(errors="replace")
            out.seek(0)
            printed = out.read().decode(errors="replace")
        (place / "out.txt").unlink()
        if process.returncode == 0:
            return printed
        if _BUSY not in short(text):
            break
        # What an earlier command left behind, which is writing its last checkpoint.
        time.sleep(_LOOK * 4)
    reason = f"it was ended by signal {-process.returncode}" if process.returncode < 0 else short(text)
    raise RunError(f"{cell.name}: {reason.rstrip('.')}. Its log is {place / 'log.txt'}.")


@contextmanager
def _process(words: Sequence[str], out: Any, said: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that is asked to end where this one does, or where the block is left early."""

    def end_with_parent() -> None:
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)

    # In a session of its own: Ctrl-C reaches it through us, once.
    streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": said}
    process = subprocess.Popen(words, **streams, start_new_session=True, preexec_fn=end_with_parent)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
