"""Samples that cannot be read: replaced the same way everywhere, counted, named, and not too many of them."""

import json
import pickle

import numpy as np
import pytest
from shards import pair, png, write_shards, write_tar
from tiny import losses, words

from diffusionbench.errors import DataError
from nanogen.config import compose
from nanogen.data import Batch, corrupt
from nanogen.data.corrupt import CorruptLog, Skipping
from nanogen.data.epochs import epoch_order
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches
from nanogen.train import train


def write_damaged(folder):
    """Two shards of five; 1 is no image, 2 has no caption, 4 an empty one, 9 (the last) no image."""
    files = {index: dict(pair(index)) for index in range(10)}
    files[1]["0001.png"] = b"broken"
    del files[2]["0002.txt"]
    files[4]["0004.txt"] = b" "
    del files[9]["0009.png"]
    for shard in range(2):
        members = [file for index in range(5 * shard, 5 * shard + 5) for file in files[index].items()]
        write_tar(folder / f"{shard}.tar", members)
    return folder


def opened(path, **options):
    return open_dataset("tars", str(path), image_size=4, **options)


def test_the_next_good_sample_of_the_shard_stands_in(tmp_path):
    data = opened(write_damaged(tmp_path), corrupt="skip")
    assert len(data) == 10
    assert [int(data[index].caption.split()[1]) for index in range(10)] == [0, 3, 3, 3, 0, 5, 6, 7, 8, 5]
    problems = {index: data[index].corrupt for index in range(10) if data[index].corrupt}
    assert sorted(problems) == [1, 2, 4, 9]
    for index, reason in {1: "no known image format", 2: "without a caption", 4: "is empty"}.items():
        assert f"0.tar: 000{index}" in problems[index]
        assert reason in problems[index]
    assert "1.tar: 0009 is a caption without an image" in problems[9]
    assert [data.caption(index) for index in (1, 2, 3, 4)] == [f"picture {index}" for index in (1, 3, 3, 0)]
    assert (data.captioned, data.components[0].blocks) == (True, (5, 5))


def test_stop_names_the_first_incomplete_sample_when_opening(tmp_path):
    with pytest.raises(DataError, match=r"0\.tar: 0002 is an image without a caption.*Incomplete samples: 3"):
        opened(write_damaged(tmp_path))


