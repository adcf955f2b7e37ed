"""Every number that a user types has bounds; a new option or config field without them fails here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from pydantic import BaseModel

import diffusionbench.cli
import nanogen.cli
from diffusionbench import bounds
from diffusionbench.errors import ConfigError, RequestError, UserError
from diffusionbench.provenance import check_device
from nanogen.conditions import parse_labels
from nanogen.config import Config, compose, leaves, read_own
from nanogen.losses import LOSSES
from nanogen.objectives import OBJECTIVES

APPS = {"nanogen": nanogen.cli.app, "diffusionbench": diffusionbench.cli.app}
# Where infinity has a meaning, "off"; every larger number means the same.
OPEN_ABOVE = {"grad_clip"}
# Where the config refuses what is too small, in a sentence of its own.
BELOW = {"nanogen sample guidance", "nanogen eval guidance"}


def options(app: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(command and parameter, its annotation) of a program, its groups included."""
    for group in app.registered_groups:
        yield from options(group.typer_instance, (*words, group.name))
    for command in app.registered_commands:
        verb = command.name or command.callback.__name__
        for name, annotation in get_type_hints(command.callback, include_extras=True).items():
            yield " ".join([*words, verb, name]), annotation


def kinds(annotation: Any) -> set[Any]:
    """The plain types in an annotation."""
    inner = get_args(annotation)
    return {annotation} if not inner else set().union(*map(kinds, inner))


NUMBERS = {
    name: annotation
    for program, app in APPS.items()
    for name, annotation in options(app, (program,))
    if {int, float} & kinds(annotation)
}


def test_the_walk_finds_the_options_of_groups_and_repeated_ones():
    assert {"nanogen sample num", "diffusionbench correlate top", "diffusionbench stress accuracy"} <= NUMBERS.keys()
    assert len(NUMBERS) > 15


@pytest.mark.parametrize("name", NUMBERS)
def test_an_option_has_both_bounds_and_refuses_what_is_no_number(name):
    facts = [part for part in get_args(NUMBERS[name]) if isinstance(part, typer.models.ParameterInfo)]
    assert facts, f"{name} has no bounds"
    assert facts[0].max is not None, f"{name} has no upper bound"
    assert facts[0].min is not None or name in BELOW, f"{name} has no lower bound"
    # NaN is neither below nor above them.
    assert float not in kinds(NUMBERS[name]) or facts[0].callback is bounds.number


