"""The house rules on imports: arrows point downwards, the core is small, the command line is quick."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

# Packages that an import of ours may use without asking.
CORE = {"torch", "numpy", "PIL", "safetensors", "pydantic", "pydantic_core", "ruamel", "typer", "click", "rich"}
OURS = {"nanogen", "diffusionbench"}

# Slow or optional packages that must not be loaded by importing our modules.
HEAVY = [
    "torchvision",
    "timm",
    "torch_fidelity",
    "torchmetrics",
    "diffusers",
    "transformers",
    "webdataset",
    "datasets",
    "pyarrow",
    "pandas",
    "sklearn",
    "scipy",
    "wandb",
    "trackio",
    "tensorboard",
    "altair",
    "vl_convert",
    "jinja2",
    "matplotlib",
    "huggingface_hub",
]

# Modules that introduce the parts to each other; no part imports them.
PEOPLE = [
    "nanogen.cli",
    "nanogen.train",
    "nanogen.build",
    "nanogen.pipeline",
    "nanogen.evaluate",
    "nanogen.sample",
    "nanogen.report",
    "nanogen.bench",
    "nanogen.show",
    "nanogen.run",
    "nanogen.resolve",
    "nanogen.config",
]
PARTS = [
    "model",
    "conditions",
    "objectives",
    "optimizers",
    "losses",
    "latents",
    "data",
    "samplers",
    "guidance",
    "times",
    "rng",
    "ema",
    "text",
]
STRANGERS = ["nanogen.model", "nanogen.objectives", "nanogen.samplers", "nanogen.guidance"]

# Read records only: the leaderboard rebuilds anywhere, in seconds.
RECORD_READERS = (
    "diffusionbench.study",
    "diffusionbench.views",
    "diffusionbench.catalog",
    "diffusionbench.record",
    "diffusionbench.stats",
)
BOTTOM = {
    f"diffusionbench.{name}"
    for name in ("bounds", "commits", "errors", "limits", "registry", "schema", "shown", "writing")
}


@dataclass
class Imports:
    """What one module imports: when it is loaded, later inside functions, and for type checkers only."""

    loading: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    typing: set[str] = field(default_factory=set)

    @property
    def running(self) -> set[str]:
        return self.loading | self.later


class Reader(ast.NodeVisitor):
    def __init__(self, module: str, is_package: bool) -> None:
        self.found = Imports()
        self._package = module if is_package else module.rpartition(".")[0]
        self._into = self.found.loading

    def _inside(self, nodes: list[ast.stmt], into: set[str]) -> None:
        before, self._into = self._into, into
        for node in nodes:
            self.visit(node)
        self._into = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node.body, self.found.later)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node.body, self.found.later)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self._inside(node.body, self.found.typing)
            self._inside(node.orelse, self._into)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._into |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self._package.split(".")
            base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            self._into.add(name if name in module_files() else base)


@functools.cache
def module_files() -> dict[str, Path]:
    """Every module of ours, by dotted name."""
    files = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


@functools.cache
def imports() -> dict[str, Imports]:
    found = {}
    for module, path in module_files().items():
        reader = Reader(module, path.name == "__init__.py")
        reader.visit(ast.parse(path.read_text(encoding="utf-8")))
        found[module] = reader.found
    return found


def within(module: str, name: str) -> bool:
    """Whether a module is `name` or lies in it."""
    return module == name or module.startswith(name + ".")


def arrows(start: str, targets: list[str], kind: str = "running") -> list[str]:
    """The forbidden arrows from modules within `start`, for the message of an assertion."""
    return [
        f"{module} -> {imported}"
        for module, found in imports().items()
        if within(module, start)
        for imported in getattr(found, kind)
        if any(within(imported, target) for target in targets) and not within(imported, start)
    ]


def reached(module: str) -> set[str]:
    """Everything that running a module may import, its functions included; packages around it are loaded, not run."""
    seen: set[tuple[str, bool]] = set()
    waiting = {(module, True)}
    while waiting:
        name, runs = waiting.pop()
        seen.add((name, runs))
        if name in imports():
            found = imports()[name]
            others = {(other, True) for other in (found.running if runs else found.loading)}
            others |= {(name.rsplit(".", depth)[0], False) for depth in range(1, name.count(".") + 1)}
            waiting |= others - seen
    return {name for name, _ in seen}


def test_the_reader_sees_imports_where_they_stand():
    source = (
        "import a.b\nfrom . import config\nif TYPE_CHECKING:\n    import t\n"
        "def f():\n    from nanogen.data import order\n    if x:\n        import l\n"
    )
    reader = Reader("nanogen.cli", is_package=False)
    reader.visit(ast.parse(source))
    assert reader.found.loading == {"a.b", "nanogen.config"}
    assert reader.found.later == {"nanogen.data.order", "l"}
    assert reader.found.typing == {"t"}


def test_the_benchmark_does_not_know_the_trainer():
    for kind in ("running", "typing"):
        assert arrows("diffusionbench", ["nanogen"], kind) == []


@pytest.mark.parametrize("part", PARTS)
def test_parts_do_not_import_the_modules_that_introduce_them(part):
    assert arrows(f"nanogen.{part}", PEOPLE) == []


@pytest.mark.parametrize("part", STRANGERS)
def test_model_objective_sampler_and_guidance_do_not_import_each_other(part):
    assert arrows(part, STRANGERS) == []


def test_tensor_code_sees_no_config_objects():
    for part in ["model", "samplers", "guidance", "times", "rng", "ema"]:
        assert arrows(f"nanogen.{part}", ["pydantic", "ruamel"]) == []


def test_several_processes_are_the_business_of_one_module():
    known = arrows("nanogen", ["torch.distributed", "torch.nn.parallel"])
    assert {line.split(" -> ")[0] for line in known} == {"nanogen.parallel"}
    assert arrows("diffusionbench", ["torch.distributed", "torch.nn.parallel"]) == []


def test_only_the_program_itself_imports_the_command_line():
    for program in sorted(OURS):
        callers = {line.split(" -> ")[0] for line in arrows("nanogen", [f"{program}.cli"])}
        callers |= {line.split(" -> ")[0] for line in arrows("diffusionbench", [f"{program}.cli"])}
        assert callers <= {"nanogen.__main__", "diffusionbench.__main__", "nanogen.cli"}


def test_the_bottom_layer_imports_nothing_of_ours_above_it():
    for module in sorted(BOTTOM):
        ours = {name for name in imports()[module].running if name.split(".")[0] in OURS}
        assert ours <= BOTTOM


def test_entries_of_tables_do_not_import_the_run_around_them():
    around = [f"diffusionbench.{name}" for name in ("cli", "runner", "request", "study", "views")]
    for table in ("metrics", "judges", "references"):
        assert arrows(f"diffusionbench.{table}", around) == []


def test_readers_of_records_reach_neither_torch_nor_a_metric():
    for module in module_files():
        if not any(within(module, reader) for reader in RECORD_READERS):
            continue
        wrong = {
            name
            for name in reached(module)
            if name.split(".")[0] == "torch" or re.match(r"diffusionbench\.(metrics|judges)\.", name)
        }
        assert not wrong, f"{module} reaches {sorted(wrong)}"


def test_no_class_name_has_two_meanings():
    places: dict[str, list[str]] = {}
    for module, path in module_files().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


@pytest.mark.parametrize("package", sorted(OURS))
def test_no_imports_run_in_a_circle(package):
    """Imports inside functions count: a circle that they hide is a circle still."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        for imported in sorted(imports()[module].running):
            if imported in imports():
                visit(imported, (*path, module))
        done.add(module)

    for module in module_files():
        if within(module, package):
            visit(module, ())


