"""The image store: what is kept is found again, what is damaged is made again, and processes share the work."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusionbench.errors import DataError, RequestError
from diffusionbench.evidence import copy_files
from diffusionbench.imagesets import ImageStream, images_digest, read
from diffusionbench.request import Sampling
from diffusionbench.runner import fill, open_store, rescore, run
from diffusionbench.sample import Sample, noise_seed, plain_item
from diffusionbench.source import ArchiveSource, ArraySource, FolderSource, open_source
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
    chunk = sorted(store.folder.glob("*.images"))[1]
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
    samples = request.samples(source)
    stream = ImageStream(source, samples)
    assert sum(len(images) for _, images in stream.batches(20)) == 19
    assert (list(stream.unreadable(5)), list(stream.unreadable(4))) == ([4], [])
    # A stream that is read again forgets what was.
    assert sum(len(images) for _, images in stream.batches(4)) == 4
    assert list(stream.unreadable(20)) == []
    assert again.count() == 20
    assert [entry.id for entry in again.entries(20)] == [index for index in range(20) if index != 4]
    assert again.missing(samples) == []


def test_a_stream_sees_what_a_store_sees(tmp_path, ask, noise):
    source = ArraySource(noise(130), None, "noise")
    request = ask(count=100)
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    stream = ImageStream(source, request.samples(source))
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
        np.zeros((2, 0, 8, 3), np.uint8),
        np.full((2, 8, 8, 3), 255, np.int64),
        [np.zeros((8, 8, 3), np.uint8)] * 2,
    ],
)
def test_a_source_that_gives_anything_else_is_refused(images):
    class Wrong(Counting):
        def images(self, samples):
            return images

    with pytest.raises(DataError, match=r"for 2 samples\. Images must be a uint8 array \[2, H, W, 3\]"):
        read(Wrong(), [Sample(0), Sample(1)])


class Reusing(Counting):
    """A generator that fills one array again and again."""

    buffer = np.zeros((32, 8, 8, 3), np.uint8)

    def images(self, samples):
        made = super().images(samples)
        self.buffer[: len(made)] = made
        return self.buffer[: len(made)]


def test_a_source_that_uses_its_array_again_loses_no_image(tmp_path, ask):
    request, source = ask(count=COUNT), Reusing()
    store = open_store(request, source, tmp_path)
    fill(request, source, store)
    assert np.array_equal(stored(store), wanted())
    stream = ImageStream(source, request.samples(source))
    assert np.array_equal(np.concatenate([images for _, images in [*stream.batches(COUNT)]]), wanted())


def filled(folder, ask, source=None, **changes):
    """A store of its own, filled."""
    request, source = ask(**{"count": COUNT, **changes}), source or Counting()
    store = open_store(request, source, folder)
    fill(request, source, store)
    return store


def test_stored_samples_keep_what_was_asked(tmp_path, ask):
    store = filled(tmp_path, ask, seed=5)
    asked = ask(count=COUNT, seed=5).samples(Counting())
    kept = [entry.sample() for entry in ImageStore(store.folder).entries(COUNT)]
    assert [(one.id, one.item.key, one.k, one.label, one.seed) for one in kept] == [
        (one.id, one.item.key, one.k, one.label, noise_seed(5, "sample", one.id)) for one in asked
    ]
    seen = [sample for samples, _ in store.batches(COUNT) for sample in samples]
    assert seen == kept


@pytest.mark.parametrize("field", [0, 1, 2, 4, 5, 6])
def test_an_edited_entry_is_noticed(tmp_path, ask, field):
    store = filled(tmp_path, ask)
    path = store.folder / "0000128.json"
    chunk = json.loads(path.read_text())
    entry = chunk["entries"][3]
    entry[field] = f"{entry[field]}x" if isinstance(entry[field], str) else (entry[field] or 0) + 1
    path.write_text(json.dumps(chunk))
    with pytest.raises(DataError, match=r"lacks 128 of 300 images \(first: 128\)"):
        stored(ImageStore(store.folder))


def test_two_entries_in_another_order_are_noticed(tmp_path, ask):
    store = filled(tmp_path, ask)
    path = store.folder / "0000000.json"
    chunk = json.loads(path.read_text())
    chunk["entries"][:2] = chunk["entries"][1::-1]
    path.write_text(json.dumps(chunk))
    with pytest.raises(DataError, match="lacks 128"):
        stored(ImageStore(store.folder))


def test_a_chunk_of_another_models_store_is_not_taken(tmp_path, ask):
    other = Counting()
    other.digest = "1" * 64
    stores = [filled(tmp_path, ask, source) for source in (Counting(), other)]
    for suffix in ("json", "images"):
        shutil.copy2(stores[1].folder / f"0000128.{suffix}", stores[0].folder)
    with pytest.raises(DataError, match=r"lacks 128 of 300 images \(first: 128\)"):
        stored(ImageStore(stores[0].folder))
    again = Counting()
    filled(tmp_path, ask, again)
    assert again.asked == list(range(128, 256))


def test_files_that_changed_places_are_noticed(tmp_path, ask):
    store = filled(tmp_path, ask)
    one, other = (store.folder / name for name in ("0000000.images", "0000128.images"))
    one.rename(store.folder / "aside")
    other.rename(one)
    (store.folder / "aside").rename(other)
    with pytest.raises(DataError, match="lacks 256 of 300"):
        stored(ImageStore(store.folder))


def test_files_are_trusted_by_size_and_time_until_they_are_read(tmp_path, ask, monkeypatch):
    store = filled(tmp_path, ask)
    moved = shutil.copytree(store.folder, tmp_path / "moved", copy_function=shutil.copyfile)
    hashed = []
    monkeypatch.setattr("diffusionbench.readers.file_digest", lambda path: hashed.append(path.name) or "")
    assert ImageStore(store.folder).count() == COUNT
    assert hashed == []
    assert ImageStore(moved).count() == 0
    assert sorted(hashed) == ["0000000.images", "0000128.images", "0000256.images"]
    monkeypatch.undo()
    assert ImageStore(moved).count() == COUNT


def test_chunks_that_were_copied_are_trusted_too(tmp_path, ask, monkeypatch):
    store = filled(tmp_path, ask)
    copy = ImageStore.create(tmp_path / "copy", store.manifest)
    for name in store.chunks():
        copy_files(store.folder, copy.folder, name)
    monkeypatch.setattr("diffusionbench.readers.file_digest", lambda path: pytest.fail("hashed"))
    assert copy.count() == COUNT


def flipped(path):
    """Turn one bit of a file, and leave its size and time."""
    data, found = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize("verify", [False, True])
def test_damage_that_size_and_time_hide_is_found_by_reading_and_made_again(tmp_path, ask, verify):
    store = filled(tmp_path, ask)
    flipped(store.folder / "0000128.images")
    again = ImageStore(store.folder)
    assert again.count() == COUNT
    with pytest.raises(DataError, match=r"0000128\.images is damaged\. Run the command that filled the store again"):
        again.verify(COUNT) if verify else stored(again)
    source = Counting()
    assert np.array_equal(stored(filled(tmp_path, ask, source)), wanted())
    assert source.asked == list(range(128, 256))


def test_a_store_of_the_first_version_is_refused_in_one_sentence(tmp_path, ask):
    store = filled(tmp_path, ask, count=20)
    manifest = json.loads((store.folder / "store.json").read_text())
    (store.folder / "store.json").write_text(json.dumps({**manifest, "schema_version": 1}))
    with pytest.raises(DataError, match=r"is of version 1, .* delete the folder and run the command that filled it"):
        ImageStore(store.folder)


def volume(folder):
    return sum(path.stat().st_size for path in folder.glob("*.images"))


@pytest.mark.parametrize("size", [1, 8, 32, 64])
def test_noise_takes_no_more_than_its_raw_size(tmp_path, ask, noise, size):
    store = filled(tmp_path, ask, ArraySource(noise(20, size=size), None, "noise"), count=20)
    assert volume(store.folder) <= 20 * size * size * 3
    assert np.array_equal(stored(store, 20), noise(20, size=size))


def test_smooth_images_take_less(tmp_path, ask):
    ramp = np.add.outer(np.arange(64), np.arange(64))[None, :, :, None] + np.arange(3)
    images = (ramp + np.arange(20)[:, None, None, None]).astype(np.uint8)
    store = filled(tmp_path, ask, ArraySource(images, None, "ramps"), count=20)
    assert volume(store.folder) < 0.1 * images.size
    assert np.array_equal(stored(store, 20), images)


def existing(kind, folder, images, write):
    """Images that exist already, of which nothing is copied; and the file whose change changes image 4."""
    if kind == "npz":
        np.savez(folder / "set.npz", arr_0=images)
        return folder / "set.npz", folder / "set.npz"
    write(folder / "set", images)
    return folder / "set", folder / "set" / "00004.png"


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_images_that_exist_already_are_listed_and_not_copied(tmp_path, ask, noise, write, kind):
    path, _ = existing(kind, tmp_path, noise(20, size=64), write)
    source = FolderSource(path) if kind == "folder" else ArchiveSource(path)
    store = filled(tmp_path / "store", ask, source, count=20)
    assert sorted(file.name for file in store.folder.iterdir()) == ["0000000.json", "store.json"]
    again = ImageStore(store.folder)
    assert np.array_equal(stored(again, 20), noise(20, size=64))
    assert again.image_format == ("png" if kind == "folder" else "npz")
    assert {entry.seed for entry in again.entries(20)} == {None}
    assert filled(tmp_path / "store", ask, source, count=20).entries(20) == again.entries(20)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_users_image_that_changed_is_named_counted_and_left_out(tmp_path, ask, noise, write, hidden):
    path, one = existing("folder", tmp_path, noise(20), write)
    labels, before = [*range(10), *range(10)], one.stat()
    first = run(ask(), FolderSource(path, labels), tmp_path / "store")
    assert not first.partial
    for seed in range(9, 999):
        Image.fromarray(noise(1, seed=seed)[0]).save(one)
        if one.stat().st_size == before.st_size:
            break
    if hidden:
        os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
        # Evidence is of the images as they were; without it they are read.
        shutil.rmtree(next((tmp_path / "store").glob("*/evidence")))
    again = rescore(tmp_path / "store", ("accuracy_digits",))
    assert again.partial
    assert len(again.unscored) == 1
    assert "00004.png" in again.unscored[0]
    assert "has changed since" in again.unscored[0]
    assert (again.values["accuracy_digits"].scored, again.values["accuracy_digits"].unscored) == (19, 1)
    one.unlink()
    assert "00004.png" in rescore(tmp_path / "store", ("accuracy_digits",)).unscored[0]


def test_a_users_image_that_was_only_touched_is_the_same(tmp_path, ask, noise, write):
    path, one = existing("folder", tmp_path, noise(20), write)
    store = filled(tmp_path / "store", ask, FolderSource(path), count=20)
    os.utime(one, (1, 1))
    assert len(stored(ImageStore(store.folder), 20)) == 20


def test_a_users_image_that_changed_is_read_again_by_filling(tmp_path, ask, noise, write):
    path, one = existing("folder", tmp_path, noise(20), write)
    request, source = ask(count=20), FolderSource(path)
    store = open_store(request, source, tmp_path / "store")
    fill(request, source, store)
    Image.fromarray(noise(1, seed=9)[0]).save(one)
    # The source was opened before the change, so its store is the same.
    fill(request, source, open_store(request, source, tmp_path / "store"))
    again = ImageStore(store.folder)
    assert np.array_equal(stored(again, 20)[4], noise(1, seed=9)[0])
    assert again.unreadable(20) == {}
    assert len(stored(again, 20)) == 20


def test_a_users_folder_that_is_gone_is_told_in_one_sentence(tmp_path, ask, noise, write):
    path, _ = existing("folder", tmp_path, noise(20), write)
    store = filled(tmp_path / "store", ask, FolderSource(path), count=20)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"set are gone: they were moved or deleted\. Move them back"):
        stored(ImageStore(store.folder), 20)


def test_the_format_of_images_that_exist_is_known(tmp_path, noise, write):
    write(tmp_path, noise(3))
    assert FolderSource(tmp_path).image_format == "png"
    # By its content, whatever it is called.
    Image.fromarray(noise(1)[0]).save(tmp_path / "00001.png", format="JPEG")
    Image.fromarray(noise(1)[0]).save(tmp_path / "00003.webp")
    assert FolderSource(tmp_path).image_format == "jpeg+png+webp"
    assert ImageStream(FolderSource(tmp_path), []).image_format == "jpeg+png+webp"
    assert ImageStream(Counting(), []).image_format is None


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_evidence_is_scored_where_the_images_themselves_are_not(tmp_path, ask, noise, write, kind):
    path, _ = existing(kind, tmp_path, noise(20), write)
    source = open_source(path, [*range(10), *range(10)])
    first = run(ask(), source, tmp_path / "store")
    path.rename(tmp_path / "elsewhere")
    again = rescore(tmp_path / "store", ("accuracy_digits",))
    assert (again.id, again.values) == (first.id, first.values)
    with pytest.raises(DataError, match=r"are gone: they were moved or deleted\. Move them back"):
        rescore(tmp_path / "store", ("accuracy_digits",), verify=True)
    # The same images, opened where they are now, need no new evidence and serve further judges.
    moved = tmp_path / path.name.replace("set", "moved")
    (tmp_path / "elsewhere").rename(moved)
    again = run(ask(), open_source(moved, [*range(10), *range(10)]), tmp_path / "store")
    assert again.values == first.values
    shutil.rmtree(next((tmp_path / "store").glob("*/evidence")))
    assert rescore(tmp_path / "store", ("accuracy_digits",)).values == first.values
