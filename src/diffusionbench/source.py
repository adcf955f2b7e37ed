"""Sources map samples to 8-bit images: a folder, an archive, an array, a constant; a generator is one too.

Nothing here decides what is asked for (the axis does) or keeps anything (the store does).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from diffusionbench import bounds
from diffusionbench.archives import Archive, ImageRows
from diffusionbench.errors import DataError, RequestError
from diffusionbench.files import LeftOut, list_images, number_classes, open_image_folder, read_lines
from diffusionbench.images import HEAD, UnreadableImage, decode, format_of
from diffusionbench.sample import Sample
from diffusionbench.schema import digest, file_digest
from diffusionbench.shown import clipped, few, printable

LABEL_KEYS: Final = ("arr_1", "labels")
# What published reference batches hold beside images.
STATISTICS_KEYS: Final = ("mu", "sigma", "mu_s", "sigma_s", "ref_mu", "ref_sigma")


class ImageSource(Protocol):
    """Anything that gives an image for a sample; the image depends on the source's digest and the sample only.

    Attributes:
        description: where the images come from, in words.
        digest: SHA-256 of what the images depend on (weights, files).
        preferred_batch: samples to ask for at once.
        image_size: (height, width) of its images, or None where not known before the first.
        labels: class of every image that exists already, in order (None: unknown class); None for a generator,
            which makes what the axis asks for, and for files that have the names of prompts.
        image_format: how images that exist already are kept: "png", "jpeg", ..., several joined by "+", "npz", "tar",
            "raw" in memory; None for a generator, which alone gets samples with seeds and takes its noise from
            `Sample.seed` alone.
    """

    description: str
    preferred_batch: int

    @property
    def digest(self) -> str: ...

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    @property
    def labels(self) -> Sequence[int | None] | None: ...

    @property
    def image_format(self) -> str | None: ...

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the samples' images, uint8 [B, H, W, 3].

        Raises:
            UnreadableImages: naming those that cannot be read; the others can still be asked for.
        """
        ...


def exists_already(source: ImageSource) -> bool:
    """Return whether a source's images were there before they were asked for; one without a format makes them."""
    return getattr(source, "image_format", None) is not None or source.labels is not None


class UnreadableImages(DataError):  # noqa: N818
    """Some images cannot be read.

    Attributes:
        reasons: file and fault by sample id.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(few([*reasons.values()], "; "))
        self.reasons = dict(reasons)


class _ImageFiles:
    """Images in files below a folder, all of one size."""

    preferred_batch = 64
    folder: Path
    files: Sequence[Path]
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def _file(self, sample: Sample) -> Path:
        raise NotImplementedError

    @cached_property
    def image_size(self) -> tuple[int, int] | None:
        """Size of the first readable image, or None if there is none."""
        for file in self.files:
            try:
                return _decode(file).shape[:2]
            except UnreadableImage:
                continue
        return None

    @cached_property
    def image_format(self) -> str:
        """Formats by the files' first bytes, joined by "+"; "unknown" where none is an image."""
        return "+".join(sorted({*filter(None, map(_format_of_file, self.files))})) or "unknown"

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the samples' images; grey and palette files become RGB without loss.

        Raises:
            UnreadableImages: naming each that is missing or cannot be decoded.
            DataError: if one has another size than the first, transparency, or more than 8 bits a channel.
        """
        arrays, reasons = [], {}
        for sample in samples:
            file = self._file(sample)
            try:
                arrays.append(_decode(file))
            except UnreadableImage as error:
                reasons[sample.id] = error.fault
                continue
            size = arrays[-1].shape[:2]
            if size != self.image_size:
                raise DataError(
                    f"{printable(str(file))} is {_size(size)}, the first image of {printable(str(self.folder))} is "
                    f"{_size(self.image_size)}. All images of one set must have one size."
                )
        if reasons:
            raise UnreadableImages(reasons)
        return np.stack(arrays)

    def _digests(self) -> list[str | None]:
        """Return the SHA-256 of each file, or None of one that cannot be read: its image is named when asked for."""
        found: list[str | None] = []
        for file in self.files:
            try:
                found.append(file_digest(file))
            except OSError:
                found.append(None)
        return found


class FolderSource(_ImageFiles):
    """Images in a folder, in natural order of their names; their classes are its subfolders (docs/data.md)."""

    def __init__(
        self, folder: Path, labels: Sequence[int | None] | None = None, known: Sequence[str] | None = None
    ) -> None:
        """List the images.

        Args:
            folder: images, or one folder of images per class; other files play no part and are counted in `notes`.
            labels: one label per image in natural order, in place of the subfolders' names.
            known: names of the reference's classes, by which the subfolders are numbered; without them, or where one
                subfolder has none of these names, the numbers follow the natural order of the subfolders.

        Raises:
            DataError: if there are no images, or it is not clear what the classes are.
            RequestError: if the number of labels is another one.
        """
        found = open_image_folder(folder)
        self.folder = found.root
        self.files = [found.root / name for name in found.images]
        self.description = f"folder {printable(str(folder))}"
        self.labels = _matching(labels, len(self.files), printable(str(folder)))
        if labels is None and found.classes is not None:
            numbers, lacking = number_classes(found.classes, known)
            if not lacking or len(numbers) <= len(known or numbers):
                self.labels = tuple(numbers[name.partition("/")[0]] for name in found.images)
            self.classes = tuple(map(printable, known if known is not None and not lacking else numbers))
        for name in found.empty:
            found.left_out.add("folders without images", name)
        self.notes = tuple(filter(None, [found.left_out.sentence(folder)]))

    def _file(self, sample: Sample) -> Path:
        return self.files[sample.id]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, contents and labels of the images."""
        names = [file.relative_to(self.folder).as_posix() for file in self.files]
        return digest([names, self._digests(), self.labels])


