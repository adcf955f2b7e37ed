"""The example outside the tree: installed by pip beside our own wheel into a fresh environment, run to a record."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
WHERE = """
import sys
from pathlib import Path
import diffusionbench, diffusionbench_colours
for package in (diffusionbench, diffusionbench_colours):
    assert Path(sys.prefix) in Path(package.__file__).parents, package.__file__
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A fresh environment with our wheel and the example; only their dependencies come from outside."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=False)
    program = folder / "env" / "bin" / "python"
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
        else:
            (tree / name).touch()
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    shutil.copytree(ROOT / "examples" / "colours", folder / "colours", ignore=shutil.ignore_patterns("*.egg-info"))
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    build = [*pip, "wheel", *quiet, "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*build, str(tree), str(folder / "colours")], check=True)
    subprocess.run([*pip, "--python", str(program), "install", *quiet, *map(str, wheels.glob("*.whl"))], check=True)
    where = [program, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    inside = subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()
    Path(inside, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return program


def program(python, folder):
    """A function: run a command there, give its output."""

    def bench(*words):
        done = subprocess.run(
            [python, "-I", "-m", "diffusionbench", *words], capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return bench


def test_prompt_set_by_entry_point(python, tmp_path):
    bench = program(python, tmp_path)
    assert "3 prompts with 2 images each" in bench("prompts", "--set", "plain_colours", "--out", ".")
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["a plain red image", "a plain green image", "a plain blue image"]
    for channel, line in enumerate(lines):
        for k, strongest in enumerate((channel, 0)):
            image = np.zeros((8, 8, 3), np.uint8)
            image[:, :, strongest] = 200
            (tmp_path / "drawn" / line["id"]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "drawn" / line["id"] / f"{k}.png")
    words = ("--axis", "t2i", "--prompts", "plain_colours", "--metrics", "colour_accuracy", "--json")
    record = json.loads(bench("run", "drawn", *words))
    assert record["values"]["colour_accuracy"]["value"] == pytest.approx(4 / 6)
    assert (record["protocol"]["prompts"], record["protocol"]["count"]) == ("plain_colours", 6)
    assert len(record["protocol"]["prompts_digest"]) == 64


def test_metric_and_axis_by_entry_point(python, tmp_path):
    subprocess.run([python, "-I", "-c", WHERE], check=True, cwd=tmp_path)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    images = np.zeros((10, 8, 8, 3), np.uint8)
    images[np.arange(10), :, :, labels] = 200
    images[0] = images[1]
    np.savez(tmp_path / "painted.npz", arr_0=images, arr_1=labels)

    bench = program(python, tmp_path)
    bench(
        "run",
        "painted.npz",
        "--axis",
        "colours",
        "--metrics",
        "colour_accuracy",
        "--method",
        "painter",
        "--out",
        "r.json",
    )
    path = tmp_path / "r.json"
    record = json.loads(path.read_text())
    value = record["values"]["colour_accuracy"]
    assert (value["value"], value["scored"], value["higher_is_better"]) == (0.9, 10, True)
    assert record["protocol"]["axis"] == "colours"
    bench("submit", "r.json", "--records", "records")
    assert "1 record is valid" in bench("validate", "records")
    boards = str(ROOT / "examples" / "colours" / "boards.yaml")
    table = bench("board", "--boards", boards, "--records", "records")
    assert "painter" in table
    assert "0.900" in table


def test_sources_by_entry_point(python, tmp_path):
    code = (
        "import diffusionbench as db, json\n"
        "from diffusionbench.callables import SOURCES\n"
        "assert {'nanogen', 'painter'} <= SOURCES.keys()\n"
        "ask = {'metrics': 'colour_accuracy', 'num': 6}\n"
        "made = [db.evaluate('painter:200', axis='colours', **ask)]\n"
        "made += [db.evaluate('painter:200', prompts='plain_colours', **ask)]\n"
        "print(json.dumps([[one.values['colour_accuracy'].value, one.protocol.axis] for one in made]))\n"
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1.0, "colours"], [1.0, "t2i"]]
    words = ("--axis", "colours", "--metrics", "colour_accuracy", "--num", "6", "--json")
    record = json.loads(program(python, tmp_path)("run", "painter:200", *words))
    assert record["values"]["colour_accuracy"]["value"] == 1


def test_the_wheel_carries_the_published_records(python, tmp_path):
    code = "from diffusionbench.study import published; print(len(published.records()))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "171"
