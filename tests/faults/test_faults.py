"""Killed or out of space at any file operation, a command that is started again ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from commands import COMMANDS, Command
from operations import GROWING, KILLED, Operation, Outcome, execute

# Keys of JSON: wall time, dates, and hashes of files with a random name or order in them. All else must be equal.
HONEST = {
    "time",
    "mtime",
    "images_per_second",
    "model_flops_utilisation",
    *(f"time/{part}" for part in ("data", "encode", "forward", "backward", "optimizer", "ema")),
    "created",
    "wall_seconds",
    "device_hours",
    "seconds",
    "state/.metadata",
    "ema.safetensors",
}


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told apart by Linux' /proc")


class Campaign:
    """A command, its folder as prepared, and what an undisturbed run of it leaves."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder, self.prepared = command, folder, folder / "prepared"
        for package in command.needs:
            pytest.importorskip(package, reason=f"the package {package} is not installed")
        self.prepared.mkdir()
        self.command.prepare(self.prepared)
        self.fresh()
        self.undisturbed = self.run()
        assert self.undisturbed.code == 0, self.undisturbed.said
        self.expected = contents(self.work)
        # What a second start made of what a fault left: many faults leave the same.
        self.outcomes: dict[str, str | None] = {}

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def fresh(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.prepared, self.work, symlinks=True)

    def run(self, at: int | None = None, how: str = "kill") -> Outcome:
        program, *arguments = self.command.words
        return execute(program, arguments, self.work, self.folder / "said.txt", at, how)

    def kept(self) -> int:
        """How many images there is evidence of."""
        lists = self.work.glob("store/*/evidence/*/[0-9a-f]*.json")
        return sum(len(json.loads(path.read_text())["rows"]) for path in lists)

    def strike(self, at: int, how: str) -> str | None:
        """What is wrong after a fault at one operation and another start; None where nothing is."""
        self.fresh()
        struck = self.run(at=at, how=how)
        if "Traceback" in struck.said or (how == "kill") != (struck.code == KILLED):
            return f"ended with {struck.code}: {struck.said[-500:]}"
        left = left_behind(self.work)
        if left not in self.outcomes:
            self.outcomes[left] = self.start_again()
        return self.outcomes[left]

    def start_again(self) -> str | None:
        """What is wrong after a second start; None where nothing is."""
        kept = self.kept()
        again = self.run()
        if again.code:
            return f"was refused when started again: {again.said[-500:]}"
        if self.command.judges and again.judged + kept != self.undisturbed.judged:
            return f"judged {again.judged} images with evidence of {kept}, and {self.undisturbed.judged} there are"
        return difference(self.expected, contents(self.work))


def contents(folder: Path) -> dict[str, Any]:
    """Every path below a folder, with what may not differ of it."""
    return {
        str(path.relative_to(folder)): _content(path) if path.is_file() else None for path in sorted(folder.rglob("*"))
    }


def left_behind(folder: Path) -> str:
    """A hash of the same, without the random part of unfinished files' names."""
    found = contents(folder).items()
    parts = sorted((re.sub(r"[0-9a-f]{16}\.tmp", "tmp", name), repr(content)) for name, content in found)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _content(path: Path) -> Any:
    data = path.read_bytes()
    try:
        return _compared(path, data)
    except (ValueError, EOFError, pickle.UnpicklingError):
        # Half of a file.
        return data


def _compared(path: Path, data: bytes) -> Any:
    if path.name == ".metadata":
        # Of torch's checkpoints; it also holds a random name of this one.
        return repr(pickle.loads(data).state_dict_metadata)
    if path.suffix == ".safetensors":
        # Its header is written in no order.
        end = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:end]), data[end:]
    if path.suffix == ".jsonl":
        return [_honest(json.loads(line)) for line in data.splitlines()]
    return _honest(json.loads(data)) if path.suffix == ".json" else data


def _honest(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _honest(one) for key, one in value.items() if key not in HONEST}
    return [_honest(one) for one in value] if isinstance(value, list) else value


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    changed = [name for name in expected.keys() & found.keys() if expected[name] != found[name]]
    parts = [("missing", missing), ("surplus", surplus), ("different", changed)]
    return "; ".join(f"{what} {', '.join(sorted(names))}" for what, names in parts if names) or None


