"""Makes statistics of real images, with their manifest: block by block, in parts, and on where it was killed.

Features lie as evidence in a folder beside the result, a block of 1,000 images each, until all are there. Only then are
moments formed, from the blocks in order, so that neither parts nor a kill change a bit of them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from diffusionbench import __version__
from diffusionbench.archives import MOST_BYTES
from diffusionbench.errors import DataError, RequestError
from diffusionbench.evidence import EvidenceStore
from diffusionbench.judges import JUDGES
from diffusionbench.judges.deferred import DeferredJudge
from diffusionbench.judging import Progress
from diffusionbench.moments import Moments
from diffusionbench.parts import WHOLE, Part
from diffusionbench.references import Role
from diffusionbench.references.real import block_keys, block_ranges, feature_block
from diffusionbench.references.statistics import (
    FORMAT,
    StatisticsManifest,
    StatisticsReference,
    manifest_place,
    read_manifest,
)
from diffusionbench.schema import digest, file_digest
from diffusionbench.shown import few
from diffusionbench.source import ArchiveSource, FolderSource, open_source
from diffusionbench.writing import check_gives_way, check_place, remove, sync, write_atomic, write_errors

PARTS: Final = ".parts"
"""What the name of the folder of features adds to that of the result."""

_RESULT: Final = "statistics.npz"
_REMEDY: Final = "Make room there; the same command continues."
# Fields of manifests by which an earlier result is the one that is asked for.
_SAME: Final = ("extractor", "extractor_digest", "source_digest")
_MAKER: Final = f"diffusionbench {__version__}"


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
    loaded = DeferredJudge(JUDGES[judge], device, {})
    loaded.load()
    keys = block_keys(images, source)
    facts = _facts(source, keys, loaded, role)
    folder = _parts(out)
    if (done := _earlier(out, facts, features)) is not None:
        _clear(folder, judge)
        return done
    # Beside features a killed process may have left its result without a manifest: `_put` looks at its hash.
    if not folder.exists():
        _check_out(out)
    store, blocks = EvidenceStore(folder), block_ranges(facts.count)
    number, of = part or WHOLE
    for block in range((number - 1) * len(keys) // of, number * len(keys) // of):
        key, rows = (keys[block], ""), blocks[block]
        if not all(store.known(loaded.facts, [key])):
            # A row of this evidence is a whole block, so that every block starts its own batches.
            made = feature_block(source, loaded, rows)[None]
            with write_errors(folder, _REMEDY):
                store.add(loaded.facts, [key], {"features": made})
        if progress:
            progress("features", rows.stop, facts.count)
    if part is not None:
        return None
    with write_errors(folder, _REMEDY):
        write_atomic(folder / _RESULT, partial(_write, store, loaded, keys, features))
    manifest = facts.model_copy(update={"sha256": file_digest(folder / _RESULT)})
    _put(folder / _RESULT, out, manifest)
    _clear(folder, judge)
    return manifest


def _parts(out: Path) -> Path:
    return out.with_name(out.name + PARTS)


def _clear(folder: Path, judge: str) -> None:
    """Remove a judge's features, and the folder where nothing else lies in it."""
    for path in (*folder.glob(f"{judge}-*"), folder / _RESULT):
        remove(path)
    with suppress(OSError):
        folder.rmdir()


def _write(store: EvidenceStore, judge: DeferredJudge, keys: Sequence[str], features: bool, stream: IO[bytes]) -> None:
    """Write the result; by hand, as `numpy.savez` would need all features in memory."""

    def blocks() -> Iterator[np.ndarray]:
        for key in keys:
            evidence: Any = store.read(judge.facts, [(key, "")])
            yield evidence["features"][0]

    moments = Moments()
    for block in blocks():
        moments.update(block)
    mean, cov = moments.compute()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in (("mu", mean), ("sigma", cov)):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        if features:
            header = {"descr": "<f4", "fortran_order": False, "shape": (moments.count, len(mean))}
            with archive.open("features.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for block in blocks():
                    file.write(block.tobytes())


def _facts(
    source: FolderSource | ArchiveSource, keys: Sequence[str], judge: DeferredJudge, role: Role | None
) -> StatisticsManifest:
    """Return the manifest but for the hash of the file, which is not there yet."""
    return StatisticsManifest(
        format=FORMAT,
        sha256="0" * 64,
        extractor=judge.name,
        extractor_digest=judge.digest,
        preprocessing=JUDGES.load(judge.name).preprocessing,
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
    check_place(_parts(out), "folder")
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
