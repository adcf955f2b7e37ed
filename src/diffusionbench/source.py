"""Sources map samples to 8-bit images: a folder, an archive, an array, a constant; a generator is one too.

Nothing here decides what is asked for (the axis does) or keeps anything (the store does).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from PIL import Image

from diffusionbench import bounds
from diffusionbench.archives import Archive, ImageRows
from diffusionbench.axes import Sample
from diffusionbench.errors import DataError, RequestError
from diffusionbench.limits import read_small
from diffusionbench.schema import digest, file_digest
from diffusionbench.shown import clipped, few

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABEL_KEYS: Final = ("arr_1", "labels")


class Source(Protocol):
    """Anything that gives an image for a sample; the image depends on the source's digest and the sample only.

    Attributes:
        description: for people: where the images come from.
        digest: SHA-256 of what the images depend on (weights, files).
        preferred_batch: samples to ask for at once.
        image_size: (height, width) of its images, or None where not known before the first.
        labels: class of every image that exists already, in order (None: unknown class); None for a generator,
            which makes what the axis asks for.
    """

    description: str
    preferred_batch: int

    @property
    def digest(self) -> str: ...

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    @property
    def labels(self) -> Sequence[int | None] | None: ...

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """The samples' images, uint8 [B, H, W, 3].

        Raises:
            UnreadableImages: naming those that cannot be read; the others can still be asked for.
        """
        ...


class UnreadableImages(DataError):  # noqa: N818
    """Some images cannot be read.

    Attributes:
        reasons: file and fault by sample id.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(few([*reasons.values()], "; "))
        self.reasons = dict(reasons)


class FolderSource:
    """Images in a folder, sorted by name; classes are subfolders in sorted order, or the numbers they are named by."""

    preferred_batch = 64

    def __init__(self, folder: Path, labels: Sequence[int | None] | None = None) -> None:
        """List the images.

        Args:
            folder: `*.png` and the like, or `<class>/*.png`; other files are no images and play no part.
            labels: one label per image in sorted order, in place of the subfolders' names.

        Raises:
            DataError: if there are no images, or some inside and some outside of subfolders.
            RequestError: if the number of labels is another one.
        """
        self.files = _list_images(folder)
        self.folder = folder
        self.description = f"folder {folder}"
        self.labels: tuple[int | None, ...] = _folder_labels(folder, self.files)
        if labels is not None:
            self.labels = _matching(labels, len(self.files), str(folder))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, contents and labels of the images."""
        names = [file.relative_to(self.folder).as_posix() for file in self.files]
        return digest([names, [file_digest(file) for file in self.files], self.labels])

    @cached_property
    def image_size(self) -> tuple[int, int] | None:
        """Size of the first readable image, or None if there is none."""
        return _first_size(self.files)

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """The samples' images; grey and palette files become RGB without loss.

        Raises:
            UnreadableImages: naming each file that cannot be decoded.
            DataError: if one has another size than the first, transparency, or more than 8 bits a channel.
        """
        arrays, reasons = [], {}
        for sample in samples:
            file = self.files[sample.id]
            try:
                arrays.append(_decode(file))
            except _UNREADABLE as error:
                reasons[sample.id] = f"{file} cannot be read ({str(error).replace(repr(str(file)), '').strip()})"
                continue
            if arrays[-1].shape[:2] != self.image_size:
                raise DataError(
                    f"{file} is {_size(arrays[-1].shape[:2])}, the first image of {self.folder} is "
                    f"{_size(self.image_size)}. All images of one set must have one size."
                )
        if reasons:
            raise UnreadableImages(reasons)
        return np.stack(arrays)


def _first_size(files: Iterable[Path]) -> tuple[int, int] | None:
    for file in files:
        try:
            return _decode(file).shape[:2]
        except _UNREADABLE:
            continue
    return None


class PromptFolderSource:
    """Images that were made for a prompt set, under its own file names: `<prompt id>/<k>.png` below a folder."""

    preferred_batch = 64
    labels = None

    def __init__(self, folder: Path) -> None:
        """List the images; which of them are needed is the axis's business.

        Raises:
            DataError: if there are none, or two files are the same image of the set.
        """
        self.folder = folder
        self.description = f"folder {folder}"
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise DataError(
                f"folder {folder} has no images. Make them with the names that `diffusionbench prompts` lists: "
                "<prompt id>/<k>.png."
            )
        self._files: dict[str, Path] = {}
        for file in files:
            name = file.relative_to(folder).with_suffix("").as_posix()
            if name in self._files:
                raise DataError(f"{self._files[name]} and {file} are both image {name}. Keep one of them.")
            self._files[name] = file

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents of the images."""
        return digest([[name, file_digest(file)] for name, file in self._files.items()])

    @cached_property
    def image_size(self) -> tuple[int, int] | None:
        """Size of the first readable image, or None if there is none."""
        return _first_size(self._files.values())

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """The samples' images.

        Raises:
            UnreadableImages: naming each that is missing or cannot be decoded.
            DataError: if one has another size than the first.
        """
        arrays, reasons = [], {}
        for sample in samples:
            file = self._files.get(sample.file or "")
            if file is None:
                reasons[sample.id] = f"{self.folder / (sample.file or str(sample.id))}.png is missing"
                continue
            try:
                arrays.append(_decode(file))
            except _UNREADABLE as error:
                reasons[sample.id] = f"{file}: {str(error).replace(repr(str(file)), 'the file')}"
                continue
            if arrays[-1].shape[:2] != self.image_size:
                raise DataError(
                    f"{file} is {_size(arrays[-1].shape[:2])}, the first image of {self.folder} is "
                    f"{_size(self.image_size)}. All images of one set must have one size."
                )
        if reasons:
            raise UnreadableImages(reasons)
        return np.stack(arrays)


