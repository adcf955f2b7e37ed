"""A config file of a stranger: what unfolds without end, or is no value at all, is refused in one sentence."""

from __future__ import annotations

import os

import pytest

from diffusionbench.errors import ConfigError
from nanogen.config import MAX_LEVELS, ConfigLayer, compose, read_yaml


def bomb(merge: bool = False) -> str:
    lines = ["a: &a {x: 1}" if merge else "a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        nine = ", ".join([f"*{before}"] * 9)
        lines.append(f"{name}: &{name} " + (f"{{<<: [{nine}], y: [{nine}]}}" if merge else f"[{nine}]"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        bomb(merge=True),
        "a: &a {<<: *a, b: 1}",
        "a: " + "[" * 100_000,
        "a: " + "{b: " * 3_000,
        "- " * 3_000 + "x",
        "\n".join(" " * n + f"k{n}:" for n in range(3_000)),
        "a: 1\n" * 300_000,
        "\n".join(f"k{n}: {n}" for n in range(12_000)),
        "a: " + "9" * 5_000,
        "a: 0x" + "f" * 5_000,
        "a: 2026-99-99",
        "a: !!float x",
        "a: !!bool x",
        "a: 2001-12-14 21:59:43 +99:99",
        "{<<: 3}",
        "a: \x1b[2J",
    ],
    ids=range(17),
)
def test_a_text_without_end_is_refused(text):
    with pytest.raises(ConfigError, match=r"my.yaml") as refused:
        ConfigLayer.of(read_yaml(text, "my.yaml"), "my.yaml")
    assert len(str(refused.value)) < 400


def test_aliases_and_levels_within_the_limits_are_read():
    layer = ConfigLayer.of(read_yaml("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, z: *a}", "f"), "f")
    assert {key: leaf.value for key, leaf in layer.items()} == {
        **{f"{prefix}{key}": value for prefix in ("a.", "b.", "b.z.") for key, value in (("x", 1), ("y", [1, 2]))},
    }
    assert read_yaml("a: " + "[" * (MAX_LEVELS - 1) + "]" * (MAX_LEVELS - 1), "f")


def test_a_file_that_is_no_text_of_some_length_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nothing")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**33)
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(ConfigError, match=str(file)):
            compose("digits", file=file)


@pytest.mark.parametrize(
    "key", ["objective..", "objective.a.b", "objective.predict.a", "losses.", "losses..a", "..", "a..b"]
)
def test_a_key_that_is_none_is_named(key):
    with pytest.raises(ConfigError, match="command line"):
        compose("digits", overrides=[f"{key}=1"])


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(
        ConfigError, match=r"it is a folder\. Give the path of a YAML file; a run goes on by the command"
    ):
        compose("digits", file=tmp_path)
