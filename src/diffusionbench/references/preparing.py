"""Makes statistics of real images, with their manifest: block by block, in parts, and on where it was killed.

Features lie as blocks of 1,000 images in a folder beside the result until all are there. Only then are moments formed,
from the blocks in order, so that neither parts nor a kill change a bit of them.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Final, Literal

import numpy as np
import torch

from diffusionbench import __version__
from diffusionbench.archives import MOST_BYTES
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.judges.judge import Judge
from diffusionbench.judges.selftest import self_test
from diffusionbench.limits import parse_json, read_small
from diffusionbench.moments import Moments
from diffusionbench.references import Role
from diffusionbench.references.blocks import block_keys, block_ranges, feature_block
from diffusionbench.references.statistics import (
    FORMAT,
    StatisticsManifest,
    StatisticsReference,
    manifest_place,
    read_manifest,
)
from diffusionbench.schema import Strict, digest, file_digest
from diffusionbench.shown import few
from diffusionbench.source import ArchiveSource, FolderSource, open_source
from diffusionbench.writing import (
    check_gives_way,
    check_place,
    lock,
    make_folder,
    sync,
    write_atomic,
    write_errors,
)

PARTS: Final = ".parts"
"""What the name of the folder of blocks adds to that of the result."""

_PLAN: Final = "plan.json"
_RESULT: Final = "statistics.npz"
# Fields of manifests by which an earlier result is the one that is asked for.
_SAME: Final = ("extractor", "extractor_digest", "source_digest")
_MAKER: Final = f"diffusionbench {__version__}"

Progress = Callable[[str, int, int], None]
Part = tuple[int, int]
"""(i, n): part i of n, from 1, as `parts.Part`."""


class BlockPlan(Strict):
    """Whose features the blocks of a folder are."""

    format: Literal["diffusionbench-blocks-1"] = "diffusionbench-blocks-1"
    extractor: str
    extractor_digest: str


def prepare_reference(
    images: Path,
    judge: str,
    out: Path,
    role: Role | None = None,
    features: bool = False,
    part: Part | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> StatisticsManifest | None:
    """Write the moments of real images, and perhaps their features, as a judge sees them, with a manifest beside them.

    Args:
        images: folder or archive.
        judge: name of one that gives features.
        out: an .npz file that is new or an earlier result.
        features: keep them too, for metrics that need more than moments.
        part: make the blocks of this part alone; the call without one makes what is missing, and the result.
        device: of the judge.

    Returns:
        the manifest; None where only a part was asked for.

    Raises:
        UserError: before any image is judged, if the request is at fault or another's file would be lost.
        DataError: if an image cannot be read; what was made before it is kept.
        RunError: before any image is judged, if the judge fails its self-test.
    """
    source = _checked(images, judge, out, features)
    # Building a network draws random weights first, which must not disturb the program around it.
    with torch.random.fork_rng():
        loaded: Judge = JUDGES.load(judge)(device)
        self_test(loaded, device)
    keys = block_keys(images, source)
    facts = _facts(source, keys, loaded, role)
    plan = BlockPlan(extractor=judge, extractor_digest=loaded.digest)
    folder = BlockFolder(out.with_name(out.name + PARTS), plan, keys, block_ranges(facts.count), loaded.spec.dim)
    if (done := _earlier(out, facts, features)) is not None:
        folder.discard()
        return done
    if not folder.is_there():
        _check_out(out)
    index, parts = part or (1, 1)
    with folder.opened(shared=part is not None):
        for block in range((index - 1) * len(keys) // parts, index * len(keys) // parts):
            rows = folder.blocks[block]
            if folder.find(block) is None:
                folder.add(block, feature_block(source, loaded, rows))
            if progress:
                progress("features", rows.stop, facts.count)
        if part is not None:
            return None
        made = folder.write(features)
        manifest = facts.model_copy(update={"sha256": file_digest(made)})
        _put(made, out, manifest)
        folder.remove()
    return manifest


def _facts(
    source: FolderSource | ArchiveSource, keys: Sequence[str], judge: Judge, role: Role | None
) -> StatisticsManifest:
    """Return the manifest but for the hash of the file, which is not there yet."""
    return StatisticsManifest(
        format=FORMAT,
        sha256="0" * 64,
        extractor=judge.name,
        extractor_digest=judge.digest,
        preprocessing=judge.preprocessing,
        count=len(source.labels),
        image_size=source.image_size,
        source=source.description,
        source_digest=digest(list(keys)),
        role=role,
        made_by=_MAKER,
    )


def _checked(images: Path, judge: str, out: Path, features: bool) -> FolderSource | ArchiveSource:
    """Check all that can be known before the judge is loaded; return the images."""
    row = JUDGES[judge]
    able = [name for name, one in JUDGES.items() if one.output == "array" and one.dim and not one.uses]
    if judge not in able:
        raise RequestError(f"judge '{judge}' gives no features to make statistics of. Those that do: {few(able)}.")
    if out.suffix.lower() != ".npz":
        raise RequestError(f"statistics are an .npz file, and --out names {out}. Choose a name that ends in .npz.")
    check_place(out)
    check_place(manifest_place(out))
    JUDGES.load(judge).check()
    source = open_source(images)
    count, size = len(source.labels), source.image_size
    if count < 2:
        raise RequestError(f"a covariance needs at least 2 images, and {images} holds {count}. Give more images.")
    if row.image_size is not None and size is not None and tuple(size) != tuple(row.image_size):
        raise RequestError(
            f"the images are {size[0]}x{size[1]}, and judge '{judge}' needs {row.image_size[0]}x{row.image_size[1]} "
            "(height x width). Give images of that size; we do not resize."
        )
    if features and count * row.dim * 4 > MOST_BYTES:
        raise RequestError(
            f"the features of {count:,} images by judge '{judge}' take {count * row.dim * 4:,} bytes, and "
            f"{MOST_BYTES:,} of one file are read. Leave out --features, or give fewer images."
        )
    return source


def _earlier(out: Path, facts: StatisticsManifest, features: bool) -> StatisticsManifest | None:
    """Return the manifest of an earlier result of the same images and judge, or None; a new role is written into it."""
    manifest = _own_manifest(out)
    if manifest is None or manifest.sha256 != file_digest(out):
        return None
    if any(getattr(manifest, name) != getattr(facts, name) for name in _SAME):
        return None
    if features and "features" not in StatisticsReference(out).offers:
        return None
    if facts.role not in (None, manifest.role):
        manifest = manifest.model_copy(update={"role": facts.role})
        _write_manifest(out, manifest)
    return manifest


def _own_manifest(out: Path) -> StatisticsManifest | None:
    """Return the manifest that this program wrote beside a file that is there, or None."""
    with suppress(DataError):
        manifest = read_manifest(out) if out.is_file() else None
        if manifest is not None and manifest.made_by.startswith("diffusionbench "):
            return manifest
    return None


def _check_out(out: Path, new: str | None = None) -> None:
    """Refuse a place where something else than an earlier result stands.

    Args:
        new: SHA-256 of the result, which a killed process may have put there without its manifest.
    """
    with write_errors(out):
        if out.exists() and out.stat().st_size:
            found, own = file_digest(out), _own_manifest(out)
            if found not in (new, own.sha256 if own else None):
                raise RequestError(
                    f"{out} exists and is no earlier result of `diffusionbench prepare reference`, so it would be "
                    "lost. Choose another place, or remove it."
                )
    check_gives_way(manifest_place(out), FORMAT)


def _put(made: Path, out: Path, manifest: StatisticsManifest) -> None:
    """Give a finished file its name and its manifest."""
    _check_out(out, manifest.sha256)
    with write_errors(out):
        os.replace(made, out)
        sync(out.parent)
    _write_manifest(out, manifest)


def _write_manifest(out: Path, manifest: StatisticsManifest) -> None:
    with write_errors(manifest_place(out)):
        write_atomic(manifest_place(out), manifest.model_dump_json(indent=2) + "\n")


class BlockFolder:
    """Blocks of features on the disk, each a file of float32 whose name holds the hashes of its images and of itself.

    Args:
        keys: hash of each block's images.
        blocks: images of each block.
        dim: width of the features.
    """

    def __init__(self, folder: Path, plan: BlockPlan, keys: Sequence[str], blocks: Sequence[range], dim: int) -> None:
        self.folder = folder
        self.blocks = blocks
        self._plan = plan
        self._keys = keys
        self._dim = dim

    def is_there(self) -> bool:
        """Return whether the folder holds blocks of this plan.

        Raises:
            RequestError: if it holds something else.
        """
        if not self.folder.exists():
            return False
        remedy = f"Remove {self.folder}, or choose another place with --out."
        if not self.folder.is_dir():
            raise RequestError(f"{self.folder} is needed for the parts of the result, and is no folder. {remedy}")
        # A process that was killed or has just begun may have left no more than its unfinished first file.
        if all(path.name.startswith(".diffusionbench-") for path in self.folder.iterdir()):
            return False
        try:
            found = BlockPlan.model_validate(parse_json(read_small(self.folder / _PLAN, most=2**20)))
        except (OSError, ValueError):
            raise RequestError(f"{self.folder} holds no parts of this version, or damaged ones. {remedy}") from None
        if found != self._plan:
            raise RequestError(
                f"{self.folder} holds parts of other statistics: of judge '{found.extractor}' with the digest "
                f"{found.extractor_digest[:12]}..., and asked for are those of '{self._plan.extractor}' with "
                f"{self._plan.extractor_digest[:12]}.... {remedy}"
            )
        return True

    @contextmanager
    def opened(self, shared: bool) -> Iterator[None]:
        """Hold the folder, made where it is not there: parts beside each other, the last step alone.

        Raises:
            RequestError: if another process holds it, or it cannot be written.
        """
        with write_errors(self.folder):
            make_folder(self.folder)
            if not (self.folder / _PLAN).exists():
                write_atomic(self.folder / _PLAN, self._plan.model_dump_json(indent=2) + "\n")
            handle = os.open(self.folder, os.O_RDONLY)
        try:
            if not lock(handle, shared):
                raise RequestError(
                    f"another process works on {self.folder}. Wait until it has ended, then run the same command."
                )
            yield
        finally:
            os.close(handle)

    def find(self, block: int) -> np.ndarray | None:
        """Return a block's features float32 [n, d], or None where it is not there or damaged."""
        size = len(self.blocks[block]) * self._dim * 4
        for path in sorted(self.folder.glob(f"block-{block:06d}-*.f32")):
            data = path.read_bytes()
            if len(data) == size and path == self._file(block, data):
                return np.frombuffer(data, np.float32).reshape(-1, self._dim)
        return None

    def _file(self, block: int, data: bytes) -> Path:
        own = hashlib.sha256(data).hexdigest()
        return self.folder / f"block-{block:06d}-{self._keys[block][:16]}-{own[:16]}.f32"

    def add(self, block: int, features: np.ndarray) -> None:
        """Keep a block.

        Raises:
            RequestError: if it cannot be written.
        """
        data = np.ascontiguousarray(features, np.float32).tobytes()
        with write_errors(self.folder, "Make room there; the same command continues."):
            write_atomic(self._file(block, data), data)

    def _read(self, block: int) -> np.ndarray:
        if (found := self.find(block)) is None:
            raise RequestError(f"block {block} of {self.folder} was damaged meanwhile. Run the same command again.")
        return found

    def write(self, features: bool) -> Path:
        """Write moments, and perhaps features, of all blocks into the folder; return the file."""
        moments = Moments(self._dim)
        for block in range(len(self.blocks)):
            moments.update(self._read(block))
        mean, cov = moments.compute()
        with write_errors(self.folder, "Make room there; the same command continues."):
            write_atomic(self.folder / _RESULT, partial(self._write, mean, cov, features))
        return self.folder / _RESULT

    def _write(self, mean: np.ndarray, cov: np.ndarray, features: bool, stream: IO[bytes]) -> None:
        # By hand, as `numpy.savez` would need all features in memory.
        with zipfile.ZipFile(stream, "w") as archive:
            for name, array in (("mu", mean), ("sigma", cov)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
            if features:
                shape = (self.blocks[-1].stop, self._dim)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                with archive.open("features.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for block in range(len(self.blocks)):
                        file.write(self._read(block).tobytes())

    def discard(self) -> None:
        """Remove what a process that was killed at its very end has left; nothing where another one works on it."""
        with suppress(RequestError):
            if self.is_there():
                with self.opened(shared=False):
                    self.remove()
        with suppress(OSError):
            # Its very last step.
            self.folder.rmdir()

    def remove(self) -> None:
        """Remove what is ours, and the folder where nothing else lies in it."""
        with suppress(OSError):
            for path in (*self.folder.glob("block-*.f32"), self.folder / _RESULT, self.folder / _PLAN):
                path.unlink(missing_ok=True)
            self.folder.rmdir()
