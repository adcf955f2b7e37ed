"""Tar shards: what is read, the index, what is refused, and the order of a run over them."""

import json
import multiprocessing
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shards import pair, picture, png, write_shards, write_tar

from diffusionbench.errors import DataError
from nanogen.data import Component, tarindex
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.data.order import Order, batches
from nanogen.datasets.tars import open_tars


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(folder))
    return folder


def opened(path: Path):
    return open_dataset("tars", str(path), image_size=4)


def keys(dataset) -> list[str]:
    return [dataset.name(index).rpartition(": ")[2] for index in range(len(dataset))]


def captions(dataset) -> list[str]:
    return [dataset.caption(index) for index in range(len(dataset))]


# Reading.


def test_samples_lie_in_the_order_of_shards_and_keys(tmp_path):
    data = opened(write_shards(tmp_path / "data", [3, 2]))
    assert len(data) == 5
    assert keys(data) == ["0000", "0001", "0002", "0003", "0004"]
    assert captions(data) == [f"picture {index}" for index in range(5)]
    for index in range(5):
        item = data[index]
        np.testing.assert_array_equal(item.image, picture(index))
        assert (item.caption, item.label) == (f"picture {index}", None)
    assert (data.captioned, data.num_classes) == (True, None)
    assert data.components[0].blocks == (3, 2)


LONG = "folder/" * 30 + "é" * 60


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_gives_what_tarfile_reads(tmp_path, kind):
    names = ["a/b/x", "a/" * 60 + "y"] if kind == tarfile.USTAR_FORMAT else ["a/b/x", LONG, "z" * 130]
    members = [(f"{name}.{end}", png(0) if end == "png" else name.encode()) for name in names for end in ("png", "txt")]
    path = write_tar(tmp_path / "x.tar", members, kind)
    data = opened(path)
    assert keys(data) == names
    assert captions(data) == names
    assert [data.read(index) for index in range(len(names))] == [png(0)] * len(names)


def test_keys_end_at_the_first_dot_and_other_files_are_not_read(tmp_path):
    members = [
        ("d.ir/one.JPG", png(0)),
        ("d.ir/one.seg.png", png(1)),
        ("d.ir/one.cls", b"7"),
        ("d.ir/one.txt", b"  a ball \n"),
        (".hidden.png", png(2)),
        ("README", b"notes"),
        ("__notes__.json", b"{}"),
        ("two.json", json.dumps({"caption": "from json", "width": 4}).encode()),
        ("two.webp", png(3)),
        ("three.json", b"no json at all"),
        ("three.txt", "naïve".encode()),
        ("three.jpeg", png(4)),
    ]
    data = opened(write_tar(tmp_path / "x.tar", members))
    assert keys(data) == ["d.ir/one", "two", "three"]
    assert captions(data) == ["a ball", "from json", "naïve"]
    np.testing.assert_array_equal(data[1].image, picture(3))


def test_long_captions_are_read_whole(tmp_path):
    text = "word " * 3000 + "end"
    data = opened(write_tar(tmp_path / "x.tar", [("a.txt", text.encode()), ("a.png", png(0))]))
    assert data.caption(0) == text


def test_a_shard_a_pattern_and_a_folder_of_splits(tmp_path):
    write_shards(tmp_path / "train", [2, 2])
    write_shards(tmp_path / "val", [1], first=9)
    assert len(opened(tmp_path)) == 4
    assert len(opened(tmp_path / "train" / "00001.tar")) == 2
    assert len(opened(tmp_path / "train" / "*.tar")) == 4
    assert keys(open_tars(tmp_path, 4, "val")) == ["0009"]
    assert detect(tmp_path) == "tars"
    assert detect(tmp_path / "train" / "0*.tar") == "tars"


