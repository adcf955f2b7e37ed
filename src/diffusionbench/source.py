"""Sources map samples to 8-bit images: a folder, an archive, an array, a constant; a generator is one too.

Nothing here decides what is asked for (the axis does) or keeps anything (the store does).
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from diffusionbench import bounds
from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.files import LeftOut, image_folder, number_classes, read_lines
from diffusionbench.images import UnreadableImage
from diffusionbench.layouts import FOLDER, Layout, Names, choose_layout, locate
from diffusionbench.readers import FolderReader, Given, ImagePlace, RowReader, TarReader, facts_of, open_files
from diffusionbench.sample import Sample
from diffusionbench.schema import digest
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


class GivenImages(ABC):
    """Images that exist already, all of one size, each read at its place.

    Attributes:
        image_size: (height, width), or None where no image can be read.
        classes: names of their classes in the order of the labels, or None where they have none.
        given: how they are read again.
    """

    preferred_batch = 64
    image_size: tuple[int, int] | None
    classes: tuple[str, ...] | None = None
    reader: FolderReader | TarReader | RowReader
    given: Given

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description = f"{'folder' if path.is_dir() else 'archive'} {printable(str(path))}"
        self.left_out = LeftOut()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not read, in sentences."""
        return tuple(filter(None, [self.left_out.sentence(self.path)]))

    @abstractmethod
    def place(self, sample: Sample) -> ImagePlace:
        """Return where a sample's image lies, or should lie."""

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the samples' images, uint8 [B, H, W, 3]; grey and palette files become RGB without loss.

        Raises:
            UnreadableImages: naming each that is missing, cannot be decoded or has another size than the first.
            DataError: if one has transparency, or more than 8 bits a channel.
        """
        arrays, reasons = [], {}
        for sample in samples:
            place = self.place(sample)
            try:
                pixels = self.reader.pixels(place)
            except UnreadableImage as error:
                reasons[sample.id] = error.fault
                continue
            if pixels.shape[:2] != self.image_size:
                size, first = ("x".join(map(str, one or ())) for one in (pixels.shape[:2], self.image_size))
                reasons[sample.id] = (
                    f"{printable(str(self.reader.root / place.file))} is {size}, the first image of "
                    f"{printable(self.given.root)} is {first}, and images of one set have one size"
                )
            arrays.append(pixels)
        if reasons:
            raise UnreadableImages(reasons)
        return np.stack(arrays)


class _FileImages(GivenImages):
    """Images in files of a folder or .tar."""

    reader: FolderReader | TarReader
    # Files of the set that are there.
    _names: Sequence[str]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reader = open_files(path)
        self.given = Given(root=str(path.absolute()))

    @cached_property
    def image_size(self) -> tuple[int, int] | None:  # type: ignore[override]
        """Size of the first readable image, or None if there is none."""
        for name in self._names:
            try:
                return self.reader.pixels(ImagePlace(name, None if self.given.grid is None else 0)).shape[:2]
            except UnreadableImage:
                continue
        return None

    @cached_property
    def image_format(self) -> str:
        """Formats by the files' first bytes, joined by "+"; "unknown" where none is an image."""
        return "+".join(sorted({*filter(None, map(self.reader.format, self._names))})) or "unknown"

    def _digests(self) -> list[str | None]:
        """Return the SHA-256 of each file, or None of one that cannot be read: its image is named when asked for."""
        found: list[str | None] = []
        for file in dict.fromkeys(self.reader.file(ImagePlace(name)) for name in self._names):
            try:
                found.append(facts_of(self.reader.root / file).sha256)
            except OSError:
                found.append(None)
        return found


