"""Weight files of others, found or fetched, verified and read without running anything that they contain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.judges.hub import UNREADABLE, unreadable
from diffusionbench.schema import file_digest
from diffusionbench.shown import few
from nanogen.hub import opened_hub
from nanogen.latents import LatentSpec
from nanogen.latents.files import SHARDED, WeightFiles, locate, remedy
from nanogen.log import say


def obtain(spec: LatentSpec, part: str) -> list[Path]:
    """Return the files of one part of a latent space, verified where their hash is pinned; fetch them if need be.

    Raises:
        RequestError: if they are nowhere and cannot be fetched; says how to get them.
        CheckpointError: if one does not have the pinned hash.
    """
    (weights,) = (one for one in spec.weights if one.part == part)
    found = locate(spec.name, weights, spec.folder)
    if found is None and weights.hub:
        fetch(spec, weights)
        found = locate(spec.name, weights, spec.folder)
    if found is None:
        raise RequestError(f"{_lacks(spec, part)}. {remedy(spec.name, weights)}")
    if spec.folder is not None and spec.folder not in found[0].parents:
        say(f"latent.weights {spec.folder} does not hold the {part} of '{spec.name}'; using {found[0].parent}")
    for path in found:
        pinned = not weights.bundled or path.parent == weights.shipped
        expected = weights.sha256.get(path.name) if pinned else None
        if expected is not None and (digest := file_digest(path)) != expected:
            raise CheckpointError(
                f"latent space '{spec.name}': {path} has SHA-256 {digest}, expected {expected}. The file is damaged or "
                f"another one. {remedy(spec.name, weights)}"
            )
    return found


def _lacks(spec: LatentSpec, part: str) -> str:
    lacks = f"latent space '{spec.name}' needs its {part}"
    if spec.folder is None:
        return lacks
    return f"{lacks}, latent.weights {spec.folder} {'does not hold it' if spec.folder.is_dir() else 'is no folder'}"


def fetch(spec: LatentSpec, weights: WeightFiles) -> None:
    """Fetch files from the hub into its cache; says first under which licence.

    Raises:
        RequestError: if they cannot be fetched; says how to get them.
    """
    inside = f"{weights.subfolder}/" if weights.subfolder else ""
    names = [*weights.names, *(["model-*.safetensors", f"{SHARDED}.index.json"] if SHARDED in weights.names else [])]
    patterns = [f"{inside}{name}" for name in names]
    with opened_hub(_lacks(spec, weights.part), remedy(spec.name, weights), "hub") as download:
        say(f"fetching the {weights.part} of '{spec.name}' from {weights.origin} ({weights.terms})")
        download(weights.hub, revision=weights.revision or None, allow_patterns=patterns)


@contextmanager
def quietly(library: Any) -> Iterator[None]:
    """Let transformers or diffusers open a model without a word, and without a draw from torch's stream."""
    logging = library.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        logging.set_verbosity(before)


def open_pretrained(library: Any, name: str, folder: Path, owner: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return a model of transformers or diffusers from a folder, on the CPU, and what the library says of its tensors.

    Args:
        name: of its class.
        owner: what needs it, such as "latent space 'x'".
        options: further ones of `from_pretrained`.

    Raises:
        CheckpointError: if the files are damaged or are no such model.
    """
    try:
        with quietly(library):
            found = getattr(library, name).from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
    except UNREADABLE as error:
        raise CheckpointError(
            f"{owner}: {library.__name__} cannot open {folder}: {unreadable(error)}. Get the files again."
        ) from None
    return found


def check_whole(loaded: Mapping[str, Any], folder: Path, owner: str, unused: str = "") -> None:
    """Refuse a model of which the files hold too little: its library fills the rest with random numbers.

    Args:
        loaded: what `open_pretrained` says of its tensors.
        unused: beginning of the names of tensors that nothing is computed with.

    Raises:
        CheckpointError: listing the missing ones.
    """
    problems = [f"missing {key}" for key in loaded["missing_keys"] if not (unused and key.startswith(unused))]
    problems += [f"{key} has another shape" for key, *_ in loaded["mismatched_keys"]]
    if problems:
        raise CheckpointError(f"{owner}: {folder} holds another model: {few(sorted(problems), '; ')}.")


def read_tensors(path: Path, owner: str) -> dict[str, Any]:
    """Return what a weight file holds, on the CPU: safetensors, or a pickle read by the restricted loader.

    Args:
        owner: what needs it, such as "latent space 'taef2'".

    Raises:
        CheckpointError: if it is damaged, holds anything but plain tensors and containers, or is no mapping.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, EOFError) as error:
        raise CheckpointError(
            f"{owner}: {path} cannot be read as plain tensors: {unreadable(error)}. Get it again."
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{owner}: {path} holds a {type(content).__name__}, expected tensors by name.")
    if any(isinstance(one, Tensor) and (one.is_meta or one.layout != torch.strided) for one in tree_leaves(content)):
        raise CheckpointError(f"{owner}: {path} holds sparse tensors or some without values. Get dense ones.")
    # A number as a name is a foreign one.
    return {str(name): value for name, value in content.items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values: equal for a file and its conversion."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
