"""Archives of strangers: what a header claims, how it is folded, and what is never loaded."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError
from diffusionbench.moments import load_moments
from diffusionbench.source import ArchiveSource, read_labels

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


def claim(shape: str, descr: str = "'|u1'") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n") + b"\0" * 100


def archive(path, how: int = zipfile.ZIP_DEFLATED, **arrays: bytes):
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in arrays.items():
            file.writestr(f"{name}.npy", content)
    return path


HOSTILE = {
    "a trillion images": claim("(1000000000000, 8, 8, 3)"),
    "a negative number of images": claim("(-1, 8, 8, 3)"),
    "twice a negative number": claim("(-1, -100)"),
    "a side of 2^70": claim("(1180591620717411303424, 8, 8, 3)"),
    "no array": b"",
    "a header of 4 GB": header("", b"\x02\x00")[:8] + b"\xff\xff\xff\xff",
    "another version": b"\x93NUMPY\x09\x09",
    "brackets without end": header("(" * 9_000),
    "a call": header("__import__('os').abort()"),
    "a shape of words": claim("('a',)"),
    "a type that is none": claim("(100,)", "'|z9'"),
    "a type of no bytes": claim("(100,)", "'|S0'"),
    "objects": npy(np.array([1, None], dtype=object), pickled=True),
    "pickles in a record": claim("(1,)", "[('a', '|O')]"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_array_is_refused_wherever_it_is_read(what, tmp_path):
    content = HOSTILE[what]
    with pytest.raises(DataError, match="'arr_0' cannot be read"):
        ArchiveSource(archive(tmp_path / "images.npz", arr_0=content))
    with pytest.raises(DataError, match="'arr_1' cannot be read"):
        ArchiveSource(archive(tmp_path / "labels.npz", arr_0=npy(IMAGES), arr_1=content))
    with pytest.raises(DataError, match="'mu' cannot be read"):
        load_moments(archive(tmp_path / "moments.npz", mu=content, sigma=npy(np.eye(2))))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 0, 8, 3), (4, 8, 0, 3), (1, 1, 40_000, 3)])
def test_images_without_pixels_or_without_end_are_refused(shape, tmp_path):
    with pytest.raises(DataError, match="arr_0"):
        ArchiveSource(archive(tmp_path / "images.npz", arr_0=npy(np.zeros(shape, np.uint8))))


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_folded_without_end_is_not_unfolded(how, tmp_path):
    path = archive(tmp_path / "bomb.npz", how, arr_0=npy(np.zeros((2_000, 64, 64, 3), np.uint8)))
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="folded in another way"):
        ArchiveSource(path)


def test_an_array_larger_than_asked_is_not_read(tmp_path):
    path = archive(tmp_path / "a.npz", x=npy(np.zeros(1_000)))
    with Archive(path) as opened, pytest.raises(DataError, match=r"unfolds to 8,000 bytes, and 7,999 are read"):
        opened.read("x", most=7_999)
    with Archive(path) as opened:
        assert opened.read("x", most=8_000).tolist() == [0.0] * 1_000


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array("x"), np.zeros((0, 3))],
    ids=["rows", "columns", "a word", "empty"],
)
def test_what_numpy_writes_is_read(array, tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=array)
    with Archive(tmp_path / "a.npz") as opened:
        found = opened.read("x")
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()
    assert found.flags.writeable


def test_two_arrays_of_one_name_are_refused_and_other_members_are_counted(tmp_path):
    path = archive(tmp_path / "a.npz", arr_0=npy(IMAGES))
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("__MACOSX/._arr_0.npy", b"x")
        opened.writestr("notes.txt", b"x")
    source = ArchiveSource(path)
    assert len(source.labels) == len(IMAGES)
    assert source.notes == (f"{path}: left out 2 members that are no arrays (first: __MACOSX/._arr_0.npy).",)
    with zipfile.ZipFile(path, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr("arr_0.npy", npy(IMAGES[:1]))
    with pytest.raises(DataError, match="holds 'arr_0' twice"):
        ArchiveSource(path)


def test_files_that_are_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "dangling.npz").symlink_to(tmp_path / "nothing")
    (tmp_path / "text.npz").write_text("arr_0")
    whole = archive(tmp_path / "whole.npz", arr_0=npy(IMAGES)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    for path in sorted(tmp_path.glob("[!w]*.npz")):
        with pytest.raises(DataError, match=r"\.npz cannot be read as \.npz"):
            Archive(path)


def test_labels_that_are_no_class_and_label_files_without_end_are_refused(tmp_path):
    path = archive(tmp_path / "a.npz", arr_0=npy(IMAGES), arr_1=npy(np.array([0, 1, 2, 2**60])))
    with pytest.raises(DataError, match="gives image 3 the label 1152921504606846976"):
        ArchiveSource(path)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="labels"):
        read_labels(tmp_path / "pipe.txt")