def test_optional_packages_are_imported_through_the_guard_only():
    wrong = [
        f"{module} imports {name}"
        for module, found in imports().items()
        for name in found.running
        if name.split(".")[0] not in CORE | OURS | sys.stdlib_module_names
        # torch's own writer; the guard has asked for tensorboard before it is reached.
        and not name.startswith("torch.utils.tensorboard")
    ]
    assert wrong == []


def test_tables_and_command_lines_are_loaded_without_torch():
    modules = [name for name, path in module_files().items() if path.name == "__init__.py" or name.endswith("cli")]
    loaded = in_a_fresh_process(f"import {', '.join(m for m in modules if not m.endswith('.model'))}")
    assert "torch" not in loaded


def in_a_fresh_process(statements: str) -> set[str]:
    """Top-level packages loaded after running some statements."""
    code = f"{statements}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def test_importing_everything_loads_no_optional_package():
    modules = ", ".join(name for name in module_files() if not name.endswith("__main__"))
    assert not in_a_fresh_process(f"import {modules}") & set(HEAVY)


def run(program: str, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Start a program as its console script does."""
    code = f"import sys\n{before}\nfrom {program}.cli import main\nsys.argv = {[program, *words]!r}\nmain()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())


QUICK = {
    "nanogen": [
        "ls",
        "show --task digits",
        "show --task imagenet256 --why",
        "show --task digits --json",
        "plan --task digits",
    ],
    "diffusionbench": ["ls", "ls --json"],
}


@pytest.mark.parametrize("program, words", [(program, words) for program, all_ in QUICK.items() for words in all_])
def test_commands_that_compute_nothing_work_without_torch(program, words):
    # None in `sys.modules` makes every import of torch fail.
    done = run(program, *words.split(), before="sys.modules['torch'] = None")
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("program", sorted(OURS))
def test_every_verb_explains_itself_without_torch(program):
    code = (
        f"import sys\nsys.modules['torch'] = None\nimport typer, {program}.cli as cli\n"
        "group = typer.main.get_command(cli.app)\n"
        "for words in [[], *([verb] for verb in group.commands)]:\n"
        "    group.main([*words, '--help'], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") > 5


@pytest.mark.parametrize("program", sorted(OURS))
def test_help_answers_at_once(program):
    walls, works = [], []
    # Other work on the machine adds to the time that passes, hardly to the time that is computed.
    for _ in range(8):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        assert run(program, "--help").returncode == 0
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        works.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if walls[-1] < 0.6:
            return
    assert min(works) < 0.6, f"{program} --help computes for {min(works):.2f} s at best; 0.6 s are allowed"
    assert min(walls) < 6, f"{program} --help takes {min(walls):.2f} s at best, most of it waiting"


def installed_by(extras: list[str]) -> set[str]:
    """Names of the packages that installing extras of ours brings, as far as they are installed here."""
    from packaging.markers import default_environment
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def needed(name: str, extra: set[str]) -> list[Requirement]:
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            return []
        wanted = [Requirement(line) for line in lines]
        places = [default_environment() | {"extra": choice} for choice in extra or {""}]
        return [one for one in wanted if one.marker is None or any(one.marker.evaluate(place) for place in places)]

    seen: dict[str, set[str]] = {}
    waiting = [Requirement(f"diffusionbench[{','.join(extras)}]")]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        new = one.extras - seen.get(name, set())
        if name not in seen or new:
            seen[name] = seen.get(name, set()) | one.extras
            waiting += needed(name, seen[name])
    return set(seen)


def test_the_environment_of_the_demo_holds_no_torchvision():
    assert "transformers" in installed_by(["demo"])
    assert "torchvision" not in installed_by(["demo", "data", "vae", "dev"])


def test_torchvision_cannot_be_imported_beside_the_demo():
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip(f"{sys.prefix} is not .venv, the environment of `make demo` and `make test`")
    assert find_spec("torchvision") is None


# Modules that serve every task, data set, condition, latent space, objective, loss and metric alike.
NAMELESS = [
    "nanogen.train",
    "nanogen.prepare",
    "nanogen.model",
    "nanogen.objectives",
    "nanogen.samplers",
    "nanogen.guidance",
    "nanogen.build",
    "nanogen.pipeline",
    "nanogen.evaluate",
    "nanogen.sample",
    "nanogen.run",
    "nanogen.resolve",
    "diffusionbench.runner",
    "diffusionbench.request",
    "diffusionbench.store",
]


@functools.cache
def registered() -> frozenset[str]:
    """Every name that a config or a request can choose."""
    from diffusionbench.axes import AXES
    from diffusionbench.judges import JUDGES
    from diffusionbench.metrics import METRICS
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.references import REFERENCES
    from nanogen.conditions import CONDITIONS
    from nanogen.config import method_names, task_names
    from nanogen.datasets import DATASETS
    from nanogen.latents import LATENTS
    from nanogen.losses import LOSSES
    from nanogen.objectives import OBJECTIVES
    from nanogen.samplers import SAMPLERS
    from nanogen.text import ENCODERS

    tables = [AXES, JUDGES, METRICS, PROMPTS, REFERENCES]
    tables += [CONDITIONS, DATASETS, ENCODERS, LATENTS, LOSSES, OBJECTIVES, SAMPLERS]
    return frozenset([*task_names(), *method_names(), *(name for table in tables for name in table)])


def strings(node: ast.AST) -> Iterator[str]:
    """The words in an expression, but those that only look something up."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node):
        yield from strings(child)


def branches_on_names(source: str) -> list[str]:
    """Comparisons, matches and string tests of a source with a registered name, as "line: names"."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            compared: list[ast.AST] = [node]
        elif isinstance(node, ast.match_case):
            compared = [node.pattern]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".startswith", ".endswith")):
            compared = list(node.args)
        else:
            continue
        names = {word for place in compared for word in strings(place)} & registered()
        if names:
            found.append(f"{getattr(compared[0], 'lineno', 0)}: {sorted(names)}")
    return found


@pytest.mark.parametrize("module", NAMELESS)
def test_nothing_on_the_main_path_asks_which_method_or_task_it_serves(module):
    inside = {name: path for name, path in module_files().items() if within(name, module)}
    assert inside
    wrong = {name: branches_on_names(path.read_text(encoding="utf-8")) for name, path in inside.items()}
    assert {name: lines for name, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize(
    "planted",
    [
        "if config.condition.kind == 'text':\n    pass",
        "if config.condition.encoder == 'minilm-l6':\n    pass",
        "if 'digits' in config.data.name:\n    pass",
        "x = 1 if name in ('pixel', 'other') else 2",
        "x = name != 'flow' and y",
        "match name:\n    case 'imagenet256':\n        pass",
        "match name:\n    case 'other' | 'fid':\n        pass",
        "if name.startswith('sd-vae-ema'):\n    pass",
        "while task == 'cifar10':\n    pass",
    ],
)
def test_a_planted_branch_on_a_name_is_found(planted):
    assert len(branches_on_names(planted)) == 1


def test_looking_a_name_up_is_no_branch():
    assert branches_on_names("x = TABLE['digits'](facts['precision'] == 'auto')") == []


def test_a_planted_upward_import_is_found(monkeypatch):
    planted = dict(imports())
    for module, source in {
        "nanogen.guidance": "def f():\n    from nanogen.train import train\n    import nanogen.samplers\n",
        "diffusionbench.stats": "from nanogen import rng\n",
    }.items():
        reader = Reader(module, is_package=False)
        reader.visit(ast.parse(source))
        planted[module] = reader.found
    monkeypatch.setitem(globals(), "imports", lambda: planted)
    assert arrows("nanogen.guidance", PEOPLE) == ["nanogen.guidance -> nanogen.train"]
    assert arrows("nanogen.guidance", STRANGERS) == ["nanogen.guidance -> nanogen.samplers"]
    assert arrows("diffusionbench", ["nanogen"]) == ["diffusionbench.stats -> nanogen.rng"]