class PromptFolderSource(_ImageFiles):
    """Images that were made for a prompt set, under its own file names: `<prompt id>/<k>.png` below a folder."""

    labels = None

    def __init__(self, folder: Path, wanted: Collection[str] | None = None) -> None:
        """List the images; which of them are needed is the axis's business.

        Args:
            wanted: names without suffix of the images that the set has; others are counted in `notes`.

        Raises:
            DataError: if there are none, or two files are the same image of the set.
        """
        self.folder = folder
        self.description = f"folder {printable(str(folder))}"
        left_out = LeftOut()
        self._by_stem: dict[str, Path] = {}
        for name in list_images(folder, left_out):
            stem = os.path.splitext(name)[0]
            if stem in self._by_stem:
                raise DataError(
                    f"{printable(str(self._by_stem[stem]))} and {printable(str(folder / name))} are both image "
                    f"{printable(stem)}. Keep one of them."
                )
            self._by_stem[stem] = folder / name
            if wanted is not None and stem not in wanted:
                left_out.add("images that the prompt set does not name", name)
        if not self._by_stem:
            raise DataError(
                f"{self.description} has no images. Make them with the names that `diffusionbench prompts` lists: "
                "<prompt id>/<k>.png."
            )
        self.files = list(self._by_stem.values())
        self.notes = tuple(filter(None, [left_out.sentence(folder)]))

    def _file(self, sample: Sample) -> Path:
        return self._by_stem.get(sample.file, self.folder / f"{sample.file}.png")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and contents of the images."""
        return digest([*zip(self._by_stem, self._digests(), strict=True)])


def _format_of_file(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return format_of(opened.read(HEAD))
    except OSError:
        return None


def _decode(file: Path) -> np.ndarray:
    """Decode one image as uint8 [H, W, 3]."""
    name = printable(str(file))
    try:
        data = file.read_bytes()
    except OSError as error:
        if not os.path.lexists(file):
            raise UnreadableImage(f"{name} is missing") from None
        reason = "it is a link to nothing" if not os.path.exists(file) else error.strerror
        raise UnreadableImage(f"cannot read image {name}: {reason}") from None
    return np.asarray(decode(data, name, transparency="refuse"))


class ArchiveSource:
    """Images of an .npz file: uint8 [N, H, W, 3] under `arr_0`, labels under `arr_1` or `labels` if there are any.

    Rows are read by position, so a 10 GB archive needs no 10 GB of memory.
    """

    preferred_batch = 64
    image_format = "npz"
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path, labels: Sequence[int | None] | None = None) -> None:
        """Open the archive.

        Raises:
            DataError: if it is no .npz, it is not clear which array holds the images, these are not uint8 [N, H, W, 3]
                with N >= 1, or its labels cannot be read.
            RequestError: if the number of labels is another one.
        """
        with Archive(path) as archive:
            keys, left_out = archive.keys, LeftOut()
            for name in archive.others:
                left_out.add("members that are no arrays", name)
        others = [key for key in keys if key not in LABEL_KEYS and key not in STATISTICS_KEYS]
        if "arr_0" not in keys and len(others) != 1:
            raise DataError(
                f"{path} holds {few(keys) or 'nothing'}. Images must be under the key arr_0, and their labels, "
                "if there are any, under arr_1."
            )
        image_key = "arr_0" if "arr_0" in keys else others[0]
        for key in others:
            if key != image_key:
                left_out.add("arrays that are neither images nor labels", key)
        self.path = path
        self.description = f"archive {printable(str(path))}"
        self._rows = ImageRows(path, image_key)
        stored = [key for key in LABEL_KEYS if key in keys]
        if labels is None and len(stored) > 1:
            raise DataError(f"{path} holds labels twice, as {' and '.join(stored)}. Keep one of these arrays.")
        if labels is None and stored:
            labels = _stored_labels(path, stored[0])
            if labels is None:
                left_out.add("arrays of texts, so that images have no labels", stored[0])
        self.labels = _matching(labels, self._rows.count, str(path))
        self.notes = tuple(filter(None, [left_out.sentence(path)]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over file and labels."""
        return digest([file_digest(self.path), self.labels])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width)."""
        return self._rows.size

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the samples' images; fastest where ids rise."""
        return np.stack([self._rows.read(sample.id) for sample in samples])