def points(campaign: Campaign, how: str) -> Iterator[int]:
    """The operations to strike; of many writes to one file in a row the first and the last."""
    operations = campaign.undisturbed.operations
    for number, operation in enumerate(operations):
        if operation.kind == "write" and operations[number - 1 : number + 2].count(operation) == 3:
            continue
        if how == "kill" or operation.kind in GROWING:
            yield number


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield cache(lambda name: Campaign(COMMANDS[name], tmp_path_factory.mktemp("faults")))


def check(campaign: Campaign, how: str, step: int, quarter: slice = slice(None)) -> None:
    operations = campaign.undisturbed.operations
    wrong = []
    for number in [*points(campaign, how)][quarter][step // 2 :: step]:
        if problem := campaign.strike(number, how):
            wrong.append(f"{how} at {number} of {len(operations)} ({operations[number]}): {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize("name", COMMANDS)
def test_some_operations(campaigns, name, how):
    campaign = campaigns(name)
    check(campaign, how, max(1, len([*points(campaign, how)]) // campaign.command.quick))


# In quarters, each of which can be started alone: -k "every_operation and make and kill and quarter1".
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("quarter", range(4), ids="quarter{}".format)
@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_operation(campaigns, name, how, quarter):
    campaign = campaigns(name)
    count = len([*points(campaign, how)])
    check(campaign, how, campaign.command.every, slice(count * quarter // 4, count * (quarter + 1) // 4))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_power_cut_loses_nothing(campaigns, name):
    assert not [*undurable(campaigns(name).undisturbed.operations)]


def undurable(operations: Sequence[Operation]) -> Iterator[str]:
    """What a power cut may lose: content that is not on the disk when it gets its name, the new when the old is
    removed, and either when the command has ended."""
    # By path, which thread it waits for.
    content: dict[str, str] = {}
    names: dict[str, str] = {}
    known: set[str] = set()
    for one in operations:
        if Path(one.path).name == ".lock":
            # Nobody holds it after a power cut.
            continue
        # Nobody misses a hidden name: it is on its way to its own, or out.
        hidden = Path(one.other or one.path).name.startswith(".")
        if one.kind in ("open", "write"):
            content[one.path] = one.thread
        if one.kind in ("open", "mkdir") and one.path not in known and not hidden:
            names[str(Path(one.path).parent)] = one.thread
        elif one.kind == "fsync":
            content.pop(one.path, None)
            names.pop(one.path, None)
        elif one.kind in ("rename", "exchange"):
            if open_ := {path for path in content | names if f"{path}/".startswith(f"{one.path}/")}:
                yield f"{one}: {', '.join(sorted(open_))} not on the disk"
            known.add(one.other)
            if not hidden:
                names[str(Path(one.other).parent)] = one.thread
        known.add(one.path)
        if one.kind in ("unlink", "rmdir"):
            # What is removed need not be there; what another thread is writing takes no part in it.
            content.pop(one.path, None)
            if waiting := {path for path, thread in (content | names).items() if thread == one.thread}:
                yield f"{one}: {', '.join(sorted(waiting))} not on the disk"
    if content or names:
        yield f"end: {', '.join(sorted(content | names))} not on the disk"


def test_the_campaign_catches_a_file_written_in_place(campaigns, tmp_path):
    campaign = Campaign(Command(("clumsy",)), tmp_path)
    opened, written = campaign.undisturbed.operations
    assert (opened.kind, written.kind) == ("open", "write")
    assert campaign.strike(0, "kill") is None
    assert campaign.strike(1, "kill") == "different result"
    assert "No space left on device" in campaign.strike(1, "full")
    assert [*undurable([opened, written])] == ["end: ., result not on the disk"]


def test_a_power_cut_needs_every_wait_of_a_safe_write():
    safe = [
        Operation("open", "folder/.new"),
        Operation("write", "folder/.new"),
        Operation("fsync", "folder/.new"),
        Operation("rename", "folder/.new", "folder/result"),
        Operation("fsync", "folder"),
        Operation("unlink", "folder/old"),
    ]
    assert [*undurable(safe)] == []
    for place, one in enumerate(safe):
        if one.kind == "fsync":
            assert [*undurable(safe[:place] + safe[place + 1 :])]


def test_a_hidden_folder_need_not_outlast_a_power_cut():
    made = [Operation("mkdir", "folder/.new"), Operation("unlink", "other/old")]
    assert [*undurable(made)] == []
    assert [*undurable([Operation("mkdir", "folder/new"), Operation("unlink", "other/old")])]
