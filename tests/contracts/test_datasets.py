"""The contract of every data set in the table."""

import inspect
import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffusionbench.errors import DataError
from nanogen.data import Dataset, Example
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.datasets import DATASETS

# The smallest that every data set has.
SIZE = 24


def picture(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (11, 9, 3), dtype=np.uint8))


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    picture(index).save(file, "PNG")
    return file.getvalue()


def example(name: str, folder):
    """A small data set of each kind, written here; None for the embedded ones."""
    if not DATASETS[name].takes_path:
        return None
    if name == "imagefolder":
        for index in range(6):
            (folder / f"class{index % 2}").mkdir(exist_ok=True)
            picture(index).save(folder / f"class{index % 2}" / f"{index}.png")
        return folder
    if name == "captionfolder":
        for index in range(6):
            picture(index).save(folder / f"{index}.png")
            (folder / f"{index}.txt").write_text(f"picture {index}")
        return folder
    if name == "tars":
        for shard in range(2):
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for index in range(3 * shard, 3 * shard + 3):
                    for ending, content in {"png": encoded(index), "txt": f"picture {index}".encode()}.items():
                        member = tarfile.TarInfo(f"{index}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        return folder
    if name in ("parquet", "arrow"):
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
        rows = [{"bytes": encoded(index), "path": None} for index in range(6)]
        table = arrow.table({"image": rows, "label": [index % 2 for index in range(6)]})
        if name == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(table, folder / "x.parquet")
        else:
            with arrow.OSFile(str(folder / "x.arrow"), "wb") as file, arrow.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
        return folder
    pytest.fail(f"this test must know how to write a small data set of kind '{name}': add it to `example`")


@pytest.fixture(params=list(DATASETS))
def opened(request, tmp_path):
    """Name, opener and path of each data set."""
    path = example(request.param, tmp_path)
    return request.param, DATASETS.load(request.param), path


def test_openers_take_path_size_and_split(opened):
    _, opener, _ = opened
    assert list(inspect.signature(opener).parameters)[:3] == ["path", "image_size", "split"]


def test_examples_are_8_bit_rgb_of_the_asked_size_with_a_label_or_a_caption(opened):
    _, opener, path = opened
    dataset = opener(path, SIZE, "train")
    assert isinstance(dataset, Dataset)
    assert len(dataset) >= 6
    for index in range(6):
        example = dataset[index]
        assert isinstance(example, Example)
        assert example.image.shape == (SIZE, SIZE, 3)
        assert example.image.dtype == np.uint8
        assert example.label is not None or example.caption is not None
        assert dataset.captioned == (example.caption is not None)
        assert dataset.caption(index) == example.caption
        assert dataset.label(index) == example.label
        assert example.caption is None or example.caption.strip()
        assert (dataset.num_classes is None) == (example.label is None)
        if example.label is not None:
            assert 0 <= example.label < dataset.num_classes
    if dataset.classes is not None:
        assert len(dataset.classes) == dataset.num_classes


def test_rows_say_what_their_data_sets_hold(opened):
    name, opener, path = opened
    row, dataset = DATASETS[name], opener(path, SIZE, "train")
    assert row.title
    assert row.labels in (None, dataset.num_classes is not None)
    assert row.captions in (None, dataset.captioned)
    assert row.takes_path == (path is not None)
    if path is not None:
        found = detect(path)
        assert found == name, f"detect of nanogen/data/detect.py takes this for '{found}': give the row an `ending`"
        assert row.ending is None or {file.suffix for file in path.iterdir() if file.suffix != ".index"} == {row.ending}


def test_components_cover_the_indices(opened):
    _, opener, path = opened
    dataset = opener(path, SIZE, "train")
    assert sum(component.size for component in dataset.components) == len(dataset)
    assert all(component.blocks is None or sum(component.blocks) == component.size for component in dataset.components)


def test_opening_twice_gives_the_same(opened):
    _, opener, path = opened
    first, second = opener(path, SIZE, "train"), opener(path, SIZE, "train")
    assert first.digest == second.digest
    assert len(first.digest) == 64
    np.testing.assert_array_equal(first[3].image, second[3].image)


def test_data_sets_travel_to_workers(opened):
    _, opener, path = opened
    dataset = opener(path, SIZE, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy[5].image, dataset[5].image)
    assert (len(copy), copy.digest, copy.caption(4)) == (len(dataset), dataset.digest, dataset.caption(4))


def test_an_index_outside_is_an_error(opened):
    _, opener, path = opened
    dataset = opener(path, SIZE, "train")
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_path_that_is_not_there_or_not_asked_for_is_refused(opened, tmp_path):
    name, _, path = opened
    with pytest.raises(DataError, match=r"does not exist|reads no path"):
        open_dataset(name, str(tmp_path / "nowhere"), image_size=SIZE)
    if path is not None:
        with pytest.raises(DataError, match=f"data set '{name}' needs a path"):
            open_dataset(name, None, image_size=SIZE)