class ArraySource:
    """Images held in memory."""

    preferred_batch = 128
    image_format = "raw"

    def __init__(self, images: np.ndarray, labels: Sequence[int | None] | np.ndarray | None, description: str) -> None:
        """Take uint8 [N, H, W, 3] and N labels or None."""
        self.array = images
        self.labels = _matching(None if labels is None else np.asarray(labels).tolist(), len(images), description)
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
        """Return the samples' images."""
        return self.array[[sample.id for sample in samples]]


class ConstantSource:
    """One grey for every sample: drives an axis from request to record without a model."""

    preferred_batch = 64
    labels = None
    image_format = None

    def __init__(self, image_size: tuple[int, int], level: int = 128) -> None:
        """Take (height, width) and a level in 0..255."""
        self.image_size: tuple[int, int] | None = image_size
        self.level = level
        self.description = f"constant grey {level}"
        self.digest = digest(["constant", image_size, level])

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return as many constant images."""
        height, width = self.image_size or (1, 1)
        return np.full((len(samples), height, width, 3), self.level, np.uint8)


GivenImages = FolderSource | PromptFolderSource | ArchiveSource
"""Images that exist already; `classes` and `notes` say how they are labelled and what was left out."""


def open_source(
    path: Path, labels: Sequence[int | None] | None = None, known: Sequence[str] | None = None
) -> FolderSource | ArchiveSource:
    """Open the images that somebody else made, by path.

    Args:
        labels: one per image, in place of the stored ones.
        known: names of the reference's classes, by which folders are numbered.

    Raises:
        DataError: if there is nothing there, or neither a folder nor an .npz.
    """
    if path.is_dir():
        return FolderSource(path, labels, known)
    if not path.exists():
        raise DataError(f"images {path}: no such file or folder. Give a folder of images or an .npz with arr_0.")
    if path.suffix.lower() != ".npz":
        raise DataError(f"images {path}: neither a folder nor an .npz. Give a folder of images or an .npz with arr_0.")
    return ArchiveSource(path, labels)


def read_labels(path: Path) -> list[int]:
    """Read labels from a text file with one whole number a line, in the natural order of the images' names.

    Raises:
        DataError: if the file is missing, is not UTF-8, or a line is no whole number.
    """
    lines = read_lines(path, "labels")
    while lines and not lines[-1].strip():
        lines.pop()
    labels = []
    for number, line in enumerate(lines, 1):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line, re.ASCII):
            raise DataError(
                f"labels {path}:{number}: {line.strip()[:40]!r} is no integer from 0 on. Give one integer a line."
            )
        labels.append(int(line))
    return labels


def archive_keys(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz, without reading them.

    Raises:
        DataError: if the file is no .npz.
    """
    with Archive(path) as archive:
        return archive.keys


def _matching(labels: Sequence[int | None] | None, count: int, what: str) -> tuple[int | None, ...]:
    """Return one label an image, None for each where none are given."""
    if labels is None:
        return (None,) * count
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


def _size(size: tuple[int, ...] | None) -> str:
    return "x".join(str(side) for side in size or ())


def _stored_labels(path: Path, key: str) -> list[int] | None:
    """Read the labels of an archive, or None if they are texts, as prompts are.

    Raises:
        DataError: if they cannot be read or are no whole numbers [N].
    """
    with Archive(path) as archive:
        labels = archive.read(key)
    if labels.dtype.kind in "US":
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: '{key}' is {labels.dtype} {list(labels.shape)}. Labels must be integers [N], from 0 on."
        )
    values = labels.astype(np.float64)
    outside = ~((values >= 0) & (values < bounds.CLASSES) & (values == np.floor(values)))
    if outside.any():
        image = int(np.argmax(outside))
        raise DataError(
            f"{path}: '{key}' gives image {image} the label {labels[image]}. Labels are whole numbers from 0 to "
            f"{bounds.CLASSES - 1:,}."
        )
    return [int(label) for label in labels]