def test_webdataset_reads_the_same_keys_and_captions(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed (extra 'dev')")
    path = tmp_path / "written.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for index in range(4):
            writer.write({"__key__": f"some/{index}", "png": png(index), "txt": f"picture {index}"})
    stream = webdataset.WebDataset(str(path), shardshuffle=False)
    wanted = [(sample["__key__"], sample["txt"].decode()) for sample in stream]
    data = opened(path)
    assert list(zip(keys(data), captions(data), strict=True)) == wanted
    assert len(wanted) == 4


def test_copies_read_the_same_after_pickling_and_forking(tmp_path):
    data = opened(write_shards(tmp_path / "data", [3, 2]))
    data[0]
    assert captions(pickle.loads(pickle.dumps(data))) == captions(data)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        forked = pool.map(data.caption, [index % 5 for index in range(60)], chunksize=1)
    assert forked == [f"picture {index % 5}" for index in range(60)]


def test_only_so_many_shards_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.datasets.tars.OPEN_SHARDS", 2)
    data = opened(write_shards(tmp_path / "data", [1] * 6))
    before = len(os.listdir("/proc/self/fd"))
    assert captions(data) == [f"picture {index}" for index in range(6)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# The index.


def test_the_index_is_made_once_and_again_when_the_shard_changes(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", pair(1))
    digest = opened(path).digest
    assert (tmp_path / "x.tar.index").exists()
    with monkeypatch.context() as patched:
        patched.setattr(tarindex, "build", None)
        assert opened(path).digest == digest
    write_tar(path, pair(2))
    os.utime(path, ns=(10**18, 10**18))
    data = opened(path)
    assert keys(data) == ["0002"]
    assert data.digest != digest


@pytest.mark.parametrize("damage", [lambda old: old[:-3], lambda old: old + b"x", lambda old: b"", lambda old: b"{}\n"])
def test_a_damaged_index_is_made_again(tmp_path, damage):
    path = write_tar(tmp_path / "x.tar", pair(1))
    digest = opened(path).digest
    index = tmp_path / "x.tar.index"
    index.write_bytes(damage(index.read_bytes()))
    data = opened(path)
    assert data.digest == digest
    assert captions(data) == ["picture 1"]


def test_an_index_of_another_program_is_left_alone(tmp_path, cache):
    path = write_tar(tmp_path / "data" / "x.tar", pair(1))
    path.with_name("x.tar.index").write_text("of another program")
    assert captions(opened(path)) == ["picture 1"]
    assert path.with_name("x.tar.index").read_text() == "of another program"
    assert len(list((cache / "tar-index").iterdir())) == 1


def test_a_pipe_under_the_name_of_an_index_is_left_alone(tmp_path, cache):
    path = write_tar(tmp_path / "data" / "x.tar", pair(1))
    os.mkfifo(path.with_name("x.tar.index"))
    assert captions(opened(path)) == ["picture 1"]
    assert path.with_name("x.tar.index").is_fifo()
    assert len(list((cache / "tar-index").iterdir())) == 1


def test_the_index_goes_to_the_cache_where_the_folder_cannot_be_written(tmp_path, monkeypatch, cache):
    path = write_tar(tmp_path / "data" / "x.tar", pair(1))
    real = tarindex.write_atomic

    def refuse(place, content):
        if place.parent == path.parent or refuse_all:
            raise PermissionError(13, "Permission denied")
        real(place, content)

    monkeypatch.setattr(tarindex, "write_atomic", refuse)
    refuse_all = True
    data = opened(path)
    assert captions(data) == ["picture 1"]
    refuse_all = False
    assert opened(path).digest == data.digest
    assert [entry.name for entry in path.parent.iterdir()] == ["x.tar"]
    assert len(list((cache / "tar-index").iterdir())) == 1
    monkeypatch.setattr(tarindex, "build", None)
    assert captions(opened(path)) == ["picture 1"]


def test_the_digest_follows_names_and_captions_and_not_the_place(tmp_path):
    first = opened(write_shards(tmp_path / "a", [2, 2])).digest
    assert opened(write_shards(tmp_path / "b", [2, 2])).digest == first
    (tmp_path / "b" / "00001.tar").rename(tmp_path / "b" / "00002.tar")
    assert opened(tmp_path / "b").digest != first
    members = [*pair(0), *pair(1)]
    changed = [(name, content.replace(b"picture 1", b"picture 7")) for name, content in members]
    paths = [write_tar(tmp_path / place / "x.tar", files) for place, files in (("c", members), ("d", changed))]
    assert opened(paths[0]).digest != opened(paths[1]).digest


# Bad input.


@pytest.mark.parametrize(
    "members, message",
    [
        ([("a.png", png(0)), *pair(1)], r"x\.tar: a is an image without a caption"),
        ([("a.txt", b"words"), *pair(1)], r"x\.tar: a is a caption without an image"),
        ([("a.png", png(0)), ("a.txt", b" \n")], r"the caption of .*x\.tar: a is empty"),
        ([("a.png", png(0)), ("a.txt", b"\xff\xfe")], r"the caption of .*x\.tar: a is not UTF-8"),
        ([("a.png", png(0)), ("a.json", b'{"title": "x"}')], r"x\.tar: a has no caption: no field 'text' or 'caption'"),
        ([("a.png", png(0)), ("a.json", b'{"text": 3}')], r"the caption of .*x\.tar: a is 3; a string is needed"),
        ([("a.png", png(0)), ("a.json", b"{")], r"the caption of .*x\.tar: a is not valid JSON"),
        ([*pair(1), *pair(1)], r"x\.tar: 0001 has two images: the key is there twice"),
        ([("a.txt", b"x"), ("a.txt", b"y"), ("a.png", png(0))], r"x\.tar: a has two files \.txt"),
        ([], r"x\.tar holds no image with a caption"),
        ([("a.cls", b"1")], r"x\.tar holds no image with a caption"),
    ],
)
def test_wrong_samples_are_named_when_opening(tmp_path, members, message):
    path = write_tar(tmp_path / "x.tar", members)
    for _ in range(2):
        with pytest.raises(DataError, match=message) as error:
            opened(path)
        assert str(error.value).count("\n") == 0


def test_a_tar_that_ends_early_is_refused_and_leaves_no_index(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*pair(0), *pair(1)])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    for length in (0, 100, last.offset + 10, last.offset_data + 3, last.offset_data + 512):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.tar (is empty|ends early)"):
            opened(path)
        assert os.listdir(tmp_path) == ["x.tar"]


def test_a_damaged_compressed_or_doubled_tar_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", [*pair(0), *pair(1)])
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match="goes on after its end mark"):
        opened(path)
    with tarfile.open(path.with_name("y.tar"), "w:gz") as tar:
        tar.add(path)
    with pytest.raises(DataError, match=r"y\.tar is no tar file, or a compressed one"):
        opened(path.with_name("y.tar"))
    whole[1024 + 20] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"x\.tar is damaged at byte 1,024"):
        opened(path)


