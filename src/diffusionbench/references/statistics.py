"""Files of statistics as references, and what says which extractor made one: a manifest, its hash, or the user.

Two extractors of equal width are not told apart by their statistics, so width never binds a file to a judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench import bounds
from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.limits import parse_json, read_small
from diffusionbench.moments import load_moments
from diffusionbench.references import Role
from diffusionbench.references.reference import ASSERTED, Reference
from diffusionbench.schema import Strict, file_digest
from diffusionbench.shown import few, printable

MANIFEST: Final = ".manifest.json"
"""What the name of a manifest adds to that of its file."""

FORMAT: Final = "diffusionbench-statistics-1"
"""Stands in every manifest, and in nothing else."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class StatisticsManifest(Strict):
    """What stands beside a file of statistics: which file, whose features, of which images.

    Attributes:
        sha256: of the file, so that a manifest never speaks for another one.
        extractor, extractor_digest: name and digest of the judge whose features they are.
        preprocessing: what the judge does to an image, in words.
        count: images.
        image_size: their (height, width), which scored images must have too; None where they differ or none is known.
        source, source_digest: where the images came from, and the SHA-256 over them.
        role: which split of the data set they are, None where nobody said.
        made_by: program and version.
    """

    format: Literal["diffusionbench-statistics-1"]
    sha256: Sha256
    extractor: str
    extractor_digest: Sha256
    preprocessing: str = ""
    count: int = Field(ge=2, le=bounds.IMAGES)
    image_size: tuple[int, int] | None = None
    source: str = ""
    source_digest: Sha256 | None = None
    role: Role | None = None
    made_by: str = ""


@dataclass(frozen=True)
class KnownStatistics:
    """One row of `KNOWN`: what is known of a published file by its hash.

    Attributes:
        extractor: name of the judge whose statistics it holds under `mu` and `sigma`.
        made_by: what records say of their making, such as "inception, TensorFlow graph (ADM)".
        role: which split.
        count: images behind `mu` and `sigma`, None where the publishers do not say.
    """

    extractor: str
    made_by: str
    role: Role | None = None
    count: int | None = None


KNOWN: Final[dict[str, KnownStatistics]] = {}
"""Published files by SHA-256. A row is entered when a file has been seen and hashed here; none has been so far."""


def manifest_place(path: Path) -> Path:
    """Return where the manifest of a file of statistics lies."""
    return path.with_name(path.name + MANIFEST)


def read_manifest(path: Path) -> StatisticsManifest | None:
    """Return the manifest beside a file of statistics, or None where there is none.

    Raises:
        DataError: if it cannot be read, or is no manifest of this version.
    """
    place = manifest_place(path)
    remedy = (
        "Make the statistics again with `diffusionbench prepare reference`, or remove the manifest and say with "
        "--reference-extractor whose they are."
    )
    if not place.exists():
        return None
    try:
        return StatisticsManifest.model_validate(parse_json(read_small(place, most=2**20)))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc'])) or 'all of it'}: {one['msg']}" for one in error.errors()]
        raise DataError(f"{place} is no manifest of statistics ({printable(few(faults, '; '))}). {remedy}") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{place} cannot be read as a manifest: {printable(str(reason))}. {remedy}") from None


