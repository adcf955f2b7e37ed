"""`make` on a fresh machine, with programs that only write down how they were called: what is installed, and when."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("python", "nanogen", "pytest", "ruff", "mypy", "mkdocs")
PROGRAM = '#!/bin/sh\necho "$(basename "$0") $*" >> "{log}"\n'
VENV = '#!/bin/sh\n[ "$1 $2" = "-m venv" ] || exit 1\nmkdir -p "$3"/bin && cp "{programs}"/* "$3"/bin/\n'


class Machine:
    """A checkout without an environment."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.log = folder / "tree", folder / "log"
        programs = folder / "programs"
        for made in (self.tree, programs):
            made.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.tree)
        for name in PROGRAMS:
            self._script(programs / name, PROGRAM.format(log=self.log))
        self.python = self._script(folder / "python3", VENV.format(programs=programs))

    def _script(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    def make(self, *targets: str) -> list[str]:
        """What was called."""
        self.log.write_text("")
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(
            ["make", *targets, f"PYTHON={self.python}"], cwd=self.tree, env=outside, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path) -> Machine:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Machine(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("python -m pip install")]


def test_a_second_demo_installs_nothing(machine):
    first = machine.make("demo")
    (install,) = installs(first)
    assert "-c constraints.txt" in install
    assert install.endswith("-e .[demo]")
    assert first[-1].rstrip() == "nanogen demo"
    again = machine.make("demo")
    assert installs(again) == []
    assert again == first[1:]


def test_demo_and_test_work_in_either_order_and_once_is_enough(machine, tmp_path_factory):
    other = Machine(tmp_path_factory.mktemp("other"))
    for one, order in ((machine, ("demo", "test")), (other, ("test", "demo"))):
        calls = {target: one.make(target) for target in order}
        assert len(installs(calls["demo"])) == len(installs(calls["test"])) == 1
        assert calls["test"][-1].startswith("pytest")
        assert calls["demo"][-1].rstrip() == "nanogen demo"
        for target in order:
            assert installs(one.make(target)) == []


def test_new_requirements_are_installed(machine):
    machine.make("demo")
    later = (machine.tree / ".venv" / "demo.stamp").stat().st_mtime + 10
    os.utime(machine.tree / "constraints.txt", (later, later))
    assert len(installs(machine.make("demo"))) == 1


def test_an_install_that_fails_is_tried_again(machine):
    broken = machine.python.parent / "programs" / "python"
    whole = broken.read_text()
    broken.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(AssertionError):
        machine.make("demo")
    assert not (machine.tree / ".venv" / "demo.stamp").exists()
    (machine.tree / ".venv" / "bin" / "python").write_text(whole)
    assert len(installs(machine.make("demo"))) == 1


def test_the_oracle_has_an_environment_of_its_own(machine):
    calls = machine.make("oracle")
    assert installs(calls)[0].endswith("-e .[oracle]")
    assert not (machine.tree / ".venv").exists()
    assert installs(machine.make("oracle")) == []


def test_mutants_take_a_sample_or_all_together(machine):
    script = "python tests/mutants/mutants.py"
    assert [machine.make("mutants", *words)[-1].rstrip() for words in ((), ("SAMPLE=10",), ("TOGETHER=1",))] == [
        script,
        f"{script} --sample 10",
        f"{script} --together",
    ]


def test_tables_of_documents_are_written_by_the_tool(machine):
    assert machine.make("docs-tables")[-1].rstrip() == "python tools/docs_tables.py"


def test_the_documentation_is_built_strictly(machine):
    calls = machine.make("docs")
    assert installs(calls)[0].endswith("-e .[docs]")
    assert calls[-1] == "mkdocs build --quiet --strict"
    assert installs(machine.make("docs")) == []


def test_ci_runs_the_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make")] == [
        "make docs",
        "make test",
        "make oracle",
        "make mutants SAMPLE=10",
    ]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