def test_missing_and_unreadable_places(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.tar file"):
        opened(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no file matches"):
        opened(tmp_path / "*.tar")
    with pytest.raises(DataError, match="needs a path"):
        open_dataset("tars", None, image_size=4)
    folder = write_shards(tmp_path / "data", [2])
    data = opened(folder)
    (folder / "00000.tar").rename(tmp_path / "away.tar")
    with pytest.raises(DataError, match=r"cannot read .*00000\.tar: No such file"):
        data[0]

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nanogen.data.paths.os.scandir", refuse)
    with pytest.raises(DataError, match=r"cannot read folder .*data: Permission denied"):
        opened(folder)


def test_a_shard_that_shrinks_under_a_run_is_named(tmp_path):
    path = write_tar(tmp_path / "x.tar", pair(0))
    data = opened(path)
    os.truncate(path, 600)
    with pytest.raises(DataError, match="has become shorter since it was indexed"):
        data[0]


def test_a_corrupt_image_is_named_by_shard_and_key(tmp_path):
    data = opened(write_tar(tmp_path / "x.tar", [("k.png", b"broken"), ("k.txt", b"words")]))
    assert data.caption(0) == "words"
    with pytest.raises(DataError, match=r"cannot read image .*x\.tar: k: it is no known image format"):
        data[0]


# The order of a run.


def sequence(data, steps: int, batch_size: int = 4, **options) -> list[str]:
    """Captions of the global batches of some steps, put together from all ranks."""
    world = options.pop("world", 1)
    streams = [batches(data, seed=3, batch_size=batch_size, rank=rank, world=world, **options) for rank in range(world)]
    return [caption for _ in range(steps) for stream in streams for caption in next(stream).caption]


def test_an_epoch_has_every_sample_once_and_stays_in_a_group_of_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.data.epochs.GROUP", 8)
    data = opened(write_shards(tmp_path / "data", [5, 3, 4, 4, 6, 2, 5, 3]))
    first, second = (sequence(data, 8, first_step=8 * epoch) for epoch in range(2))
    assert sorted(first) == sorted(second) == sorted(captions(data))
    assert first != second
    numbers = [int(caption.split()[1]) for caption in first]
    shards = np.searchsorted(np.cumsum([5, 3, 4, 4, 6, 2, 5, 3]), numbers, side="right")
    # Every shard is read in one stretch, no longer than a group: at most 2 x 8 samples, and one shard over.
    for shard in range(8):
        where = np.flatnonzero(shards == shard)
        assert np.ptp(where) < 2 * 8 + 6
    assert (np.diff(numbers) != 1).any()


def test_a_killed_run_continues_with_the_very_next_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.data.epochs.GROUP", 4)
    data = opened(write_shards(tmp_path / "data", [5, 3, 4]))
    whole = sequence(data, 12)
    for step in range(12):
        again = opened(tmp_path / "data")
        assert sequence(again, 12 - step, first_step=step) == whole[4 * step :]


@pytest.mark.parametrize("options", [{"world": 2}, {"world": 4}, {"workers": 2}, {"accumulation": 2}])
def test_processes_and_workers_change_nothing_even_when_they_outnumber_the_shards(tmp_path, options):
    data = opened(write_shards(tmp_path / "data", [13]))
    count = options.get("accumulation", 1)
    found, wanted = sequence(data, 6 * count, **options), sequence(data, 6)
    if count > 1:
        # Micro-batches hold captions of like length.
        found, wanted = ([sorted(one[at : at + 4]) for at in range(0, 24, 4)] for one in (found, wanted))
    assert found == wanted


def test_the_order_does_not_keep_the_whole_epoch_in_memory(tmp_path):
    from nanogen.data.epochs import epoch_slice

    whole = Component(10**9, blocks=(10**5,) * 10**4)
    places = np.arange(10**8, 10**8 + 256)
    chosen = epoch_slice(whole, 0, 0, places)
    assert len(set(chosen.tolist())) == 256
    assert len({index // 10**5 for index in chosen}) <= 2
    assert (Order(size=whole.size, seed=0, batch_size=256, components=(whole,)).global_batch(10**5) >= 0).all()
