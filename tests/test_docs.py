"""What the documents and `--help` say: commands parse, Python runs, configs load, links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from nanogen.config import compose
from nanogen.study.file import read_study
from nanogen.tokenizer.settings import compose_tokenizer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / folder / "README.md" for folder in ("records", "tools", "benchmarks", "examples/colours")),
    ]
)
# Blocks that show a part of another file; `tests/diffusionbench/test_contribute.py` tries these.
PART = re.compile(r"# (methods\.yaml|boards\.yaml|(tests|my_\w+)/[\w/]+\.py)\n")
PROGRAMS = ("nanogen", "diffusionbench")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>"}
COMPOSING = {"train", "show", "bench", "plan"}
GROUPS = ("datasets", "latents", "sources")


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            if match[2] in languages and not PART.match(match[3]):
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(document, line, match[2], match[3]))
    return found


def commands(text: str) -> list[list[str]]:
    """Return the commands of a shell block, cut at pipes and redirections, without prompts and comments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word in ENDS or word.startswith("("):
                found.append(command)
                command = []
            else:
                command.append(word)
    return [command for command in map(ours, found) if command]


def ours(words: list[str]) -> list[str]:
    """Return a command of our programs, of make or of a tool as (program, words ...); [] for any other."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if len(words) > 1 and re.fullmatch(r"(tools|benchmarks)/\w+\.py", words[1]):
        return words[1:]
    if "-m" in words and words[0].rpartition("/")[2] in ("python", "python3", "torchrun"):
        words = words[words.index("-m") + 1 :]
    elif words:
        words = [words[0].removeprefix(".venv/bin/"), *words[1:]]
    return words if words and words[0] in (*PROGRAMS, "make") else []


def verbs(program: str) -> Any:
    """The program as a Click group; Typer may bring its own Click."""
    return typer.main.get_command(import_module(f"{program}.cli").app)


def check(words: list[str]) -> None:
    """Parse a command with the program's own parser; nothing is run."""
    program, *rest = words
    if program.endswith(".py"):
        assert (ROOT / program).exists(), shlex.join(words)
        return
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), shlex.join(words)
        return
    command = verbs(program)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{program} has no verb '{rest[0]}': {shlex.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        context = command.make_context(command.name or program, list(rest))
    except Exception as error:
        # `--help` ends the parsing. By name, as the class is Typer's own or Click's.
        if type(error).__name__ == "Exit":
            return
        raise AssertionError(f"{shlex.join(words)}: {getattr(error, 'message', error)}") from None
    if program == "nanogen":
        check_overrides(command.name or "", context.params)


def check_outline(words: list[str]) -> None:
    """Check verb and options of a command that a text names without all that it needs."""
    program, *rest = words
    if program not in PROGRAMS:
        return check(words)
    command = verbs(program)
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{program} has no verb '{rest[0]}': {shlex.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for option in command.params for name in option.opts}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known | {"--help"}, shlex.join(words)


def check_overrides(verb: str, given: dict) -> None:
    """Names and values of a config that a command writes down."""
    overrides = [word for word in given.get("words") or given.get("overrides") or [] if "=" in word]
    if "recipe" in given:
        compose_tokenizer(given["recipe"], overrides)
    elif verb == "study":
        name = next((word for word in given["words"] or [] if "=" not in word), None)
        read_study(None if name is not None and name.endswith(".yaml") else name, overrides, given["scale"])
    elif verb in COMPOSING:
        compose(given["task"] or "digits", given["method"], given["scale"], None, overrides)
    else:
        compose("digits", None, None, None, overrides)


def test_the_parser_of_documents_finds_our_commands():
    text = "$ A=1 nanogen ls  # all\npip install x\ntorchrun -m nanogen train \\\n  --task digits | tee x"
    assert commands(text) == [["nanogen", "ls"], ["nanogen", "train", "--task", "digits"]]


@pytest.mark.parametrize(
    "words", ["nanogen trian", "nanogen show --tsk digits", "nanogen show optim.lrr=1", "nanogen show --task digts"]
)
def test_a_wrong_command_is_noticed(words):
    with pytest.raises(Exception, match=r"trian|tsk|lrr|digts"):
        check(words.split())


@pytest.mark.parametrize("words", ["nanogen prepare test", "nanogen eval RUN --guidence 2", "tools/no_tool.py x"])
def test_a_wrong_outline_is_noticed(words):
    with pytest.raises(AssertionError):
        check_outline(words.split())


@pytest.mark.parametrize("block", blocks("sh", "bash", "shell", "console"), ids=str)
def test_commands_in_documents_exist(block):
    # Those of pages with an entry point name its row; `tests/diffusionbench/test_contribute.py` runs them.
    of_a_row = "project.entry-points" in block.document.read_text(encoding="utf-8")
    for words in commands(block.text):
        (check_outline if of_a_row else check)(words)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_verb_has_three_examples_that_parse(program):
    group = verbs(program)
    commands_of = [("", group), *group.commands.items()]
    for name, command in commands_of:
        if name and hasattr(command, "commands"):
            commands_of += [(f"{name} {inner}", found) for inner, found in command.commands.items()]
            continue
        lines = re.findall(r"^ *((?:torchrun .*)?nanogen .*|diffusionbench .*)$", command.help, re.MULTILINE)
        examples = commands("\n".join(lines))
        assert len(examples) >= 3, f"{program} {name} has {len(examples)} examples"
        for words in examples:
            check(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_documents_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "document"}
    for block in blocks("python"):
        if block.document == document:
            # Blank lines in front keep the document's line numbers in a traceback.
            exec(compile("\n" * block.line + block.text, str(document), "exec"), namespace)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_configs_in_documents_load(block, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(block.text, encoding="utf-8")
    compose(None, None, None, file, [])


def anchors(document: Path) -> set[str]:
    """Headings as GitHub turns them into link targets."""
    headings = re.findall(r"^#+ +(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_modules_and_tools_named_in_the_text_exist(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in re.findall(r"`(?:python )?((?:src|docs|examples|tests|tools|benchmarks|records)/[\w/.*-]+)", text):
        assert "foo" in path or list(ROOT.glob(path)), f"{document.name} names {path}"
    for path in re.findall(r"`((?:nanogen|diffusionbench)/[\w/.-]+)`", text):
        assert (ROOT / "src" / path).exists(), f"{document.name} names {path}"
    for module in re.findall(r"`(?:python -m )?((?:nanogen|diffusionbench)(?:\.\w+)+)", text):
        # Where the module of a page's example goes in this tree.
        own = module.endswith(".foo") or re.search(rf"`my_\w+\.{module.rpartition('.')[2]}[`:]", text)
        assert own or resolves(module), f"{document.name} names {module}"


def resolves(name: str) -> bool:
    """Return whether a dotted name is a module, an attribute of one, or an entry-point group of ours."""
    if name.partition(".")[2] in GROUPS:
        return True
    module, _, rest = name.partition(".")
    found: Any = import_module(module)
    while rest:
        part, _, rest = rest.partition(".")
        module = f"{module}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else import_module(module)
        except ModuleNotFoundError:
            return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_named_in_the_text_exist(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for inline in re.findall(r"`((?:nanogen|diffusionbench|make|python tools/\S+) [^`\n]+)`", text):
        for words in commands(inline):
            check_outline(words)


def walks() -> list[list[tuple[str, str]]]:
    """Return the (file, function) of every step of the walks of docs/design.md, table by table."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [re.findall(r"^\| \d+ \| `([\w/.-]+)` \| `([\w.]+)` \|", table, re.MULTILINE) for table in tables]
    return [found for found in rows if found]


def defined(path: Path) -> set[str]:
    """Return the functions, classes and methods ("Class.method") that a file defines."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_steps_of_both_walks_exist():
    assert len(walks()) == 2
    for file, function in (step for walk in walks() for step in walk):
        assert function in defined(ROOT / "src" / file), f"docs/design.md: {file} has no {function}"


def test_a_request_reaches_its_cell_through_few_files_and_none_twice():
    files = [file for file, _ in walks()[1]]
    assert len(files) <= 8
    assert len(set(files)) == len(files)


def test_every_wish_has_a_page_and_a_test_that_exist():
    text = (ROOT / "docs" / "wishes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\[[^]]+\]\(([\w/]+\.md)[^)]*\) \| `([\w/.]+)::(\w+)` \|$", text, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 16))
    for _, page, file, test in rows:
        assert (ROOT / "docs" / page).exists(), page
        assert test in defined(ROOT / file), f"docs/wishes.md: {file} has no {test}"
