"""The layers of a config: who wins, where a value came from, and what no layer may say."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from diffusionbench.errors import ConfigError
from nanogen import config as configs
from nanogen.config import (
    SCALES,
    changed,
    compose,
    differences,
    leaves,
    method_names,
    read_own,
    read_yaml,
    reload,
    task_names,
    to_yaml,
)
from nanogen.resolve import resolve
from nanogen.settings import due, to_steps
from nanogen.show import as_text

OWN = Path(str(files("nanogen"))) / "configs"


@pytest.fixture
def house(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the package's config folder that a test may write into."""
    copy = tmp_path / "house" / "configs"
    shutil.copytree(OWN, copy)
    monkeypatch.setattr(configs, "files", lambda package: copy.parent)
    configs._base.cache_clear()
    yield copy
    configs._base.cache_clear()


def append(path: Path, *lines: str) -> int:
    """Add lines to a file; gives the number of the first."""
    text = path.read_text(encoding="utf-8").rstrip("\n")
    path.write_text("\n".join([text, *lines, ""]), encoding="utf-8")
    return len(text.splitlines()) + 1


def mine(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def value(composition, key):
    return leaves(composition.config.model_dump())[key]


def refusal(*overrides: str, file: Path | None = None, **choice) -> str:
    """The sentence that refuses a config."""
    with pytest.raises(ConfigError) as caught:
        compose(**{"task": "digits", **choice}, file=file, overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def counted(task: str) -> list[str]:
    """What reading the data would fill in."""
    return ["condition.num_classes=7"] if value(compose(task), "condition.num_classes") == "auto" else []


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("task", task_names())
def test_no_task_is_refused_with_its_own_method(task, scale):
    resolve(compose(task, scale=scale, overrides=counted(task)).config)


@pytest.mark.parametrize("method", method_names())
def test_no_method_is_refused_at_published_scale(method):
    resolve(compose("imagenet256", method, "paper").config)


def test_different_configs_have_different_hashes():
    configs = [
        compose(task, method, scale).config for task in task_names() for method in method_names() for scale in SCALES
    ]
    # A method may fix what tells two tasks apart, such as the image size.
    assert len({config.hash for config in configs}) == len({config.model_dump_json() for config in configs})
    assert len({compose(task, "pixel-v", scale).config.hash for task in task_names() for scale in SCALES}) == len(
        task_names()
    ) * len(SCALES)
    base = compose("digits").config
    assert compose("digits", overrides=["seed=43"]).config.hash != base.hash
    assert compose("digits", overrides=[f"seed={base.seed}"]).config.hash == base.hash


# Precedence and origins


def test_each_layer_overrides_the_ones_before_it(house, tmp_path):
    lines = {
        "base": ("base.yaml", read_yaml((house / "base.yaml").read_text(), "").lc.key("seed")[0] + 1),
        "scale": ("scale/laptop.yaml", append(house / "scale" / "laptop.yaml", "seed: 1")),
        "task": ("task/digits.yaml", 2),
        "scales": ("task/digits.yaml", append(house / "task" / "digits.yaml", "    seed: 3")),
        "method": ("methods.yaml", append(house / "methods.yaml", "tried: {seed: 4}")),
    }
    text = (house / "task" / "digits.yaml").read_text().splitlines()
    (house / "task" / "digits.yaml").write_text("\n".join([text[0], "seed: 2", *text[1:], ""]))
    lines["scales"] = ("task/digits.yaml", lines["scales"][1] + 1)

    def found(scale="laptop", method="pixel-v", file=None, overrides=()):
        composition = compose("digits", method, scale, file, overrides)
        return composition.config.seed, composition.origins["seed"]

    def origin(layer):
        return f"configs/{lines[layer][0]}:{lines[layer][1]}"

    own = mine(tmp_path, "data.workers: 1\nseed: 5\n")
    assert found(method="tried", file=own, overrides=["seed=6", "seed=7"]) == (7, "command line")
    assert found(method="tried", file=own) == (5, f"{own}:2")
    assert found(method="tried") == (4, origin("method"))
    assert found() == (3, origin("scales"))
    assert found(scale="paper") == (2, origin("task"))
    append(house / "scale" / "paper.yaml", "seed: 8")
    (house / "task" / "digits.yaml").write_text("\n".join([*text, ""]))
    assert found(scale="paper")[0] == 8
    assert found(scale="single-gpu") == (42, origin("base"))


@pytest.mark.parametrize("task", task_names())
def test_every_origin_is_the_line_that_holds_the_key(task):
    composition = compose(task)
    assert set(composition.origins) == set(leaves(composition.config.model_dump(mode="json")))
    text = as_text(composition, why=True)
    for key, origin in composition.origins.items():
        file, _, line = origin.partition(":")
        words = (OWN.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        short = key.removesuffix(".name") if key in ("latent.name", "objective.name") else key
        assert short in words or words.strip().startswith(f"{key.rpartition('.')[2]}:"), f"{key} is not in {origin}"
        assert any(row.startswith(f"{key}: ") and row.endswith(f"# {origin}") for row in text.splitlines())


def test_a_row_may_be_like_another_once(house):
    line = append(house / "methods.yaml", "child: {like: pixel-v, time.mu: 0.5}", "grandchild: {like: child}")
    composition = compose("digits", "child")
    assert value(composition, "time.mu") == 0.5
    assert composition.origins["time.mu"] == f"configs/methods.yaml:{line}"
    assert value(composition, "sampler.shift") == 1
    parent = read_own("methods.yaml")[0]["pixel-v"].lc.key("sampler.shift")[0] + 1
    assert composition.origins["sampler.shift"] == f"configs/methods.yaml:{parent}"
    assert "without 'like'" in refusal(method="grandchild")


def test_a_task_may_be_like_another_once(house):
    (house / "task" / "child.yaml").write_text("like: shapes\nseed: 3\nscales:\n  laptop:\n    sample.num: 7\n")
    (house / "task" / "grandchild.yaml").write_text("like: child\n")
    child, parent = compose("child"), compose("shapes")
    assert differences(parent.config, child.config) == {"seed": (42, 3), "sample.num": (40, 7)}
    assert child.choice == {**parent.choice, "task": "child"}
    assert child.origins["seed"] == "configs/task/child.yaml:2"
    assert child.origins["train.batch_size"] == parent.origins["train.batch_size"]
    assert "without 'like'" in refusal(task="grandchild")
    (house / "task" / "lost.yaml").write_text("like: shape\n")
    assert refusal(task="lost").startswith(
        "configs/task/lost.yaml: 'lost' is like 'shape', which must be one of captions, "
    )


def test_the_layers_are_listed_in_their_order(tmp_path):
    own = mine(tmp_path, "seed: 3\n")
    composed = compose("t2i512", file=own, overrides=["seed=4", "optim.lr=1"])
    assert composed.layers == (
        "configs/base.yaml",
        "configs/scale/paper.yaml",
        "configs/task/t2i256.yaml",
        "configs/task/t2i512.yaml",
        "configs/task/t2i512.yaml scales.paper",
        "configs/methods.yaml sd-vae-ema",
        str(own),
        "command line",
    )
    shown = [line.removeprefix("#   ") for line in as_text(composed, why=True).splitlines() if line.startswith("#   ")]
    assert tuple(shown) == composed.layers
    assert compose("digits").layers[-1] == "configs/methods.yaml pixel-v"


def test_a_file_chooses_and_the_command_line_decides(tmp_path):
    own = mine(tmp_path, "use: {task: imagenet256, method: pixel-v, scale: laptop}\ntime.sigma: 1.2\n")
    composition = compose(file=own)
    assert composition.choice == {"task": "imagenet256", "method": "pixel-v", "scale": "laptop"}
    assert value(composition, "time.sigma") == 1.2
    assert compose(scale="paper", file=own).choice["scale"] == "paper"
    assert compose("digits", file=own).choice["task"] == "digits"


def test_a_task_names_its_default_scale_and_method():
    assert compose("digits").choice == {"task": "digits", "method": "pixel-v", "scale": "laptop"}
    assert compose("imagenet256").choice == {"task": "imagenet256", "method": "sd-vae-ema", "scale": "paper"}


def test_a_scales_block_counts_at_its_scale_only(house):
    append(house / "task" / "digits.yaml", "    sample.num: 11", "  paper:", "    sample.num: 12")
    assert [value(compose("digits", scale=scale), "sample.num") for scale in SCALES] == [11, 40, 12]


def test_dotted_keys_nesting_and_the_command_line_mean_the_same(tmp_path):
    dotted = compose("digits", file=mine(tmp_path, "optim.lr: 1e-3\noptim.warmup: 5 steps\nlatent: pixel\n"))
    nested = compose("digits", file=mine(tmp_path, "optim:\n  lr: 1e-3\n  warmup: 5 steps\nlatent:\n  name: pixel\n"))
    typed = compose("digits", overrides=["optim.lr=1e-3", "optim.warmup=5 steps", "latent=pixel"])
    assert dotted.config == nested.config == typed.config
    assert nested.origins["optim.lr"].endswith("mine.yaml:2")


# What a value may be


def test_yaml_1_2_closes_the_two_traps(tmp_path):
    own = mine(tmp_path, "optim.lr: 1e-4\ndata.path: no\neval.reference: on\ntrain.grad_clip: .inf\n")
    config = compose("digits", file=own).config
    assert (config.optim.lr, config.data.path, config.eval.reference) == (1e-4, "no", "on")
    assert isinstance(config.optim.lr, float)
    assert math.isinf(config.train.grad_clip)
    assert compose("digits", file=mine(tmp_path, to_yaml(config))).config == config
    assert compose("digits", overrides=["optim.lr=1e-4", "data.path=no"]).config.optim.lr == 1e-4


@pytest.mark.parametrize(
    "override, key, expected",
    [
        ("eval.metrics=[]", "eval.metrics", ()),
        ("eval.metrics=[fid, fd_digits]", "eval.metrics", ("fid", "fd_digits")),
        ("train.duration=3 steps", "train.duration", "3 steps"),
        ("data.path=a=b", "data.path", "a=b"),
        ("data.path=null", "data.path", None),
        ("data.path='3'", "data.path", "3"),
        ("guidance.interval=[0, 0.9]", "guidance.interval", (0.0, 0.9)),
        ("train.compile=true", "train.compile", True),
        ("time.shift=auto", "time.shift", "auto"),
        ("sample.every=never", "sample.every", "never"),
        ("objective.predict=x", "objective.predict", "x"),
    ],
)
def test_values_on_the_command_line_are_yaml(override, key, expected):
    assert value(compose("digits", overrides=[override]), key) == expected


@pytest.mark.parametrize(
    "override, reason",
    [
        ("seed=1.5", "integer"),
        ("seed=", "found None"),
        ("optim.lr=0", "greater than 0"),
        ("optim.lr=.inf", "finite"),
        ("time.mu=.nan", "finite"),
        ("train.grad_clip=.nan", "greater than 0"),
        ("train.batch_size=true", "expected a number, found True"),
        ("train.batch_size='64'", "expected a number, found '64'"),
        ("train.compile=no", "expected true or false, found 'no'"),
        ("train.compile=1", "expected true or false, found 1"),
        ("data.path=3", "string"),
        ("time.shift=0", "greater than 0 or 'auto', found 0"),
        ("condition.num_classes=0", "or 'auto', found 0"),
        ("optim.betas=[0.9, 2]", "less than 1"),
        ("eval.metrics=fid", "a list"),
        ("train.precision=float16", "'auto', 'bfloat16' or 'float32'"),
        ("log.sinks=[paper]", "'tensorboard'"),
        ("train.duration=-3 steps", "'600 steps'"),
        ("train.duration=never", "'600 steps'"),
        ("optim.decay_start=never", "'600 steps'"),
        ("sample.every=often", "'never'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_expected(override, reason):
    message = refusal(override)
    assert message.startswith(f"command line: {override.partition('=')[0]}: ")
    assert reason in message


# Unknown keys and broken files


@pytest.mark.parametrize(
    "key, hint",
    [
        ("guidance.scal", "Did you mean 'guidance.scale'?"),
        ("lr", "Did you mean 'optim.lr'?"),
        ("train.lr", "Did you mean 'optim.lr'?"),
        ("shift", "Did you mean 'time.shift' or 'sampler.shift'?"),
        ("objective.predit", "Did you mean 'objective.predict'?"),
        ("zzz", "`nanogen show` prints all keys."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_and_its_line(tmp_path, key, hint):
    own = mine(tmp_path, f"# a comment\n\nseed: 3\n{key}: 1\n")
    assert refusal(file=own) == f"{own}:4: unknown key '{key}'. {hint}"
    assert refusal(f"{key}=1") == f"command line: unknown key '{key}'. {hint}"


def test_all_wrong_values_are_named_at_once():
    message = refusal("optim.lr=fast", "seed=many")
    assert "optim.lr" in message
    assert "seed" in message


@pytest.mark.parametrize(
    "text, reason",
    [
        ("optim: 3\n", "'optim' is a section"),
        ("use: 3\n", "'use' takes task, method and scale"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path, text, reason):
    own = mine(tmp_path, text)
    message = refusal(file=own)
    assert message.startswith(str(own))
    assert reason in message


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    assert str(tmp_path / "absent.yaml") in refusal(file=tmp_path / "absent.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff\xfe")
    assert "picture.yaml" in refusal(file=tmp_path / "picture.yaml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert compose("digits", file=mine(tmp_path, "# nothing\n")).config == compose("digits").config


@pytest.mark.parametrize("kind, wrong, known", [("task", "digit", "digits"), ("method", "pixel_v", "pixel-v")])
def test_an_unknown_choice_is_refused_with_the_nearest(tmp_path, kind, wrong, known):
    assert refusal(**{kind: wrong}) == f"command line: unknown {kind} '{wrong}'. Did you mean '{known}'?"
    own = mine(tmp_path, f"use: {{task: digits, {kind}: {wrong}}}\n".replace("task: digits, task", "task"))
    assert refusal(file=own, task=None).startswith(f"{own}: unknown {kind} '{wrong}'")


@pytest.mark.parametrize("override", ["seed", "=3", ""])
def test_an_override_without_key_or_value_is_refused(override):
    assert "expected key=value" in refusal(override)


def test_settings_may_change_only_where_allowed():
    config = compose("digits").config
    other = changed(config, ["sampler.num_steps=7", "optim.lr=2e-3"], ("sampler",), "trained")
    assert config.optim.lr == 2e-3, "the value that is already there is no change"
    assert differences(config, other) == {"sampler.num_steps": (25, 7)}
    with pytest.raises(ConfigError, match=r"^trained: optim.lr is 0.002, asked: 0.1. Allowed here: sampler.\*"):
        changed(config, ["optim.lr=0.1"], ("sampler",), "trained")
    with pytest.raises(ConfigError, match=r"sampler.num_step'. Did you mean 'sampler.num_steps'"):
        changed(config, ["sampler.num_step=3"], ("sampler",), "trained")


def test_a_stored_config_of_another_version_is_refused():
    values = compose("digits").config.model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"old.yaml: unknown key 'optim.momentum'"):
        reload({**values, "optim": {**values["optim"], "momentum": 0.9}}, "old.yaml")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("600 steps", 600),
        ("1.5k steps", 1500),
        ("1 step", 1),
        ("2k steps", 2000),
        ("2.01k steps", 2010),
        ("0.29M steps", 290_000),
        ("50M images", 781_250),
        ("100 images", 1),
        ("80 epochs", 80 * 22),
        ("0.5 epochs", 11),
        ("never", None),
    ],
)
def test_durations_become_steps_rounded_down(text, expected):
    # 1,438 images in batches of 64 are 22 whole batches.
    assert to_steps(text, batch_size=64, num_images=1438) == expected


def test_epochs_of_a_large_data_set_and_shares_of_the_training():
    assert to_steps("80 epochs", 1024, 1_281_167) == 100_080
    assert to_steps("50M images", 1024, 1) == 48_828
    assert to_steps("50 %", 64, 1438, whole=601) == 300
    assert [step for step in range(7) if due(step, 3)] == [3, 6]
    assert not due(5, None)


def test_every_two_digit_multiple_is_exact():
    for hundredths in range(1, 1000):
        assert to_steps(f"{hundredths / 100:.2f}k steps", 1, 1) == hundredths * 10
