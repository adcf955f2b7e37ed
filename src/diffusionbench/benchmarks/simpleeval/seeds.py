"""Public, bound and sealed seeds: how a prompt set can be new to the model and still be anyone's to check."""

from __future__ import annotations

import hashlib
import re
from datetime import date as Day
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from diffusionbench.benchmarks.simpleeval.stream import joined
from diffusionbench.errors import DataError, RequestError
from diffusionbench.schema import Strict

FILE: Final = Path(__file__).with_name("published.yaml")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
PUBLIC: Final = tuple(f"public-{i}" for i in range(5))
Kind = Literal["public", "bound", "sealed", "other"]


def bound_seed(weights_digest: str, beacon: str = "none") -> str:
    """The seed that follows from the evaluated weights: the questions do not exist before the weights do.

    Args:
        weights_digest: SHA-256 (64 hex digits) of the safetensors file that samples; for a service, of its model
            name and the date.
        beacon: a public random value published after the digest was (recorded beside the score), or "none".

    Raises:
        RequestError: if the digest is not 64 hex digits.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", weights_digest):
        raise RequestError(
            f"a bound seed needs the SHA-256 of the weights file as 64 lower-case hex digits, not '{weights_digest}'. "
            "Run: sha256sum model.safetensors"
        )
    return "bound-" + hashlib.sha256(joined("bound", weights_digest, beacon)).hexdigest()[:32]


def commitment(name: str, secret: str) -> str:
    """What an operator publishes before a sealed set is used: SHA-256 over its name and secret (64 hex digits each).

    Raises:
        RequestError: if the secret is not 64 hex digits.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", secret):
        raise RequestError("the secret of a sealed set is 64 lower-case hex digits. Draw 32 random bytes.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise RequestError(f"the name of a sealed set has letters a-z, digits and hyphens, unlike '{name}'. Rename it.")
    return hashlib.sha256(joined("sealed", name, secret)).hexdigest()


def sealed_seed(name: str, secret: str, published: str) -> str:
    """The seed of a revealed sealed set.

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


def check(seed: str, weights_digest: str | None, beacon: str, published: str | None) -> None:
    """Refuse a seed that does not follow from what it is said to follow from; what is not given is not checked.

    Args:
        seed: of the prompt set.
        weights_digest, beacon: what a bound seed is bound to.
        published: the commitment of a sealed seed.

    Raises:
        RequestError: if weights or commitment do not give this seed, or belong to a seed of another kind.
    """
    kind = kind_of(seed)
    if published is not None:
        if kind != "sealed":
            raise RequestError(f"a commitment belongs to a sealed seed, and '{seed}' is none. Give --seed sealed-...")
        sealed_seed(*_parts(seed), published)
    if weights_digest is not None and kind == "bound" and bound_seed(weights_digest, beacon) != seed:
        raise RequestError(
            f"seed {seed} does not follow from these weights and beacon '{beacon}', which give "
            f"{bound_seed(weights_digest, beacon)}. Draw images for that seed, or name the weights that made these."
        )


class Weights(Strict):
    """Weights whose hash was published on a day."""

    sha256: Sha256
    model: str
    date: Day


class Beacon(Strict):
    """A random value that was published on a day, and where it can be checked."""

    value: str
    source: str
    date: Day


class Sealed(Strict):
    """A commitment that was published on a day, and the day its secret was revealed."""

    name: str
    commitment: Sha256
    date: Day
    revealed: Day | None = None


class Published(Strict):
    """What the repository says was published, and when."""

    weights: tuple[Weights, ...] = ()
    beacons: tuple[Beacon, ...] = ()
    sealed: tuple[Sealed, ...] = ()


def published(path: Path | None = None) -> Published:
    """The repository's own list, `published.yaml`.

    Raises:
        DataError: if the file does not fit.
    """
    path = path or FILE
    try:
        return Published.model_validate(YAML(typ="safe").load(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}. See the rows described in the file itself.") from None


def doubts(seed: str, weights_digest: str | None, beacon: str, known: Published) -> list[str]:
    """Why the questions of a seed may be older than the weights that answer them; empty where they cannot be.

    Nothing that the submitter alone says counts: hashes, beacons and commitments are those of the repository's list.

    Args:
        seed: of the prompt set.
        weights_digest, beacon: as the record names them.
        known: `published()`.
    """
    kind = kind_of(seed)
    if kind not in ("bound", "sealed"):
        return ["the seed is public, so its questions can be trained on"]
    rows = [row for row in known.weights if row.sha256 == weights_digest]
    if not rows:
        return ["the SHA-256 of the weights was not published (simpleeval/published.yaml)"]
    fixed = min(row.date for row in rows)
    if kind == "bound":
        return _bound_doubts(seed, rows[0].sha256, beacon, fixed, known)
    return _sealed_doubts(seed, fixed, known)


def _bound_doubts(seed: str, weights_digest: str, beacon: str, fixed: Day, known: Published) -> list[str]:
    if bound_seed(weights_digest, beacon) != seed:
        return ["the seed does not follow from the weights and the beacon"]
    days = [row.date for row in known.beacons if row.value == beacon]
    if not days:
        return ["the seed has no published beacon, so it could have been drawn again"]
    return [] if min(days) > fixed else ["the beacon is not of a later day than the weights, so it could be chosen"]


def _sealed_doubts(seed: str, fixed: Day, known: Published) -> list[str]:
    name, secret = _parts(seed)
    rows = [row for row in known.sealed if (row.name, row.commitment) == (name, commitment(name, secret))]
    if not rows:
        return ["no commitment to this sealed set was published (simpleeval/published.yaml)"]
    if rows[0].date >= fixed:
        return ["the sealed set was committed to after the weights were known"]
    if rows[0].revealed is None or rows[0].revealed <= fixed:
        return ["the weights are not older than the day on which the sealed set was revealed"]
    return []


def _parts(seed: str) -> tuple[str, str]:
    """Name and secret of a sealed seed."""
    name, secret = seed.removeprefix("sealed-").rsplit("-", 1)
    return name, secret


def kind_of(seed: str) -> Kind:
    """What a seed claims to be, by its form."""
    if seed in PUBLIC:
        return "public"
    if re.fullmatch(r"bound-[0-9a-f]{32}", seed):
        return "bound"
    return "sealed" if re.fullmatch(r"sealed-[a-z0-9][a-z0-9-]*-[0-9a-f]{64}", seed) else "other"