class ArchiveSource:
    """Images of an .npz file: uint8 [N, H, W, 3] under `arr_0`, labels under `arr_1` or `labels` if there are any.

    Rows are read by position, so a 10 GB archive needs no 10 GB of memory.
    """

    preferred_batch = 64

    def __init__(self, path: Path, labels: Sequence[int | None] | None = None) -> None:
        """Open the archive.

        Raises:
            DataError: if it is no .npz, or its images are not uint8 [N, H, W, 3] with N >= 1.
            RequestError: if the number of labels is another one.
        """
        keys = archive_keys(path)
        others = [key for key in keys if key not in LABEL_KEYS]
        if not others:
            raise DataError(f"{path} holds {few(keys) or 'nothing'}. Images must be under the key arr_0.")
        self.path = path
        self.description = f"archive {path}"
        self._rows = ImageRows(path, "arr_0" if "arr_0" in keys else others[0])
        count = self._rows.count
        stored = next((key for key in LABEL_KEYS if key in keys), None)
        if labels is not None:
            self.labels = _matching(labels, count, str(path))
        elif stored is not None:
            self.labels = _matching(_integers(path, stored), count, str(path))
        else:
            self.labels = (None,) * count

    @cached_property
    def digest(self) -> str:
        """SHA-256 over file and labels."""
        return digest([file_digest(self.path), self.labels])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width)."""
        return self._rows.size

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """The samples' images; fastest where ids rise."""
        return np.stack([self._rows.read(sample.id) for sample in samples])


class ArraySource:
    """Images held in memory."""

    preferred_batch = 128

    def __init__(self, images: np.ndarray, labels: Sequence[int | None] | np.ndarray | None, description: str) -> None:
        """Take uint8 [N, H, W, 3] and N labels or None."""
        self.array = images
        self.labels: tuple[int | None, ...] = (None,) * len(images)
        if labels is not None:
            self.labels = _matching(np.asarray(labels).tolist(), len(images), description)
        self.description = description

    @cached_property
    def digest(self) -> str:
        """SHA-256 over images and labels."""
        pixels = hashlib.sha256(self.array.tobytes()).hexdigest()
        return digest([self.array.shape, pixels, self.labels])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width)."""
        return self.array.shape[1:3]

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """The samples' images."""
        return self.array[[sample.id for sample in samples]]