def test_incomplete_folders_and_tables_may_be_skipped_too(tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(index))
    (tmp_path / "1.txt").write_text("one")
    data = open_dataset("captionfolder", str(tmp_path), image_size=4, corrupt="skip")
    assert [data[index].caption for index in range(3)] == ["one"] * 3
    assert ["0.png has no caption" in (data[index].corrupt or "") for index in range(3)] == [True, False, False]
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"image": [png(0), png(1)], "text": [None, "one"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    data = open_dataset("parquet", str(tmp_path / "x.parquet"), image_size=4, corrupt="skip")
    assert data[0].caption == "one"
    assert "row 0 has no caption" in data[0].corrupt


def test_a_block_without_one_good_sample_ends_the_run(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.png", b"x"), ("a.txt", b"a"), ("b.png", b"x"), ("b.txt", b"b")])
    write_shards(tmp_path / "more", [2])
    with pytest.raises(DataError, match=r"0\.tar: b.*The next 1 samples could not be read either"):
        opened(tmp_path, corrupt="skip")[1]
    write_tar(tmp_path / "0.tar", [("a.png", png(0))])
    with pytest.raises(DataError, match=r"0\.tar: a is an image without a caption"):
        opened(tmp_path, corrupt="skip").caption(0)


def test_an_index_outside_stays_an_error(tmp_path):
    data = opened(write_damaged(tmp_path), corrupt="skip")
    for index in (10, -1):
        with pytest.raises(IndexError):
            data[index]


def test_images_in_memory_are_never_wrapped():
    assert not isinstance(open_dataset("digits", None, image_size=8, corrupt="skip"), Skipping)


@pytest.mark.parametrize("options", [{"workers": 2}, {"world": 2}])
def test_batches_carry_the_names_from_wherever_they_were_read(tmp_path, options):
    data = pickle.loads(pickle.dumps(opened(write_damaged(tmp_path), corrupt="skip")))

    def seen(world: int = 1, workers: int = 0) -> list:
        streams = [
            batches(data, seed=0, batch_size=4, rank=rank, world=world, workers=workers) for rank in range(world)
        ]
        parts = [next(stream) for _ in range(8) for stream in streams]
        return [
            [caption for part in parts for caption in part.caption],
            [name for part in parts for name in part.corrupt],
        ]

    plain = seen()
    assert len(set(plain[1])) == 4
    assert seen(**options) == plain


# The log.


def batch(*problems: str, size: int = 10) -> Batch:
    return Batch(None, None, None, list(range(size)), problems)


def test_each_sample_is_named_once_with_the_step_it_was_known_at(tmp_path, capsys):
    log = CorruptLog(tmp_path, 0)
    list(log.watch(iter([batch("a"), batch("a", "b\nb"), batch()])))
    assert log.collect(3) == 2
    list(log.watch(iter([batch("b\nb")])))
    assert log.collect(4) == 2
    list(log.watch(iter([batch("c")])))
    assert log.collect(5) == 3
    assert (tmp_path / "corrupt.txt").read_text() == "3\ta\n3\tb b\n5\tc\n"
    assert capsys.readouterr().err.count("named in") == 1
    again = CorruptLog(tmp_path, 4)
    assert (tmp_path / "corrupt.txt").read_text() == "3\ta\n3\tb b\n"
    list(again.watch(iter([batch("a", "c")])))
    assert again.collect(6) == 3
    assert (tmp_path / "corrupt.txt").read_text() == "3\ta\n3\tb b\n6\tc\n"


def test_a_clean_run_writes_no_file(tmp_path):
    log = CorruptLog(tmp_path, 0)
    list(log.watch(iter([batch()])))
    assert log.collect(1) == 0
    assert list(tmp_path.iterdir()) == []


def test_memory_and_file_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(corrupt, "MAX_NAMED", 3)
    log = CorruptLog(tmp_path, 0)
    list(log.watch(iter([batch(str(number)) for number in range(9)])))
    assert log.collect(1) == 3
    assert len((tmp_path / "corrupt.txt").read_text().splitlines()) == 3


def test_more_than_a_twentieth_of_the_first_thousand_ends_the_run(tmp_path):
    def stream(bad: int):
        yield from (batch(f"sample {number} is broken") for number in range(bad))
        yield from (batch() for _ in range(100 - bad))
        yield from (batch("late") for _ in range(100))

    assert len(list(CorruptLog(tmp_path, 0).watch(stream(50)))) == 200
    with pytest.raises(DataError, match=r"51 of the first 510 samples cannot be read; 5% .* sample 50 is broken"):
        list(CorruptLog(tmp_path, 0).watch(stream(51)))


# Training.


def composition(folder, steps: int, *more: str):
    return compose("imagefolder", overrides=words(steps, f"data.path='{folder}'", "data.workers=0", *more))


# A picture that the first epoch brings in its eighth and last step: after a line of the log, before a checkpoint.
BROKEN = f"{epoch_order(64, 42, 0)[60]:02d}"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures" / "one"
    folder.mkdir(parents=True)
    for index in range(64):
        (folder / f"{index:02d}.png").write_bytes(png(index))
    (folder / f"{BROKEN}.png").write_bytes(b"broken")
    return folder.parent


def counts(run) -> dict[int, int]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["corrupt"] for line in lines if "corrupt" in line}


def test_training_counts_and_names_and_continues_as_if_never_stopped(tmp_path, pictures):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    skip = ("data.corrupt=skip", "train.checkpoint_every=4 steps", "log.every=3 steps")
    train(composition(pictures, 16, *skip), whole, "cpu", [])
    (named,) = (whole / "corrupt.txt").read_text().splitlines()
    assert named.startswith(f"8\tcannot read image {pictures}/one/{BROKEN}.png: it is no known image format")
    assert counts(whole) == {3: 0, 6: 0, 9: 1, 12: 1, 15: 1, 16: 1}

    class KilledError(Exception):
        pass

    def kill(*_):
        raise KilledError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("nanogen.progress.Progress.show", lambda self, step, numbers: kill() if step > 9 else None)
        with pytest.raises(KilledError):
            train(composition(pictures, 16, *skip), cut, "cpu", [])
    train(composition(pictures, 16, *skip), cut, "cpu", [])
    assert losses(cut) == losses(whole)
    assert counts(cut) == counts(whole)
    assert (cut / "corrupt.txt").read_text().splitlines() == [named]


def test_stop_is_the_default_and_a_stopped_run_may_go_on_with_skip(tmp_path, pictures):
    run = tmp_path / "run"
    with pytest.raises(DataError, match=rf"{BROKEN}\.png"):
        train(composition(pictures, 9, "train.checkpoint_every=1 steps"), run, "cpu", [])
    train(composition(pictures, 9, "train.checkpoint_every=1 steps", "data.corrupt=skip"), run, "cpu", [])
    assert len(losses(run)) == 9
    assert np.isfinite(losses(run)).all()


def test_a_damaged_list_of_corrupt_samples_costs_its_damaged_lines_alone(tmp_path):
    file = tmp_path / "corrupt.txt"
    file.write_bytes(b"1\ta.png\nno step\n\xff\tx\n" + b"9" * 5000 + b"\ty\n\n2\tb.png\n9\tc.png\n2\tcut o")
    CorruptLog(tmp_path, 4)
    assert file.read_text() == "1\ta.png\n2\tb.png\n"


def test_a_list_of_corrupt_samples_that_cannot_be_written_ends_in_a_sentence(tmp_path):
    log = CorruptLog(tmp_path, 0)
    list(log.watch(iter([Batch(None, None, None, [0], ("a.png is cut short",))])))
    (tmp_path / "corrupt.txt").mkdir()
    with pytest.raises(DataError, match=r"corrupt\.txt cannot be written"):
        log.collect(1)
