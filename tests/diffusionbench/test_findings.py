"""The generated page is current, and its commands print its numbers."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from declaring import accepted, laptop_protocol
from making import invoke
from site_records import measured
from test_costs import digits

from diffusionbench.record import Guidance, JudgeUsed, Provenance, Record, ReferenceUsed, Value
from diffusionbench.study import findings, findings_measured
from diffusionbench.study.points import load_folder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "findings.md"


def test_page_is_current():
    assert PAGE.read_text("utf-8") == findings.page(load_folder(ROOT / findings_measured.FOLDER)), (
        "run: python -m diffusionbench.study.findings --out docs/findings.md"
    )


def test_commands_print_the_numbers():
    commands = list(dict.fromkeys(re.findall(r"^diffusionbench (.*)$", PAGE.read_text("utf-8"), re.M)))
    assert len(commands) > 10
    for number, command in (("-0.3017", commands[0]), ("-0.3622", commands[1])):
        result = invoke(*shlex.split(command), "--draws", "0")
        assert result.exit_code == 0, result.output
        assert number in result.output
        assert number in PAGE.read_text("utf-8")
    for command in commands:
        if command.startswith("board"):
            assert invoke(*shlex.split(command)).exit_code == 0


# Our own study

SCENES = "simpleeval_shapes_v1"


def scenes(name: str, score: float, run: int = 0, **parts: float) -> Record:
    """A record of drawn shapes that fits the laptop's column."""
    given = {SCENES: score, **{f"{SCENES}_{part}": value for part, value in parts.items()}}
    protocol = laptop_protocol(
        name="t2i",
        axis="t2i",
        judges={"simpleeval_shapes": JudgeUsed(digest=accepted().judges["simpleeval_shapes"][0])},
        references={},
        count=576,
        images_per_prompt=2,
        prompts=SCENES,
        prompts_digest="1" * 64,
        guidance=Guidance(scale=6.0),
    )
    record = measured(name, "t2i", {}, id=f"{name}-scenes-{run}", protocol=protocol, provenance=origin(name, run, "t"))
    return record.model_copy(update={"values": {key: Value(value=one, stderr=0.01) for key, one in given.items()}})


def objects(name: str, accuracy: float, run: int = 0) -> Record:
    """A record of single objects that fits the columns of its board."""
    protocol = laptop_protocol(
        judges={key: JudgeUsed(digest=accepted().judges[key][0]) for key in ("simpleeval_objects", "efflite0")},
        references={"efflite0": ReferenceUsed(name="objects", digest=accepted().references["objects:odd"][0])},
        count=430,
    )
    values = {"accuracy_simpleeval_objects": accuracy, "fd_efflite0": 1 - accuracy}
    record = measured(
        name, "class_conditional", {}, id=f"{name}-objects-{run}", protocol=protocol, provenance=origin(name, run, "o")
    )
    judged = {"accuracy_simpleeval_objects": ("simpleeval_objects",), "fd_efflite0": ("efflite0",)}
    return record.model_copy(
        update={"values": {key: Value(value=one, judges=judged[key]) for key, one in values.items()}}
    )


def halved(record: Record) -> Record:
    """The same, scored against the digits of odd index as `nanogen study` does."""
    used = ReferenceUsed(name="digits, odd half", digest=accepted().references["digits:odd"][0])
    protocol = record.protocol.model_copy(update={"references": {"digits": used}})
    return record.model_copy(update={"protocol": protocol})


def origin(name: str, run: int, task: str) -> Provenance:
    return Provenance(source="made up", images_digest=f"{task}{name}{run}", checkpoint_digest=f"{task}{name}{run}")


