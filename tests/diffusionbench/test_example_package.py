"""The example outside the tree: installed by pip beside our own wheel into a fresh environment, run to a record."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
import numpy as np
import diffusionbench, diffusionbench_colours
from diffusionbench.request import EvalRequest
from diffusionbench.runner import run
from diffusionbench.source import ArraySource

home = Path(sys.prefix)
assert home in Path(diffusionbench.__file__).parents, diffusionbench.__file__
assert home in Path(diffusionbench_colours.__file__).parents
labels = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
images = np.zeros((10, 8, 8, 3), np.uint8)
images[np.arange(10), :, :, labels] = 200
images[0] = images[1]
request = EvalRequest(axis="colours", metrics=("colour_accuracy",), count=10, method="painter", title="Painter",
                      family="pixel")
record = run(request, ArraySource(images, labels, "ten painted images"))
record.save(Path(sys.argv[1]) / f"{record.id}.json")
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


def test_metric_and_axis_by_entry_point(python, tmp_path):
    subprocess.run([python, "-I", "-c", RUN, str(tmp_path)], check=True, cwd=tmp_path)
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    value = record["values"]["colour_accuracy"]
    assert (value["value"], value["scored"], value["higher_is_better"]) == (0.9, 10, True)
    assert record["protocol"]["axis"] == "colours"
    program = "import typer; from diffusionbench.cli_board import register; a = typer.Typer(); register(a); a()"
    for words in (["validate", "."], ["board", "--set", "measured", "--records", ".", "--holistic", "colour_accuracy"]):
        done = subprocess.run([python, "-I", "-c", program, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "Painter" in done.stdout
    assert "0.900" in done.stdout


def test_the_wheel_carries_the_published_records(python, tmp_path):
    code = "from diffusionbench import published; print(len(published.records()))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "171"