def schemas(node: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the field, schema) of every number in a JSON schema."""
    if isinstance(node, list):
        for child in node:
            yield from schemas(child, name)
    elif isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield name, node
        for key, child in node.items():
            below = key if key not in ("properties", "items", "anyOf", "prefixItems", "additionalProperties") else name
            yield from schemas(child, below)


def models() -> list[type[BaseModel]]:
    tables = (OBJECTIVES, LOSSES)
    return [Config, *(row.options for table in tables for row in table.values())]


def test_every_number_of_a_config_has_both_bounds():
    found = [(name, schema) for model in models() for name, schema in schemas(model.model_json_schema())]
    assert len(found) > 40
    unbounded = [
        name
        for name, schema in found
        if not ({"minimum", "exclusiveMinimum"} & schema.keys())
        or (not ({"maximum", "exclusiveMaximum"} & schema.keys()) and name not in OPEN_ABOVE)
    ]
    assert unbounded == []


NUMERIC = {
    key: value
    for key, value in leaves(read_own("base.yaml")[0]).items()
    if isinstance(value, int | float | list) and not isinstance(value, bool) and value != []
}


OUTSIDE = ["1e300", "-1e300", ".nan", "-.inf", "9" * 5000, "0x" + "f" * 5000]


@pytest.mark.parametrize(
    "key, number",
    [
        (key, number)
        for key in NUMERIC
        for number in OUTSIDE
        if number[0] in "-." or not key.endswith(tuple(OPEN_ABOVE)) or len(number) > 300
    ],
    ids=lambda value: value[:30],
)
def test_a_config_refuses_numbers_out_of_bounds(key, number):
    value = NUMERIC[key]
    text = f"[{', '.join([number] * len(value))}]" if isinstance(value, list) else number
    with pytest.raises(ConfigError, match=key) as refused:
        compose("digits", overrides=[f"{key}={text}"])
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "duration", ["1e30 epochs", "-3 steps", f"{'9' * 5000} steps", "1000000000001 images", "2000000M steps"]
)
@pytest.mark.parametrize("key", ["train.duration", "sample.every", "optim.warmup"])
def test_a_duration_has_bounds(key, duration):
    with pytest.raises(ConfigError, match="a duration is") as refused:
        compose("digits", overrides=[f"{key}={duration}"])
    assert len(str(refused.value)) < 500


def test_the_largest_duration_is_allowed():
    assert compose("digits", overrides=["train.duration=1000000M steps"]).config.train.duration == "1000000M steps"


@pytest.mark.parametrize("labels", ["0-99999999999", "9" * 5000, "0-1000000", ",".join(["0-999999"] * 3)])
def test_labels_are_counted_before_they_are_listed(labels):
    with pytest.raises(RequestError, match="label") as refused:
        parse_labels(labels)
    assert len(str(refused.value)) < 6000


@pytest.mark.parametrize(
    "device", ["meta", "gpu", "cuda:99", "cuda:-1", "cuda:1e3", "CPU", "", "cpu:0", "mps", "vulkan"]
)
def test_devices_on_which_nothing_can_be_computed(device, monkeypatch):
    import torch

    monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
    with pytest.raises(RequestError, match="cannot be used"):
        check_device(device)


def test_devices_that_torch_finds(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [check_device(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(RequestError, match="finds 2"):
        check_device("cuda:2")


# What is refused without the seconds that torch takes to load; `{run}` is a run folder.
REFUSED = [
    "nanogen sample {run} --num 1000000000000",
    "nanogen sample {run} --labels 0-99999999999",
    "nanogen sample {run} --guidance inf",
    "nanogen sample {run} --guidance nan",
    "nanogen sample {run} --guidance -1e300",
    "nanogen eval {run} --guidance 0.5",
    "nanogen sample {run} --seed -1",
    "nanogen sample {run} --seed 9223372036854775808",
    "nanogen sample {run} sampler.num_steps=1e12",
    "nanogen sample {run}/nothing",
    "nanogen eval {run} guidance.scale=.inf",
    "nanogen eval {run} eval.num_samples=1e12",
    "nanogen train --task digits data.image_size=1e9",
    "nanogen train --task digits train.batch_size=1e12",
    "nanogen bench --task digits --steps 1000000000",
    "diffusionbench run {run} --metrics fd_digits --device meta",
    "diffusionbench run {run} --metrics fd_digits --num 1000000000000",
    "diffusionbench run {run} --metrics fd_digits --guidance inf",
    "diffusionbench score {run} --metrics fd_digits --device meta",
    "diffusionbench correlate --top 99999999999",
    "diffusionbench board --draws 99999999999",
]


def test_refusals_load_no_torch(tmp_path):
    code = f"""
import importlib, sys
sys.modules["torch"] = None
for line in {[line.format(run=tmp_path) for line in REFUSED]!r}:
    sys.argv = line.split()
    print("$", line, file=sys.stderr)
    try:
        importlib.import_module(sys.argv[0] + ".cli").main()
    except SystemExit as end:
        assert end.code == 2, (line, end.code)
    else:
        raise AssertionError(line)
"""
    source = Path(__file__).parents[1] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(source), "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("$ ")[1:]
    assert len(said) == len(REFUSED)
    for block in said:
        assert len([line for line in block.splitlines() if "Error: " in line or line.startswith("Error")]) == 1, block


LONG = "x" * 300


@pytest.mark.parametrize(
    "line",
    [
        "diffusionbench run {} --metrics fd_digits",
        "diffusionbench score {} --metrics fd_digits",
        "diffusionbench board --records {}",
        "diffusionbench validate {}",
        "diffusionbench inspect {}",
        "diffusionbench site --out {}",
        "diffusionbench prompts --set simpleeval_shapes_v1 --weights {}",
        "nanogen sample {}",
        "nanogen eval {}",
        "nanogen train {}.yaml --task digits",
        "nanogen train --task imagefolder --data {}",
        "nanogen train --task digits --dry-run data.path={}",
    ],
)
def test_a_name_that_no_file_can_have_is_one_sentence(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", line.format(LONG).split())
    with pytest.raises(SystemExit) as ended:
        {"nanogen": nanogen.cli, "diffusionbench": diffusionbench.cli}[sys.argv[0]].main()
    assert ended.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert LONG in sentence
    assert list(tmp_path.iterdir()) == []


def test_no_number_is_its_own_refusal():
    assert bounds.number(None) is None
    with pytest.raises(UserError):
        bounds.number(float("nan"))
