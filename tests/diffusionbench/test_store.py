"""The image store: what is kept is found again, what is damaged is made again, and processes share the work."""

import json

import numpy as np
import pytest

from diffusionbench.errors import DataError, RequestError
from diffusionbench.imagesets import ImageStream, images_digest, read
from diffusionbench.request import Sampling
from diffusionbench.runner import fill, open_store
from diffusionbench.sample import Sample, plain_item
from diffusionbench.source import ArraySource, FolderSource
from diffusionbench.store import ImageStore

COUNT = 300


class Counting:
    """A generator that counts what it is asked for; image i depends on i and on its batch alone."""

    description = "counting generator"
    digest = "0" * 64
    labels = None
    image_size = (8, 8)

    def __init__(self, preferred_batch=32, fail_after=None):
        self.preferred_batch = preferred_batch
        self.asked = []
        self.batches = []
        self.fail_after = fail_after

    def images(self, samples):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += [sample.id for sample in samples]
        self.batches.append(tuple(sample.id for sample in samples))
        return np.stack([np.random.default_rng(sample.id).integers(0, 256, (8, 8, 3), np.uint8) for sample in samples])


def wanted(count=COUNT):
    return Counting().images([Sample(id=index) for index in range(count)])


def stored(store, count=COUNT):
    return np.concatenate([images for _, images in store.batches(count)])


def test_a_store_gives_back_what_was_put_in(tmp_path, ask):
    request, source = ask(count=COUNT), Counting()
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    assert source.asked == list(range(COUNT))
    again = ImageStore(store.folder)
    assert np.array_equal(stored(again), wanted())
    seen = [sample for samples, _ in again.batches(COUNT) for sample in samples]
    assert [sample.id for sample in seen] == list(range(COUNT))
    assert all(sample.label is not None for sample in seen)
    assert again.count() == COUNT
    fill(request, source, store)
    assert len(source.asked) == COUNT


def test_an_interrupted_evaluation_continues_with_the_same_batches(tmp_path, ask):
    request, source = ask(count=COUNT), Counting(fail_after=200)
    store = open_store(request, source, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fill(request, source, store)
    kept = open_store(request, source, tmp_path).count()
    assert 128 <= kept < 224
    second = Counting()
    fill(request, second, open_store(request, second, tmp_path))
    assert second.asked == list(range(kept, COUNT))
    whole = Counting()
    whole_store = open_store(request, whole, tmp_path / "whole")
    fill(request, whole, whole_store)
    assert set(second.batches) <= set(whole.batches)
    assert np.array_equal(stored(open_store(request, second, tmp_path)), stored(whole_store))


def test_a_longer_request_continues_a_shorter_one(tmp_path, ask):
    source = Counting()
    fill(ask(count=100), source, open_store(ask(count=100), source, tmp_path))
    store = open_store(ask(count=COUNT), source, tmp_path)
    fill(ask(count=COUNT), source, store)
    assert source.asked == list(range(COUNT))
    assert np.array_equal(stored(store), wanted())


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "half-written"])
def test_only_a_damaged_chunk_is_made_again(tmp_path, ask, harm):
    request, source = ask(count=COUNT), Counting()
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    chunk = sorted(store.folder.glob("*.npz"))[1]
    lost = json.loads(chunk.with_suffix(".json").read_text())["entries"]
    data = chunk.read_bytes()
    if harm == "truncate":
        chunk.write_bytes(data[:-100])
    elif harm == "flip":
        chunk.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif harm == "remove":
        chunk.unlink()
    else:
        chunk.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=f"lacks {len(lost)} of {COUNT} images"):
        stored(ImageStore(store.folder))
    second = Counting()
    store = open_store(request, second, tmp_path)
    fill(request, second, store)
    assert second.asked == [entry[0] for entry in lost]
    assert np.array_equal(stored(store), wanted())