class StatisticsReference(Reference):
    """Moments, and perhaps features, of one extractor; they serve the judge of its name and no other.

    Args:
        path: of an .npz with `mu` and `sigma` (else `ref_mu` and `ref_sigma`), and perhaps `features`.
        asserted: judge whose statistics the user says they are, where neither manifest nor hash tells.
        role: which split the user says the images are, where the manifest does not.

    Raises:
        DataError: if the file holds no moments, or its manifest cannot be read or is of another file.
        RequestError: if manifest and user name different roles.
    """

    def __init__(self, path: Path, asserted: str | None = None, role: Role | None = None) -> None:
        self.path = path
        self.name = printable(path.name)
        self._digest = file_digest(path)
        manifest, known = read_manifest(path), KNOWN.get(self._digest)
        if manifest is not None and manifest.sha256 != self._digest:
            raise DataError(
                f"{manifest_place(path)} is the manifest of another file: it names the SHA-256 "
                f"{manifest.sha256[:12]}..., and {path.name} has {self._digest[:12]}.... One of them was changed or is "
                "damaged: make both again with `diffusionbench prepare reference`."
            )
        told = manifest or known
        self.extractor = told.extractor if told else asserted
        row = JUDGES.get(self.extractor or "")
        self._mean, self._cov = load_moments(path, row.moment_keys if row else None)
        self._extractor_digest = manifest.extractor_digest if manifest else None
        if told is None:
            self._made_by = None if asserted is None else f"{ASSERTED}{asserted}"
        else:
            self._made_by = told.extractor if isinstance(told, StatisticsManifest) else told.made_by
        self.count = told.count if told else None
        self.image_size = manifest.image_size if manifest else None
        self.role = agreed_role(path, told.role if told else None, role)
        self.offers = frozenset({"moments"})
        if self._holds_features():
            self.offers |= {"features"}

    def _holds_features(self) -> bool:
        with Archive(self.path) as archive:
            if "features" not in archive.keys:
                return False
            _, shape, dtype, _ = archive.open("features")
        width = len(self._mean)
        if dtype.kind != "f" or len(shape) != 2 or shape[1] != width or shape[0] != (self.count or max(shape[0], 2)):
            raise DataError(
                f"reference statistics {self.path}: 'features' is {dtype} [{few(shape)}], and mu has width {width}"
                f"{f' for {self.count:,} images' if self.count else ''}. Features must be floats [images, width]."
            )
        self.count = shape[0]
        return True

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return self._digest

    def made_by(self, judge: str) -> str | None:
        """See `Reference.made_by`."""
        return self._made_by if judge == self.extractor else None

    def check(self, judge: JudgeSpec) -> None:
        """See `Reference.check`."""
        if self.extractor is None:
            raise RequestError(
                f"reference statistics {self.path}: judge '{judge.name}' needs its own, and nothing says which "
                f"extractor made these: there is no {manifest_place(self.path).name} beside the file, and its SHA-256 "
                f"is not known. If they are of '{judge.name}', say so with --reference-extractor {judge.name} (in a "
                "run's config eval.reference_extractors), and the record will state it as your assertion. Or give a "
                "folder of real images, which serves every judge."
            )
        if self.extractor != judge.name:
            raise RequestError(
                f"reference statistics {self.path} are of extractor '{printable(self.extractor)}', and judge "
                f"'{judge.name}' needs its own. Give its statistics as --reference {judge.name}=FILE, or a folder of "
                "real images, which serves every judge."
            )
        if len(self._mean) != judge.dim:
            raise RequestError(
                f"reference statistics {self.path} have width {len(self._mean)}, and judge '{judge.name}' gives "
                f"{judge.dim}. Give statistics of the same judge."
            )

    def check_loaded(self, judge: Judge) -> None:
        """See `Reference.check_loaded`."""
        self.check(judge.spec)
        if self._extractor_digest not in (None, judge.digest):
            raise RequestError(
                f"reference statistics {self.path} are of judge '{judge.name}' with the digest "
                f"{self._extractor_digest[:12]}..., and the one here has {judge.digest[:12]}...: other weights, "
                "preprocessing, options or version. Make them again with `diffusionbench prepare reference`."
            )

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return the file's moments.

        Raises:
            RequestError: if they are not of this judge.
        """
        self.check_loaded(judge)
        return self._mean, self._cov

    def features(self, judge: Judge) -> np.ndarray:
        """Return the file's features, float32 [n, d].

        Raises:
            RequestError: if it holds none, or they are not of this judge.
            DataError: if they cannot be read.
        """
        self.check_loaded(judge)
        if "features" not in self.offers:
            return super().features(judge)
        with Archive(self.path) as archive:
            return archive.read("features").astype(np.float32, copy=False)


def agreed_role(what: object, known: Role | None, given: Role | None) -> Role | None:
    """Return the role of a reference's images from what is known of them and what the user says.

    Raises:
        RequestError: if these differ.
    """
    if None not in (known, given) and known != given:
        raise RequestError(
            f"reference {what} is the {known} split, and --reference-role says {given}. Leave the option out."
        )
    return known or given
