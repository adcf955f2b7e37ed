"""Openers, detection, and the order of images."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionbench.errors import ConfigError, DataError, RunError, UserError
from nanogen.conditions import CONDITIONS
from nanogen.conditions.classes import ClassConditioner
from nanogen.data.detect import detect
from nanogen.data.epochs import epoch_order
from nanogen.data.memory import ArrayDataset, array_digest
from nanogen.data.opening import open_dataset
from nanogen.data.order import Order, batches
from nanogen.datasets.digits import open_digits
from nanogen.datasets.imagefolder import open_folder
from nanogen.settings import steps_per_epoch

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'data')")
tables = pytest.importorskip("nanogen.datasets.tables")


def shared_cifar() -> Path:
    root = os.environ.get("NANOGEN_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(root) / "images" / "cifar10"
    if not path.is_dir():
        pytest.skip(f"CIFAR-10 as Parquet is not at {path} (set NANOGEN_SHARED_DATA)")
    return path


def picture(index: int, size: int = 4) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def make_folder(root: Path, per_class: int = 3) -> Path:
    for label, name in enumerate(["ant", "bee"]):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            (root / name / f"{index}.png").write_bytes(encode(picture(10 * label + index)))
    return root


def make_table(labels: list, first: int = 0, names: list[str] | None = None, images: list | None = None):
    rows = images or [{"bytes": encode(picture(first + row)), "path": None} for row in range(len(labels))]
    table = pa.table({"image": rows, "label": labels})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return table


def write_arrow(table, path: Path, kind: str = "stream") -> None:
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def check_rows(dataset, labels: list[int], first: int = 0) -> None:
    assert len(dataset) == len(labels)
    assert [dataset[row].label for row in range(len(labels))] == labels
    for row in range(len(labels)):
        np.testing.assert_array_equal(dataset[row].image, picture(first + row))


# Digits.


def test_digits_are_the_training_split_only():
    train, held_out = open_digits(None, 8, "train"), open_digits(None, 8, "held_out")
    assert (len(train), len(held_out)) == (1438, 359)
    assert train[0].image.shape == (8, 8, 3)
    assert train.num_classes == len(train.classes) == 10
    assert set(train.labels) == set(range(10))
    assert train.digest != held_out.digest
    assert not set(map(bytes, train.images)) & set(map(bytes, held_out.images))


def test_digits_take_another_size():
    dataset = open_digits(None, 16, "train")
    assert dataset[0].image.shape == (16, 16, 3)
    assert dataset.digest != open_digits(None, 8, "train").digest
    # Resizing keeps the brightness of each image to within a few levels.
    small = open_digits(None, 8, "train").images
    assert np.abs(dataset.images.mean((1, 2, 3)) - small.mean((1, 2, 3))).max() < 8


def test_digits_of_a_multiple_of_8_are_the_digits_with_pixels_repeated():
    small, large = open_digits(None, 8, "held_out"), open_digits(None, 24, "held_out")
    np.testing.assert_array_equal(large.images[:, 1::3, 1::3], small.images)
    np.testing.assert_array_equal(large.images[:, ::3, 2::3], small.images)


def test_digits_refuse_a_path_and_an_unknown_split(tmp_path):
    with pytest.raises(DataError, match="reads no path"):
        open_dataset("digits", str(tmp_path), image_size=8)
    with pytest.raises(DataError, match="no split 'test'"):
        open_digits(None, 8, "test")


# Image folders.


def test_folder_is_sorted_and_names_its_classes(tmp_path):
    root = make_folder(tmp_path / "data")
    (root / ".hidden").mkdir()
    (root / "ant" / "notes.txt").write_text("no image")
    dataset = open_folder(root, 4, "train")
    assert dataset.classes == ("ant", "bee")
    assert dataset.num_classes == 2
    assert [dataset[index].label for index in range(6)] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(dataset[4].image, picture(11))


def test_folder_digest_follows_the_list_of_images_and_not_its_place(tmp_path):
    first, second = make_folder(tmp_path / "a"), make_folder(tmp_path / "b")
    digest = open_folder(first, 4, "train").digest
    assert open_folder(second, 4, "train").digest == digest
    (second / "bee" / "2.png").rename(second / "bee" / "3.png")
    assert open_folder(second, 4, "train").digest != digest
    (second / "bee" / "3.png").rename(second / "bee" / "2.png")
    assert open_folder(second, 4, "train").digest == digest
    with (second / "bee" / "2.png").open("ab") as file:
        file.write(b" ")
    assert open_folder(second, 4, "train").digest != digest


def test_folder_takes_the_subfolder_of_the_split(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", per_class=1)
    assert len(open_folder(tmp_path, 4, "train")) == 6
    assert len(open_folder(tmp_path, 4, "val")) == 2
    with pytest.raises(DataError, match="no subfolder for split 'test'"):
        open_folder(tmp_path, 4, "test")


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "bmp", "PNG"])
def test_folder_reads_every_format_as_cropped_rgb(tmp_path, ending):
    (tmp_path / "a").mkdir()
    Image.new("L", (13, 9), 200).save(tmp_path / "a" / f"x.{ending}")
    image = open_folder(tmp_path, 4, "train")[0].image
    assert image.shape == (4, 4, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 200).max() <= 3


def test_folder_mistakes_end_in_one_sentence(tmp_path):
    with pytest.raises(DataError, match="needs a path"):
        open_dataset("imagefolder", None, image_size=4)
    with pytest.raises(DataError, match="does not exist"):
        open_folder(tmp_path / "nowhere", 4, "train")
    with pytest.raises(DataError, match="no class folders"):
        open_folder(tmp_path, 4, "train")
    file = tmp_path / "file.png"
    file.write_bytes(encode(picture(0)))
    with pytest.raises(DataError, match="is a file"):
        open_folder(file, 4, "train")
    make_folder(tmp_path / "data")
    (tmp_path / "data" / "cat").mkdir()
    with pytest.raises(DataError, match="cat holds no image"):
        open_folder(tmp_path / "data", 4, "train")


def test_a_corrupt_file_is_named(tmp_path):
    root = make_folder(tmp_path)
    (root / "bee" / "1.png").write_bytes(b"broken")
    dataset = open_folder(root, 4, "train")
    with pytest.raises(DataError, match=r"bee/1\.png"):
        dataset[4]
    (root / "bee" / "1.png").unlink()
    with pytest.raises(DataError, match=r"bee/1\.png: No such file"):
        dataset[4]


# Tables.

LABELS = [1, 0, 2, 1, 0]


def test_parquet_reads_rows_across_row_groups_and_files(tmp_path):
    for part in range(2):
        table = make_table(LABELS, first=5 * part, names=["a", "b", "c", "d"])
        parquet.write_table(table, tmp_path / f"train-{part}.parquet", row_group_size=2)
    dataset = tables.open_parquet(tmp_path, 4, "train")
    check_rows(dataset, LABELS * 2)
    assert dataset.classes == ("a", "b", "c", "d")
    assert dataset.num_classes == 4
    assert tables.open_parquet(tmp_path / "train-*.parquet", 4, "train").digest == dataset.digest
    check_rows(tables.open_parquet(tmp_path / "train-1.parquet", 4, "train"), LABELS, first=5)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_reads_both_formats(tmp_path, kind):
    write_arrow(make_table(LABELS), tmp_path / "data.arrow", kind)
    dataset = tables.open_arrow(tmp_path / "data.arrow", 4, "train")
    check_rows(dataset, LABELS)
    assert dataset.classes is None
    assert dataset.num_classes == 3


def test_arrow_reads_what_datasets_saves(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra 'dev')")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    rows = {"image": [Image.fromarray(picture(row)) for row in range(5)], "label": LABELS}
    saved = datasets.Dataset.from_dict(rows, features=features)
    saved.save_to_disk(str(tmp_path / "root"), num_shards=2)
    saved.select([3]).save_to_disk(str(tmp_path / "root" / "val"))
    write_arrow(make_table([0]), tmp_path / "root" / "cache-1.arrow")
    dataset = tables.open_arrow(tmp_path / "root", 4, "train")
    check_rows(dataset, LABELS)
    assert dataset.classes == ("a", "b", "c")
    check_rows(tables.open_arrow(tmp_path / "root", 4, "val"), LABELS[3:4], first=3)
    datasets.DatasetDict(train=saved).save_to_disk(str(tmp_path / "dict"))
    check_rows(tables.open_arrow(tmp_path / "dict", 4, "train"), LABELS)


@pytest.mark.parametrize("opener, write", [("open_parquet", "parquet"), ("open_arrow", "arrow")])
def test_tables_survive_pickling(tmp_path, opener, write):
    path = tmp_path / f"x.{write}"
    table = make_table(LABELS)
    write_arrow(table, path) if write == "arrow" else parquet.write_table(table, path)
    dataset = getattr(tables, opener)(path, 4, "train")
    dataset[0]
    check_rows(pickle.loads(pickle.dumps(dataset)), LABELS)


def test_the_row_group_cache_is_bounded(tmp_path, monkeypatch):
    parquet.write_table(make_table(LABELS), tmp_path / "x.parquet", row_group_size=1)
    dataset = tables.open_parquet(tmp_path / "x.parquet", 4, "train")
    monkeypatch.setattr(tables, "ROW_GROUP_CACHE", 250)
    for _ in range(2):
        check_rows(dataset, LABELS)
        assert len(dataset.rows._cache) < 3
        assert dataset.rows._cached == sum(column.nbytes for column in dataset.rows._cache.values())


def test_images_may_be_plain_bytes_or_paths(tmp_path):
    plain = make_table([0, 1], images=[encode(picture(0)), encode(picture(1))])
    parquet.write_table(plain, tmp_path / "plain.parquet")
    check_rows(tables.open_parquet(tmp_path / "plain.parquet", 4, "train"), [0, 1])
    (tmp_path / "one.png").write_bytes(encode(picture(0)))
    rows = [{"bytes": None, "path": "one.png"}, {"bytes": None, "path": "two.png"}, {"bytes": None, "path": None}]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(rows, struct), "label": [0, 0, 0]})
    parquet.write_table(table, tmp_path / "paths.parquet")
    dataset = tables.open_parquet(tmp_path / "paths.parquet", 4, "train")
    np.testing.assert_array_equal(dataset[0].image, picture(0))
    with pytest.raises(DataError, match=r"row 1 names the image .*two\.png"):
        dataset[1]
    with pytest.raises(DataError, match="row 2 has no image"):
        dataset[2]


@pytest.mark.parametrize(
    "labels, names, message",
    [
        ([0, None, 1], None, "row 1 has no label"),
        ([0, 1, -1], None, "row 2 has label -1; allowed is 0 to 999,999"),
        ([0, 1, 2], ["a", "b"], "row 2 has label 2; allowed is 0 to 1"),
        (["cat", "dog", "cat"], None, "column 'label' is string"),
    ],
)
def test_wrong_labels_are_refused_when_opening(tmp_path, labels, names, message):
    table = make_table(labels, names=names)
    parquet.write_table(table, tmp_path / "x.parquet")
    write_arrow(table, tmp_path / "x.arrow")
    with pytest.raises(DataError, match=message):
        tables.open_parquet(tmp_path / "x.parquet", 4, "train")
    with pytest.raises(DataError, match=message):
        tables.open_arrow(tmp_path / "x.arrow", 4, "train")


def test_missing_and_wrong_columns_are_named(tmp_path):
    for column, message in {"image": "no column 'label'. Found: image", "label": "no column 'image'"}.items():
        parquet.write_table(make_table([0]).select([column]), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=message):
            tables.open_parquet(tmp_path / "x.parquet", 4, "train")
    parquet.write_table(pa.table({"image": [1.0], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column 'image' is double"):
        tables.open_parquet(tmp_path / "x.parquet", 4, "train")


def test_corrupt_tables_and_images_are_named(tmp_path):
    table = make_table([0, 1], images=[encode(picture(0)), b"broken"])
    for kind, opener in {"parquet": tables.open_parquet, "arrow": tables.open_arrow}.items():
        path = tmp_path / f"x.{kind}"
        write_arrow(table, path) if kind == "arrow" else parquet.write_table(table, path)
        with pytest.raises(DataError, match=rf"x\.{kind} row 1"):
            opener(path, 4, "train")[1]
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match=rf"cannot read .*x\.{kind}"):
            opener(path, 4, "train")


def test_files_of_splits_are_kept_apart(tmp_path):
    for name in ("train", "test"):
        parquet.write_table(make_table([0] if name == "test" else LABELS), tmp_path / f"{name}.parquet")
    assert len(tables.open_parquet(tmp_path, 4, "train")) == 5
    assert len(tables.open_parquet(tmp_path, 4, "test")) == 1
    with pytest.raises(DataError, match=r"no file of split 'val'. Found: test.parquet, \.\.\."):
        tables.open_parquet(tmp_path, 4, "val")
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(DataError, match="no file of split 'train'"):
        tables.open_parquet(tmp_path, 4, "train")


def test_nothing_to_read_ends_in_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.parquet file"):
        tables.open_parquet(tmp_path, 4, "train")
    with pytest.raises(DataError, match="no file matches"):
        tables.open_parquet(tmp_path / "*.parquet", 4, "train")
    with pytest.raises(DataError, match="does not exist"):
        tables.open_arrow(tmp_path / "x.arrow", 4, "train")
    parquet.write_table(make_table([0]).slice(0, 0), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="holds no row"):
        tables.open_parquet(tmp_path, 4, "train")


# Detection.


def test_detection_tells_the_kinds_apart(tmp_path):
    make_folder(tmp_path / "images")
    make_folder(tmp_path / "splits" / "train")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(make_table([0]), tmp_path / "hub" / "data" / "train-0.parquet")
    write_arrow(make_table([0]), tmp_path / "x.arrow")
    assert detect(tmp_path / "images") == "imagefolder"
    assert detect(tmp_path / "splits") == "imagefolder"
    assert detect(tmp_path / "hub") == "parquet"
    assert detect(tmp_path / "hub" / "data" / "*.parquet") == "parquet"
    assert detect(tmp_path / "x.arrow") == "arrow"


def test_detection_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        detect(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no data set"):
        detect(tmp_path)
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(DataError, match="no data set that can be read"):
        detect(tmp_path / "x.csv")
    parquet.write_table(make_table([0]), tmp_path / "x.parquet")
    write_arrow(make_table([0]), tmp_path / "x.arrow")
    with pytest.raises(DataError, match="several kinds"):
        detect(tmp_path)


# Order.


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    order = epoch_order(100, 0, 0)
    assert sorted(order) == list(range(100))
    assert (epoch_order(100, 0, 0) == order).all()
    assert (epoch_order(100, 0, 1) != order).any()
    assert (epoch_order(100, 1, 0) != order).any()


def test_the_incomplete_last_batch_is_dropped():
    order = Order(size=10, seed=0, batch_size=4)
    assert steps_per_epoch(10, 4) == 2
    first = np.concatenate([order.global_batch(step) for step in range(2)])
    np.testing.assert_array_equal(first, epoch_order(10, 0, 0)[:8])
    np.testing.assert_array_equal(order.global_batch(2), epoch_order(10, 0, 1)[:4])


@pytest.mark.parametrize("world, accumulation", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_ranks_and_micro_batches_only_cut_the_global_batch(world, accumulation):
    plain = Order(size=50, seed=3, batch_size=12)
    parts = [
        micro
        for rank in range(world)
        for micro in Order(
            size=50, seed=3, batch_size=12, rank=rank, world=world, accumulation=accumulation
        ).micro_batches(7)
    ]
    assert [position for part in parts for position in part.positions] == list(range(12))
    np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), plain.global_batch(7))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="2 processes x 4 micro-batches"):
        Order(size=100, seed=0, batch_size=12, world=2, accumulation=4)
    with pytest.raises(DataError, match="10 images, fewer than one batch of 12"):
        Order(size=10, seed=0, batch_size=12)


def take(count: int, dataset, **options) -> list:
    stream = batches(dataset, **options)
    return [next(stream) for _ in range(count)]


def assert_equal(first: list, second: list) -> None:
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.label, other.label)
        assert one.positions == other.positions


def test_batches_are_tensors_of_the_right_form():
    (batch,) = take(1, open_digits(None, 8, "train"), seed=0, batch_size=6, rank=1, world=2)
    assert batch.image.shape == (3, 3, 8, 8)
    assert batch.image.dtype == torch.uint8
    assert batch.image.is_contiguous()
    assert batch.label.dtype == torch.int64
    assert batch.caption is None
    assert batch.positions == [3, 4, 5]


def test_a_batch_holds_the_images_its_order_names():
    dataset = open_digits(None, 8, "train")
    (batch,) = take(1, dataset, seed=5, batch_size=4, first_step=2)
    for place, index in enumerate(Order(size=1438, seed=5, batch_size=4).global_batch(2)):
        np.testing.assert_array_equal(batch.image[place].permute(1, 2, 0), dataset.images[index])
        assert batch.label[place] == dataset.labels[index]


def test_a_continued_run_sees_the_same_batches(tmp_path):
    dataset = open_folder(make_folder(tmp_path), 4, "train")
    whole = take(10, dataset, seed=0, batch_size=2, accumulation=2)
    assert_equal(whole[6:], take(4, dataset, seed=0, batch_size=2, accumulation=2, first_step=3))


def test_workers_and_memory_change_nothing(tmp_path):
    dataset = open_folder(make_folder(tmp_path), 4, "train")
    state = torch.get_rng_state()
    plain = take(8, dataset, seed=0, batch_size=4)
    assert_equal(plain, take(8, dataset, seed=0, batch_size=4, workers=2))
    items = [dataset[index] for index in range(6)]
    arrays = ArrayDataset(
        images=np.stack([item.image for item in items]),
        labels=np.array([item.label for item in items]),
        digest=dataset.digest,
    )
    assert_equal(plain, take(8, arrays, seed=0, batch_size=4))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_ends_the_run_with_its_name(tmp_path, workers):
    root = make_folder(tmp_path)
    (root / "bee" / "1.png").write_bytes(b"broken")
    dataset = open_folder(root, 4, "train")
    with pytest.raises(UserError) as error:
        take(3, dataset, seed=0, batch_size=2, workers=workers)
    assert str(error.value) == (
        f"cannot read image {root}/bee/1.png: it is no known image format. Replace or remove it."
    )
    assert type(error.value) is DataError


def test_full_shared_memory_is_one_sentence_and_no_endless_wait(tmp_path, monkeypatch):
    def fail(storage):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    # Loader processes are forks, and move their tensors by this.
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", fail)
    with pytest.raises(RunError, match=r"\(unable to allocate .*No space left on device.*--shm-size.*data.workers"):
        next(batches(open_folder(make_folder(tmp_path), 4, "train"), seed=0, batch_size=4, workers=1))


# Real data.


def test_cifar10_opens_and_decodes():
    path = shared_cifar()
    dataset = tables.open_parquet(path, 32, "train")
    assert len(dataset) == 50_000
    assert " ".join(dataset.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert (np.bincount(dataset.labels) == 5000).all()
    row = parquet.ParquetFile(path / "train.parquet").read_row_group(2).slice(7, 1).to_pylist()[0]
    item = dataset[10_007]
    assert item.label == row["label"]
    assert row["image"]["path"].startswith(dataset.classes[item.label])
    np.testing.assert_array_equal(item.image, np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))
    assert len(tables.open_parquet(path, 32, "test")) == 10_000


def test_a_digest_of_arrays_follows_types_shapes_and_values_of_all():
    images, labels = np.zeros((2, 3), np.uint8), np.arange(4)
    sets = [(images, labels), (images, labels + 1), (images + 1, labels), (images.astype(np.int8), labels)]
    sets += [(images.reshape(3, 2), labels), (images.ravel(), labels)]
    assert len({array_digest(*arrays) for arrays in sets}) == len(sets)


def test_a_network_has_a_class_for_each_of_the_data():
    data, kind = open_digits(None, 8, "train"), CONDITIONS.load("class")
    assert [kind.infer_from_data({"num_classes": asked}, data)["num_classes"] for asked in ("auto", 10, 11)] == [
        10,
        10,
        11,
    ]
    with pytest.raises(ConfigError, match=r"num_classes is 9, and the data has 10 classes"):
        kind.infer_from_data({"num_classes": 9}, data)


def test_a_grid_of_examples_has_one_class_a_column():
    data = open_digits(None, 8, "train")
    assert [spec.label for spec in ClassConditioner({"num_classes": 10}, "cpu").examples(data, 12)] == [
        *range(10),
        0,
        1,
    ]
    assert [spec.label for spec in ClassConditioner({"num_classes": 3}, "cpu").examples(data, 12)] == [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
        1,
        2,
        0,
        0,
        1,
    ]
