"""Claims about a prompt set: public, bound and sealed seeds, and evidence that its questions were new to the model.

A user writes a claim file beside images (`diffusionbench run --claim FILE`); a record keeps a `Claim`.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date as Day
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError
from ruamel.yaml import YAML

from diffusionbench.benchmarks.simpleeval.stream import joined
from diffusionbench.errors import DataError, RequestError
from diffusionbench.limits import read_small, reads_extra
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import facts_of, load
from diffusionbench.registry import nearest
from diffusionbench.schema import Strict, file_digest
from diffusionbench.shown import clipped, printable

PUBLISHED: Final = Path(__file__).with_name("published.yaml")
PUBLIC: Final = tuple(f"public-{i}" for i in range(5))
#: Bytes of the longest claim file.
MOST: Final = 16_384
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Kind = Literal["public", "bound", "sealed", "other"]


class Claim(Strict):
    """Facts about a generator that a record keeps beside its score on one prompt set.

    Attributes:
        weights_digest: SHA-256 of the weights that made the images.
        beacon: public random value of a bound seed.
        commitment: of a sealed set, checked against its seed; only one listed in `published.yaml` counts.
        networks: every pretrained network the generator uses, or None where that was not declared.
        public: score and standard error of the same generator on `public-0`.
        again: mean absolute differences of images that were sampled again, by `<prompt id>/<k>`, in 8-bit levels.
    """

    weights_digest: str | None = None
    beacon: str = "none"
    commitment: str | None = None
    networks: tuple[str, ...] | None = None
    public: tuple[float, float] | None = None
    again: dict[str, float] = {}

    def doubts(self, seed: str) -> list[str]:
        """Return why the questions of a seed may be older than the weights, by `published.yaml`; see `doubts`."""
        return doubts(seed, self.weights_digest, self.beacon, published())


def claim_of(choice: PromptChoice) -> Claim:
    """Return the claim that a request or a record holds beside its prompt set.

    Raises:
        ValidationError: if it is none of SimpleEval's.
    """
    return Claim.model_validate(choice.claim)


# Seeds


def kind_of(seed: str) -> Kind:
    """Return the kind of a seed by its form."""
    if seed in PUBLIC:
        return "public"
    if re.fullmatch(r"bound-[0-9a-f]{32}", seed):
        return "bound"
    return "sealed" if re.fullmatch(r"sealed-[a-z0-9][a-z0-9-]*-[0-9a-f]{64}", seed) else "other"


def bound_seed(weights_digest: str, beacon: str = "none") -> str:
    """Return the seed that follows from the evaluated weights: the questions do not exist before the weights do.

    Args:
        weights_digest: SHA-256 (64 hex digits) of the safetensors file that samples; for a service, of its model
            name and the date.
        beacon: a public random value published after the digest was (recorded beside the score), or "none".

    Raises:
        RequestError: if the digest is not 64 hex digits, or the beacon is empty.
    """
    if not beacon:
        raise RequestError("the beacon is empty. Give the public random value, or leave it out where none was used.")
    if not re.fullmatch(r"[0-9a-f]{64}", weights_digest):
        raise RequestError(
            f"a bound seed needs the SHA-256 of the weights file as 64 lower-case hex digits, not '{weights_digest}'. "
            "Run: sha256sum model.safetensors"
        )
    return "bound-" + hashlib.sha256(joined("bound", weights_digest, beacon)).hexdigest()[:32]


def commitment(name: str, secret: str) -> str:
    """Return SHA-256 over name and secret of a sealed set: its operator publishes it before the set is used.

    Raises:
        RequestError: if the secret is not 64 hex digits.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", secret):
        raise RequestError("the secret of a sealed set is 64 lower-case hex digits. Draw 32 random bytes.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise RequestError(f"the name of a sealed set has letters a-z, digits and hyphens, unlike '{name}'. Rename it.")
    return hashlib.sha256(joined("sealed", name, secret)).hexdigest()


def sealed_seed(name: str, secret: str, published: str) -> str:
    """Return the seed of a revealed sealed set.

    Raises:
        RequestError: if name and secret do not give the commitment that was published.
    """
    found = commitment(name, secret)
    if found != published:
        raise RequestError(
            f"sealed set '{name}': its secret gives the commitment {found}, but {published} was published. "
            "The secret or the name is not the one committed to; do not use this set."
        )
    return f"sealed-{name}-{secret}"


def _name_and_secret(sealed: str) -> tuple[str, str]:
    name, secret = sealed.removeprefix("sealed-").rsplit("-", 1)
    return name, secret


def check(seed: str, weights_digest: str | None, beacon: str, published: str | None) -> None:
    """Refuse a seed that does not follow from weights and beacon (bound), or from a commitment (sealed), if given.

    Raises:
        RequestError: if weights or commitment do not give this seed, or belong to a seed of another kind.
    """
    kind = kind_of(seed)
    if published is not None:
        if kind != "sealed":
            raise RequestError(f"a commitment belongs to a sealed seed, and '{seed}' is none. Give a seed sealed-...")
        sealed_seed(*_name_and_secret(seed), published)
    if weights_digest is not None and kind == "bound" and bound_seed(weights_digest, beacon) != seed:
        raise RequestError(
            f"seed {seed} does not follow from these weights and beacon '{beacon}', which give "
            f"{bound_seed(weights_digest, beacon)}. Draw images for that seed, or name the weights that made these."
        )


# The list of published hashes, beacons and commitments


class PublishedWeights(Strict):
    """Weights whose hash was published on a day."""

    sha256: Sha256
    model: str
    date: Day


class PublishedBeacon(Strict):
    """A random value that was published on a day, and where it can be checked."""

    value: str
    source: str
    date: Day


class PublishedSealed(Strict):
    """A commitment that was published on a day, and the day its secret was revealed."""

    name: str
    commitment: Sha256
    date: Day
    revealed: Day | None = None


class Published(Strict):
    """The repository's list of publications with their days."""

    weights: tuple[PublishedWeights, ...] = ()
    beacons: tuple[PublishedBeacon, ...] = ()
    sealed: tuple[PublishedSealed, ...] = ()


def published(path: Path | None = None) -> Published:
    """Read the repository's own list, `published.yaml`.

    Raises:
        DataError: if the file does not fit.
    """
    path = path or PUBLISHED
    try:
        return Published.model_validate(YAML(typ="safe").load(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}. See the rows described in the file itself.") from None


def doubts(seed: str, weights_digest: str | None, beacon: str, known: Published) -> list[str]:
    """Return why the questions of a seed may be older than the weights that answer them; empty where they cannot be.

    A submitter's own word does not count: hashes, beacons and commitments are those of the list `known`.
    """
    kind = kind_of(seed)
    if kind not in ("bound", "sealed"):
        return ["the seed is public, so its questions can be trained on"]
    rows = [row for row in known.weights if row.sha256 == weights_digest]
    if not rows:
        return ["the SHA-256 of the weights was not published (simpleeval/published.yaml)"]
    fixed = min(row.date for row in rows)
    if kind == "bound":
        if bound_seed(rows[0].sha256, beacon) != seed:
            return ["the seed does not follow from the weights and the beacon"]
        days = [row.date for row in known.beacons if row.value == beacon]
        if not days:
            return ["the seed has no published beacon, so it could have been drawn again"]
        return [] if min(days) > fixed else ["the beacon is not of a later day than the weights, so it could be chosen"]
    name, secret = _name_and_secret(seed)
    sealed = [row for row in known.sealed if (row.name, row.commitment) == (name, commitment(name, secret))]
    if not sealed:
        return ["no commitment to this sealed set was published (simpleeval/published.yaml)"]
    if sealed[0].date >= fixed:
        return ["the sealed set was committed to after the weights were known"]
    if sealed[0].revealed is None or sealed[0].revealed <= fixed:
        return ["the weights are not older than the day on which the sealed set was revealed"]
    return []


# Claim files


def _line(text: str) -> str:
    if not text or printable(text) != text or len(text) > 1000:
        raise ValueError("not one line of 1 to 1,000 printable characters")
    return text


Line = Annotated[str, AfterValidator(_line)]


class ClaimFile(Strict):
    """A claim as a user writes it; paths are relative to the file's folder.

    Attributes:
        folder: of the file.
        set: prompt set the images were made for; without it the one of the metric.
        seed, layout: of the set; without a layout its smallest one.
        weights: weights file that made the images.
        beacon, commitment, networks: as in `Claim`.
        public: record of the same weights on `public-0`, to compare a new seed with.
        again: folder of images that were sampled again, to compare with.
    """

    folder: Path
    set: Line | None = None
    seed: Line = "public-0"
    layout: Line | None = None
    weights: Line | None = None
    beacon: Line = "none"
    commitment: Line | None = None
    networks: tuple[Line, ...] | None = None
    public: Line | None = None
    again: Line | None = None

    def choice(self, name: str, metric: str) -> PromptChoice:
        """Return the prompt set `name` with its checked claim, all but the images sampled again, for one metric.

        Raises:
            RequestError: if the weights are no file, the record on the public set does not fit, or the seed does not
                follow from the weights or the commitment.
        """
        digest = None if self.weights is None else weights_digest(self.folder / self.weights)
        check(self.seed, digest, self.beacon, self.commitment)
        claim = Claim(
            weights_digest=digest,
            beacon=self.beacon,
            commitment=self.commitment,
            networks=self.networks,
            public=None if self.public is None else _public_score(self.folder / self.public, metric, digest),
        )
        return PromptChoice(name=name, seed=self.seed, layout=self.layout, claim=claim.model_dump(mode="json"))


def read_claim(path: Path) -> ClaimFile:
    """Read a claim file.

    Raises:
        RequestError: in one sentence, if it is no YAML of the keys above.
    """
    keys = [name for name in ClaimFile.model_fields if name != "folder"]
    try:
        content = read_small(path)
    except OSError as error:
        raise RequestError(f"claim {path} cannot be read: {error.strerror or error}. Give a YAML file.") from None
    if len(content) > MOST:
        raise RequestError(f"claim {path} has {len(content):,} bytes, and at most {MOST:,} are allowed. Shorten it.")
    try:
        # The parser in Python, because the one in C can exhaust the stack.
        tree = YAML(typ="safe", pure=True).load(content.decode())
    except Exception as error:
        # Its constructors raise whatever Python does: an integer of 5,000 digits, the 99th of a month.
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise RequestError(f"claim {path} is not valid YAML ({clipped(str(reason), 200)}). Correct it.") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise RequestError(f"claim {path} does not consist of 'key: value' lines. Known keys: {', '.join(keys)}.")
    unknown = [key for key in tree if key not in keys]
    if unknown:
        raise RequestError(f"claim {path}: unknown key '{clipped(unknown[0], 80)}'. {nearest(unknown[0], keys)}")
    try:
        return ClaimFile.model_validate({**tree, "folder": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        where, found = ".".join(str(part) for part in first["loc"]), clipped(repr(first["input"]), 80)
        allowed = (
            "a list of texts, such as [a, b]," if where == "networks" else "a line of 1 to 1,000 printable characters"
        )
        raise RequestError(
            f"claim {path}: {where} is {found}, and {allowed} is allowed. Put a text in quotes where YAML reads it as "
            "another kind of value."
        ) from None


def weights_digest(weights: Path) -> str:
    """Return the SHA-256 of a weights file.

    Raises:
        RequestError: if there is none, or it cannot be read.
    """
    reason = "no such file"
    try:
        # A pipe that nobody writes to would wait for ever.
        if weights.is_file():
            return file_digest(weights)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    raise RequestError(f"weights {weights}: {reason}. Give the safetensors file that samples.")


@reads_extra
def _public_score(path: Path, key: str, digest: str | None) -> tuple[float, float]:
    """Return value and standard error of a record on the public set, of the same weights."""
    record = load(path)
    value = record.values.get(key)
    seed = facts_of(record).get(key, {}).get("seed")
    if value is None or value.stderr is None or seed != "public-0":
        raise RequestError(f"record {path} holds no score '{key}' on seed public-0. Score that set first.")
    prompts: Any = (record.extra.get("request") or {}).get("prompts") or {}
    theirs = claim_of(PromptChoice.model_validate(prompts)).weights_digest if prompts else None
    if digest is not None and theirs != digest:
        raise RequestError(
            f"record {path} names {'other weights' if theirs else 'no weights'} than those of the claim. Score the "
            "public set of the same weights, with a claim that names them."
        )
    return value.value, value.stderr
