"""Break the code in a small, known way and see that a test notices: `make mutants`.

`table.yaml` lists the mutants: what is wrong then, the file, a text that stands in it once, what replaces it, and the
tests that must fail. Each is applied to a copy of the tree, never to the tree itself.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib
import os
import py_compile
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("table.yaml")
# Seconds; a mutant that hangs has been noticed.
LIMIT = 900
PRELOADED = (
    "pytest",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "pydantic",
    "typer",
    "PIL.Image",
    "safetensors.torch",
)
PRELOADED += ("transformers",)


@dataclass(frozen=True)
class Mutant:
    """One fault and the tests that notice it.

    Attributes:
        name: what is wrong then, in words.
        file: relative to the root.
        old, new: a text that stands in the file exactly once, and what replaces it.
        tests: node ids of pytest, with spaces between them.
        unnoticed: whether the whole suite once passed with it; these are also applied all together.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    unnoticed: bool = False


def read_table(path: Path = TABLE) -> list[Mutant]:
    """The mutants of a table.

    Raises:
        TypeError: if an entry has an unknown key or lacks one.
    """
    rows = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    return [Mutant(**{{"from": "old", "to": "new"}.get(key, key): value for key, value in row.items()}) for row in rows]


def applied(mutants: Iterable[Mutant], root: Path) -> dict[Path, str]:
    """The texts of the files that some mutants change, with all of them applied.

    Raises:
        ValueError: if the text of one does not stand in its file exactly once.
    """
    texts: dict[Path, str] = {}
    for one in mutants:
        path = root / one.file
        text = path.read_text(encoding="utf-8")
        if text.count(one.old) != 1 or one.old == one.new:
            raise ValueError(
                f"mutant '{one.name}': its text stands {text.count(one.old)} times in {one.file}, and must stand there "
                "once and be changed. Write the entry for the code as it is now."
            )
        # Where two mutants overlap, the first one stays.
        texts[path] = texts.get(path, text).replace(one.old, one.new)
    return texts


def copy_tree(to: Path) -> None:
    """Copy what git knows or would add, and compile it so that a changed file is compiled anew."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    by_hash = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(to / "src", quiet=1, invalidation_mode=by_hash)


def run_tests(tree: Path, arguments: Sequence[str], limit: float = LIMIT) -> int | None:
    """Run pytest in the copy; gives its exit code, or None where it did not end in time (seconds).

    In a child of this process, which has imported what is large and is never mutated.
    """
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = _in_child(tree, arguments, output.fileno())
            finally:
                os._exit(code)
        deadline = time.monotonic() + limit
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(ended[1])
        if code not in (0, 1):
            output.seek(0)
            print(output.read().decode(errors="replace")[-2000:])
        return code


def _in_child(tree: Path, arguments: Sequence[str], output: int) -> int:
    import pytest

    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(tree)
    # Finding plugins takes longer than many a test.
    os.environ |= {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree / "src"))
    return int(pytest.main(["-p", "no:cacheprovider", "--tb=line", "--no-header", *arguments]))


def preload() -> None:
    """Import what most tests need and no mutant changes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not {"nanogen", "diffusionbench"} & sys.modules.keys()


def noticed(mutants: Sequence[Mutant], tree: Path, arguments: Sequence[str]) -> bool:
    """Whether a test fails with these mutants; the copy is as before afterwards."""
    changed = applied(mutants, tree)
    before = {path: path.read_text(encoding="utf-8") for path in changed}
    try:
        for path, text in changed.items():
            path.write_text(text, encoding="utf-8")
        return run_tests(tree, arguments) in (1, None)
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def commit() -> str:
    """The commit that is checked out, which decides the sample."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def selected(mutants: Sequence[Mutant], sample: int | None, only: str) -> list[Mutant]:
    """All mutants, those with a word in their name or file, or so many, which change with the commit."""
    chosen = [one for one in mutants if only in one.name or only in one.file]
    return chosen if sample is None else random.Random(commit()).sample(chosen, min(sample, len(chosen)))


def tests_of(mutants: Iterable[Mutant]) -> list[str]:
    return list(dict.fromkeys(argument for one in mutants for argument in shlex.split(one.tests)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Give 0 where every mutant was noticed, else 1."""
    parser = argparse.ArgumentParser(description="Apply mutants to a copy of the tree; tests must fail.")
    parser.add_argument("--sample", type=int, help="only so many, which change with the commit")
    parser.add_argument("--only", default="", help="only those with this in their name or file")
    parser.add_argument("--together", action="store_true", help="all that once went unnoticed, at once")
    asked = parser.parse_args(arguments)
    table = read_table()
    # Every entry, whatever is asked for: one that no longer fits is found with the change that moved it.
    applied(table, ROOT)
    chosen = [one for one in table if one.unnoticed] if asked.together else selected(table, asked.sample, asked.only)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        preload()
        if run_tests(tree, ["-x", *tests_of(chosen)]) != 0:
            print(f"The tests fail, or do not run, without any mutant: {' '.join(tests_of(chosen))}")
            return 1
        if asked.together:
            found = noticed(chosen, tree, tests_of(chosen))
            print(f"{len(chosen)} mutants together: {'noticed' if found else 'NOT NOTICED'}")
            return not found
        missed = []
        for one in chosen:
            started = time.perf_counter()
            found = noticed([one], tree, ["-x", *shlex.split(one.tests)])
            print(
                f"{'noticed' if found else 'NOT NOTICED':12}{time.perf_counter() - started:5.1f} s  {one.name}",
                flush=True,
            )
            missed += [] if found else [one.name]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mutants were noticed.")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