@pytest.fixture(scope="module")
def three_tasks() -> list[Record]:
    """Eight methods of two runs on three tasks: objects order methods as digits do, scenes only in part."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(8):
        for run in range(2):
            quality, other = n + 0.3 * rng.standard_normal(), (n * 5 + 3) % 8 + 0.3 * rng.standard_normal()
            found.append(halved(digits(f"m{n}", 9.0 - quality, 1.0, weights="ab"[run])))
            found.append(objects(f"m{n}", quality / 10, run))
            score = 0.02 * (quality + other)
            low = score if n > 2 else 0.0
            found.append(scenes(f"m{n}", low, run, colour=0.3 + score, shape=0.0, background=low))
    return found


def test_our_own_study_is_reported_from_its_records(three_tasks):
    text = "\n\n".join(findings_measured.sections(three_tasks))
    # The tables: 8 methods, r by families, by seeds, by noise.
    assert re.search(r"\| SimpleEval shapes \(ours, v1\), unguided \| 8 \| -0\.\d{4} \[", text)
    assert re.search(r"\| 8 of 8 \| 0\.\d+ \| 0\.\d+ \| -0\.\d{4} \| \[-0\.\d\d, [-+]0\.\d\d\] \| \[", text)
    assert "unguided, pooled |" in text
    assert "--x fd_digits --y simpleeval_shapes_v1 --guidance none --set measured" in text
    # A value that is flagged does not count, and its method is named with the reason.
    value = Value(value=0.9, stderr=0.01, status="flagged", reason="guard variety is raised")
    doubtful = scenes("odd", 0.9).model_copy(update={"values": {SCENES: value}})
    again = "\n\n".join(findings_measured.sections([*three_tasks, halved(digits("odd", 3.0, 1.0)), doubtful]))
    assert "`odd`: simpleeval_shapes_v1 is flagged: guard variety is raised" in again
    assert "unguided | 8 |" in again
    # Guided digits were not measured, and nothing is said of them.
    assert ", guided |" not in text
    assert "No method was trained" not in text


def test_values_that_a_guard_flags_are_counted_apart(three_tasks, tmp_path):
    flagged = [record for record in three_tasks if record.method > "m1" and SCENES in record.values]
    kept = [record for record in three_tasks if record not in flagged]

    def doubted(record: Record) -> Record:
        change = {"status": "flagged", "reason": "guard variety is raised"}
        values = {key: value.model_copy(update=change) for key, value in record.values.items()}
        return record.model_copy(update={"values": values})

    records = [*kept, *map(doubted, flagged)]
    text = "\n\n".join(findings_measured.sections(records, str(tmp_path)))
    rows = [line for line in text.splitlines() if line.startswith("| SimpleEval shapes (ours, v1), unguided")]
    assert rows
    assert all(row.startswith("| SimpleEval shapes (ours, v1), unguided, flagged counted") for row in rows)
    assert "flagged counted | 8 |" in rows[0]
    assert "Flagged: `m2` (guard variety is raised); `m3`" in text
    assert "colour, unguided, flagged counted | 0 of 8 |" in text
    divided = [line for line in text.splitlines() if line.startswith("| Accuracy (simpleeval_objects)")]
    assert [line.split(" | ")[:2] for line in divided] == [
        ["| Accuracy (simpleeval_objects), unguided, flagged counted", "8"]
    ]
    assert "2 of 2 rows count values that a guard flags." in text
    # The command prints the same number, and without the flag too few methods are left.
    for record in records:
        (tmp_path / f"{record.id}.json").write_text(record.model_dump_json())
    command = re.search(r"^diffusionbench (correlate .*)$", text, re.M)[1]
    value = re.search(r"flagged counted \| 8 \| ([-+]\d\.\d+)", text)[1]
    result = invoke(*shlex.split(command), "--draws", "0")
    assert result.exit_code == 0, result.output
    assert value in result.output
    assert "flagged: guard variety is raised" in result.output
    assert value not in invoke(*shlex.split(command.replace("--flagged ", "")), "--draws", "0").output


def test_methods_at_the_floor_are_marked_and_other_families_are_correlated(three_tasks):
    text = "\n\n".join(findings_measured.sections(three_tasks))
    assert "(not to be told from chance): `m0`, `m1`, `m2`, of 8 methods" in text
    assert "are correlated too: colour." in text
    assert "| SimpleEval shapes (ours, v1): colour, unguided | 0 of 8 |" in text
    assert "shape, unguided" not in text


def test_the_part_of_data_and_of_conditioning_is_said_with_intervals(three_tasks):
    own = findings_measured.OwnStudy(tuple(three_tasks))
    found = findings_measured.three_tasks(own, "none", "accuracy_simpleeval_objects")
    assert found.methods == 8
    # Objects order the methods as digits do: data take away little, conditioning the rest.
    assert found.first_middle.value > 0.9
    assert found.data.value < found.conditioning.value
    assert found.data.value + found.conditioning.value == pytest.approx(found.missing.value)
    distance = findings_measured.three_tasks(own, "none", "fd_efflite0")
    assert distance.data.value == pytest.approx(found.data.value)
    text = "\n\n".join(findings_measured.sections(three_tasks))
    row = next(line for line in text.splitlines() if line.startswith("| Accuracy (simpleeval_objects), unguided"))
    assert row.count("[") == 6
    low, high = found.difference.interval
    said = re.search(r"Data take away more in (\d) of 2 rows, conditioning in (\d) of 2; in (\d) of 2 the study", text)
    assert [int(one) for one in said.groups()] == [2 * (low > 0), 2 * (high < 0), 2 * (low <= 0 <= high)]
    assert findings_measured.three_tasks(own, "cfg", "fd_efflite0") is None


def test_too_few_methods_are_counted_and_nothing_is_printed_of_them(three_tasks):
    few = [record for record in three_tasks if record.method in ("m0", "m1")]
    text = "\n\n".join(findings_measured.sections(few))
    assert "2 methods with records of both digits and scenes: too few" in text
    assert "Fewer than 4 methods have records of all three tasks" in text
    assert "| against" not in text
    # Against all digits a distance is another one: it fits no column of the study.
    whole = digits("m3", 3.0, 1.0)
    assert "2 methods with" in "\n".join(findings_measured.sections([*few, whole, scenes("m3", 0.4)]))
    # Baselines are no methods, and a record that fits no column does not count.
    stranger = few[0].model_copy(
        update={"method": "other", "protocol": few[0].protocol.model_copy(update={"count": 9})}
    )
    base = [record.model_copy(update={"family": "reference", "method": f"b{record.method}"}) for record in three_tasks]
    assert "2 methods with" in "\n".join(findings_measured.sections([*few, stranger, *base]))
