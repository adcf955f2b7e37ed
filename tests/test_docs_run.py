"""The commands of a reader's first hour, run as they are written, on small networks and few images."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import MODEL
from typer.testing import CliRunner

from diffusionbench.cli import app as bench
from diffusionbench.references import digits
from nanogen.cli import app as nanogen
from test_docs import DOCUMENTS, ROOT, commands

BLOCK = re.compile(
    r"(?:^ *<!-- not run: ([^>]+) -->\n)?^( *)```(?:sh|bash|shell|console)[^\n]*\n(.*?)^\2```", re.MULTILINE | re.DOTALL
)
CONFIG = re.compile(r"^```yaml\n(# (\w+\.yaml)\n.*?)^```", re.MULTILINE | re.DOTALL)
# What a laptop needs minutes for is cut to a step.
SHORT = [
    "train.duration=2 steps",
    "train.compile=false",
    "sampler.num_steps=2",
    "sample.num=2",
    "train.batch_size=4",
    "data.workers=0",
]
QUICK = {
    ("nanogen", "train"): [*MODEL, *SHORT, "eval.num_samples=200", "optim.warmup=0 steps"],
    ("nanogen", "eval"): ["--num", "200"],
    ("nanogen", "bench"): [*MODEL, "train.batch_size=4", "--steps", "1", "--warmup", "0"],
}


def shell_blocks(document: Path) -> list[tuple[str | None, str]]:
    """Return each block of commands with the reason for which it is not run, or None."""
    return [(match[1], match[3]) for match in BLOCK.finditer(document.read_text(encoding="utf-8"))]


# The first hour. The commands of all others are parsed with their configs (`test_docs.py`).
RUN = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("quickstart", "data", "findings", "site")),
]


def test_a_reason_is_read():
    text = "<!-- not run: a cluster -->\n```sh\na\n```\n\n```sh\nb\n```\n"
    assert [(match[1], match[3]) for match in BLOCK.finditer(text)] == [("a cluster", "a\n"), (None, "b\n")]


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What a reader has at hand: pictures of every form, under the names of the documents."""
    folder = tmp_path_factory.mktemp("inputs")
    draws = np.random.default_rng(0)
    for number in range(12):
        image = draws.integers(0, 256, (40, 40, 3), np.uint8)
        for place in (
            f"pictures/{'ab'[number % 2]}",
            f"imagenet/{'ab'[number % 2]}",
            "real",
            "images",
            "originals",
            "reconstructions",
        ):
            write(folder / place / f"{number}.png", image)
        write(folder / "captioned" / f"{number}.png", image)
        (folder / "captioned" / f"{number}.txt").write_text(f"thing {number}")
    images, labels = digits.read("held_out")
    for number in range(30):
        write(folder / "samples" / str(labels[number]) / f"{number}.png", images[number])
    np.savez(folder / "samples.npz", arr_0=images[:30], arr_1=labels[:30])
    np.savez(folder / "images.npz", arr_0=images[:30], arr_1=labels[:30])
    (folder / "outputs").mkdir()
    (folder / "shards").mkdir()
    (folder / "tables").mkdir()
    shard = folder / "shards" / "train-000.tar"
    with tarfile.open(shard, "w") as archive:
        for path in sorted((folder / "captioned").iterdir()):
            archive.addfile(archive.gettarinfo(str(path), path.name), io.BytesIO(path.read_bytes()))
    for number in range(128):
        shutil.copy(shard, folder / "shards" / f"{number:05}.tar")
    for name in ("journeydb", "short-caption", "long-caption"):
        (folder / name).mkdir()
        shutil.copy(shard, folder / name)
    return folder


def parquet(folder: Path) -> None:
    table = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
    import pyarrow.parquet

    files = sorted((folder / "pictures").rglob("*.png"))
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}, "label": n % 10} for n, path in enumerate(files)]
    names = {"info": {"features": {"label": {"names": list("abcdefghij"), "_type": "ClassLabel"}}}}
    made = table.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(names)})
    for name in ("train.parquet", "tables/train-0.parquet"):
        pyarrow.parquet.write_table(made, folder / name)


def run(words: list[str]) -> str:
    """Run a command of ours in this process, shortened; what it prints."""
    program, *rest = words
    if "--dry-run" not in rest and "--synthetic" not in rest:
        rest += QUICK.get((program, rest[0]), [])
        if rest[:3] == ["train", "--task", "cifar10"]:
            # The other scores need more than the twelve pictures that are there.
            rest.append("eval.metrics=[fd_efflite0]")
    done = CliRunner().invoke({"nanogen": nanogen, "diffusionbench": bench}[program], rest)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{' '.join(words)}: {type(done.exception).__name__}: {done.exception}")
    assert done.exit_code in (0, 3), f"{' '.join(words)}: {done.output}"
    return done.output


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("document", RUN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_run(document, inputs, tmp_path, monkeypatch):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "records", tmp_path / "records")
    if "--out samples/" in document.read_text(encoding="utf-8"):
        # Written by the document itself.
        shutil.rmtree(tmp_path / "samples")
    parquet(tmp_path)
    monkeypatch.chdir(tmp_path)
    for text, name in CONFIG.findall(document.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text)
    for why, text in shell_blocks(document):
        for words in [] if why else commands(text):
            if words[0] in ("nanogen", "diffusionbench"):
                run(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_block_that_is_not_run_says_why(document):
    reasons = {"a cluster", "a hub", "a download", "own files"}
    reasons |= {"it installs packages", "it publishes", "it makes a tag"}
    assert {why.partition(":")[0] for why, _ in shell_blocks(document) if why} <= reasons