class FolderSource(_FileImages):
    """Images in a folder or .tar, in natural order of their names; their classes are its subfolders (docs/data.md)."""

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
        super().__init__(folder)
        found = image_folder(folder, self.reader.names(self.left_out), self.left_out)
        self._prefix = found.prefix
        self._names = [found.prefix + name for name in found.images]
        self.files = [folder / name for name in self._names]
        self.labels = _matching(labels, len(self.files), printable(str(folder)))
        if labels is None and found.classes is not None:
            numbers, lacking = number_classes(found.classes, known)
            if not lacking or len(numbers) <= len(known or numbers):
                self.labels = tuple(numbers[name.partition("/")[0]] for name in found.images)
            self.classes = tuple(map(printable, known if known is not None and not lacking else numbers))
        for name in found.empty:
            self.left_out.add("folders without images", name)

    def place(self, sample: Sample) -> ImagePlace:
        """Return the place of image number `sample.id` in natural order."""
        return ImagePlace(self._names[sample.id])

    @property
    def names(self) -> list[str]:
        """Names of the images below the folder of all classes."""
        return [name.removeprefix(self._prefix) for name in self._names]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, contents and labels of the images."""
        return digest([self.names, self._digests(), self.labels])


class PromptFolderSource(_FileImages):
    """Images that were made for a prompt set, in a folder or .tar, by the names of a layout."""

    labels = None

    def __init__(
        self, folder: Path, samples: Sequence[Sample] | None = None, per_item: int = 1, layout: Layout | None = None
    ) -> None:
        """List the images; which of them are needed is the axis's business.

        Args:
            samples: of the whole set; other images are counted in `notes`. None takes every image as one of the set.
            per_item: images of each prompt.
            layout: None: the one by whose names there are images, or `folder` where the samples are not given.

        Raises:
            DataError: if there are none, two files are the same image of the set, or the layout is not clear.
            RequestError: if the grid of the layout does not hold the images of a prompt.
        """
        super().__init__(folder)
        names = Names(self.reader.names(self.left_out))
        if not names.files:
            raise DataError(
                f"{self.description} has no images. Make them with the names that `diffusionbench prompts` lists: "
                "<prompt id>/<k>.png, or name another layout."
            )
        if layout is None or layout.name == "tar":
            layout = FOLDER if samples is None else choose_layout(self.description, names, samples, per_item)
        tiles = per_item if layout.grid is None else layout.grid[0] * layout.grid[1]
        if tiles != per_item:
            raise RequestError(
                f"layout {layout} holds {tiles} images a file, and the set asks for {per_item} of each prompt. Choose "
                "the grid that was made, or another layout of the set."
            )
        self.layout, self._per_item, self._by_name = layout, per_item, names
        self.given = Given(root=str(folder.absolute()), grid=layout.grid)
        self.reader.grid = layout.grid
        every = list(names.files.values())
        found = every if samples is None else [names.find(locate(layout, one, per_item)[0]) for one in samples]
        self._names = list(dict.fromkeys(filter(None, found)))
        asked = set(self._names)
        if twice := [pair for pair in names.twice if pair[0] in asked]:
            (one, other), image = map(self.reader.shown, twice[0]), printable(twice[0][0].rpartition(".")[0])
            more = f" {len(twice) - 1:,} more image(s) have two files." if len(twice) > 1 else ""
            raise DataError(f"{one} and {other} are both image {image}. Keep one of them.{more}")
        for name in every:
            if name not in asked:
                self.left_out.add("images that the prompt set does not name", name)

    def place(self, sample: Sample) -> ImagePlace:
        """Return the place that the layout gives a sample."""
        stems, tile = locate(self.layout, sample, self._per_item)
        return ImagePlace(self._by_name.find(stems) or f"{stems[0]}.png", tile)

    def has(self, sample: Sample) -> bool:
        """Return whether there is a file for a sample."""
        return self._by_name.find(locate(self.layout, sample, self._per_item)[0]) is not None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over layout, names and contents of the images."""
        return digest([str(self.layout), list(self._names), self._digests()])


class _RowImages(GivenImages):
    """Images of an .npz file: uint8 [N, H, W, 3] under `arr_0`, or under the only key that is no label."""

    image_format = "npz"
    reader: RowReader

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with Archive(path) as archive:
            keys = archive.keys
            for name in archive.others:
                self.left_out.add("members that are no arrays", name)
        others = [key for key in keys if key not in LABEL_KEYS and key not in STATISTICS_KEYS]
        if "arr_0" not in keys and len(others) != 1:
            raise DataError(
                f"{path} holds {few(keys) or 'nothing'}. Images must be under the key arr_0, and their labels, "
                "if there are any, under arr_1."
            )
        image_key = "arr_0" if "arr_0" in keys else others[0]
        for key in others:
            if key != image_key:
                self.left_out.add("arrays that are neither images nor labels", key)
        self.reader = RowReader(path, image_key)
        self.image_size = self.reader.size
        self.given = Given(root=str(path.absolute()), array=image_key)
        self._label_keys = [key for key in LABEL_KEYS if key in keys]

    def place(self, sample: Sample) -> ImagePlace:
        """Return the row of image number `sample.id`."""
        return ImagePlace(row=sample.id)


