"""Every reader of a stranger's file, given damaged and made-up ones: the only exceptions are the project's own.

To add a reader: one row in `READERS` with the bytes of a good file and the function that reads it. Each is tried with
`QUICK` inputs by default and `MANY` under `-m slow`; the inputs are the same in every run.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusionbench.errors import RunError, UserError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value

QUICK, MANY = 30, 700


@dataclass(frozen=True)
class Reader:
    """One way to read a file.

    Attributes:
        good: makes the bytes of a file that it reads.
        read: reads the file at a path; what it gives plays no part.
        name: the file's name.
    """

    good: Callable[[], bytes]
    read: Callable[[Path], object]
    name: str = "file"


# Good files


@cache
def record() -> bytes:
    value = Value(value=1.5, stderr=0.1, interval=(1.0, 2.0), scored=20)
    made = Record(
        kind="measured",
        id="made-up",
        method="m",
        title="a title",
        family="vae",
        protocol=Protocol(name="p", axis="class_conditional", count=20, guidance=Guidance(scale=2.0), seed=0),
        values={"fid": value, "fd_digits": value, "other": value},
        anchors={"held_out": {"fid": value}},
        breakdown={"0": {"fid": value}},
        provenance=Provenance(source="s", images_digest="0" * 64),
        extra={
            "facts": {"fid": {"text": "words"}},
            "request": {"prompts": {"seed": "public-0"}},
            "printed": {"fid": "1"},
        },
    )
    return made.model_dump_json().encode()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@cache
def images() -> bytes:
    return npz(arr_0=np.zeros((4, 8, 8, 3), np.uint8), arr_1=np.arange(4))


@cache
def config() -> bytes:
    return b"use: {task: digits}\nseed: 3\nmodel.encoder_depth: 2\ndata: &d {image_size: 8}\noptim.betas: [0.9, 0.95]\n"


@cache
def weights() -> bytes:
    from safetensors.torch import save

    from nanogen.config import compose
    from nanogen.model.dit import DDT
    from nanogen.resolve import resolve

    made = compose(
        "digits",
        overrides=[
            "model.encoder_depth=1",
            "model.encoder_hidden_size=16",
            "model.encoder_num_heads=2",
            "model.decoder_depth=1",
            "model.decoder_hidden_size=16",
            "model.decoder_num_heads=2",
            "model.pixel_grid=2",
        ],
    ).config
    tensors = {name: value.detach().contiguous() for name, value in DDT(resolve(made).shape).named_parameters()}
    return save(tensors, {"config": made.model_dump_json(), "step": "3"})


@cache
def manifest() -> bytes:
    from nanogen.text.cache import CacheManifest

    made = CacheManifest(
        encoder="e",
        encoder_digest="0",
        max_tokens=8,
        dtype="float16",
        width=4,
        data_digest="0",
        captions=2,
        tokens=5,
        truncated=0,
        index_sha256="0" * 64,
    )
    return made.model_dump_json().encode()


# Readers


def show(path: Path) -> None:
    """What `inspect`, `compare`, `board`, `site` and the exports make of a record."""
    from diffusionbench.record import load
    from diffusionbench.study import exports
    from diffusionbench.study.board import build
    from diffusionbench.study.comparison import compare
    from diffusionbench.study.points import load_folder, select_points
    from diffusionbench.study.submission import check_folder
    from diffusionbench.views import terminal
    from diffusionbench.views.site.build import files
    from diffusionbench.views.site.contents import Contents

    found = load(path)
    terminal.print_record(found)
    compare(found, found).as_text()
    json.dumps(found.model_dump(mode="json"))
    records = load_folder(path.parent)
    board = build(records, "measured-laptop", draws=20)
    terminal.board_csv(board, board.columns)
    terminal.board_markdown(board, board.columns)
    check_folder(path.parent)
    list(files(Contents(tuple(records))))
    for make in (
        lambda: select_points(records, "fid", "other", score_set="measured", guidance="cfg"),
        lambda: exports.every_eval_ever(found, retrieved=0.0),
        lambda: exports.hub_yaml(found, "owner/name"),
    ):
        with suppress(UserError):
            make()


def verify(path: Path) -> None:
    from diffusionbench.benchmarks.simpleeval.verification import verify_record

    verify_record(path)


@cache
def simpleeval_record() -> bytes:
    from diffusionbench.prompts import PROMPTS

    name = "simpleeval_shapes_v1"
    opened = PROMPTS.load(name).open("public-0", "quick")
    made = Record.model_validate_json(record())
    guard = {"name": "probe", "value": 0.1, "flagged": False, "note": None}
    fact = {"seed": "public-0", "layout": "quick", "set_digest": opened.digest, "status": "provisional"}
    fact |= {"guards": {"G7": guard}}
    chosen = {"name": name, "seed": "public-0", "layout": "quick"}
    extra = {"facts": {name: fact}, "request": {"prompts": chosen}}
    return made.model_copy(update={"extra": extra}).model_dump_json().encode()


def claim() -> bytes:
    return b'set: simpleeval_v1\nseed: "public-1"\nlayout: quick\nbeacon: round 7\nnetworks: [clip, "sd-vae"]\n'


def read_claim(path: Path) -> None:
    from diffusionbench.benchmarks.simpleeval.claims import read_claim

    read_claim(path).choice("simpleeval_v1", "simpleeval_v1")


def array(path: Path) -> None:
    """An array, as images and as labels of an archive."""
    for names in (["arr_0"], ["arr_0", "arr_1"]):
        file = path.with_name(f"{len(names)}.npz")
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(f"{name}.npy", path.read_bytes() if name == names[-1] else npy())
        with suppress(UserError):
            score_images(file)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 4, 4, 3), np.uint8))
    return stream.getvalue()


def score_images(path: Path) -> None:
    from diffusionbench.sample import Sample, plain_item
    from diffusionbench.source import open_source

    source = open_source(path)
    labels = source.labels or ()
    source.images([Sample(number, plain_item(label)) for number, label in enumerate(labels[:8])])


def moments(path: Path) -> None:
    from diffusionbench.judges import DIGITS
    from diffusionbench.moments import load_moments
    from diffusionbench.references.opening import resolve

    with suppress(UserError):
        load_moments(path)
    resolve(str(path), "digits").check(DIGITS)


@cache
def statistics() -> bytes:
    return npz(mu=np.zeros(64), sigma=np.eye(64))


def statistics_manifest() -> bytes:
    told = {"sha256": hashlib.sha256(statistics()).hexdigest(), "extractor_digest": "0" * 64, "image_size": [8, 8]}
    more = {"extractor": "digits", "count": 20, "role": "val", "made_by": "x", "source": "y", "preprocessing": "z"}
    return json.dumps({"format": "diffusionbench-statistics-1", **told, **more}).encode()


def bound_moments(path: Path) -> None:
    """A manifest, beside the statistics that it is of."""
    from diffusionbench.judges import DIGITS
    from diffusionbench.references.opening import resolve

    (path.parent / "statistics.npz").write_bytes(statistics())
    resolve(str(path.parent / "statistics.npz")).check(DIGITS)


def store(path: Path) -> None:
    """A list of images, beside whatever archive it may name."""
    from diffusionbench.request import EvalRequest
    from diffusionbench.store import ImageStore, StoreManifest
    from diffusionbench.views.site.samples import Store

    found = Store(path.parent)
    found.digest(2)
    if found.entries:
        found.sheet()
    request = EvalRequest(metrics=("fd_digits",), count=2, method="m", title="t")
    made = StoreManifest(key="k", description="d", request=request)
    opened = ImageStore.create(path.parent, made)
    list(opened.batches(opened.count()))


def store_manifest(path: Path) -> None:
    from diffusionbench.store import ImageStore

    ImageStore(path.parent).count()


@cache
def store_json() -> bytes:
    from diffusionbench.request import EvalRequest
    from diffusionbench.store import StoreManifest

    request = EvalRequest(metrics=("fd_digits",), count=2, method="m", title="t")
    return StoreManifest(key="k", description="d", request=request).model_dump_json().encode()


@cache
def chunk() -> bytes:
    entries = [[0, 1, None, "0" * 64], [1, None, "a prompt", "1" * 64]]
    return json.dumps(
        {"file_sha256": "0" * 64, "entries": entries, "unreadable": {"2": "why"}, "seconds": 1.0}
    ).encode()


def read_config(path: Path) -> None:
    from nanogen.config import compose
    from nanogen.show import as_text

    as_text(compose(file=path), why=True)


def sample(path: Path) -> None:
    from nanogen.pipeline import load

    load(path, None, "cpu", "float32")


def cache_manifest(path: Path) -> None:
    from nanogen.shards import read_manifest
    from nanogen.text.cache import CacheManifest

    read_manifest(path.parent, CacheManifest)


def prompts(path: Path) -> None:
    from nanogen.sample import read_prompts

    read_prompts(path)


def labels(path: Path) -> None:
    from diffusionbench.source import read_labels

    read_labels(path)


def encoder(path: Path) -> None:
    from nanogen.text import open_spec

    open_spec(str(path.parent))


READERS = {
    "records": Reader(record, show, "made-up.json"),
    "records of simpleeval": Reader(simpleeval_record, verify, "made-up.json"),
    "claims": Reader(claim, read_claim, "claim.yaml"),
    "arrays in archives": Reader(npy, array, "array.npy"),
    "archives of images": Reader(images, score_images, "images.npz"),
    "archives of statistics": Reader(statistics, moments, "statistics.npz"),
    "manifests of statistics": Reader(statistics_manifest, bound_moments, "statistics.npz.manifest.json"),
    "lists of stored images": Reader(chunk, store, "0000000.json"),
    "image stores": Reader(store_json, store_manifest, "store.json"),
    "configs": Reader(config, read_config, "mine.yaml"),
    "weights": Reader(weights, sample, "w.safetensors"),
    "text caches": Reader(manifest, cache_manifest, "manifest.json"),
    "prompts": Reader(lambda: b"a red ball\na green box\n", prompts, "prompts.txt"),
    "labels": Reader(lambda: b"1\n2\n3\n", labels, "labels.txt"),
    "folders of text encoders": Reader(lambda: b'{"model_type": "t5", "d_model": 8}', encoder, "config.json"),
}


# What is done to good files

# Numbers, names and bytes at which readers break.
WORDS = [
    *b'NaN Infinity -Infinity -1 0 1e999 1e400 9223372036854775808 null true [] {} "" ( % , =cmd|x |O <<: *d'.split(),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\r", b"\t", b"\x1b[2J", b'"\\ud800"', b"'", b"&a [*a, *a]"),
    *(b"9" * 400, b"9" * 5_000, b"[" * 2_000, b'{"a":' * 2_000, b"!!python/object:os.system "),
    *(struct.pack("<Q", 2**63), struct.pack("<I", 2**32 - 1)),
    *(b"'shape': (-1, 8, 8, 3)", b"'shape': (1000000000000,)"),
]
PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.one_of(
    st.tuples(st.just("cut"), PLACES, PLACES),
    st.tuples(st.just("put"), PLACES, st.sampled_from(WORDS)),
    st.tuples(st.just("over"), PLACES, st.sampled_from(WORDS)),
    st.tuples(st.just("value"), PLACES, st.sampled_from(WORDS)),
    st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("twice"), PLACES, PLACES),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


def edited(content: bytes, edits: list[tuple[Any, ...]]) -> bytes:
    """A file with parts cut out, put in, written over, flipped or doubled."""
    for kind, where, what in edits:
        place = int(where * (len(content) + 1))
        if kind == "cut":
            content = content[:place] + content[place + 1 + int(what * 40) :]
        elif kind == "put":
            content = content[:place] + what + content[place:]
        elif kind == "over":
            content = content[:place] + what + content[place + len(what) :]
        elif kind == "value":
            # The next value of a JSON or YAML text.
            start = content.find(b":", place) + 1
            end = min((end for mark in b",}\n" if (end := content.find(mark, start)) >= 0), default=len(content))
            content = content[:start] + what + content[end:]
        elif kind == "flip" and place < len(content):
            content = content[:place] + bytes([content[place] ^ 1 << what]) + content[place + 1 :]
        elif kind == "twice":
            content = content[:place] + content[place : place + 1 + int(what * 40)] + content[place:]
    return content


def replaced(content: bytes, where: list[float], value: Any) -> bytes:
    """A JSON text with the value at some path replaced."""
    tree = node = json.loads(content)
    for step in where:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        if not keys:
            break
        key = keys[int(step * len(keys))]
        if step == where[-1] or not isinstance(node[key], dict | list) or not node[key]:
            node[key] = value
            break
        node = node[key]
    return json.dumps(tree).encode()


def files(good: bytes) -> st.SearchStrategy[bytes]:
    """Damaged copies of a file, and a few that were never one."""
    made = [
        st.lists(EDITS, min_size=1, max_size=4).map(lambda edits: edited(good, edits)),
        st.sampled_from([b"", *WORDS]),
        st.binary(max_size=40),
    ]
    if good.startswith(b"{"):
        made += [st.builds(replaced, st.just(good), st.lists(PLACES, min_size=1, max_size=4), JSON)] * 2
    return st.one_of(made)


def check(reader: Reader, folder: Path, examples: int) -> None:
    """Read damaged files one after another; anything but the project's own errors fails."""
    count = 0

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(files(reader.good()))
    def one(content: bytes) -> None:
        nonlocal count
        count += 1
        place = folder / str(count) / reader.name
        place.parent.mkdir()
        place.write_bytes(content)
        with suppress(UserError, RunError):
            reader.read(place)

    one()


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(name, tmp_path):
    reader = READERS[name]
    (tmp_path / reader.name).write_bytes(reader.good())
    reader.read(tmp_path / reader.name)


@pytest.mark.parametrize("examples", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_ends_in_the_projects_own_errors_alone(name, examples, tmp_path):
    check(READERS[name], tmp_path, examples)


def test_another_exception_fails(tmp_path):
    def read(path: Path) -> None:
        if b"-1" in path.read_bytes():
            raise KeyError("x")

    with pytest.raises((KeyError, ExceptionGroup)):
        check(Reader(lambda: b'{"a": 1}', read), tmp_path, 200)
