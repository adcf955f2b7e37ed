"""Public, bound and sealed seeds: how a prompt set can be new to the model and still be anyone's to check."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Literal

from diffusionbench.errors import RequestError
from diffusionbench.simpleeval.stream import joined

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
        name, secret = seed.removeprefix("sealed-").rsplit("-", 1)
        sealed_seed(name, secret, published)
    if weights_digest is not None and kind == "bound" and bound_seed(weights_digest, beacon) != seed:
        raise RequestError(
            f"seed {seed} does not follow from these weights and beacon '{beacon}', which give "
            f"{bound_seed(weights_digest, beacon)}. Draw images for that seed, or name the weights that made these."
        )


def kind_of(seed: str) -> Kind:
    """What a seed claims to be, by its form."""
    if seed in PUBLIC:
        return "public"
    if re.fullmatch(r"bound-[0-9a-f]{32}", seed):
        return "bound"
    return "sealed" if re.fullmatch(r"sealed-[a-z0-9][a-z0-9-]*-[0-9a-f]{64}", seed) else "other"