@pytest.mark.parametrize("world", [2, 3, 16])
def test_several_processes_make_the_same_images(tmp_path, ask, world):
    request = ask(count=COUNT)
    one = Counting()
    whole = open_store(request, one, tmp_path / "one")
    fill(request, one, whole)
    shares = [Counting() for _ in range(world)]
    # All open the store before any of them has written.
    stores = [open_store(request, share, tmp_path / "many") for share in shares]
    for rank in reversed(range(world)):
        fill(request, shares[rank], stores[rank], rank, world)
    assert sorted(index for share in shares for index in share.asked) == list(range(COUNT))
    assert sorted(batch for share in shares for batch in share.batches) == sorted(one.batches)
    parts = open_store(request, one, tmp_path / "many")
    assert np.array_equal(stored(parts), stored(whole))
    assert images_digest(parts.entries(COUNT)) == images_digest(whole.entries(COUNT))


def test_other_images_have_another_folder_and_other_metrics_have_not(tmp_path, ask):
    def folder(source=None, **changes):
        return open_store(ask(**changes), source or Counting(), tmp_path).folder

    other = Counting()
    other.digest = "1" * 64
    first = folder()
    assert folder(metrics=("fd_digits",), count=50) == first
    different = [
        folder(seed=1),
        folder(sampling=Sampling(num_steps=4)),
        folder(checkpoint_digest="a"),
        folder(other),
        folder(reference=None, num_classes=3),
    ]
    assert len({first, *different}) == 6


def test_a_folder_of_other_images_is_refused(tmp_path, ask):
    store = open_store(ask(), Counting(), tmp_path)
    manifest = store.manifest.model_copy(update={"key": "f" * 64})
    with pytest.raises(RequestError, match=r"holds images of counting generator .* Use another folder"):
        ImageStore.create(store.folder, manifest)
    store.add([Sample(0, plain_item(3))], np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(RequestError, match="has image 0 for label 3, and label 0 is asked for"):
        store.missing([Sample(0, plain_item(0))])


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no store\.json"):
        ImageStore(tmp_path)
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(DataError, match="does not fit the schema"):
        ImageStore(tmp_path)


def test_unreadable_images_are_kept_as_such(tmp_path, ask, noise, write):
    folder = write(tmp_path / "set", noise(20))
    (folder / "00004.png").write_bytes(b"broken")
    request, source = ask(count=20), FolderSource(folder)
    store = open_store(request, source, tmp_path / "store")
    fill(request, source, store)
    again = ImageStore(store.folder)
    assert len(stored(again, 20)) == 19
    assert list(again.unreadable(20)) == [4]
    # Those beyond the request are no loss to it.
    assert (list(again.unreadable(5)), list(again.unreadable(4))) == ([4], [])
    stream = ImageStream(source, [Sample(index) for index in range(20)])
    assert sum(len(images) for _, images in stream.batches(20)) == 19
    assert (list(stream.unreadable(5)), list(stream.unreadable(4))) == ([4], [])
    # A stream that is read again forgets what was.
    assert sum(len(images) for _, images in stream.batches(4)) == 4
    assert list(stream.unreadable(20)) == []
    assert again.count() == 20
    assert [entry.id for entry in again.entries(20)] == [index for index in range(20) if index != 4]
    assert again.missing([Sample(index) for index in range(20)]) == []


def test_a_stream_sees_what_a_store_sees(tmp_path, ask, noise):
    source = ArraySource(noise(130), None, "noise")
    request = ask(count=100)
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    stream = ImageStream(source, [Sample(index) for index in range(100)])
    assert np.array_equal(np.concatenate([images for _, images in stream.batches(100)]), stored(store, 100))
    assert stream.entries(100) == store.entries(100)
    longer = ImageStream(source, [Sample(index) for index in range(130)])
    assert sum(len(images) for _, images in longer.batches(100)) == 100


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((3, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
    ],
)
def test_a_source_that_gives_anything_else_is_refused(images):
    class Wrong(Counting):
        def images(self, samples):
            return images

    with pytest.raises(DataError, match="Images must be uint8"):
        read(Wrong(), [Sample(0), Sample(1)])