class ConstantSource:
    """One grey for every sample: drives an axis from request to record without a model."""

    preferred_batch = 64
    labels = None

    def __init__(self, image_size: tuple[int, int], level: int = 128) -> None:
        """Take (height, width) and a level in 0..255."""
        self.image_size: tuple[int, int] | None = image_size
        self.level = level
        self.description = f"constant grey {level}"
        self.digest = digest(["constant", image_size, level])

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """As many constant images."""
        height, width = self.image_size or (1, 1)
        return np.full((len(samples), height, width, 3), self.level, np.uint8)


def open_source(path: Path, labels: Sequence[int | None] | None = None) -> FolderSource | ArchiveSource:
    """The images that somebody else made, by path.

    Raises:
        DataError: if there is nothing there, or neither a folder nor an .npz.
    """
    if path.is_dir():
        return FolderSource(path, labels)
    if not path.exists():
        raise DataError(f"images {path}: no such file or folder. Give a folder of images or an .npz with arr_0.")
    if path.suffix != ".npz":
        raise DataError(f"images {path}: neither a folder nor an .npz. Give a folder of images or an .npz with arr_0.")
    return ArchiveSource(path, labels)


def read_labels(path: Path) -> list[int]:
    """Labels from a text file with one integer a line, in the order of the images (folders: sorted by name).

    Raises:
        DataError: if the file is missing or a line is no integer.
    """
    try:
        lines = read_small(path).decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels {path}: {error}. Give a text file with one integer a line.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    labels = []
    for number, line in enumerate(lines, 1):
        try:
            labels.append(int(line))
        except ValueError:
            raise DataError(f"labels {path}:{number}: {line.strip()!r} is no integer. One label a line.") from None
    return labels


def archive_keys(path: Path) -> list[str]:
    """Names of the arrays in an .npz, without reading them.

    Raises:
        DataError: if the file is no .npz.
    """
    with Archive(path) as archive:
        return archive.keys


_UNREADABLE: Final = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def _list_images(folder: Path) -> list[Path]:
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        raise DataError(f"folder {folder} has no images. Looked for {', '.join(SUFFIXES)} in it and in its subfolders.")
    depths = {len(file.relative_to(folder).parts) for file in found}
    if depths not in ({1}, {2}):
        raise DataError(
            f"folder {folder} has images at different depths ({found[0]} and {found[-1]}) or too deep. "
            "Put all images in the folder itself, or all in one level of class subfolders."
        )
    return found


def _folder_labels(folder: Path, files: Sequence[Path]) -> tuple[int | None, ...]:
    if files[0].parent == folder:
        return (None,) * len(files)
    names = [file.parent.name for file in files]
    classes = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in classes):
        if len({int(name) for name in classes}) < len(classes):
            raise DataError(f"folder {folder} names a class twice, as in 1 and 01: {few(classes)}. Rename one.")
        return tuple(int(name) for name in names)
    number = {name: label for label, name in enumerate(classes)}
    return tuple(number[name] for name in names)


def _matching(labels: Sequence[int | None], count: int, what: str) -> tuple[int | None, ...]:
    if len(labels) != count:
        raise RequestError(f"{len(labels)} labels were given and {what} has {count} images. Give one label per image.")
    for image, label in enumerate(labels):
        # Which numbers are classes is the reference's to say.
        if label is not None and abs(label) >= bounds.CLASSES:
            raise DataError(
                f"{what}: image {image} has the label {clipped(str(label), 40)}. Labels are numbers below "
                f"{bounds.CLASSES:,}."
            )
    return tuple(labels)


def _decode(file: Path) -> np.ndarray:
    """One image as uint8 [H, W, 3]."""
    with Image.open(file) as image:
        image.load()
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            lowest = np.asarray(image.convert("RGBA"))[..., 3].min()
            if lowest < 255:
                raise DataError(f"{file} is partly transparent. Save it without transparency.")
        elif image.mode not in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):
            raise DataError(f"{file} has the pixel mode {image.mode}. Save it with 8 bits a channel, RGB or grey.")
        return np.asarray(image.convert("RGB"))


def _size(size: tuple[int, ...] | None) -> str:
    return "x".join(str(side) for side in size or ())


def _integers(path: Path, key: str) -> list[int]:
    with Archive(path) as archive:
        labels = archive.read(key)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: '{key}' is {labels.dtype} {list(labels.shape)}. Labels must be integers [N].")
    return labels.tolist()