class ArchiveSource(_RowImages):
    """Images of an .npz with labels under `arr_1` or `labels`, if there are any."""

    def __init__(self, path: Path, labels: Sequence[int | None] | None = None) -> None:
        """Open the archive.

        Args:
            labels: one per image, in place of the stored ones.

        Raises:
            DataError: if it is no .npz, it is not clear which array holds the images, these are not uint8
                [N, H, W, 3] with N >= 1, or its labels cannot be read.
            RequestError: if the number of labels is another one.
        """
        super().__init__(path)
        stored = self._label_keys
        if labels is None and len(stored) > 1:
            raise DataError(f"{path} holds labels twice, as {' and '.join(stored)}. Keep one of these arrays.")
        if labels is None and stored:
            labels = _stored_labels(path, stored[0])
            if labels is None:
                self.left_out.add("arrays of texts, so that images have no labels", stored[0])
        self.labels = _matching(labels, self.reader.count, str(path))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over file and labels."""
        return digest([facts_of(self.path).sha256, self.labels])


class PromptArchiveSource(_RowImages):
    """Images of an .npz in the order of a prompt set; texts beside them must be the set's."""

    labels = None

    def __init__(self, path: Path, samples: Sequence[Sample]) -> None:
        """Open the archive for the samples of a whole set.

        Raises:
            DataError: as `ArchiveSource`.
            RequestError: if the archive says that an image was made for another text.
        """
        super().__init__(path)
        where, count = printable(str(path)), self.reader.count
        if count > len(samples):
            self.left_out.add("images behind those of the prompt set", f"row {len(samples)}", count - len(samples))
        with Archive(path) as archive:
            texts = archive.read(self._label_keys[0]) if len(self._label_keys) == 1 else np.zeros(0)
        if texts.dtype.kind != "U" or texts.ndim != 1:
            return
        for sample, text in zip(samples, map(str, texts), strict=False):
            if text != sample.prompt:
                raise RequestError(
                    f"{where}: image {sample.id} was made for {clipped(text, 200)!r}, and the set asks for "
                    f"{clipped(sample.prompt or '', 200)!r} there. Give the images in the order of the set."
                )

    def has(self, sample: Sample) -> bool:
        """Return whether there is a row for a sample."""
        return sample.id < self.reader.count

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the file."""
        return digest(["npz", facts_of(self.path).sha256])


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


def open_source(
    path: Path,
    labels: Sequence[int | None] | None = None,
    known: Sequence[str] | None = None,
    layout: Layout | None = None,
) -> FolderSource | ArchiveSource:
    """Open images that somebody else made for classes; `labels` and `known` as in `FolderSource`.

    Raises:
        DataError: if there is nothing there, or neither a folder nor an .npz or .tar.
        RequestError: if the layout does not fit.
    """
    kind = _kind(path, layout)
    if layout is not None and layout.name in ("geneval", "grid"):
        raise RequestError(
            f"layout '{layout}' is one of images of prompts, and these are images of classes. Leave --layout out, or "
            "name an axis of prompts with --axis."
        )
    return ArchiveSource(path, labels) if kind == "npz" else FolderSource(path, labels, known)


def open_prompt_images(
    path: Path, samples: Sequence[Sample], per_item: int, layout: Layout | None = None
) -> PromptFolderSource | PromptArchiveSource:
    """Open images that somebody else made for a prompt set; arguments as in `PromptFolderSource`, raises as well."""
    if _kind(path, layout) == "npz":
        return PromptArchiveSource(path, samples)
    return PromptFolderSource(path, samples, per_item, layout)


def _kind(path: Path, layout: Layout | None) -> str:
    """Return what is at a path, "folder", "npz" or "tar"; raises as `open_source`."""
    kind = "folder" if path.is_dir() else {".npz": "npz", ".tar": "tar"}.get(path.suffix.lower())
    if kind is None or not path.exists():
        found = "neither a folder nor an .npz or .tar" if path.exists() else "no such file or folder"
        raise DataError(f"images {path}: {found}. Give a folder of images, a .tar of images or an .npz with arr_0.")
    if layout is not None and (kind != layout.name if layout.name in ("npz", "tar") else kind == "npz"):
        raise RequestError(
            f"--layout {layout} was given, and {printable(str(path))} is {'a folder' if kind == 'folder' else kind}. "
            "Leave --layout out, or give the images that have this layout."
        )
    return kind


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


def image_keys(source: ImageSource) -> list[str] | None:
    """Return what tells images that exist already apart: their names without suffix, or else their numbers.

    A name that is a number is that number, so "00017.png" is row 17 of an archive. None for a generator.
    """
    if source.labels is None:
        return None
    stems = [name.rpartition(".")[0] for name in getattr(source, "names", ())]
    return [str(int(stem)) if stem.isdecimal() else stem for stem in stems] or list(map(str, range(len(source.labels))))


def archive_keys(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz, without reading them; a DataError says that it is none."""
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


def _stored_labels(path: Path, key: str) -> list[int] | None:
    """Read the labels of an archive, or None if they are texts, as prompts are."""
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
