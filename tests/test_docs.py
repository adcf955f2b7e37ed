"""What the documents and `--help` say: commands parse, Python runs, configs load, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from nanogen.config import compose

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/**/*.md")])
PROGRAMS = ("nanogen", "diffusionbench")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>"}
COMPOSING = {"train", "show", "bench"}


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
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(document, line, match[2], match[3]))
    return found


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, cut at pipes and redirections, without prompts and comments."""
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
    """A command of our programs or of make as (program, words ...); [] for any other."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
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


def check_overrides(verb: str, given: dict) -> None:
    """Names and values of a config that a command writes down."""
    overrides = [word for word in given.get("words") or given.get("overrides") or [] if "=" in word]
    if verb in COMPOSING:
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


@pytest.mark.parametrize("block", blocks("sh", "bash", "shell", "console"), ids=str)
def test_commands_in_documents_exist(block):
    for words in commands(block.text):
        check(words)


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
